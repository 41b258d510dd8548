"""Checks on a GPU what a test run without one cannot: `python bench/gpu.py`, a line for each check with its figure

Without a GPU every check is skipped, and nothing is written. `--device cpu` runs all that makes sense there, on small
networks, to try the script itself; `--only` takes globs on the names of checks (`--list` prints them).
"""
import os
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8') # sums in one order: read when CUDA starts
os.environ.setdefault('MPLBACKEND', 'Agg')
import argparse, copy, fnmatch, gc, math, random, statistics, sys, tempfile, time, warnings
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
import numpy as np, timm, torch, torchvision
from torch import nn
from fastai.vision.all import (Callback, CrossEntropyLossFlat, L, Learner, MixedPrecision, accuracy, default_device,
                               defaults, plt, set_seed)
from fastattn.all import *
from fastattn.cli.resume import Phase, fit_resumable
from fastattn.core.hooks import quietly
from fastattn.core.target import model_output
from fastattn.detr.model import demo_detr
from fastattn.metrics.sanity import rank_correlation
from common import pairs, peak_mb, write

class Skip(Exception): "Says why a check is left out"

checks = {} # name: function of a `Place` that returns a figure, and raises `AssertionError` or `Skip`
def check(f): checks[f.__name__] = f; return f

class Place:
    "Where the checks run, and how large they may be"
    def __init__(self, device, n=7, seed=0):
        self.dev,self.n,self.seed = torch.device(device),n,seed
        self.kind,self.small = self.dev.type,self.dev.type=='cpu'
        self.mod = getattr(torch, self.kind, None)

    @property
    def name(self): return torch.cuda.get_device_name(self.dev) if self.kind=='cuda' else self.kind

    def sync(self):
        if not self.small: self.mod.synchronize()

    def rng(self):
        "The states of the device's random numbers, and of the others"
        own = (torch.cuda.get_rng_state_all() if self.kind=='cuda' else [torch.mps.get_rng_state()]
               if self.kind=='mps' else [])
        return [*own, torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64)),
                torch.tensor(random.getstate()[1])]

    def peak(self, f):
        "Bytes that `f` adds at its peak to what the device holds"
        f() # libraries load, layers are found
        gc.collect()
        if self.kind=='cuda':
            torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            f()
            self.sync()
            return torch.cuda.max_memory_allocated()-before
        if self.kind=='mps' or sys.platform!='linux': raise Skip(f'no peak of memory can be read ({self.kind})')
        return peak_mb(f)*2**20

    def put(self, m, *xs):
        m = m.eval().to(self.dev)
        return (m, *(x.to(self.dev) for x in xs)) if xs else m

    # networks
    def cnn(self, px=64, bs=4):
        torch.manual_seed(self.seed)
        return self.put(torchvision.models.resnet18(num_classes=8), torch.randn(bs,3,px,px))

    def vit(self, bs=4):
        torch.manual_seed(self.seed)
        return self.put(demo_vit(), torch.randn(bs,3,64,64))

    def usual(self, transformer=False):
        "A network of usual size for times and memory; on a CPU a small one"
        torch.manual_seed(self.seed)
        if transformer and self.small: return self.vit(8)
        m = timm.create_model('vit_small_patch16_224') if transformer else getattr(
            torchvision.models, 'resnet18' if self.small else 'resnet50')()
        return self.put(m, torch.randn(*((2,3,96,96) if self.small else (32,3,224,224))))

    def learner(self, mixed=None, cbs=(), dls=None):
        "A learner for the demo, untrained, with dropout; `mixed`: None, `'fp16'` or `'bf16'`"
        set_seed(self.seed, reproducible=True)
        dls = dls or demo_dls(n=80, size=32 if self.small else 64, bs=16, device=self.dev)
        model = demo_arch(n_out=len(dls.vocab))
        model.insert(len(model)-1, nn.Dropout(.2))
        cbs = [*([_Mixed(self.kind, mixed)] if mixed else []), *cbs]
        return Learner(dls, model.to(self.dev), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=cbs,
                       path=Path(tempfile.gettempdir()))

