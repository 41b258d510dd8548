"""The default map, `pyramidcam`, on the networks that people train: is it right, is it even, and what does it cost?

`python bench/default_map.py table lite0 mobilenetv2 resnet18 resnet50d`: our maps, and those of grad-cam and torchcam,
at objects kept aside. EfficientNet-Lite0 and MobileNetV2 (ImageNet) see photographed objects among clutter
(`bench/objects.py`); a resnet18 and a resnet50d, trained from scratch for some epochs, see the demo set at 128 px.
The variants of the method were chosen on other photographed scenes, but on the same pictures of the demo set.
`... phases`: how evenly its maps lie on the four phases of the grid. `... cost`: time and memory on a resnet50.
`... pictures top.png`: the top losses of the resnet18. `... dinov2`: a backbone without classes.
`pip install fastattn[bench]`; `phases` also needs `onnx onnx2torch`, and `dinov2` `onnx`.
"""
import argparse, json, sys, time, warnings
import torch, torchvision
from fastai.vision.all import *
from fastattn.image.heatmap import resize_maps
from fastattn.core.layers import candidates
from fastattn.core.hooks import evaluating
from fastattn.core.sampling import *
import cams, objects
from common import in_child, mean_and_error, pairs, peak_mb, write
from networks import *
from fastattn.all import * # after all that brings fastai's classes
warnings.filterwarnings('ignore')

ours = {'default':('auto',{}), 'pyramidcam, finer=1':('pyramidcam',dict(finer=1)),
        'pyramidcam, finer=0':('pyramidcam',dict(finer=0)), "default, place='even'":('auto',dict(place='even')),
        'default, whole=True':('auto',dict(whole=True)),
        **{m:(m,{}) for m in ('gradcam','layercam','gradcam_plus_plus','eigencam','fullgrad')}}
peers = {**{f'grad-cam {n}':cams.grad_cam(n) for n in ('GradCAM','GradCAMPlusPlus','EigenCAM')},
         **{f'torchcam {n}':cams.torchcam(n) for n in ('GradCAM','LayerCAM')}}

def drawn(learn, x, classes, name, bs=16):
    "Maps `(n,h,w)` of one of ours or of a peer, all at the last layer"
    model,res = getattr(learn, 'model', learn),[]
    for i in range(0, len(x), bs):
        xb,cb = x[i:i+bs],classes[i:i+bs]
        if name in ours:
            method,opts = ours[name]
            m = explain(learn, xb, method, target=cb, **opts)
        else:
            m = peers[name](model, xb.clone(), candidates(model, xb).auto().name, cb)
            m = resize_maps(torch.as_tensor(np.array(m)) if not isinstance(m, list) else m[0].detach(), x.shape[2:])
        res.append(torch.as_tensor(m).as_subclass(Tensor).float())
    return torch.cat(res)

