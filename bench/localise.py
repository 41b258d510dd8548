"""Is the map right? Every activation map on photographed objects among clutter (`bench/objects.py`, EfficientNet-Lite0
with ImageNet weights) and on the demo set: does it point at the object, how much of it lies there, and what do
deletion, insertion and the average drop say, which know no masks. Mean and standard error over the images.
Methods that take a pass for each channel get fewer channels and samples than usual, as their names say."""
import argparse, collections, time, warnings
import torch
from fastattn.all import *
from fastattn.data.imagenet import *
from objects import composites, network, normed, ranked
from common import mean_and_error, write
warnings.filterwarnings('ignore')

rows = {**{m:(m,{}) for m in ('gradcam','gradcam_plus_plus','smooth_gradcam_plus_plus','xgradcam','shapleycam',
                              'layercam','hirescam','gradcam_elementwise','eigengradcam','fullgrad','cam','ablationcam',
                              'eigencam','kpcacam')},
        'scorecam, 64 channels':('scorecam', dict(max_channels=64)),
        'iscam, 32 channels, 3 steps':('iscam', dict(max_channels=32, samples=3)),
        'sscam, 32 channels, 4 samples':('sscam', dict(max_channels=32, samples=4)),
        'layercam, one stage before':('layercam', dict(layer='stage')),
        'gradcam_elementwise, one stage before':('gradcam_elementwise', dict(layer='stage')),
        'pyramidcam':('pyramidcam', {}), 'pyramidcam, finer=1':('pyramidcam', dict(finer=1)),
        'pyramidcam, finer=1, tta':('pyramidcam', dict(finer=1, tta=True)),
        'pyramidcam, finer=1, 1.43 times as large':('pyramidcam', dict(finer=1, enlarge=320/224)),
        'gradcam, 1.43 times as large':('gradcam', dict(enlarge=320/224)),
        'gradcam, smooth=8':('gradcam', dict(smooth=8))}

def drawn(learn, x, classes, method, layer=None, **kwargs):
    model = getattr(learn, 'model', learn)
    if layer=='stage': layer = candidates(model, x).stages()[0].name
    return torch.cat([explain(learn, x[i:i+16], method, target=classes[i:i+16], layer=layer, **kwargs
                              ).as_subclass(torch.Tensor) for i in range(0, len(x), 16)])

def figures(learn, x, masks, classes, steps, few):
    res = {}
    for name,(method,opts) in rows.items():
        start = time.time()
        m = drawn(learn, x, classes, method, **opts)
        fs = dict(pointing=pointing_game(m, masks).float(), energy_inside=energy_inside(m, masks),
                  average_precision=ranked(m, masks), average_drop=average_drop(learn, x, m, target=classes),
                  **{f.__name__:f(learn, x[:few], m[:few], target=classes[:few], steps=steps)
                     for f in (deletion,insertion)})
        res[name] = {k:mean_and_error(v) for k,v in fs.items()}
        print(f'{time.time()-start:5.0f} s', name, res[name], flush=True)
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('-n', type=int, default=100, help='scenes; some are left out, see objects.py')
    p.add_argument('--seed', type=int, default=1); p.add_argument('--demo', type=int, default=256)
    p.add_argument('--steps', type=int, default=14)
    p.add_argument('--few', type=int, default=48,
                   help='images of the composites for deletion and insertion, which take a pass for each step')
    a = p.parse_args()
    learn = demo_learner()
    items = learn.dls.valid_ds.items[:a.demo]
    xb = learn.dls.test_dl(items, bs=len(items)).one_batch()[0]
    demo = figures(learn, xb, demo_masks(items), [learn.dls.vocab.o2i[o.parent.name] for o in items], a.steps, a.demo)
    ims,masks,classes = composites(a.n, a.seed)
    imagenet = figures(network(), normed(ims), masks, classes, a.steps, a.few)
    names = imagenet_names()
    write('localise', what='mean and standard error over the images of each figure; deletion and average drop: '
                           'lower is better', seed=a.seed, steps=a.steps, few=a.few,
          demo=dict(images=len(items), area=round(demo_masks(items).float().mean().item(),3), rows=demo),
          imagenet=dict(images=len(ims), area=round(masks.float().mean().item(),3),
                        classes=collections.Counter(names[c] for c in classes), rows=imagenet))