class _Mixed(MixedPrecision):
    """fastai's own on CUDA; elsewhere the same with the device's autocast and a scaler that scales

    On a CPU, where half precision is emulated and takes minutes, `'fp16'` is bfloat16 with a scaler."""
    def __init__(self, kind, mode):
        super().__init__(amp_mode=mode, growth_interval=3) # so that the scale changes within a short training
        self.kind = kind
    def before_fit(self):
        if self.kind=='cuda': return super().before_fit()
        scaled = self.amp_mode.value=='fp16'
        dtype = torch.float16 if scaled and self.kind!='cpu' else torch.bfloat16
        self.autocast,self.scales = torch.autocast(self.kind, dtype=dtype),L()
        self.learn.scaler = torch.amp.GradScaler(self.kind, **{**self.kwargs, 'enabled':scaled})

def fit(learn, epochs=1, lr=1e-2):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return learn

def plain(t): return t.detach().as_subclass(torch.Tensor).float().cpu()
def far(a, b):
    "Mean distance of two maps as a share of the largest value"
    a,b = plain(a),plain(b)
    return ((a-b).abs().mean()/b.abs().max().clamp(min=1e-12)).item()
def alike(a, b): return rank_correlation(plain(a), plain(b)).min().item() # of the image where it is least
def same_weights(a, b):
    a,b = a.state_dict(),b.state_dict()
    return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def on(p, *ts):
    for t in ts: assert t.device.type==p.kind, f'a result is on {t.device}, and the model on {p.dev}'

@contextmanager
def deterministic():
    "Kernels that add up in one order, as far as there are any"
    before = torch.are_deterministic_algorithms_enabled(),torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try: yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]

def method_cases(p):
    "Each method with the network of its contract test, on the CPU"
    for name in sorted(explainers):
        torch.manual_seed(p.seed)
        if explainers[name].demo: yield name, *explainers[name].demo()
        else:
            m = nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8,16,3,2,1),
                              nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(.5),
                              nn.Linear(16,5))
            yield name, m, torch.randn(3,3,24,40)

draws_there = 'smoothgrad', # captum draws the noise where the images are, and not on the CPU

# Devices

@check
def every_method(p):
    "Every method gives maps on the model's device, from a batch there or on the CPU, and those of the CPU"
    worst,n = (0.,''),0
    for name,m,x in method_cases(p):
        here = explain(m.eval(), x, name)
        m = m.to(p.dev)
        maps = [explain(m, o, name) for o in (x.to(p.dev), x)]
        for h in maps: on(p, h, h.raw)
        assert far(*maps)<1e-4, f'{name}: a batch on the CPU gives another map'
        n += 1
        if name not in draws_there: worst = max(worst, (far(maps[0].raw, here.raw), name))
    assert worst[0]<.01, f'{worst[1]} differs from its map on the CPU by {worst[0]:.2g}'
    return f'{n} methods; farthest from the CPU {worst[0]:.1e} ({worst[1]})'

def _targets(dev):
    "Ways of asking for a class, and the same in plain numbers"
    y = [1,4,0,2]
    yield 'a list', y, y
    yield 'a tensor on the CPU', torch.tensor(y), y
    yield 'a tensor on the device', torch.tensor(y, device=dev), y
    yield 'an array', np.array(y), y
    yield 'a number', 3, [3]*4
    yield 'one tensor', torch.tensor(3, device=dev), [3]*4
    yield 'a function', lambda out, idx: model_output(out)[:,3], [3]*4

@check
def targets(p):
    "Classes as numbers, arrays, tensors on either side, functions; contrasts, and similarity to a picture"
    m,x = p.cnn()
    xc = x.cpu()
    for what,t,y in _targets(p.dev):
        h = explain(m, x, 'gradcam', target=t)
        on(p, h, h.raw)
        assert far(h.raw, explain(m, x, 'gradcam', target=y).raw)<1e-4, f'{what}: another map'
    n = 7
    for t in (contrast(), contrast(1, 2), contrast(1, [2,3]), similar_to(m, xc[:1]), similar_to(m, x[:1]),
              similar_to(m, x.flip(0)), similar_to(m, xc[:1], layer='layer4')):
        h = explain(m, x, 'gradcam', target=t, layer='layer3')
        on(p, h, h.raw)
        assert plain(h.raw).abs().max()>0, f'{type(t).__name__}: an empty map'
        on(p, explain(m, x, 'saliency', target=t, max_bytes=1)) # one image at a time: parts of the target
        n += 1
    return f'{n} kinds of target'

