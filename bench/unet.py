"Attention gates against fastai's plain U-Net: Dice over three seeds, what each gate does, training's time and memory"
import argparse, statistics, sys, time
import torch, torch.nn.functional as F
from fastai.vision.all import *
from fastattn.all import *
from fastattn.core.hooks import *
from fastattn.models.unet import gate_masks
from common import pairs, peak_mb, in_child, write

def learner(attention, n=2000, seed=0, **kwargs):
    dls = demo_dls(n=n, bs=32, masks=True, augment=False)
    set_seed(seed)
    return attention_unet_learner(dls, resnet18, attention=attention, pretrained=False,
                                  loss_func=CrossEntropyLossFlat(axis=1), **kwargs)

class Bfloat16(Callback):
    "Half precision and channels last, which make the run three times as fast on a CPU"
    def before_fit(self): self.learn.model.to(memory_format=torch.channels_last)
    def before_batch(self):
        self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.xb)
        self.amp = torch.autocast('cpu', dtype=torch.bfloat16); self.amp.__enter__()
    def after_pred(self): self.amp.__exit__(None, None, None); self.learn.pred = self.pred.float()

def dice(learn, frozen=None):
    """Overlap of what is predicted and what is there: pixels of the right class, twice, over pixels of any class;
    `frozen` is a gate and the value it is held at"""
    both = total = 0
    hook = (learn.model.get_submodule(frozen[0]).register_forward_hook(lambda m, i, o: torch.full_like(o, frozen[1]))
            if frozen else None)
    with evaluating(learn.model), torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        for x,y in learn.dls.valid:
            p,y = learn.model(x).argmax(1).as_subclass(Tensor),y.as_subclass(Tensor)
            both += ((p==y)&(y>0)).sum().item(); total += (p>0).sum().item()+(y>0).sum().item()
    if hook: hook.remove()
    return 2*both/max(total,1)

def gates_do(learn, d):
    "For each gate, coarse to fine: how well it points at objects, how far it is open, and the Dice lost at its mean"
    masks = demo_masks(learn.dls.valid_ds.items)
    res = []
    for i,name in enumerate(gate_masks(learn.model)):
        raw = torch.cat([explain(learn, x, 'gates', layer=i).raw for x,_ in learn.dls.valid])
        auc = auc_inside(raw, masks)
        res.append(dict(grid=list(raw.shape[-2:]), auc=round(auc.mean().item(),3),
                        images_below_half=round((auc<.5).float().mean().item(),3), mean=round(raw.mean().item(),3),
                        std_over_places=round(raw.flatten(1).std(1).mean().item(),3),
                        dice_lost=round(d-dice(learn, (name, raw.mean().item())),4)))
    return res

def train(attention, seed, a):
    learn = learner(attention, a.images, seed, last_cross=False)
    set_seed(seed)
    with learn.no_bar(), learn.no_logging(), learn.added_cbs(Bfloat16()): learn.fit_one_cycle(a.epochs, 2e-3)
    d = dice(learn)
    return dict(dice=round(d,4), gates=gates_do(learn, d) if attention else None)

def step(attention):
    learn = learner(attention, 160)
    x,y = (o.as_subclass(Tensor) for o in learn.dls.one_batch())
    learn.model.train()
    def f():
        F.cross_entropy(learn.model(x).as_subclass(Tensor), y).backward()
        learn.model.zero_grad()
    return f

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seeds', type=int, nargs='+', default=[0,1,2]); p.add_argument('--images', type=int, default=2000)
    p.add_argument('--epochs', type=int, default=6)
    p.add_argument('--n', type=int, default=7); p.add_argument('--only', choices=['dice','cost'])
    p.add_argument('--memory', type=int)
    a = p.parse_args()
    if a.memory is not None:
        f = step(bool(a.memory)); print(json.dumps(peak_mb(f))); sys.exit()
    if a.only!='dice':
        mem = [[in_child(__file__, '--memory', o) for o in (0,1)] for _ in range(3)]
        write('unet_cost', what='one training step (forward and backward) of the gated U-Net as a ratio to the plain '
                                'one; resnet18, 64 px, batches of 32, float32', seed=0,
              time=pairs(step(True), step(False), a.n), memory=round(statistics.median(g/p for p,g in mem),3),
              plain_mb=round(statistics.median(p for p,_ in mem)))
    if a.only!='cost':
        runs = {s:{k:train(k=='gated', s, a) for k in ('plain','gated')} for s in a.seeds}
        ds = {k:[r[k]['dice'] for r in runs.values()] for k in ('plain','gated')}
        write('unet', what=f'{a.images} demo images of 64 px, 9 classes, resnet18 from scratch, {a.epochs} epochs, '
                           'last_cross=False, bfloat16', seed=a.seeds,
              mean={k:round(statistics.mean(v),4) for k,v in ds.items()},
              stdev={k:round(statistics.stdev(v),4) if len(v)>1 else None for k,v in ds.items()}, runs=runs)
