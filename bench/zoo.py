"""Does the layer that `explain` takes by itself lie on the image as its grid says? The smallest model of every timm
family, fastai's architectures, and classifiers from transformers"""
import argparse, contextlib, fnmatch, io, json, time, warnings
import torch, torch.nn as nn, torch.nn.functional as F
from fastattn.all import *
from fastattn.core.hooks import *
from fastattn.core.grids import main_tensor
from fastattn.core.positions import agreement, probe_images, positions_of, raster
from common import here, write

# Height and width of a place's centre, as shares of the image: off the middle and off the diagonals, so that
# rows taken for columns, or a flip, are seen
places,side = [(.2,.8),(.25,.5),(.5,.22),(.78,.4),(.7,.8)],1/6
sizes = [(256,384),(224,336),(448,672)] # tried in turn, before the one size that a model is made for

def enliven(model, x):
    """Make random weights more like trained ones, in the same way for all, without touching how anything is laid
    out: gains that begin at or near zero become a quarter, weights that begin at zero small, convolutions keep a
    signal's size and look at their middle first, and batch norms know the statistics of the images"""
    with torch.no_grad():
        for n,p in model.named_parameters():
            if not p.numel() or n.endswith('bias') or 'token' in n or not p.is_floating_point(): continue
            v = p.flatten()[0].item()
            if p.numel()==max(p.shape, default=1):
                if p.numel()>1 and abs(v)<.5 and (p==v).all(): p.fill_(.25)
            elif v==0 and not p.any() and 'pos' not in n: p.normal_(std=.02)
        for m in model.modules():
            if not isinstance(m, nn.Conv2d): continue
            fan = m.weight[0].numel()
            if (s := m.weight.std().item()*fan**.5) < .5: m.weight.mul_(1/max(s, 1e-6))
            if max(m.kernel_size)==1 or m.kernel_size==m.stride: continue
            y,x_ = (torch.arange(k)-(k-1)/2 for k in m.kernel_size)
            w = m.weight*torch.exp(-(y[:,None]**2+x_**2)/1.5)
            m.weight.copy_(w*m.weight.norm()/w.norm().clamp(min=1e-12))
        bns = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
        model.eval()
        for m in bns: m.momentum = 1.; m.train()
        if bns: model(x)
    return model.eval()