@check
def detectors(p):
    "`detection` as target of a torchvision detector and of a DETR, whose boxes are on the device"
    torch.manual_seed(1)
    d = torchvision.models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=4)
    d,x = p.put(d, torch.rand(1,3,320,320))
    box = quietly(d, x)[0]['boxes'][0]
    for t in (detection(0), detection(box), detection(box.cpu()), detection(box.tolist())):
        h = explain(d, x, 'gradcam', target=t)
        on(p, h, h.raw)
        assert plain(h.raw).abs().max()>0
    m,x = p.put(demo_detr(), torch.randn(2,3,64,64))
    for k in ('gradcam','cross_attention'): on(p, explain(m, x, k, target=detection(0)))
    return 'ssdlite320: 4 ways of naming a box; a DETR'

@check
def traces(p):
    "Attention and its gradients are recorded on the device; rows add up to one; the model's output is the same"
    m,x = p.vit()
    n = 0
    for net in (m, p.put(_Encoder())):
        out = quietly(net, x)
        for kw in (dict(), dict(heads='mean'), dict(rows=0), dict(rows=[0,-1]), dict(rows=slice(0,3))):
            with torch.no_grad(), AttentionTrace(net, **kw) as t: again = net(x)
            for a in t.values():
                on(p, a)
                assert (a.float().sum(-1)-1).abs().max()<1e-3
            assert far(again, out)<1e-5, 'the output is another one while attention is recorded'
            n += len(t)
        with torch.enable_grad(), AttentionTrace(net, grad=True) as t: score = net(x)[:,0]
        g = t.grads(score)
        for k in t:
            on(p, g[k])
            assert g[k].shape==t[k].shape and torch.isfinite(g[k]).all()
    with torch.no_grad(), Trace(m, 'blocks.*') as t: m(x)
    on(p, *[o for o in t.values() if isinstance(o, torch.Tensor)])
    return f'{n} records of attention'

class _Encoder(nn.Module):
    "PyTorch's own encoder, which has a fast path of its own"
    def __init__(self):
        super().__init__()
        self.embed,self.head = nn.Conv2d(3,16,8,8),nn.Linear(16,8)
        self.t = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    def forward(self, x): return self.head(self.t(self.embed(x).flatten(2).transpose(1,2)).mean(1))

@check
def detr_attention(p):
    "`DetrAttention` of a model and an image on either side: maps of queries and points, relevance, and its figures"
    torch.manual_seed(p.seed)
    m,x = p.put(demo_detr(), torch.randn(1,3,64,64))
    for o in (x, x.cpu()):
        d = DetrAttention(m, o, threshold=0)
        on(p, d.decoder, d.encoder, d.predictions([0,1]).boxes)
        assert len(d)>0 and (plain(d.encoder).flatten(2).sum(-1)-1).abs().max()<1e-3
        d.point_maps([(10,10),(50,30)]); d.relevance([0,1])
    d.plot_queries(queries=[0,1]); d.plot_points(points=[(10,10)]); d.explore()
    return f'{len(d)} queries, {d.grid[0]} x {d.grid[1]} positions'

@check
def recurrent(p):
    "cuDNN's recurrent layers, which give gradients in training mode only: the CPU's maps, and cuDNN is on again"
    worst = 0.
    for cls in (nn.GRU, nn.LSTM, nn.RNN):
        torch.manual_seed(p.seed)
        m,x = _Recurrent(cls).eval(),torch.randn(2,3,16,32)
        here = explain(m, x, 'gradcam', target=1)
        m,before = m.to(p.dev),torch.backends.cudnn.enabled
        h = explain(m, x, 'gradcam', target=1)
        on(p, h)
        assert torch.backends.cudnn.enabled==before
        worst = max(worst, far(h.raw, here.raw))
    assert worst<1e-3, f'farthest from the map of the CPU: {worst:.2g}'
    return f'GRU, LSTM, RNN: {worst:.1e} from the CPU'

class _Recurrent(nn.Module):
    def __init__(self, cls):
        super().__init__()
        self.conv,self.rnn,self.head = nn.Conv2d(3,8,4,4),cls(8,4,batch_first=True),nn.Linear(4,3)
    def forward(self, x): return self.head(self.rnn(self.conv(x).relu().mean(2).transpose(1,2))[0][:,-1])