def composites(which, n, seed):
    "Scenes of one object and of two, for a network with ImageNet weights"
    net = objects.network() if which=='lite0' else mobilenetv2()
    def _norm(ims):
        x = objects.normed(ims)
        return x if which=='lite0' else objects.as_imagenet(x)
    ims,masks,classes = objects.composites(n, seed, tries=12)
    x,(tims,*on,both) = _norm(ims),objects.pairs_of_objects(n//3, seed)
    if which!='lite0': # what it does not see at all is no question for it
        with torch.no_grad(): top = torch.cat([net(o).topk(5)[1] for o in x.split(32)])
        keep = [i for i,c in enumerate(classes) if c in top[i]]
        x,masks,classes = x[keep],masks[keep],[classes[i] for i in keep]
    return net,(x,masks,classes),(_norm(tims),*on,both)

def shapes(which, n):
    "The demo set for a trained learner, and pictures into which the shape of another is pasted"
    learn = trained(which)
    items = learn.dls.valid_ds.items[:n]
    x = learn.dls.test_dl(items, bs=len(items)).one_batch()[0].as_subclass(Tensor)
    masks,cl = demo_masks(items).as_subclass(Tensor),[learn.dls.vocab.o2i[o.parent.name] for o in items]
    two = []
    for i in range(len(x)//3):
        def _other(j): return cl[i]!=cl[j] and not (masks[i]&masks[j]).any() and (7*i+j)%5==0
        j = next(filter(_other, range(i+1, len(x))), None)
        if j is not None: two.append((torch.where(masks[j], x[j], x[i]),masks[i],masks[j],[cl[i],cl[j]]))
    tx,a,b,both = zip(*two)
    return learn,(x,masks,cl),(torch.stack(tx),torch.stack(a),torch.stack(b),list(both))

def measures(learn, one, two, name, few, steps):
    "Each figure as one number an image"
    (x,masks,cl),(tx,a,b,both) = one,two
    m = drawn(learn, x, cl, name)
    fs = objects.located(m, masks)
    fs |= {f.__name__:f(learn, x[:few], m[:few], target=cl[:few], steps=steps) for f in (insertion,deletion)}
    asked = [drawn(learn, tx, [c[i] for c in both], name) for i in (0,1)]
    fs['asked_of_two'] = torch.cat([pointing_game(m, o).float() for m,o in zip(asked, (a,b))])
    inside = [[(m*o).sum((1,2)) for o in (a,b)] for m in asked]
    fs['share_of_the_asked'] = torch.cat([v[i]/(v[0]+v[1]).clamp(min=1e-6) for i,v in enumerate(inside)])
    return fs

def table(which, n, seed, few, steps):
    learn,one,two = composites(which, n, seed) if which in ('lite0','mobilenetv2') else shapes(which, n)
    print(which, 'scenes', len(one[0]), 'of two', len(two[0]), flush=True)
    values = {}
    for name in [*ours, *peers]:
        start = time.time()
        try: values[name] = measures(learn, one, two, name, few, steps)
        except Exception as e:
            print(f'{name} does not run here: {type(e).__name__} {str(e)[:200]}', flush=True)
            continue
        print(f'{time.time()-start:4.0f} s', name, {k:mean_and_error(v) for k,v in values[name].items()}, flush=True)
    def _gain(a, b): return {k:mean_and_error(values[a][k]-values[b][k]) for k in values[a]}
    model,x = getattr(learn, 'model', learn),one[0][:1]
    layer = candidates(model, x).auto()
    with evaluating(model): shift = cell_shift(model, x, layer.name, layer.grid)
    return dict(images=len(one[0]), of_two=len(two[0]), few=few, layer=layer.name, cells_look_off_by_px=shift,
                area=round(one[1].float().mean().item(), 3),
                rows={k:{f:mean_and_error(v) for f,v in o.items()} for k,o in values.items()},
                gains={'one stage minus none':_gain('pyramidcam, finer=1','pyramidcam, finer=0'),
                       'two stages minus one':_gain('default','pyramidcam, finer=1'),
                       'measured places minus even ones':_gain('default',"default, place='even'"),
                       'whole=True minus without':_gain('default, whole=True','default')})

def phases_of(model, x, **kwargs):
    "Share of the default map on each phase of a stride of two; .25 is even"
    r = explain(model, x, 'pyramidcam', **kwargs).raw
    r = phase_means(r, (2,2))
    return [round(v, 3) for v in (r/r.sum()).flatten().tolist()]

def phases():
    res = {}
    for arch in recipes:
        learn = trained(arch)
        x = learn.dls.test_dl(learn.dls.valid_ds.items[:64], bs=64).one_batch()[0]
        res[f'{arch}, trained'] = phases_of(learn.model, x)
    ims,_,_ = objects.composites(64, 'phases', tries=1)
    x = objects.normed(ims)
    try: res['NSFW ResNet-50'] = phases_of(nsfw_resnet50(), x)
    except ImportError as e: print('left out:', e)
    res['EfficientNet-Lite0'],res['MobileNetV2'] = (phases_of(m, x) for m in (objects.network(), mobilenetv2()))
    print(json.dumps(res, indent=1), flush=True)
    return res

ways = {'gradcam':('gradcam',{}), 'one stage':('pyramidcam',dict(finer=1)), 'two stages':('pyramidcam',{}),
        "two stages, place='even'":('pyramidcam',dict(place='even'))}

def _resnet50():
    torch.manual_seed(0)
    return torchvision.models.resnet50().eval(),torch.randn(4,3,224,224)

def _forward(model, x):
    with torch.no_grad(): return model(x)

def memory(way):
    "Extra peak memory in MB of one way, or of a plain forward pass"
    model,x = _resnet50()
    method,opts = ways.get(way, (None,{}))
    f = partial(_forward, model, x) if way=='forward' else lambda: explain(model, x, method, target=1, **opts)
    f()
    return peak_mb(f)

def cost(n):
    "Ratios to a plain forward pass; what is measured once is in the first call alone"
    model,x = _resnet50()
    res = {k:dict(forward=pairs(lambda: explain(model, x, m, target=1, **kw), lambda: _forward(model, x), n))
           for k,(m,kw) in ways.items()}
    rs = []
    for _ in range(n): # a fresh model, whose layers are known: what is left of the first call is the measuring
        m = _resnet50()[0]
        candidates(m, x).auto()
        t = [time.perf_counter()]
        explain(m, x, 'pyramidcam', target=1, place='even'); t.append(time.perf_counter())
        explain(m, x, 'pyramidcam', target=1); t.append(time.perf_counter())
        explain(m, x, 'pyramidcam', target=1); t.append(time.perf_counter())
        _forward(m, x); t.append(time.perf_counter())
        a,b,c,f = (v-u for u,v in zip(t, t[1:]))
        rs.append([(b-c)/f,(a-c)/f])
    mid = lambda v: round(sorted(v)[len(v)//2], 3)
    res['first call'] = dict(measured_centres=mid([r[0] for r in rs]), phases_of_the_gradient=mid([r[1] for r in rs]))
    for k in ('forward',*ways): res.setdefault(k, {})['memory_mb'] = round(in_child(__file__, 'memory', k))
    print(json.dumps(res, indent=1), flush=True)
    return res

def dinov2(n):
    "What a backbone without classes attends to, on one object alone and on one among others"
    from dinov2 import dinov2 as network
    model,res = network(),{}
    alone,many = objects.alone(n),objects.composites(n, 'kept aside', tries=12)
    for where,(ims,masks,_) in dict(alone=alone, among_others=many).items():
        x = objects.as_imagenet(objects.normed(ims))
        for name,(method,opts) in {'default':('auto',{}), 'relevance':('relevance',{}),
                                   'attention, last four layers':('attention',dict(layer=[-4,-3,-2,-1]))}.items():
            m = torch.cat([explain(model, o, method, **opts).as_subclass(Tensor) for o in x.split(8)])
            res[f'{where}: {name}'] = {k:mean_and_error(v) for k,v in objects.located(m, masks).items()}
            print(where, name, res[f'{where}: {name}'], flush=True)
        res[f'{where}: images'] = len(x)
    return res

def pictures(out):
    "The nine top losses of the resnet18; run it from another checkout, too, to compare what that draws"
    learn = trained('resnet18')
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_top_losses(9, heatmap=True, nrows=3, figsize=(9,9.6)).savefig(out, dpi=60)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('part', choices=['table','phases','cost','memory','pictures','dinov2'])
    p.add_argument('which', nargs='*')
    p.add_argument('-n', type=int, default=210); p.add_argument('--seed', default='kept aside')
    p.add_argument('--few', type=int, default=32, help='images for insertion and deletion, which take a pass a step')
    p.add_argument('--steps', type=int, default=10); p.add_argument('--pairs', type=int, default=9)
    a = p.parse_args()
    if a.part=='memory': print(json.dumps(memory(a.which[0]))); sys.exit()
    if a.part=='pictures': pictures(a.which[0]); sys.exit()
    if a.part=='table':
        for w in a.which:
            write(f'default_map_{w}', what='mean and standard error over the images; deletion: lower is better; '
                  'gains are differences on the same images', seed=a.seed, steps=a.steps,
                  **table(w, a.n, a.seed, a.few, a.steps))
    else: write(f'default_map_{a.part}',
               **dict(phases=phases, cost=partial(cost, a.pairs), dinov2=partial(dinov2, 96))[a.part]())