def noise(size, n=1, c=3):
    "Noise with fine and coarse grain"
    h,w = size
    return torch.randn(n,c,h,w) + F.interpolate(torch.randn(n,c,max(1,h//16),max(1,w//16)), size=size)

def patched(size, c=3):
    "An image of noise, and after it the same with other noise at each of the places: nothing else about it changes"
    h,w = size
    x = noise(size, 1, c).repeat(len(places)+1,1,1,1)
    for o,(y,xx) in zip(x[1:], places):
        t,l,ph,pw = round((y-side/2)*h),round((xx-side/2)*w),round(side*h),round(side*w)
        o[:,t:t+ph,l:l+pw] = noise((ph,pw), 1, c)[0]
    return x

def moved(a):
    "From features `(1+places,c,gh,gw)` of an image and its changed copies, how much each cell has moved, squared"
    d = a[1:].float()-a[:1].float()
    # what all cells get alike, from attention or a norm, has no place
    return (d-d.mean((2,3), keepdim=True)).pow(2).mean(1)

def changes(model, name, read, size, draws, c=3):
    """How much each cell moves when a place of the image changes, squared and summed: `(places,gh,gw)`, by `read`,
    which takes the layer's output for `(bs,c,gh,gw)`"""
    res = 0
    for i in range(draws):
        with torch.no_grad(), evaluating(model), Trace(model, name, take=lambda o: main_tensor(o).clone()) as t:
            model(patched(size, c))
        res = res + moved(read(t[name][-1] if isinstance(t[name], list) else t[name]))
    return res

def hits(d):
    """At which of the places is the cell that moves most over the patch, or next to it (by a cell, or on fine grids by
    an eighth of the side)?"""
    gh,gw = d.shape[-2:]
    res = []
    for m,(y,x) in zip(d, places):
        i,j = divmod(m.flatten().argmax().item(), gw)
        res.append(abs((i+.5)/gh-y)<=side/2+max(1/gh,1/8) and abs((j+.5)/gw-x)<=side/2+max(1/gw,1/8))
    return res

def shift(d):
    "By how many cells, in quarters, the changes lie below and to the right of where they should, at all places at once"
    gh,gw = d.shape[-2:]
    d = d-d.mean(0) # cells that move wherever the image changes say nothing
    def cover(c, n, s): # share of each cell, moved by `s`, under the patch
        lo,hi = (c-side/2)*n+s,(c+side/2)*n+s
        k = torch.arange(n)
        return ((k+1).clamp(max=hi)-k.clamp(min=lo)).clamp(min=0)
    steps = [o/4 for o in range(-8,9)]
    def score(sy, sx):
        s = torch.stack([cover(y,gh,sy)[:,None]*cover(x,gw,sx) for y,x in places])
        return ((s*d).flatten(1).sum(1)/s.flatten(1).norm(dim=1).clamp(min=1e-6)/
                d.flatten(1).norm(dim=1).clamp(min=1e-9)).sum().item()
    return max(((score(a,b),-abs(a)-abs(b),a,b) for a in steps for b in steps))[2:]

def check(model, size, draws=(2,10), targets=5, c=3):
    """What `explain` does with a model when nothing is said: its layer, and whether that lies where its grid says; with
    more draws of noise where random weights mix the places much"""
    x = noise(size, 4, c)
    enliven(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for k in range(targets): # a class for which nothing speaks has an empty map by right
            h = explain(model, x[:1], 'gradcam', target=k)
            # what is taken where no method is named, either: it may join several layers
            auto = explain(model, x[:1], target=k)
            if full := bool((h.raw>0).any() and (auto.raw>0).any()): break
    layer = h.layer[0] if isinstance(h.layer, tuple) else h.layer # one run of a module is `(name, run)`
    cand,d = candidates(model, x).every[layer],0
    for n in draws:
        d = d + changes(model, layer, cand.grid.read, size, n, c)
        r = dict(layer=layer, module=cand.cls, layout=cand.grid.kind, prefix=cand.grid.prefix,
                 grid=list(h.raw.shape[-2:]), hits=sum(hits(d.sqrt())), places=len(places), shift=list(shift(d.sqrt())),
                 nonempty=full, method=auto.method)
        if right(r): break
    return r

def ordered(model, size, name):
    """Where attention mixes all cells, the one that moves most says little. But do the cells look at the image row by
    row, and do their centres spread over it? The smaller correlation of rows and columns with the grid, and slope"""
    x,passes = noise(size),[]
    grid = candidates(model, x).every[name].grid
    for o in probe_images(x):
        with Trace(model, name, take=lambda o: main_tensor(o).clone()) as t: quietly(model, o)
        passes.append(grid.read(t[name][-1] if isinstance(t[name], list) else t[name])[0].flatten(1).T.double())
    corr,slope = agreement(positions_of(*passes)[:,:2], raster(grid.h, grid.w))
    return [round(float(corr.min()), 4),round(float(slope.min()), 3)]

def right(r):
    """Is the map there, and in its place? A token too many in front is a shift by a cell, while strides and paddings of
    convolutions shift by half of one"""
    if 'error' in r or not r['nonempty']: return False
    if r.get('ordered', (0,0))[0]>.99 and r['ordered'][1]>.9: return True
    return r['hits']>=r['places']-1 and (not r['layout'].startswith('tokens') or max(map(abs, r['shift']))<=.75)

def smallest():
    "The model with the fewest parameters of each of timm's modules: `{family: [model, parameters, models there are]}`"
    import timm
    res = {}
    for f in timm.list_modules():
        counts = []
        for n in sorted(timm.list_models(module=f)):
            with torch.device('meta'): m = timm.create_model(n)
            counts.append((sum(p.numel() for p in m.parameters()), n))
        res[f] = [min(counts)[1], min(counts)[0], len(counts)]
    return res

def timm_model(name):
    "The model, and the first of `sizes` that it takes"
    import timm
    for size in sizes+[None]:
        torch.manual_seed(0)
        try:
            try: m = timm.create_model(name, **({} if size is None else dict(img_size=size)))
            except TypeError as e:
                if 'img_size' not in str(e): raise
                m = timm.create_model(name)
            if size is None: return m.eval(),tuple(m.pretrained_cfg['input_size'][1:])
            with torch.no_grad(): m.eval()(torch.zeros(1,3,*size))
            return m,size
        except (RuntimeError,AssertionError,ValueError,TypeError,IndexError):
            if size is None: raise

def fastai_model(arch):
    from fastai.vision.all import create_vision_model
    from fastai.vision.learner import model_meta
    torch.manual_seed(0)
    return create_vision_model(next(a for a in model_meta if a.__name__==arch), 10, pretrained=False).eval(),sizes[0]

small = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, image_size=sizes[0],
             patch_size=16, num_labels=10)
hf_configs = { # what a small model of each kind of classifier is made of
    # they interpolate their positions from a square
    'ViT':small, 'DeiT':small, 'Dinov2':{**small, 'image_size':256}, 'Dinov2WithRegisters':{**small, 'image_size':256},
     'Beit':small, 'Data2VecVision':small, 'ViTMSN':small, 'IJepa':small,
    'Swin':dict(image_size=sizes[0], embed_dim=24, depths=[1,1,2,1], num_heads=[1,2,3,6], window_size=4, num_labels=10),
    'Swinv2':dict(image_size=sizes[0], embed_dim=24, depths=[1,1,2,1], num_heads=[1,2,3,6], window_size=4,
                  num_labels=10),
    'ConvNext':dict(hidden_sizes=[16,32,48,64], depths=[1,1,2,1], num_labels=10),
    'ConvNextV2':dict(hidden_sizes=[16,32,48,64], depths=[1,1,2,1], num_labels=10),
    'ResNet':dict(embedding_size=16, hidden_sizes=[16,32,48,64], depths=[1,1,2,1], layer_type='basic', num_labels=10),
    'RegNet':dict(embedding_size=16, hidden_sizes=[16,32,48,64], depths=[1,1,2,1], groups_width=16, num_labels=10),
    'Bit':dict(embedding_size=16, hidden_sizes=[32,64,96,128], depths=[1,1,2,1], num_groups=8, num_labels=10),
    'MobileNetV1':dict(depth_multiplier=.25, num_labels=10), 'MobileNetV2':dict(depth_multiplier=.35, num_labels=10),
    'EfficientNet':dict(width_coefficient=.35, depth_coefficient=.35, hidden_dim=448, num_labels=10),
    'MobileViT':dict(hidden_sizes=[48,64,80], neck_hidden_sizes=[16,16,24,32,48,64,80], image_size=256, num_labels=10),
    'MobileViTV2':dict(width_multiplier=.5, image_size=256, num_labels=10),
    'Segformer':dict(hidden_sizes=[16,32,48,64], depths=[1,1,1,1], decoder_hidden_size=32, num_labels=10),
    'Pvt':dict(image_size=256, hidden_sizes=[16,32,48,64], depths=[1,1,1,1], num_attention_heads=[1,1,3,4],
               num_labels=10),
    'PvtV2':dict(image_size=sizes[0], hidden_sizes=[16,32,48,64], depths=[1,1,1,1], num_attention_heads=[1,1,3,4],
                 num_labels=10),
    'PoolFormer':dict(hidden_sizes=[16,32,48,64], depths=[1,1,1,1], num_labels=10),
    'Cvt':dict(embed_dim=[16,48,96], num_heads=[1,3,6], depth=[1,2,3], num_labels=10),
    'Levit':dict(image_size=384, hidden_sizes=[32,48,64], num_attention_heads=[2,3,4], depths=[1,1,1], key_dim=[8,8,8],
                 num_labels=10),
    'FocalNet':dict(image_size=sizes[0], embed_dim=24, depths=[1,1,2,1], num_labels=10),
    'SwiftFormer':dict(depths=[1,1,2,1], embed_dims=[16,32,48,64], num_labels=10),
    'Hiera':dict(image_size=list(sizes[0]), embed_dim=24, depths=[1,1,2,1], num_heads=[1,2,4,8], num_labels=10),
}

squares = {'Pvt':(256,256), 'Levit':(384,384)} # these take the one size they are made for

def hf_model(kind):
    import transformers
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    cfg = getattr(transformers, kind+'Config')(**hf_configs[kind])
    return getattr(transformers, kind+'ForImageClassification')(cfg).eval(),squares.get(kind, sizes[0])

def row(make, name):
    "One line of the table"
    start,r = time.time(),dict(model=name)
    try:
        m,size = make(name)
        r.update(parameters=sum(p.numel() for p in m.parameters()), size=list(size))
        r.update(check(m, size))
        if not right(r): r['ordered'] = ordered(*make(name), r['layer']) # with its own first weights
    except Exception as e:
        r['error'] = str(e) if isinstance(e, ValueError) else f'{type(e).__name__}: {e}'
    return dict(**r, right=right(r), seconds=round(time.time()-start,1))

def line(r):
    "A row in one line"
    if 'error' in r: return r['error'].splitlines()[0]
    return (f"{r['layer']} {r['module']} {r['layout']}+{r['prefix']} {r['grid'][0]}x{r['grid'][1]} of "
            f"{r['size'][0]}x{r['size'][1]}, {r['hits']}/{r['places']} hits, "
            f"{'in order '+str(r['ordered'])+', ' if 'ordered' in r else ''}"
            f"shift {r['shift'][0]:g},{r['shift'][1]:g}{'' if r['nonempty'] else ', EMPTY'}")

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--only', default='*', help='glob on families or models; these are done again')
    p.add_argument('--again', action='store_true', help='all, also those that are done')
    a = p.parse_args()
    f = here/'results'/'zoo.json'
    old = json.loads(f.read_text()) if f.exists() else {}
    families = old.get('families') or smallest()
    from fastai.vision.learner import model_meta
    todo = ([('timm',k,v[0]) for k,v in families.items()] + [('fastai',k.__name__,k.__name__) for k in model_meta] +
            [('transformers',k,k) for k in hf_configs])
    rows = {(r['library'],r['family']):r for r in old.get('rows', [])}
    make = dict(timm=timm_model, fastai=fastai_model, transformers=hf_model)
    for lib,fam,name in todo:
        match = any(fnmatch.fnmatch(o, a.only) for o in (lib,fam,name))
        if not match or ((lib,fam) in rows and a.only=='*' and not a.again): continue
        r = rows[lib,fam] = dict(library=lib, family=fam, **row(make[lib], name))
        print('ok ' if r['right'] else 'NOT', lib, fam, name, f"{r['seconds']}s:", line(r), flush=True)
        with contextlib.redirect_stdout(io.StringIO()):
            write('zoo', families=families, rows=[rows[l,k] for l,k,_ in todo if (l,k) in rows])
    done = list(rows.values())
    for lib in make:
        print(lib, sum(r['right'] for r in done if r['library']==lib), 'of', sum(r['library']==lib for r in done))
