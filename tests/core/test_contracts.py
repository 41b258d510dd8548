"What every registered explainer promises: explaining changes nothing, leaks nothing, and works wherever models are."
import copy, random, warnings
import numpy as np, pytest, torch, torch.nn as nn
from fastai.vision.all import (L, BCEWithLogitsLossFlat, CrossEntropyLossFlat, DataBlock, CategoryBlock, ImageBlock,
                               IndexSplitter, Learner, TensorImage,
                               get_image_files, parent_label, Normalize, imagenet_stats)
from fastattn.all import *
from fastattn.data.demo import *
from fastattn.core.registry import explainers
from fastattn.core.hooks import quietly, rng_state
from fastattn.core.target import model_output

def small():
    "A small CNN with everything that can go wrong: batch norm, dropout, in-place ReLUs"
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout2d(.3),
                      nn.Conv2d(8,16,3,2,1), nn.ReLU(inplace=True),
                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.5), nn.Linear(16,5))
    return m, torch.randn(3,3,24,40)

def case(name):
    torch.manual_seed(0)
    m,x = (explainers[name].demo or small)()
    return m.train(),x

names = sorted(explainers)
pytestmark = [pytest.mark.parametrize('name', names), pytest.mark.filterwarnings('ignore:.*maps of .* are empty')]

def hooks(m):
    return sum(len(getattr(o, k)) for o in m.modules()
               for k in ('_forward_hooks','_forward_pre_hooks','_backward_hooks','_backward_pre_hooks'))

def state(m, learn=None):
    "All that must not change"
    return (hooks(m), [o.training for o in m.modules()], [p.requires_grad for p in m.parameters()],
            [None if p.grad is None else p.grad.clone() for p in m.parameters()],
            [t.clone() for t in m.state_dict().values()], [s for _,s in rng_state(learn)], torch.is_grad_enabled())

def same(a, b):
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, np.ndarray): return np.array_equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a)
    return a==b

def scores(m, x): return quietly(lambda x: model_output(m(x)), x, m)

def close(a, b, tol=1e-5):
    torch.testing.assert_close(a.as_subclass(torch.Tensor), b.as_subclass(torch.Tensor), atol=tol, rtol=tol)

def test_result(name):
    m,x = case(name)
    h = explain(m, x, name)
    assert type(h) is Heatmap and h.shape==(len(x), *x.shape[-2:]) and h.dtype==torch.float32 and not h.requires_grad
    assert (h.method==name and h.raw.shape[0]==len(x) and h.raw.ndim==3 and
            all(n in dict(m.named_modules()) for n in L(h.layer)))
    lo,hi = h.min().item(),h.max().item()
    assert (-1 if explainers[name].signed else 0)<=lo and hi<=1
    assert len(h.target)==len(x) and h[1].target==h.target[1]
    assert explain(m, x, name, size=(10,12)).shape==(len(x),10,12)
    assert (explainers[name].f.__doc__ and
            any(c.isdigit() for c in explainers[name].f.__doc__)), 'a method names its paper, with its year'

def test_changes_nothing(name):
    m,x = case(name)
    m[0].eval(); next(m.parameters()).requires_grad_(False)
    for p in list(m.parameters())[1:3]: p.grad = torch.ones_like(p)
    m.eval(); out = model_output(m(x)).detach(); m.train(); m[0].eval()
    before,given = state(m),x.clone()
    h = explain(m, x, name)
    assert same(before, state(m)) and torch.equal(x, given)
    assert x.requires_grad is False and x.grad is None
    m.eval()
    assert torch.equal(out, model_output(m(x)))
    close(h, explain(m, x, name), 0)        # and the same question gets the same answer

@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('when', [0, 1]) # in the pass that looks for layers, and in the pass that answers
def test_leaks_nothing_on_errors(name, error, when):
    m,x = case(name)
    calls = []
    class Boom(nn.Module):
        def forward(self, x):
            calls.append(1)
            if len(calls)>when: raise error('stop')
            return x
    m.append(Boom())
    before = state(m)
    with pytest.raises(error): explain(m, x, name)
    assert same(before, state(m))

