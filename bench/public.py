"""Does a map find the object, tell one class from another, and mark what the network depends on? The measures of
papers for every method, on real weights and on public data sets, so that anyone can repeat a table.

Composites of photographed objects whose masks are known exactly (`bench/objects.py`) are shown to EfficientNet-Lite0
and MobileNetV2 with ImageNet weights, and to DINOv2, which has no classes: there only where the map lies is measured.

With `--folder`, a folder of ImageNet-S, Pascal VOC or COCO takes their place (`bench/folders.py`), and `--model` names
a folder of `save_checkpoint`, an exported learner, or a timm model with `--weights`, as in
`--folder ImageNetS919 --model resnet50 --weights resnet50.safetensors`. The table is then written to `--out`.

`--networks legrad` compares LeGrad and relevance on vision transformers with a CLS token: a small one, trained from
scratch on the demo set, and DINOv2 with a linear layer on its CLS token. No package ships the weights of a ViT that was
trained to classify photographs, so what holds for those stays open. The small one takes pictures of one size only, so
that in the grid pointing game each picture is half as large as those that it was trained on, which it hardly knows.
`pip install fastattn[bench]`, and `onnx` for DINOv2.
"""
import argparse, dataclasses, functools, json, random, sys, warnings
from pathlib import Path
import numpy as np, torch
from fastai.vision.all import *
from fastattn.core.inputs import *
from fastattn.core.registry import *
from fastattn.data.demo import train_once
from fastattn.metrics.mosaics import mosaics
import folders, objects
from common import here, pairs, write
from networks import mobilenetv2
from fastattn.all import * # after all that brings fastai's classes
warnings.filterwarnings('ignore')

## What is asked

@dataclasses.dataclass
class Asked:
    "Pictures as a network takes them, and what is known about them"
    x:Tensor # `(n,c,h,w)`
    on:Tensor # `(n,h,w)`, True on the object
    void:Tensor=None # `(n,h,w)`, True where nobody knows; these places count for nothing
    classes:list=None # The class asked about, by number; None for a network without classes

    def __len__(self): return len(self.x)
    def first(self, n): return Asked(*(o if o is None else o[:n] for o in (self.x,self.on,self.void,self.classes)))

## What is measured

def drawn(learn, d, method, bs=8):
    "Maps `(n,h,w)`"
    def _part(i):
        t = {} if d.classes is None else dict(target=d.classes[i:i+bs])
        return explain(learn, d.x[i:i+bs], method, **t).as_subclass(Tensor).float().cpu()
    return torch.cat([_part(i) for i in range(0, len(d), bs)])

def located(maps, on, void=None):
    "Does the map lie on the object? Places about which nobody knows get its lowest value, and none of its energy"
    known = maps if void is None else torch.where(void, maps.amin((1,2), keepdim=True), maps)
    energy = maps if void is None else maps.masked_fill(void, 0)
    return dict(objects.located(known, on), energy_inside=energy_inside(energy, on))

def faithful(learn, d, maps, steps, percentiles):
    "Does the network depend on what the map marks?"
    kw = dict(target=d.classes)
    res = {f'{f.__name__}_{b}':f(learn, d.x, maps, steps=steps, baseline=b, **kw)
           for b in ('blur','infill') for f in (insertion,deletion)}
    return dict(res, road=road(learn, d.x, maps, percentiles=percentiles, **kw))

def measured(learn, d, method, steps=8, percentiles=(25,50,75), few=16, mosaic=None):
    "Every measure of one method, as one number an image (`grid_pointing`: a mosaic)"
    maps = drawn(learn, d, method)
    res = located(maps, d.on, d.void)
    if d.classes is None: return res
    if mosaic is not None: res['grid_pointing'] = grid_pointing(learn, mosaic, method).mean(1)
    return dict(res, **faithful(learn, d.first(few), maps[:few], steps, percentiles)) if few else res

def passes(learn, d, method, n=3):
    "Time of a map in plain forward passes, on four images"
    d,model = d.first(4),model_of(learn)[0]
    def _forward():
        with torch.no_grad(): model(d.x)
    return pairs(lambda: drawn(learn, d, method), _forward, n=n, warm=1)