@check
def learners(p):
    "All that takes a learner works where its batches are on the device: figures, losses, retrieval, metrics, dreams"
    dls,done = p.learner().dls,[]
    learn = fit(attention_learner(dls, demo_arch, pretrained=False, first_bn=True))
    files = learn.dls.valid_ds.items[:4]
    def _did(what, o=None):
        done.append(what)
        plt.close('all')
        return o
    h = _did('explain', explain(learn, files))
    h[0].show()
    _did('plot_methods', plot_methods(learn, files[:2], methods=['gradcam','saliency']))
    _did('tell', tell(learn, files[0]))
    interp = _did('Interpretation', ClassificationInterpretation.from_learner(learn))
    _did('plot_top_losses', interp.plot_top_losses(4, heatmap=True))
    _did('plot_confusion_matrix', interp.plot_confusion_matrix())
    _did('show_results', learn.show_results(heatmap=True, max_n=4))
    emb = _did('embeddings', embeddings(learn))
    _did('plot_tsne', plot_tsne(emb, method='pca'))
    _did('similar_images', similar_images(learn, files[0], k=3))
    _did('plot_filters', plot_filters(learn))
    _did('plot_features', plot_features(learn, files[0]))
    xb = learn.dls.valid.one_batch()[0][:2]
    for f in (insertion, deletion, average_drop): _did(f.__name__, f(learn, xb, method='gradcam'))
    masks = demo_masks(files)
    for f in (energy_inside, pointing_game, auc_inside): _did(f.__name__, f(explain(learn, files), masks))
    _did('sanity_check', sanity_check(learn, xb, methods=['gradcam'], stages=2))
    _did('visualize_class', visualize_class(learn, 0, steps=2))
    return f'{len(done)} functions'

# Nothing is changed

@check
def random_numbers(p):
    "No method moves a random state of the device, nor another, though some draw random numbers"
    n = 0
    for name,m,x in method_cases(p):
        m = m.to(p.dev).train()
        torch.manual_seed(p.seed)
        before = p.rng()
        first_ = explain(m, x, name)
        assert all(map(torch.equal, before, p.rng())), f'{name} moves a random state'
        assert far(explain(m, x, name), first_)<1e-4, f'{name}: the same question, another map'
        n += 1
    return f'{n} methods, {len(p.rng())} states'

def _recorded(p, mixed):
    "Are weights, losses and random states those of a training without a recorder, and of one again without?"
    runs = []
    with deterministic():
        for cbs in ([], [], [AttentionRecorder(every=1, watch=4)]):
            learn = fit(p.learner(mixed, cbs), 2)
            runs.append((learn.model, [v[0] for v in learn.recorder.values], p.rng(), cbs))
    (a,la,ra,_),(b,_,_,_),(c,lc,rc,(rec,)) = runs
    if not same_weights(a, b): raise Skip('two trainings without a recorder differ: this GPU adds in no fixed order')
    assert len(rec.stats) and len(rec.snapshots), 'nothing was recorded'
    assert same_weights(a, c), 'other weights'
    assert la==lc, 'other losses'
    assert all(map(torch.equal, ra, rc)), 'other random states'
    return f'{len(rec.stats)} rows, {len(rec.snapshots)} snapshots'

for _k in (None,'fp16','bf16'): # a training with the recorder is bitwise the training without it
    checks[f'recorder_{_k or "fp32"}'] = partial(_recorded, mixed=_k)

class _Stops(Callback):
    "Interrupts in the second epoch"
    order = 100
    def after_batch(self):
        if self.training and self.epoch==1 and self.iter==1: raise KeyboardInterrupt

@check
def scaler_resumed(p):
    "A training in fp16 that was interrupted has, resumed, the weights and the scale of one that was not"
    def _run(fn, *cbs, resume=False):
        learn,scale = p.learner('fp16', cbs),[]
        class Watches(Callback):
            order = 5
            def after_fit(self): scale.append(self.learn.scaler.state_dict())
        learn.add_cb(Watches())
        with learn.no_bar(), learn.no_logging():
            try: rows = fit_resumable(learn, [Phase(3, 1e-2)], fn, resume=resume)
            except KeyboardInterrupt: return
        return learn.model,scale[-1],[r[1:3] for r in rows]
    with tempfile.TemporaryDirectory() as d, deterministic():
        whole,again = _run(Path(d)/'a'),_run(Path(d)/'b')
        if not same_weights(whole[0], again[0]): raise Skip('two whole trainings differ: no fixed order of sums')
        assert _run(Path(d)/'c', _Stops()) is None
        resumed = _run(Path(d)/'c', resume=True)
    assert same_weights(whole[0], resumed[0]), 'other weights'
    assert whole[1]==resumed[1], f'the scaler was {whole[1]} and is {resumed[1]}'
    assert whole[2]==resumed[2], 'other losses'
    return f"scale {whole[1].get('scale')}, growth tracker {whole[1].get('_growth_tracker')}"