def test_batch_independence(name):
    m,x = case(name)
    whole = explain(m, x, name)
    for i in range(len(x)): close(explain(m, x[i:i+1], name).raw, whole.raw[i:i+1])
    close(explain(m, x[0], name), whole[:1])

def test_input_types(name):
    m,x = case(name)
    ref = explain(m, x, name)
    close(explain(m, TensorImage(x), name), ref, 0)
    close(explain(m, x.to(memory_format=torch.channels_last), name), ref, 1e-4) # other kernels round otherwise
    with torch.inference_mode(): close(explain(m, x.clone(), name), ref)
    with torch.no_grad(): close(explain(m, x, name), ref, 0)
    close(explain(m, x.clone().requires_grad_(), name), ref, 0)

def test_frozen(name):
    m,x = case(name)
    ref,out = explain(m, x, name),scores(m, x)
    h = explain(m.requires_grad_(False), x, name)
    # PyTorch's attention rounds otherwise where nothing is trained
    close(h, ref, 0 if torch.equal(out, scores(m, x)) else 1e-5)

def test_precision(name):
    m,x = case(name)
    ref = explain(m, x, name, target=1)
    with torch.autocast('cpu', torch.bfloat16): h = explain(m, x, name, target=1)
    assert torch.isfinite(h).all() and (h-ref).abs().mean()<.1
    h = explain(copy.deepcopy(m).bfloat16(), x, name, target=1)
    assert h.dtype==torch.float32 and (h-ref).abs().mean()<.1
    close(explain(copy.deepcopy(m).double(), x, name, target=1), ref, 1e-4)

def test_wrapped(name):
    m,x = case(name)
    ref = explain(m, x, name)
    close(explain(nn.DataParallel(m), x, name), ref, 0)
    c = torch.compile(m, backend='eager')
    c.eval(); c(x); c.train()
    close(explain(c, x, name), ref)
    assert hooks(m)==0

def test_views(name):
    "Noise, mirrors and enlargement are options of every method, and neighbours do not matter to them"
    m,x = case(name)
    def ask(x, **kw): return explain(m, x, name, place='even', **kw)
    h = ask(x, smooth=1, tta=True)
    close(ask(x[1:2], smooth=1, tta=True).raw, h.raw[1:2])
    plain,mirror = (ask(x, target=1 if explainers[name].by_class else None),
                    ask(x.flip(-1), target=1 if explainers[name].by_class else None))
    close(ask(x, tta=True, target=1 if explainers[name].by_class else None).raw, (plain.raw+mirror.raw.flip(-1))/2)
    assert type(h) is Heatmap and h.shape==(len(x), *x.shape[-2:]) and torch.isfinite(h).all()
    if explainers[name].demo is None: # networks that take any size
        big = ask(x, enlarge=2)
        assert big.shape==h.shape and big.target==ask(x).target

def test_targets(name):
    m,x = case(name)
    if not explainers[name].by_class:
        close(explain(m, x, name, target=0), explain(m, x, name, target=1), 0)
        return
    a,b = explain(m, x, name, target=0),explain(m, x, name, target=1)
    assert not torch.allclose(a.raw, b.raw)
    mixed = explain(m, x, name, target=[0]+[1]*(len(x)-1))
    close(mixed.raw[:1], a.raw[:1]); close(mixed.raw[1:], b.raw[1:])
    with pytest.raises(ValueError, match='out of range'): explain(m, x, name, target=1000)
    with pytest.raises(ValueError, match='knows no class names'): explain(m, x, name, target='cat')

def test_learner(name, tmp_path):
    m,_ = case(name)
    files = get_image_files(demo_path(n=80))[:12]
    dls = DataBlock((ImageBlock, CategoryBlock), get_y=parent_label, splitter=IndexSplitter(range(6,12))).dataloaders(
        list(files), bs=3, num_workers=0)
    learn = Learner(dls, m, loss_func=CrossEntropyLossFlat(), path=tmp_path)
    before = state(m, learn)
    h = explain(learn, files[:2], name)
    assert same(before, state(m, learn)) and h.shape==(2,64,64)
    explain(learn, dls.one_batch()[0], name)
    learn.export()