def mean_and_error(v):
    "Mean and standard error over the images that have a number"
    v = v[torch.isfinite(v)].double()
    return [round(v.mean().item(), 3), round((v.std()/len(v)**.5).item() if len(v)>1 else 0., 3)] if len(v) else None

def mosaics_of(learn, d, n, seed):
    "Mosaics of the pictures, or None where too few classes are predicted"
    if d.classes is None or n<1: return None
    try: return mosaics(learn, d.x, n=n, seed=seed)
    except ValueError as e: print('No grid pointing game:', e, flush=True)

def methods_of(model, x, names=None, also_slow=False):
    "The methods that suit a network; of those that `names` says only these"
    if names: return [registered(m) for m in names]
    suited = dict.fromkeys([*suitable(model, x=x[:1]),'scorecam','sscam','iscam']) # the last need no gradients
    return [m for m in suited if also_slow or m not in many_passes]

def table(learn, d, methods, steps=8, percentiles=(25,50,75), few=16, n_mosaics=8, seed=0, each=noop):
    """Means and standard errors by method, the images they are of, and the methods that do not run here; `each` gets
    the table after every method"""
    mosaic = mosaics_of(learn, d, n_mosaics, seed)
    res = dict(images=len(d), images_for_insertion_deletion_road=min(few, len(d)) if d.classes else 0,
               mosaics=0 if mosaic is None else len(mosaic), area=round(d.on.float().mean().item(), 3), rows={})
    for m in methods:
        try:
            v = measured(learn, d, m, steps, percentiles, few, mosaic)
            res['rows'][m] = {**{k:mean_and_error(o) for k,o in v.items()}, 'forward_passes':passes(learn, d, m)}
        except (ValueError,TypeError,RuntimeError) as e:
            res.setdefault('left_out', {})[m] = str(e).splitlines()[0][:160]
        print(m, res['rows'].get(m) or res['left_out'][m], flush=True)
        each(res)
    return res

def markdown(rows):
    "Rows of a table as Markdown"
    heads = list(dict.fromkeys(k for r in rows.values() for k in r))
    def _cell(v):
        if v is None: return ''
        return f"{v['median']:.1f}" if isinstance(v, dict) else f'{v[0]:.3f} ± {v[1]:.3f}'
    lines = [['method',*(h.replace('_', ' ') for h in heads)],['---']+['---:']*len(heads),
             *([m,*(_cell(r.get(h)) for h in heads)] for m,r in rows.items())]
    return '\n'.join('| '+' | '.join(l)+' |' for l in lines)

## The networks

def _dinov2():
    from dinov2 import dinov2
    return dinov2()

# a network, and whether it takes -1..1 or the usual normalisation
networks = dict(lite0=(objects.network,False), mobilenetv2=(mobilenetv2,True), dinov2=(_dinov2,True))

@functools.lru_cache(1)
def _scenes(n, seed): return objects.composites(n, seed, tries=12)

def composites(name, n, seed):
    "A network and composites; those of which a class is asked that it does not have among its first five are left out"
    make,usual = networks[name]
    model,(ims,on,classes) = make(),_scenes(n, seed)
    x = objects.normed(ims)
    if usual: x = objects.as_imagenet(x)
    if name=='dinov2': return model,Asked(x, on)
    with torch.no_grad(): top = torch.cat([model(o).topk(5)[1] for o in x.split(16)])
    keep = [i for i,c in enumerate(classes) if c in top[i]]
    return model,Asked(x[keep], on[keep], None, [classes[i] for i in keep])

def on_folder(a):
    "The table of a user's folder"
    layout,items = folders.pictures_in(a.folder, folders.lines_of(a.classes) if a.classes else None)
    names = folders.lines_of(a.names) if a.names else None
    if a.model: learn,*how = folders.users_model(a.model, a.weights, names, layout, a.size)
    else:
        make,usual = networks[a.networks[0]]
        stats = ([.485,.456,.406],[.229,.224,.225]) if usual else ([.5]*3,[.5]*3)
        learn,how = make(),(names or folders.imagenet_names(layout),(224,224),folders.normalised(*stats),.875)
    d = Asked(*folders.questions(learn, items, *how, n=a.n, seed=a.seed))
    methods = methods_of(model_of(learn)[0], d.x, a.methods, a.slow)
    return dict(layout=layout, **table(learn, d, methods, a.steps, a.percentiles, a.few, a.mosaics, a.seed))