# Precision

_mixed_methods = dict(cnn=('gradcam','auto','layercam','saliency'), vit=('auto','rollout','relevance','attention'))

def _precise(p, dtype):
    "Maps under autocast, and of a converted model, rank as those in single precision do"
    if p.kind=='cuda' and dtype==torch.bfloat16 and not torch.cuda.is_bf16_supported(): raise Skip('no bf16 here')
    slow = p.small and dtype==torch.float16 # emulated
    learn,res = fit(p.learner(), 2),{}
    xb = learn.dls.valid.one_batch()[0][:1 if slow else 8].as_subclass(torch.Tensor)
    for net in ('cnn','vit'):
        m,x = (learn.model,xb) if net=='cnn' else p.vit(len(xb))
        half = copy.deepcopy(m).to(dtype)
        for k in _mixed_methods[net][:1 if slow else None]:
            ref = explain(m, x, k, target=1)
            with torch.autocast(p.kind, dtype): under = explain(m, x, k, target=1)
            res[f'{net} {k} autocast'] = alike(under.raw, ref.raw)
            assert torch.isfinite(under).all() and under.dtype==torch.float32
            if not slow:
                res[f'{net} {k} converted'] = alike(explain(half, x, k, target=1).raw, ref.raw)
    low = min(res, key=res.get)
    assert res[low]>.85, f'{low}: rank correlation {res[low]:.2f} with the map in single precision'
    return dict(lowest=f'{res[low]:.3f} ({low})', median=round(statistics.median(res.values()), 4))

def _mixed_learner(p, mixed):
    "A learner that trains in mixed precision explains as its weights do in single precision"
    learn = fit(p.learner(mixed, [AttentionRecorder(every=2, watch=4)]), 2)
    xb = learn.dls.valid.one_batch()[0][:8]
    a,b = explain(learn, xb, 'gradcam'),explain(copy.deepcopy(learn.model), xb, 'gradcam')
    on(p, a)
    r = alike(a.raw, b.raw)
    assert r>.95, f'rank correlation {r:.2f}'
    assert all(torch.isfinite(h).all() for h in learn.attention_recorder.snapshots.values())
    assert np.isfinite(learn.attention_recorder.stats.select_dtypes('number').fillna(0).values).all()
    return f'rank correlation {r:.3f}'

for _k,_d in dict(fp16=torch.float16, bf16=torch.bfloat16).items():
    checks[f'autocast_{_k}'] = partial(_precise, dtype=_d)
    checks[f'learner_{_k}'] = partial(_mixed_learner, mixed=_k)

@check
def channels_last(p):
    "Another order of memory, the same maps"
    m,x = p.cnn(96)
    worst = 0.
    for k in ('gradcam','auto','saliency','fullgrad'):
        ref = explain(m, x, k, target=1)
        last = copy.deepcopy(m).to(memory_format=torch.channels_last)
        h = explain(last, x.to(memory_format=torch.channels_last), k, target=1)
        worst = max(worst, far(h.raw, ref.raw))
    assert worst<1e-3, f'{worst:.2g} from the usual order'
    return f'{worst:.1e} from the usual order'

@check
def compiled(p):
    "A compiled model is explained as it is, runs compiled before and after, and gives the same outputs"
    import torch._dynamo
    m,x = p.cnn()
    ref,seen = explain(m, x, 'gradcam', target=1),[]
    c = torch.compile(m) if p.kind=='cuda' else torch.compile(m, backend='aot_eager')
    try:
        with torch.no_grad(): out = c(x)
    except Exception as e: raise Skip(f'nothing can be compiled here: {type(e).__name__}') from e
    frames = sum(torch._dynamo.utils.counters['frames'].values())
    h = explain(c, x, 'gradcam', target=1)
    with torch.no_grad(): again = c(x)
    assert far(h.raw, ref.raw)<1e-3, 'another map'
    assert torch.equal(out, again), 'another output'
    more = sum(torch._dynamo.utils.counters['frames'].values())-frames
    assert frames and not more, 'it was compiled again'
    return f'{far(h.raw, ref.raw):.1e} from the map of the model itself'

