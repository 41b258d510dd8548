"Which map finds the object, on ViTs trained on the demo set with several seeds; one thread, so that runs repeat"
import argparse, json, sys, time
import torch; torch.set_num_threads(1)
from fastai.vision.all import *
from fastattn.all import *
from common import here, write

methods = ('relevance','gradcam','grad_rollout','rollout','attention','legrad')
pools = dict(mean={}, cls=dict(global_pool='token', class_token=True, drop_path_rate=.1))

def run(seed, pool, n=4000, epochs=12):
    set_seed(seed)
    vit = demo_vit(**pools[pool])
    dls = demo_dls(n=n, bs=32)
    learn = Learner(dls, vit, loss_func=CrossEntropyLossFlat(), metrics=accuracy, wd=.05)
    start = time.time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-3)
    seconds = time.time()-start
    with learn.no_bar(): acc = learn.validate()[1]
    items = dls.valid_ds.items
    xb,masks = first(dls.test_dl(items, bs=len(items)))[0],demo_masks(items)
    maps = {m:explain(learn, xb, m) for m in methods}
    def mean(f): return {m:round(f(h, masks).mean().item(), 3) for m,h in maps.items()}
    return dict(seed=seed, pool=pool, accuracy=round(acc,4), seconds=round(seconds), pointing=mean(pointing_game),
                energy_inside=mean(energy_inside))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--runs', nargs='+', default=['42:mean','1:mean','2:mean','42:cls'],
                   help='seed:pooling, pooling mean or cls')
    a = p.parse_args()
    fn = here/'results'/'vit_localise.json'
    runs = json.loads(fn.read_text())['runs'] if fn.exists() else []
    for o in a.runs:
        seed,pool = o.split(':')
        r = run(int(seed), pool)
        runs = [q for q in runs if (q['seed'],q['pool'])!=(r['seed'],r['pool'])]+[r] # a run that was there is replaced
        write('vit_localise', what='demo_vit on 4000 demo images, 12 epochs: pointing game and energy inside on '
                                   '800 validation images', runs=runs)