## LeGrad against relevance

def token_vit(seed, n=4000, epochs=12):
    "A small ViT with a CLS token that it pools by, trained from scratch on the demo set or by an earlier call"
    set_seed(seed)
    vit = demo_vit(global_pool='token', class_token=True, drop_path_rate=.1)
    learn = Learner(demo_dls(n=n, bs=32), vit, loss_func=CrossEntropyLossFlat(), metrics=accuracy, wd=.05)
    def _fit():
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-3)
    train_once(learn, f'bench_vit_token_{epochs}x{n}_seed{seed}', _fit)
    return learn

def _on_demo(seed, n):
    learn = token_vit(seed)
    items = learn.dls.valid_ds.items[:n]
    x = learn.dls.test_dl(items, bs=len(items)).one_batch()[0].as_subclass(Tensor)
    classes = [learn.dls.vocab.o2i[o.parent.name] for o in items]
    return learn,Asked(x, demo_masks(items).as_subclass(Tensor), None, classes)

def _in_parts(f, x): return torch.cat([f(o) for o in x.split(8)])

def probed_dinov2(n, seed, n_train=96):
    """DINOv2 with a linear layer on its CLS token that tells nine kinds of objects apart, learnt from pictures of one
    object; asked about those composites of the same objects among others in which it sees the right kind first"""
    model,kinds = _dinov2(),sorted({k for k,_ in objects.outlines.values()})
    def _number(o): return kinds.index(objects.outlines[o][0])
    ims,_,names = objects.alone(n_train, seed)
    y = tensor([_number(o) for o in names])
    with torch.no_grad(): f = _in_parts(model, objects.as_imagenet(objects.normed(ims)))
    head = nn.Linear(f.shape[1], len(kinds))
    nn.init.zeros_(head.weight); nn.init.zeros_(head.bias)
    opt = torch.optim.LBFGS(head.parameters(), max_iter=200)
    def _loss():
        opt.zero_grad()
        loss = F.cross_entropy(head(f), y)+1e-3*head.weight.pow(2).sum()
        loss.backward()
        return loss
    opt.step(_loss)
    model.head,model.num_classes = head.requires_grad_(False),len(kinds)
    names = [list(objects.outlines)[i%len(objects.outlines)] for i in range(n)]
    ims,on = zip(*(objects.scene(o, random.Random(f'probe-{seed}-{i}')) for i,o in enumerate(names)))
    x,on,classes = objects.as_imagenet(objects.normed(ims)),torch.tensor(np.stack(on)),[_number(o) for o in names]
    with torch.no_grad(): seen = _in_parts(model, x).argmax(1).tolist()
    keep = [i for i,(c,o) in enumerate(zip(classes, seen)) if c==o]
    print(f'DINOv2 with a probe is right on {len(keep)} of {n} scenes', flush=True)
    return model,Asked(x[keep], on[keep], None, [classes[i] for i in keep]),len(keep)/n

def interval(v, times=2000, seed=0):
    "Mean of differences, and the bounds of its 95 % bootstrap interval over the images"
    v = v[torch.isfinite(v)].double()
    i = torch.randint(len(v), (times,len(v)), generator=torch.Generator().manual_seed(seed))
    low,high = v[i].mean(1).quantile(tensor([.025,.975]).double()).tolist()
    return dict(zip(('mean','low','high'), (round(o, 3) for o in (v.mean().item(),low,high))))

def _both(learn, d, steps, percentiles, few, n_mosaics, seed):
    mosaic = mosaics_of(learn, d, n_mosaics, seed)
    return {m:measured(learn, d, m, steps, percentiles, few, mosaic) for m in ('relevance','legrad')}

def _right(learn, d):
    with torch.no_grad(): out = _in_parts(model_of(learn)[0], d.x)
    return round((out.argmax(1)==tensor(d.classes)).float().mean().item(), 3)

def _differences(v): return {k:interval(v['legrad'][k]-o) for k,o in v['relevance'].items()}