@check
def data_parallel(p):
    "A model in DataParallel is explained as it is"
    m,x = p.cnn()
    w = nn.DataParallel(m)
    for k in ('gradcam','auto','saliency'):
        a,b = explain(w, x, k, target=1),explain(m, x, k, target=1)
        on(p, a)
        assert far(a.raw, b.raw)<1e-5, k
    with AttentionTrace(nn.DataParallel(p.vit()[0])) as t: t.model(p.vit()[1])
    assert len(t)
    return f'{torch.cuda.device_count()} GPUs'

@check
def second_gpu(p):
    "A model on the second GPU, while the first is the current one"
    if torch.cuda.device_count()<2: raise Skip('there is one GPU' if p.kind=='cuda' else 'there is no second GPU')
    m,x = p.cnn()
    there,second = copy.deepcopy(m).to('cuda:1'),Place('cuda:1', p.n, p.seed)
    before = second.rng()
    for k in ('gradcam','auto','saliency','rise'):
        for o in (x.cpu(), x.to('cuda:1'), x):
            h = explain(there, o, k, target=1)
            assert h.device==h.raw.device==torch.device('cuda:1'), f'{k} on {h.device}'
            if k!='rise': assert far(h.raw, explain(m, x, k, target=1).raw)<1e-3, k
    assert all(map(torch.equal, before, second.rng())) and torch.cuda.current_device()==0
    return f'{torch.cuda.device_count()} GPUs'

# Memory and time

class _Full(nn.Module):
    "Stands in for memory that is too small: more than `n` images do not fit"
    def __init__(self, m, n): super().__init__(); self.m,self.n = m,n
    def forward(self, x):
        if len(x)>self.n: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')
        return self.m(x)

@contextmanager
def _little_memory(p, f):
    "Of what `f` takes at its peak only two fifths are there"
    need = p.peak(f)
    gc.collect(); torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(p.dev).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved()+.4*need)/total, p.dev)
    try: yield
    finally: torch.cuda.set_per_process_memory_fraction(1., p.dev)

@check
def out_of_memory(p):
    "Where a batch does not fit, it is halved, with a warning, and the maps are those of enough memory"
    if p.kind=='mps': raise Skip('no limit can be set on MPS')
    m,x = p.cnn(*((64,8) if p.small else (224,64)))
    halvings = 0
    for k,kw in dict(integrated_gradients=dict(steps=4), scorecam=dict(max_channels=8)).items():
        def _maps(m): return explain(m, x, k, target=1, max_bytes=2**36, place='even', **kw)
        ref = _maps(m)
        tight,short = (_Full(m, len(x)),nullcontext()) if p.small else (m,_little_memory(p, lambda: _maps(m)))
        with warnings.catch_warnings(record=True) as ws, short:
            warnings.simplefilter('always')
            if p.small: tight.m.eval()
            h = _maps(tight)
        ws = [str(w.message) for w in ws if 'Out of memory' in str(w.message)]
        assert ws, f'{k}: nothing was halved'
        # else it was not what had failed that was halved
        assert len(ws)<=math.log2(len(x))+1, f'{k}: {len(ws)} halvings for {len(x)} images'
        assert far(h.raw, ref.raw)<1e-3, f'{k}: other maps'
        halvings += len(ws)
    return f'{halvings} halvings'

@check
def max_bytes(p):
    "`max_bytes` bounds what a pass takes: an eighth of the images at once takes less than all"
    m,x = p.cnn(*((96,16) if p.small else (224,64)))
    def _peak(n): return p.peak(lambda: explain(m, x, 'saliency', target=1, max_bytes=n, place='even'))
    whole,small = _peak(2**60),_peak(1)
    assert small<.6*whole, f'{small/2**20:.0f} of {whole/2**20:.0f} MB'
    return f'{small/whole:.2f} of the memory of one pass'

# limits beyond which something is wrong; what it costs is the figure
_limits = dict(gradcam=2., auto=6., rollout=3., relevance=8., recorder=2.)

def _asks(p):
    "Plain pass and calls, for a network and a transformer of usual size"
    for net,names in dict(cnn=('gradcam','auto'), vit=('auto','rollout','relevance')).items():
        m,x = p.usual(net=='vit')
        def _plain(m=m, x=x):
            with torch.no_grad(): m(x)
            p.sync()
        for k in names:
            def _ask(m=m, x=x, k=k): explain(m, x, k); p.sync()
            yield f'{net} {k}',_limits[k],_ask,_plain

