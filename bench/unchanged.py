"""Explaining changes nothing: every method on many models, in four situations, compared before and after

The models include such that write their buffers in evaluation mode: moving averages, and batch norms that go on adapting
to the data. Compared are outputs, modes, `requires_grad`, gradients, weights, buffers, hooks, random numbers and settings
of PyTorch; a call that raises is compared, too."""
import argparse, time, warnings
from collections import Counter
import timm
from fastai.vision.all import *
from fastattn.all import *
from fastattn.core.target import model_output
from fastattn.detr.model import demo_detr
from contextlib import nullcontext
from common import write
from interrupts import compare, standing

class Ema(nn.Module):
    "Keeps a moving average of its input, in evaluation mode as well, in place or in a new tensor"
    def __init__(self, nf, in_place):
        super().__init__()
        self.in_place = in_place
        self.register_buffer('mean', torch.zeros(1,nf,1,1))
    def forward(self, x):
        m = x.detach().mean((0,2,3), keepdim=True)
        if self.in_place: self.mean.mul_(.9).add_(.1*m)
        else: self.mean = .9*self.mean+.1*m
        return x

class AdaBN(nn.BatchNorm2d):
    "A batch norm that always uses and updates the statistics of the batch"
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps)

class Counting(nn.Module):
    def __init__(self): super().__init__(); self.register_buffer('n', torch.tensor(0))
    def forward(self, x): self.n += 1; return x

def with_part(part, at=2):
    m = demo_arch()
    m.insert(at, part)
    return m

def adapting():
    m = demo_arch()
    for c in m:
        if isinstance(c, nn.Sequential) and len(c)>1 and isinstance(c[1], nn.BatchNorm2d): c[1] = AdaBN(c[1].num_features)
    return m

def frozen():
    m = demo_arch()
    for p in m[:6].parameters(): p.requires_grad_(False)
    m[0].eval()
    return m

def models():
    def _timm(n): return lambda: timm.create_model(n, num_classes=10)
    res = dict(demo=demo_arch, ema_in_place=lambda: with_part(Ema(32, True)), ema_new=lambda: with_part(Ema(32, False)),
               adabn=adapting, counting=lambda: with_part(Counting()), frozen=frozen,
               vit=lambda: demo_vit(size=64), vit_cls=lambda: demo_vit(size=64, class_token=True, global_pool='token'),
               vit_counting=lambda: nn.Sequential(Counting(), demo_vit(size=64)), detr=demo_detr,
               unet=lambda: DynamicUnet(nn.Sequential(*list(demo_arch())[:6]), 3, (64,64), attention=True),
               attention=lambda: nn.Sequential(*list(demo_arch())[:6], SoftAttention(128), nn.AdaptiveAvgPool2d(1),
                                               nn.Flatten(), nn.Linear(128, 5)))
    for n in ('resnet','efficientnet','convnext','byobnet','mambaout','nfnet'): res[n] = _timm(f'test_{n}')
    return res

def trial(build, options, res):
    for context in ('eval','train','inference','autocast'):
        set_seed(0)
        m = build()
        m.train(context=='train')
        x = torch.rand(2,3,64,64)
        for p in m.parameters():
            if p.requires_grad: p.grad = torch.ones_like(p) # as in the middle of a training
        for name in explainers:
            around = dict(inference=torch.inference_mode, autocast=lambda: torch.autocast('cpu', torch.bfloat16))
            before = standing(m)
            with around.get(context, nullcontext)():
                try: explain(m, x, name, **options.get(name, {})); said = 'explained'
                except (ValueError,RuntimeError,TypeError) as e: said = 'refused'
                except Exception as e: said = type(e).__name__
            res[said] += 1
            if changed := compare(before, standing(m)): res[f'changed {",".join(changed)}'] += 1; yield name,context,changed

few = dict(rise=dict(masks=32), occlusion=dict(window=32, stride=16), integrated_gradients=dict(steps=4),
           smoothgrad=dict(samples=3), scorecam=dict(max_channels=8), ablationcam=dict(max_channels=8),
           sscam=dict(max_channels=4, samples=2), iscam=dict(max_channels=4))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--only', default='', help='names of models, separated by commas')
    a = p.parse_args()
    warnings.simplefilter('ignore')
    res,bad = Counter(),[]
    for k,build in models().items():
        if a.only and k not in a.only.split(','): continue
        t = time.time()
        found = [(k,*o) for o in trial(build, few, res)]
        bad += found
        print(k, f'{time.time()-t:.0f} s', found[:5], flush=True)
    if not a.only: write('unchanged', what='calls of explain, and those after which something was not as before', seed=0,
                         models=len(models()), calls=sum(v for k,v in res.items() if not k.startswith('changed')),
                         counts=dict(res), changed=bad)