def compared(seeds, n, seed, steps, percentiles, few, n_mosaics):
    "Both methods by network, and the differences LeGrad minus relevance on the same images with their intervals"
    res,values = {},[]
    def _add(name, d, right, v):
        res[name] = dict(images=len(d), right=round(right, 3), differences=_differences(v),
                         rows={m:{k:mean_and_error(o) for k,o in r.items()} for m,r in v.items()})
        print(name, json.dumps(res[name]), flush=True)
    for s in seeds:
        learn,d = _on_demo(s, 400)
        values.append(_both(learn, d, steps, percentiles, 100, 40, seed))
        _add(f'demo set, seed {s}', d, _right(learn, d), values[-1])
    if len(seeds)>1: # the images are the same for all seeds, the mosaics are not
        means = {m:{k:torch.stack([v[m][k] for v in values]).mean(0) for k in values[0][m]} for m in values[0]}
        res['demo set, mean of the seeds'] = dict(images=len(d), differences=_differences(means))
    try: learn,d,right = probed_dinov2(n, seed)
    except ImportError as e: print('left out:', e)
    else: _add('DINOv2 with a linear probe', d, right, _both(learn, d, steps, percentiles, few, n_mosaics, seed))
    return res

## Results

def keep(a, part, res):
    "Write a part of the result, with the options that repeat it; those of earlier runs stay"
    f = here/'results'/'public.json'
    old = json.loads(f.read_text()) if f.exists() else {}
    seeds = f" --seeds {' '.join(map(str, a.seeds))}" if part=='legrad' else ''
    options = f'--networks {part} --n {a.n} --few {a.few} --mosaics {a.mosaics}{seeds}'
    what = ('mean and standard error over the images; insertion, deletion and ROAD take fewer images, and the grid '
            'pointing game mosaics of four; deletion: lower is better')
    write('public', what=what, seed=a.seed, steps=a.steps, percentiles=list(a.percentiles),
          **{**{k:v for k,v in old.items() if k in (*networks,'legrad')}, part:dict(options=options, **res)})

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=48, help='images'); p.add_argument('--seed', type=int, default=5)
    p.add_argument('--few', type=int, default=16, help='images for insertion, deletion and ROAD')
    p.add_argument('--mosaics', type=int, default=8); p.add_argument('--steps', type=int, default=8)
    p.add_argument('--methods', nargs='*', help='names; none means all that suit, without the slow ones')
    p.add_argument('--slow', action='store_true', help=f"also {', '.join(many_passes)}")
    p.add_argument('--full', action='store_true', help='nine percentiles for ROAD instead of three')
    p.add_argument('--networks', nargs='*', default=[*networks,'legrad'], choices=[*networks,'legrad'])
    p.add_argument('--folder', help='ImageNet-S, Pascal VOC or COCO')
    p.add_argument('--classes', help="a file with all WordNet ids of ImageNet-S, where the folder has not all of them")
    p.add_argument('--model', help='folder of save_checkpoint, exported learner, or name of a timm model')
    p.add_argument('--weights', help='weights of the timm model')
    p.add_argument('--names', help='its classes, a line each')
    p.add_argument('--size', type=int, help='side of the pictures, for a learner that resizes none')
    p.add_argument('--out', default='public_folder.json', help='where the table of a folder is written')
    p.add_argument('--seeds', nargs='*', type=int, default=[0,1,2], help='seeds of the transformers of `legrad`')
    a = p.parse_args()
    a.percentiles = tuple(range(10,100,10)) if a.full else (25,50,75)
    try:
        if a.folder:
            res = on_folder(a)
            Path(a.out).write_text(json.dumps(dict(folder=Path(a.folder).name, seed=a.seed, **res), indent=1)+'\n')
            sys.exit(print(markdown(res['rows'])))
    except (ValueError,ImportError) as e: sys.exit(str(e))
    for name in a.networks:
        if name=='legrad':
            keep(a, 'legrad', compared(a.seeds, a.n, a.seed, a.steps, a.percentiles, a.few, a.mosaics))
            continue
        learn,d = composites(name, a.n, a.seed)
        methods = methods_of(learn, d.x, a.methods, a.slow)
        res = table(learn, d, methods, a.steps, a.percentiles, a.few, a.mosaics, a.seed,
                    each=lambda r: keep(a, name, r))
        print(markdown(res['rows']), flush=True)