@check
def times(p):
    "Time of `gradcam`, the default, rollout and relevance as ratios to a plain pass"
    res = {k:(pairs(f, ref, p.n), limit) for k,limit,f,ref in _asks(p)}
    _within({k:(r['median'],limit) for k,(r,limit) in res.items()})
    return {k:r for k,(r,_) in res.items()}

def _within(rs):
    wrong = [f'{k} {r:.2f} (limit {limit:g})' for k,(r,limit) in rs.items() if r>limit]
    assert not wrong, ', '.join(wrong)

@check
def recorder_time(p):
    "Time of a training with `AttentionRecorder` as a ratio to one without"
    n,size = (320,64) if p.small else (3000,64)
    dls = demo_dls(n=n, size=size, bs=32 if p.small else 64, device=p.dev)
    def _train(*cbs): fit(p.learner(None, [c() for c in cbs], dls=dls), 1); p.sync()
    r = pairs(partial(_train, AttentionRecorder), _train, p.n, warm=1)
    _within(dict(recorder=(r['median'],_limits['recorder'])))
    return r

@check
def memory(p):
    "Peak memory of the same calls, and of a training with the recorder, as ratios to a plain pass or training"
    res,plain_ = {},{}
    for k,_,f,ref in _asks(p):
        net = k.split()[0]
        if net not in plain_: plain_[net] = max(p.peak(ref), 1)
        res[k] = round(p.peak(f)/plain_[net], 2)
    def _train(*cbs): fit(p.learner(None, [c() for c in cbs]), 1)
    res['recorder'] = round(p.peak(lambda: _train(AttentionRecorder))/max(p.peak(_train), 1), 2)
    # on a CPU what the allocator gives back to the system decides, and not what is computed
    if not p.small: _within({k:(r, 3. if 'gradcam' in k or k=='recorder' else 20.) for k,r in res.items()})
    return res

def main(args=None):
    "Run the checks; the exit status is 1 where one failed"
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--device', help='cuda, cuda:1, mps, cpu; left out, the GPU, if there is one')
    a.add_argument('--only', nargs='+', default=['*'], help='globs on the names of checks')
    a.add_argument('--n', type=int, default=7, help='pairs of each ratio')
    a.add_argument('--seed', type=int, default=0); a.add_argument('--list', action='store_true')
    a = a.parse_args(args)
    names = [n for n in checks if any(fnmatch.fnmatch(n, g) for g in a.only)]
    if not names: sys.exit(f"No check is called {' or '.join(a.only)}; there are {', '.join(checks)}.")
    if a.list: print('\n'.join(names)); return 0
    there = 'cuda' if torch.cuda.is_available() else 'mps' if torch.backends.mps.is_available() else None
    if a.device is None and there is None:
        for n in names: print(f'{n}: skipped: no GPU')
        return 0
    p = Place(a.device or there, a.n, a.seed)
    with settings(p): res = {n:run(n, p) for n in names}
    if not p.small: write('gpu', what='checks on a GPU, each with its figure', device=p.name, seed=a.seed, checks=res)
    return int(any(o['result']=='failed' for o in res.values()))

@contextmanager
def settings(p):
    "fastai's default device, and single precision that can be compared with a CPU's; afterwards as before"
    conv,matmul = torch.backends.cudnn,torch.backends.cuda.matmul
    before = defaults.use_cuda,conv.allow_tf32,matmul.allow_tf32
    default_device(not p.small)
    conv.allow_tf32 = matmul.allow_tf32 = False
    try: yield
    finally: defaults.use_cuda,conv.allow_tf32,matmul.allow_tf32 = before

def run(n, p):
    "Run one check and print its line"
    t = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: state,figure = 'ok',checks[n](p)
        except Skip as e: state,figure = 'skipped',str(e)
        except Exception as e: state,figure = 'failed',f'{type(e).__name__}: {e}'.splitlines()[0]
    print(f'{n}: {state}: {figure}', flush=True)
    gc.collect()
    if p.kind=='cuda': torch.cuda.empty_cache()
    return dict(result=state, figure=figure, seconds=round(time.perf_counter()-t, 1))

if __name__=='__main__': sys.exit(main())
