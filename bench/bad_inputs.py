"""What bad inputs get: a sentence that says what is wrong, or not. Every public callable of `fastattn.all`, and every
registered explainer, is called with arguments that are right, and then with each argument in turn replaced by values
that are wrong for it. A time limit stands over each call, and a child process makes them: a hang and a crash count"""
import argparse, ast, functools, inspect, json, os, random, re, signal, subprocess, sys, tempfile, traceback, warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
os.environ.setdefault('MPLBACKEND', 'Agg')
import numpy as np, torch
from torch import nn
from PIL import Image
from fastai.vision.all import CrossEntropyLossFlat, L, Learner, plt
import fastattn
from fastattn.all import *
from fastattn.features.embeddings import Embeddings
from fastattn.features.projection import project
from fastattn.features.retrieval import nearest
from fastattn.detr.model import SmallDetr

nan,inf = float('nan'),float('inf')

class Thing:
    "Something of no use, whose name in messages does not change"
    def __repr__(self): return '<a thing>'

class World:
    "Small models, learners, pictures and files, each made when it is first needed"
    def __init__(self, folder): self.folder = Path(folder)

    @functools.cached_property
    def cnn(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8,16,3,2,1), nn.ReLU(),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16,5)).eval()
    @functools.cached_property
    def x(self): return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    @functools.cached_property
    def vit(self):
        from timm.models.vision_transformer import VisionTransformer
        torch.manual_seed(0)
        m = VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5).eval()
        for b in m.blocks: nn.init.normal_(b.attn.qkv.weight, std=.3)
        return m
    @functools.cached_property
    def dls(self): return demo_dls(40, 32, bs=8, base=self.folder)
    @functools.cached_property
    def learn(self):
        torch.manual_seed(0)
        learn = attention_learner(self.dls, demo_arch, pretrained=False)
        learn.remove_cbs(learn.cbs.filter(lambda c: type(c).__name__=='ProgressCallback'))
        return learn
    @functools.cached_property
    def masked(self):
        "A learner for masks"
        m = nn.Sequential(nn.Conv2d(3,8,3,1,1), nn.ReLU(), nn.Conv2d(8,9,3,1,1))
        return Learner(demo_dls(40, 32, bs=8, base=self.folder, masks=True), m,
             loss_func=CrossEntropyLossFlat(axis=1), cbs=[])
    @functools.cached_property
    def pics(self): return list(self.dls.valid_ds.items)
    @functools.cached_property
    def detr(self):
        torch.manual_seed(0)
        m = SmallDetr(nn.Sequential(nn.Conv2d(3,8,4,4), nn.ReLU(), nn.Conv2d(8,16,2,2)), 16, 6, 8, 16, 2, 2, 2).eval()
        for o in (m.query_embed.weight,m.class_embed.weight): nn.init.normal_(o, std=3)
        return m
    @functools.cached_property
    def d(self): return DetrAttention(self.detr, self.x[:1], threshold=.1)
    @functools.cached_property
    def h(self): return explain(self.cnn, self.x, 'gradcam')
    @functools.cached_property
    def h1(self): return self.h.replace(img=L([Image.new('RGB', (32,32))]*2))[0]
    @functools.cached_property
    def emb(self): return embeddings(self.learn)
    @functools.cached_property
    def stories(self): return tell(self.learn, self.pics[:2])
    @functools.cached_property
    def interp(self): return ClassificationInterpretation.from_learner(self.learn)
    @functools.cached_property
    def segs(self): return SegmentationInterpretation.from_learner(self.masked)
    @functools.cached_property
    def demos(self):
        "For each explainer a model and a batch"
        torch.manual_seed(0)
        return {n:e.demo() if e.demo else (self.cnn,self.x) for n,e in explainers.items()}
    @functools.cached_property
    def text_file(self):
        fn = self.folder/'notes.png'
        fn.write_text('no picture')
        return fn
    @functools.cached_property
    def empty_file(self):
        fn = self.folder/'empty.png'
        fn.touch()
        return fn

# Values that are wrong, for each kind of argument: a list of values, or of functions of the `World` in `From`.
@dataclass
class From:
    "A value that is made from the world"
    label:str
    f:object

def beyond(rng, n): return n+rng.randint(1, 10**6)

odd = ['x', '', [], {}, Thing()]

def whole(least=1, most=None, none=True):
    "A whole number of at least `least`; `none`: is None wrong, too?"
    def _of(rng):
        res = [*odd, 1.5, nan, inf, True, least-1, least-rng.randint(2, 10**6), np.float32(2.5), np.nan]
        return res + [None]*none + ([] if most is None else [beyond(rng, most)])
    return _of

def number(lo=None, hi=None, ends=False, none=True):
    "A number between `lo` and `hi`; `ends`: are these two wrong themselves?"
    def _of(rng):
        res = [*odd, nan, True]+[None]*none
        if lo is not None: res += [lo-rng.random()-.01, -inf]+([lo] if ends else [])
        return res + ([inf] if hi is None else [hi+rng.random()+.01, inf]+([hi] if ends else []))
    return _of

def flag(rng): return [*odd, None, 2, 1.5, nan, 'True']
def choice(*names, none=True):
    "One of some names"
    def _of(rng):
        s = rng.choice(names)
        i = rng.randrange(len(s))
        return [s[:i]+s[i]*2+s[i+1:], s+' ', '', 1, 1.5, nan, True, [], [s], {}, Thing()]+[None]*none
    return _of
def method(rng): return ['gradcamm', 'auto ', '', 1, nan, True, [], {}, Thing(), None, ['gradcam']]
def methods(rng): return ['gradcamm', '', 1, nan, True, [], {}, Thing(), ['gradcam','nosuch'], {'gradcam':1}, [None],
                          {'nosuch':{}}, {'gradcam':{'nosuch':1}}]
def options_of(*names):
    def _of(rng): return [{'gradcam':{n:v}} for n in names for v in ('x',nan,-1)]
    return _of
def target(n, bare=True):
    "A class of a model with `n` outputs"
    def _of(rng):
        res = [beyond(rng, n), -n-1, 1.5, nan, inf, '', 'nosuch', {}, [], Thing(), True, [0], [0,1,2], [[0,1]], [0,
             'nosuch'], [0,1.5], [True,False], np.array([.5,1.]), torch.tensor([1.,0.]), lambda out, idx: out,
             lambda: 1, lambda out, idx: None, lambda out, idx: out.sum()]
        return res
    return _of
def layer(rng): return ['nosuch', '', beyond(rng, 100), -beyond(rng, 100), 1.5, nan, True, [], {}, Thing(),
     ['nosuch'], [1.5], (0,99), b'x']
def one_layer(rng): return [o for o in layer(rng) if o!=[]]+[['0','3']]
def hw(none=True):
    "Height and width"
    def _of(rng): return [*odd, 0, -1, nan, 1.5, True, (1,), (1,2,3), (0,5), (5,-1), (5,nan), (5,'x'), (4.5,
         4)]+[None]*none
    return _of
def prep(rng): return ['x', 1, 1.5, [], {}, Thing(), True, From('a folder', lambda w: w.folder), lambda x: None,
                       lambda x: 'x', lambda x: torch.zeros(3), lambda: 1, lambda x: 1/0]
def alpha(rng): return [*odd, None, nan, inf, -.1, 1.1, 2, -1, True, (0,1)]
def cmap(rng): return ['nosuch', 'magmaa', '', 1, 1.5, nan, True, [], {}, Thing(), ['magma']]
def clip(rng): return [*odd, None, nan, inf, 0, -1, 100.5, 1000, True]
def blur(rng): return [*odd, None, nan, inf, -1, -.5, True]
def inches(rng): return [*odd, None, nan, inf, 0, -1, -.5, True]
def figsize(rng): return ['x', 1, (1,), (0,0), (-1,2), (nan,1), (1,2,3), {}, Thing(), ('x','y'), (inf,1), True]
def seed(rng): return [*odd, None, 1.5, nan, inf, True, 2**70]
def max_bytes(rng): return [*odd, 0, -1, nan, True]
def baseline(rng): return ['x', '', None, nan, [], {}, Thing(), torch.zeros(5), torch.zeros(2,3,5,5), torch.full((3,
     32,32), nan)]
def text(rng): return [1, 1.5, nan, [], {}, Thing(), True]
def path(rng): return [1, 1.5, [], {}, None, Thing(), True, '', 'a\0b', From('a text file', lambda w: w.text_file)]
def model(rng):
    return [None, 'model.pkl', '', 1, nan, {}, [], Thing(), nn.Linear, torch.zeros(3), Path('x'), (1,2),
            From('data loaders', lambda w: w.dls)]
def learner_only(rng): return [*model(rng), From('a model', lambda w: w.cnn)]
def no_vit(rng): return [*model(rng), From('a CNN', lambda w: w.cnn)]
_pictures = [None, '', 'nosuch.png', Path('nosuch.jpg'), 1.5, nan, [], {}, Thing(), [None], b'x', ['nosuch.png'],
     From('a folder', lambda w: w.folder), From('a text file', lambda w: w.text_file), np.zeros(3), np.array('x'),
     From('an empty file', lambda w: w.empty_file), From('a picture and a text', lambda w: [w.pics[0],'x']),
     From('a picture and None', lambda w: [w.pics[0],None])]
_batches = [torch.zeros(0,3,32,32), torch.zeros(32,32), torch.zeros(5), torch.tensor(1.), torch.zeros(2,1,32,32),
            torch.zeros(2,7,32,32), torch.zeros(2,3,0,0), torch.zeros(2,3,32,32, dtype=torch.uint8),
            torch.zeros(2,3,32,32, dtype=torch.complex64), torch.full((2,3,32,32), nan), torch.full((2,3,32,32), inf),
            torch.zeros(2,32,32,3), torch.zeros(1,2,3,4,5), torch.zeros(2,3,32,32).to_sparse(),
            torch.empty(2,3,32,32, device='meta')]
def images(rng): return [*_pictures, *_batches, 1, True]
def pictures(rng): return _pictures+[True, 'x'*300, 'a\0b']
def picture(rng): return [*_pictures, True, torch.zeros(2,3,32,32), torch.zeros(7), torch.full((3,32,32), nan)]
def pic(rng): return ['nosuch.png', '', 1, 1.5, nan, {}, [], Thing(), From('a folder', lambda w: w.folder), True,
     From('a text file', lambda w: w.text_file), torch.zeros(5), torch.zeros(2,3,8,8), torch.zeros(0,0),
     np.zeros((2,2,2,2)), b'x']
def maps(n, h=8, w=8, none=True):
    "Maps `(n,h,w)`"
    def _of(rng):
        bad = torch.rand(n,h,w); bad[0,0,0] = nan
        worse = torch.rand(n,h,w); worse[-1,0,0] = inf
        return [*odd, 1, 1.5, nan, bad, worse, torch.zeros(n+1,h,w), torch.zeros(0,h,w), torch.zeros(5),
             torch.zeros(n,1,1,h,w), torch.zeros(n,h,0), torch.zeros(n,h,w, dtype=torch.complex64),
             np.array(['x']*n), [[1],[1,2]], [torch.zeros(3,3),torch.zeros(4,4)]]+[None]*none
    return _of
def points(rng): return [*odd, None, 1, nan, True, (1,), (1,2,3), [(1,2),(3,)], (nan,1), ('x','y'), [], [[]],
     torch.zeros(2,3)]
def labels(rng): return ['x', 1, nan, {}, Thing(), True, [1.5]]
def any_of(*values):
    def _of(rng): return list(values)
    return _of
def without(kind, *values):
    "A kind less values that are right here"
    def _is(o, v): return o is v or type(o) is type(v) and not isinstance(o, (torch.Tensor,np.ndarray)) and o==v
    return lambda rng: [o for o in kind(rng) if not any(_is(o, v) for v in values)]

def one_target(n): return without(target(n), [0]) # of a single picture a list of one is right

# A call: its name, a function of the world that gives (function, arguments that are right), and kinds of wrong ones
calls = []
def call(name, make, /, **kinds): calls.append((name, make, kinds))

_draw = dict(alpha=alpha, cmap=cmap)
_views = dict(method=method, layer=layer, size=hw(none=False), fuse=choice('mean','product','max'), smooth=whole(0),
     tta=flag, enlarge=number(0, ends=True), whole=flag, place=choice('measured','even'), image=any_of('x', 1, -1,
     1.5, nan, [], Thing(), True), nosuch=any_of(1))
call('explain', lambda w: (explain, dict(learn=w.cnn, x=w.x)), learn=model, x=images, target=target(5),
     prep=any_of(), **_views)
call('explain of pictures', lambda w: (explain, dict(learn=w.cnn, x=w.pics[:2], method='gradcam',
     prep=w.dls.valid_ds.tls and (lambda o: torch.zeros(3,32,32)+.1))), x=pictures, prep=without(prep, None),
     target=target(5), size=hw(none=False))
call('explain with a learner', lambda w: (explain, dict(learn=w.learn, x=w.pics[:2])), x=images, method=method,
     target=target(8), layer=layer, prep=prep)
call('explain a ViT', lambda w: (explain, dict(learn=w.vit, x=w.x)), x=images, layer=layer, target=target(5))

_head,_query = without(choice('mean','max','min'), 1, True),any_of('clss','',1.5,nan,[],{},Thing(),10**6,-10**6,True)
_grid = any_of('x', 1, 1.5, nan, [], {}, Thing(), True, (4,), (4,4,4), (3,5), (0,16), (-4,-4), (4.,4.), ('x','y'),
     (16,nan))
_layers0 = whole(0, 10)
_options = dict( samples=whole(), noise=number(0), seed=seed, finer=whole(0, 98), kernel=choice('sigmoid','rbf',
     'poly','linear'), gamma=number(0, ends=True, none=False), max_channels=whole(none=False), max_bytes=max_bytes,
     steps=whole(), within=number(0, none=False), baseline=baseline, window=whole(1, 10**6, none=False),
     stride=whole(1, 10**6, none=False), masks=whole(), cells=whole(), keep=number(0, 1, ends=True), head=_head,
     weights=any_of('x', '', 1, nan, [], {}, Thing(), [1,2,3], [0,0], [nan,1], [[1]], True, ['a','b'], [inf,1]),
     query=_query, grid=_grid, start_layer=_layers0, head_fusion=_head, discard_ratio=number(0, 1),
     residual=number(0, 1), sharpness=number(0), threshold=number(0, 1))
def _add_method(name, e):
    names = [n for n in inspect.signature(inspect.unwrap(e.f)).parameters if n!='p']
    kinds = {n:_options[n] for n in names if n in _options}
    if name=='smoothgrad': kinds['noise'] = number(0, ends=True)
    if name in ('cross_attention','bimodal_relevance'): kinds['query'] = any_of('x','',1.5,nan,[],{},Thing(),10**6,
         -10**6,True)
    def _make(w):
        m,x = w.demos[name]
        quick = {k:v for k,v in dict(samples=2, steps=2, masks=4).items() if k in names}
        return explain,dict(learn=m, x=x, method=name, **quick)
    call(f'explain {name}', _make, nosuch=any_of(1), layer=any_of('nosuch', 10**6, 1.5), target=any_of('nosuch',
         10**6, 1.5), **kinds)
for _n,_e in explainers.items(): _add_method(_n, _e)

call('explainer', lambda w: (lambda **kw: explainer(**kw)(lambda p: p), {}), nosuch=any_of(1), grad=any_of('x', nan,
     -1, 3, []), signed=flag, by_class=flag, suits=any_of(1,'x',[]), layers=any_of(1,'x',[]), pick=any_of(1,'x'),
     pixels=flag, trace=any_of(1,'x'), fits=any_of(1,'x'), answers=any_of(1,'x'), demo=any_of(1,'x'), why=any_of(1,
     None,[]))
call('suitable', lambda w: (suitable, dict(model=w.cnn)), model=model, by_class=flag, x=any_of('x', 1, [], {}, nan,
     Thing(), torch.zeros(3)))
call('candidates', lambda w: (candidates, dict(model=w.cnn, x=w.x)), model=model, x=any_of(*_batches[:9], None, 'x',
     1, [], {}, Thing(), nan))
call('candidates.find', lambda w: (candidates(w.cnn, w.x).find, dict(which=0)), which=without(layer, []))
call('Heatmap', lambda w: (Heatmap, dict(maps=torch.zeros(2,4,4))), maps=any_of(None, 'x', {}, Thing(), [[1],[1,2]],
     ['a']), nosuch=any_of(1))
call('Heatmap.replace', lambda w: (w.h.replace, dict(maps=torch.zeros(2,4,4))), maps=any_of('x', 1, [], {}, Thing(),
     nan), nosuch=any_of(1))
call('Heatmap.overlay', lambda w: (w.h1.overlay, dict(alpha=.5)), img=pic, blur=blur, clip=clip, **_draw)
call('Heatmap.overlay of several', lambda w: (lambda h: h.overlay(), dict(h=w.h[0])), h=any_of(From('two',
     lambda w: w.h), From('none', lambda w: w.h[:0])))
call('Heatmap.show', lambda w: (w.h1.show, {}), ctx=any_of(1,'x',[],{},Thing()), img=pic, title=any_of(),
     figsize=figsize, blur=blur, clip=clip, colorbar=flag, **_draw)
call('Heatmap.plot', lambda w: (w.h.plot, {}), n=whole(), cols=whole(none=False), colorbar=flag, side=inches, **_draw)
call('Heatmap.on_grid', lambda w: (lambda h: h.on_grid(), dict(h=w.h)), h=any_of(From('no raw',
     lambda w: w.h.replace(raw=None))))
call('Trace', lambda w: (lambda model, pattern, **kw: Trace(model, pattern, **kw), dict(model=w.cnn, pattern='0')),
     model=model, pattern=any_of('nosuch', '', None, 1, 1.5, [], {}, Thing(), nan), take=any_of(1, 'x', None, []))
call('contrast', lambda w: (lambda **kw: explain(w.cnn, w.x, 'gradcam', target=contrast(**kw)), {}), this=any_of(99,
     -9, 1.5, nan, '', 'nosuch', [], {}, Thing(), True), other=any_of(99, -9, 1.5, nan, '', 'nosuch', [], {},
     Thing(), True, [99]), alpha=number(), n=whole())
call('similar_to', lambda w: (lambda **kw: explain(w.cnn, w.x, 'gradcam', target=similar_to(**kw)),
     dict(learn=w.cnn, x=w.x[:1])), learn=lambda rng: [*model(rng), From('another model', lambda w: w.vit)],
     x=images, layer=one_layer, prep=any_of())
call('similar_to pictures', lambda w: (similar_to, dict(learn=w.cnn, x=w.pics[0], prep=lambda o: torch.zeros(3,32,
     32))), prep=without(prep, None))
call('detection', lambda w: (lambda **kw: explain(w.detr, w.x, 'cross_attention', target=detection(**kw)), {}),
     box=any_of(99, -99, 1.5, nan, '', 'x', None, [], {}, Thing(), (1,2,3), (1,2,3,4,5), (nan,)*4, ('a',)*4, (900,
     900,901,901), True, [0,1,2], (9,9,1,1)), label=any_of(99, -9, 1.5, nan, '', 'nosuch', [], {}, Thing(), True))

call('AttentionRecorder', lambda w: (AttentionRecorder, {}), layers=any_of(1.5, nan, 1, {}, Thing(), True, [1.5],
     [None]), every=whole(), watch=any_of(*odd[:2], {}, Thing(), 1.5, nan, -1, None, ['x'], [1.5], [-1.5], True),
     method=method, target=choice('pred','actual'), layer=any_of(1.5, nan, {}, Thing(), True),
     max_snapshots=whole(), max_points=whole())

_dl = any_of('x', 1, nan, {}, Thing(), [], '', 'nosuch.png', ['nosuch.png'], True)
for _c in (Interpretation, ClassificationInterpretation):
    call(f'{_c.__name__}.from_learner', lambda w, c=_c: (c.from_learner, dict(learn=w.learn)), learn=learner_only,
         ds_idx=any_of('x', 1.5, nan, 99, -99, None, [], Thing(), True), dl=_dl, act=any_of(1, 'x', []))
_k = any_of(0, -1, 10**6, 1.5, 2.5, nan, inf, 'x', '', None, {}, Thing(), True, [10**6], ['x'], [1.5], [])
_plots = dict(method=method, layer=layer, **_draw)
call('plot_top_losses', lambda w: (w.interp.plot_top_losses, dict(k=2, heatmap=True, method='gradcam')), k=_k,
     largest=flag, heatmap=flag, target=target(8), heatmap_thresh=whole(0, none=False), show_text=flag,
     nrows=whole(none=False), ncols=whole(none=False), figsize=figsize, return_fig=flag, nosuch=any_of(1), **_plots)
call('plot_top_losses without heatmaps', lambda w: (w.interp.plot_top_losses, dict(k=2)), k=_k, heatmap=flag)
call('top_losses', lambda w: (w.interp.top_losses, dict(k=2)), k=without(_k, None), largest=flag, items=flag)
call('show_results', lambda w: (w.interp.show_results, dict(idxs=[0,1], heatmap=True, method='gradcam')),
     idxs=any_of(10**6, -10**6, [10**6], 1.5, nan, 'x', '', None, [], {}, Thing(), ['x'], [1.5], True),
     heatmap=flag, **_plots)
call('learn.show_results', lambda w: (w.learn.show_results, dict(max_n=2, heatmap=True, method='gradcam')),
     ds_idx=any_of('x', 99, None, 1.5), dl=without(_dl), max_n=whole(), shuffle=flag, heatmap=flag, method=method,
     alpha=alpha)
call('SegmentationInterpretation.plot_top_losses', lambda w: (w.segs.plot_top_losses, dict(k=2, heatmap=True,
     method='gradcam')), k=_k, target=any_of('eachh', '', 99, 1.5, nan, [], {}, Thing()), alpha=alpha, cmap=cmap)
call('most_confused', lambda w: (w.interp.most_confused, {}), min_val=any_of('x', None, nan, [], Thing()))
call('plot_confusion_matrix', lambda w: (w.interp.plot_confusion_matrix, {}), normalize=flag, cmap=cmap,
     norm_dec=whole(0), figsize=figsize, plot_txt=flag)
call('log_top_losses', lambda w: (lambda k: w.interp.log_top_losses(k), dict(k=None)), k=any_of(1))

call('plot_methods', lambda w: (plot_methods, dict(learn=w.learn, x=w.pics[:1], methods=['gradcam'])), learn=model,
     x=images, methods=methods, target=one_target(8), prep=prep, width=inches, layer=layer, nosuch=any_of(1), **_draw)
call('plot_methods, the first', lambda w: (plot_methods, dict(learn=w.cnn, x=w.x, n=1)), n=whole())
call('tell', lambda w: (tell, dict(learn=w.learn, xs=w.pics[:1])), learn=learner_only,
     xs=lambda rng: [*pictures(rng), 10**6, -10**6, torch.zeros(5), torch.full((3,32,32), nan), [[]]],
     method=method, target=one_target(8), layer=layer, side=whole(), reader=any_of(1,'x',[],Thing()), nosuch=any_of(1))
call('plot_stories', lambda w: (plot_stories, dict(stories=w.stories)), stories=any_of([], None, 1, 'x', [1],
     Thing(), {}, nan), width=inches, **_draw)
call('plot_before_after', lambda w: (plot_before_after, dict(learn=w.learn, xs=w.pics[0])), learn=any_of(None, 'x'),
     xs=any_of([], 'nosuch.png', 1.5, None), width=inches, side=whole(), **_draw)
call('show_attention', lambda w: (w.learn.show_attention, dict(x=w.pics[0])), x=any_of([], 'nosuch.png', 1.5, None,
     10**6), ctx=any_of(1,'x',Thing()), method=method, figsize=figsize, side=whole(), **_draw)

_arch = any_of('resnet18x', '', 1, 1.5, None, [], {}, Thing(), True, nn.Linear(2,2), lambda: 1, len)
_forms = dict(form=choice('spatial','channel','none'), activation=choice('sigmoid','softmax'))
call('attention_learner', lambda w: (attention_learner, dict(dls=w.dls, arch=demo_arch, pretrained=False)),
     dls=any_of(None, 'x', 1, [], {}, Thing(), From('a learner', lambda w: w.learn)), arch=_arch, unet=flag,
     nf=any_of(), n_out=whole(none=False), pretrained=flag, init=any_of(1,'x',[]), lr=number(0, none=False),
     ps=number(0, 1), lin_ftrs=any_of('x', [0], [-1], [1.5], 1.5, ['x'], nan), loss_func=any_of(1,'x',[]),
     nosuch=any_of(1), concat_pool=flag, first_bn=flag, **_forms)
call('attention_learner(unet=True)', lambda w: (attention_learner, dict(dls=w.dls, arch=demo_arch, pretrained=False,
     unet=True, nf=4)), nf=whole(), n_out=whole(none=False), **_forms)
call('attention_unet_learner', lambda w: (attention_unet_learner, dict(dls=w.masked.dls, arch=demo_arch,
     pretrained=False)), dls=any_of(None, 'x', 1, [], {}, Thing()), arch=_arch, attention=flag, normalize=flag,
     n_out=whole(none=False), pretrained=flag, n_in=whole(), cut=any_of('x', nan, Thing()), nosuch=any_of(1),
     lr=number(0, none=False))
call('SoftAttention', lambda w: (SoftAttention, dict(nf=8)), nf=whole(), form=choice('spatial','channel','element'),
     activation=choice('sigmoid','softmax'), size=any_of())
call('SoftAttention(element)', lambda w: (SoftAttention, dict(nf=8, form='element', size=(4,4))), nf=whole(),
     size=hw())
call('SoftAttention(dense)', lambda w: (SoftAttention, dict(nf=2, form='dense', size=(4,4))), nf=whole(),
     size=without(hw()))
call('DynamicUnet', lambda w: (DynamicUnet, dict(encoder=nn.Sequential(*list(demo_arch())[:6]), n_out=2,
     img_size=(32,32))), encoder=any_of('resnet18x', '', None, 1, 1.5, [], {}, Thing(), nn.Linear(2,2)),
     n_out=whole(), img_size=hw(), attention=flag, pretrained=flag)

call('AttentionTrace', lambda w: (lambda model, pattern='*', **kw: AttentionTrace(model, pattern, **kw),
     dict(model=w.vit)), model=model, pattern=any_of('nosuch', None, 1, 1.5, [], {}, Thing()), heads=choice('all',
     'mean'), rows=any_of('x','',True,1.5,nan,(),[],{},Thing(),['x'],[1.5]), grad=flag, values=flag)
def _traced(w):
    with AttentionTrace(w.vit, grad=True) as t: t.score = w.vit(w.x).sum()
    return t
call('AttentionTrace.grads', lambda w: ((t := _traced(w)).grads, dict(score=t.score)), score=any_of(None, 1, 'x',
     torch.tensor(1.), Thing(), torch.zeros(2)))
call('AttentionTrace.recorded', lambda w: (_traced(w).recorded, dict(name='blocks.0.attn')), name=any_of('nosuch',
     '', 1, None, []))
_panels = dict(ncols=whole(none=False), scale=inches, clip=clip, **_draw)
_attn_layer = lambda rng: [*layer(rng), None]
_vit = lambda w: dict(learn=w.vit, x=w.x[:1])
call('plot_heads', lambda w: (plot_heads, _vit(w)), learn=no_vit, x=picture, layer=_attn_layer, query=_query,
     tokens=flag, grid=_grid, **_panels)
call('plot_heads(tokens=True)', lambda w: (plot_heads, dict(tokens=True, **_vit(w))), **{**_panels, 'alpha':any_of()})
call('plot_heads of a picture', lambda w: (plot_heads, dict(learn=w.vit, x=w.pics[0], prep=lambda o: torch.zeros(3,
     32,32))), prep=prep)
call('plot_layers', lambda w: (plot_layers, _vit(w)), learn=no_vit, x=picture, method=method,
     target=one_target(5), nosuch=any_of(1), head=_head, **_panels)
call('plot_patches', lambda w: (plot_patches, dict(points=[(3,4)], **_vit(w))), learn=no_vit, x=picture,
     points=lambda rng: [*points(rng), (99,1), (-1,5)], layer=_attn_layer, head=_head, grid=_grid, **_panels)

_det_layer = lambda rng: [*without(layer, [])(rng), None]
_det_draw = dict(scale=inches, clip=clip, **_draw)
call('DetrAttention', lambda w: (DetrAttention, dict(model=w.detr, inputs=w.x[:1], threshold=.1)),
     model=lambda rng: [*model(rng), From('a CNN', lambda w: w.cnn)], inputs=lambda rng: [*images(rng), {'a':1},
     {'pixel_values':None}], threshold=number(0, 1), image=any_of('x','',5,-5,1.5,nan,[],Thing(),True),
     vocab=any_of('x',1,{},Thing(),nan,{'a':1}), grid=_grid, sigmoid=any_of('x', 2, nan, []))
call('DetrAttention of a picture', lambda w: (DetrAttention, dict(model=w.detr, inputs=w.pics[0],
     prep=lambda o: torch.zeros(3,32,32))), prep=prep)
call('DetrAttention.predictions', lambda w: (w.d.predictions, {}), queries=any_of('x','',1.5,nan,99,-1,{},Thing(),
     True,['x'],[99],[1.5]))
call('DetrAttention.weights', lambda w: (w.d.weights, {}), part=choice('decoder','encoder','queries'),
     layer=_det_layer, head=_head)
call('DetrAttention.matrix', lambda w: (w.d.matrix, {}), part=choice('decoder','encoder','queries'),
     layer=lambda rng: [*_det_layer(rng),'all'], head=lambda rng: [*_head(rng),'all'])
call('DetrAttention.picture', lambda w: (w.d.picture, {}), img=pic)
call('DetrAttention.boxes_on', lambda w: (w.d.boxes_on, dict(size=(32,32))), size=hw(), boxes=any_of('x', 1, [],
     torch.zeros(3), torch.zeros(2,3)))
call('DetrAttention.query_maps', lambda w: (w.d.query_maps, {}), queries=any_of('x',99,1.5,{},True), img=pic,
     layer=_det_layer, head=_head)
call('DetrAttention.relevance', lambda w: (w.d.relevance, {}), query=any_of('x',99,1.5,{},True),
     label=any_of('nosuch',99,1.5,[],{},Thing(),True), img=pic)
call('DetrAttention.cells', lambda w: (w.d.cells, dict(points=(3,4))), points=points, img=pic)
call('DetrAttention.point_maps', lambda w: (w.d.point_maps, dict(points=(3,4))), points=points, img=pic,
     direction=choice('from','to'), layer=_det_layer, head=_head)
call('DetrAttention.plot_queries', lambda w: (w.d.plot_queries, {}), img=pic, queries=any_of('x',99,1.5,{},True),
     method=choice('attention','relevance'), layer=_det_layer, head=_head, ncols=whole(none=False), **_det_draw)
call('DetrAttention.plot_points', lambda w: (w.d.plot_points, {}), img=pic, points=without(points, None),
     direction=choice('from','to'), layer=_det_layer, head=_head, **_det_draw)
call('DetrAttention.explore', lambda w: (w.d.explore, {}), img=pic, layer=_det_layer, encoder_layer=_det_layer,
     head=_head, width=whole(16))

call('plot_filters', lambda w: (plot_filters, dict(learn=w.cnn)), learn=model, layer=any_of('nosuch','2','',1,1.5,
     nan,[],{},Thing(),True,'*'), n=whole(), channel=any_of('x','',99,-99,1.5,nan,[],{},Thing(),True),
     cols=whole(none=False))
call('plot_features', lambda w: (plot_features, dict(learn=w.cnn, img=w.x[0])), learn=model, img=picture,
     layer=one_layer, n=whole(), cols=whole(none=False), prep=any_of())
call('plot_features of a picture', lambda w: (plot_features, dict(learn=w.cnn, img=w.pics[0],
     prep=lambda o: torch.zeros(3,32,32))), prep=prep)
call('embeddings', lambda w: (embeddings, dict(learn=w.learn)), learn=model, dl=_dl, layer=one_layer)
call('embeddings of a model', lambda w: (embeddings, dict(learn=w.cnn, dl=[w.x])), dl=lambda rng: [None, 'x', 1,
     nan, {}, Thing(), [], [1], [None], ['x'], [torch.zeros(3)], [torch.zeros(0,3,32,32)], [torch.full((2,3,32,32),
     nan)]])
def _emb(x): return Embeddings(x, L(range(len(x))), ['a']*len(x), ['a']*len(x), torch.rand(len(x)), 'layer')
_rows = any_of(From('equal', lambda w: _emb(torch.ones(20,6))), From('NaN', lambda w: _emb(torch.full((20,6),
     nan))), From('three', lambda w: _emb(torch.rand(3,6))), From('none', lambda w: _emb(torch.rand(0,6))),
     From('no columns', lambda w: _emb(torch.rand(20,0))), From('inf', lambda w: _emb(torch.full((20,6), inf))))
for _m in ('tsne','pca'):
    call(f'plot_tsne({_m!r})', lambda w, m=_m: (plot_tsne, dict(learn=_emb(torch.rand(20,6)), method=m)),
         learn=lambda rng: [*model(rng), *_rows(rng)], colour=choice('class','loss','correct', none=False),
         thumbnails=flag, clusters=whole(0, 20), dim=any_of('x','',1,4,2.5,nan,None,[],{},Thing(),True),
         method=choice('tsne','pca'), perplexity=without(number(1, 20, none=False), True), seed=seed,
         figsize=figsize)
call('plot_tsne of a learner', lambda w: (plot_tsne, dict(learn=w.learn, method='pca')), dl=_dl, layer=one_layer)
call('project', lambda w: (project, dict(x=torch.rand(20,6), method='pca')), x=any_of(None,'x',1,[],{},Thing(),
     torch.zeros(3),torch.full((20,6),nan),torch.rand(3,6),torch.rand(20,6,2), torch.ones(20,6)), dim=any_of('x',1,
     4,nan,None))
call('similar_images', lambda w: (similar_images, dict(learn=w.learn, img=w.pics[0], dl=w.emb, k=2)),
     learn=learner_only, img=lambda rng: [*pictures(rng), 10**6, -10**6, torch.zeros(3,32,32)], k=whole(1, 100),
     dl=without(_dl, 'x'), layer=any_of('nosuch', 10**6, 1.5, {}, Thing()))
call('similar_images, file', lambda w: (similar_images, dict(learn=w.learn, img=w.pics[0], k=2, dl=w.pics[:4])),
     index=without(path, None), overwrite=any_of())
call('similar_images(index=...)', lambda w: (similar_images, dict(learn=w.learn, img=w.pics[0], k=2, dl=w.pics[:4],
     index=w.folder/'i.safetensors', overwrite=True)), overwrite=flag)
call('nearest', lambda w: (nearest, dict(x=torch.rand(9,4), q=torch.rand(2,4))), x=any_of(None,'x',torch.zeros(3),
     torch.zeros(9,5),torch.full((9,4), nan)), q=any_of(None,'x',torch.zeros(3),torch.zeros(2,5),torch.full((2,4),
     nan)), k=whole(1, 9), without=any_of('x',[0],[1.5,2.],{}), rows=whole())
call('Neighbours.plot', lambda w: (similar_images(w.learn, w.pics[0], 2, w.emb).plot, {}), side=inches)

_dream = lambda w: dict(learn=w.cnn, target=0, steps=2, size=16, stats=([.5]*3,[.5]*3))
call('visualize_class', lambda w: (visualize_class, _dream(w)), learn=model, target=lambda rng: [None,
     *[o for o in target(5)(rng) if not callable(o) and not isinstance(o, (list,torch.Tensor)) ], [], [99], [[0]]],
     layer=one_layer, steps=whole(), start=any_of('', 'nosuch.png', 1, 1.5, nan, None, [], {}, Thing(), True,
     torch.zeros(5), torch.full((3,16,16), nan), From('a text file', lambda w: w.text_file)),
     objective=choice('probability','logit'), size=hw(none=False), views=whole(), disturb=any_of(1,'x',[],{},
     Thing(),True), tv=number(0), decay=number(), lr=number(0), adversarial=flag, seed=seed,
     frames=whole(), prep=any_of(), stats=any_of('x',1,nan,{},Thing(),(.5,),(nan,.5),([.5]*3,[0]*3),([.5]*2,[.5]*2),
     ([.5]*3,[-1]*3),('x','y')), names=any_of('x',1,{},Thing(),nan))
call('visualize_class(layer=)', lambda w: (visualize_class, dict(layer='3', **_dream(w))), target=any_of('x','',1.5,
     nan,99,-99,{},Thing(),True,(99,0,0),(0,1.5),[],[99]))
call('visualize_class of a learner', lambda w: (visualize_class, dict(learn=w.learn, target=0, steps=2)),
     target=any_of('nosuch',99,1.5,None), start=any_of(10**6,-10**6,1.5,'nosuch.png'), size=hw(none=False))
call('Dreams.plot', lambda w: (visualize_class(**_dream(w)).plot, {}), side=inches, cols=whole(none=False))

_masks = torch.zeros(2,8,8); _masks[:,2:5,2:5] = 1
for _f in (energy_inside, pointing_game, auc_inside):
    call(_f.__name__, lambda w, f=_f: (f, dict(maps=torch.rand(2,8,8), masks=_masks)), maps=maps(2), masks=maps(2))
    call(f'{_f.__name__} of a learner', lambda w, f=_f: (f, dict(maps=w.learn, masks=demo_mask, x=w.pics[:2],
         method='gradcam')), masks=any_of(None, 1, 'x', [], [1], nan, lambda o: None, lambda o: 'x',
         lambda o: torch.zeros(3), lambda o: 1/0), x=lambda rng: [o for o in pictures(rng) if o is not None],
         method=method, target=target(8), nosuch=any_of(1))
call('pointing_game(tolerance=)', lambda w: (pointing_game, dict(maps=torch.rand(2,8,8), masks=_masks)),
     tolerance=whole(0))
_faithful = dict(learn=model, x=without(images, None), maps=maps(2, none=False), method=method, target=target(5),
     max_bytes=max_bytes, layer=layer, nosuch=any_of(1))
call('insertion', lambda w: (insertion, dict(learn=w.cnn, x=w.x, steps=2)), steps=whole(), blur=number(0,
     ends=True), curve=flag, **_faithful)
call('deletion', lambda w: (deletion, dict(learn=w.cnn, x=w.x, steps=2)), steps=whole(), baseline=number(),
     curve=flag, **_faithful)
call('average_drop', lambda w: (average_drop, dict(learn=w.cnn, x=w.x)), baseline=number(), **_faithful)
call('deletion of pictures', lambda w: (deletion, dict(learn=w.learn, x=w.pics[:2], steps=2)), x=without(images,
     None), prep=prep)
call('sanity_check', lambda w: (sanity_check, dict(learn=w.cnn, x=w.x, methods=['gradcam'], stages=2)), learn=model,
     x=images, methods=methods, target=target(5), stages=whole(2), limit=number(-1, 1), still=number(-1, 1),
     seed=seed)

call('demo_dls', lambda w: (demo_dls, dict(n=16, size=32, base=w.folder)), n=whole(16), size=whole(32), bs=whole(),
     seed=seed, biased=flag, augment=flag, base=any_of(1, 1.5, [1], Thing(), True, From('a text file',
     lambda w: w.text_file)), num_workers=whole(0), masks=flag, boxes=flag)
call('demo_dls(masks=True)', lambda w: (demo_dls, dict(n=16, size=32, base=w.folder, masks=True)), boxes=any_of(True))
call('demo_arch', lambda w: (demo_arch, {}), pretrained=without(flag), n_out=whole())
call('demo_vit', lambda w: (demo_vit, {}), n_out=whole(0), size=lambda rng: [*whole(8)(rng), 12], depth=whole(),
     nosuch=any_of(1))
_demo_file = any_of(None, 1, 1.5, '', 'nosuch.png', [], {}, Thing(), From('a folder', lambda w: w.folder),
     From('a text file', lambda w: w.text_file), Path('/a/b.png'))
call('demo_mask', lambda w: (demo_mask, dict(fn=w.pics[0])), fn=_demo_file)
call('demo_boxes', lambda w: (demo_boxes, dict(fn=w.pics[0])), fn=_demo_file)
call('demo_masks', lambda w: (demo_masks, dict(fns=w.pics[:2])), fns=any_of(None, 1, [], ['nosuch.png'], [None],
     Thing(), ''))
call('demo_learner', lambda w: (lambda **kw: demo_learner(**kw), {}), n=any_of(1, 'x', 1.5, None), epochs=any_of(0,
     -1, 1.5, 'x', None, nan), seed=any_of('x', 1.5))
call('demo_detr_learner', lambda w: (lambda **kw: demo_detr_learner(**kw), {}), n=any_of(1, 'x', 1.5, None),
     epochs=any_of(0, -1, 1.5, 'x', None, nan), lr=any_of('x', nan, -1, 0, None))

def bad_inputs(seed=0):
    "All cases: `(name of the call, how it is made, argument, wrong value)`"
    rng = random.Random(seed)
    return [(name,make,arg,v) for name,make,kinds in calls for arg,kind in kinds.items() for v in kind(rng)]

slow = ('log_top_losses','demo_learner','demo_detr_learner') # the right call is refused, or trains for minutes

def some(n, seed=0):
    "Cases of `n` different calls, drawn at random"
    rng,by_call = random.Random(seed),{}
    for c in bad_inputs(seed):
        if c[0] not in slow: by_call.setdefault(c[0], []).append(c)
    return [rng.choice(by_call[k]) for k in rng.sample(sorted(by_call), n)]

def label(v):
    "A value in a few words"
    if isinstance(v, From): return v.label
    if isinstance(v, torch.Tensor):
        return f'a tensor {tuple(v.shape)} {str(v.dtype)[6:]}' + (' with NaN' if _has_nan(v) else '')
    if isinstance(v, np.ndarray): return f'an array {v.shape} {v.dtype}'
    if isinstance(v, (list,tuple)) and any(isinstance(o, torch.Tensor) for o in v): return f'{len(v)} tensors'
    if inspect.isfunction(v): return 'a function'
    return re.sub(r' at 0x\w+', '', repr(v))[:60]

def _has_nan(v): return v.is_floating_point() and not v.is_meta and v.layout==torch.strided and bool(v.isnan().any())

@functools.lru_cache(maxsize=None)
def _raises(file):
    "The lines of the `raise` statements of a file"
    res = {}
    for n in ast.walk(ast.parse(Path(file).read_text(encoding='utf8'))):
        if isinstance(n, ast.Raise): res.update(dict.fromkeys(range(n.lineno, n.end_lineno+1), n))
    return res

_package = str(Path(fastattn.__file__).parent)
_kinds = (ValueError,TypeError,OSError,RuntimeError,KeyError,IndexError,ImportError)
_python = re.compile('unexpected keyword argument|required positional argument|positional arguments? but|multiple values')

def judged(e, arg):
    "Of an exception: 'sentence', 'python' for Python's own word on a call that does not fit, or 'traceback'; and where"
    last = traceback.extract_tb(e.__traceback__)[-1]
    where = f'{Path(last.filename).name}:{last.lineno}'
    if isinstance(e, TypeError) and _python.search(str(e)): return 'python',where
    own = last.filename.startswith(_package) and last.lineno in _raises(last.filename)
    msg = str(e.args[0]) if e.args else ''
    # a formatting error inside a `raise` is none of our sentences; those have several words and an end
    good = own and isinstance(e, _kinds) and len(msg.split())>3 and re.search(r"[.)'`?]$", msg.strip()) is not None
    return ('sentence' if good else 'traceback'),where

class Hang(BaseException): pass

def _too_long(*_): raise Hang()

def tried(world, case, limit=60):
    "What comes of one case: `dict(call, arg, value, verdict, error, says, where)`"
    name,make,arg,v = case
    res = dict(call=name, arg=arg, value=label(v), verdict='silent', error='', says='', where='')
    f,kwargs = make(world)
    v = v.f(world) if isinstance(v, From) else v
    old = signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(limit)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            f(**{**kwargs, arg:v})
        res['says'] = '; '.join(str(o.message) for o in said)[:200]
    except Hang: res['verdict'] = 'hang'
    except Exception as e:
        res['verdict'],res['where'] = judged(e, arg)
        res['error'],res['says'] = type(e).__name__,str(e)[:300]
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
    res['figures'] = max(0, len(plt.get_fignums())-1) # the last one stays open, as pyplot's do
    plt.close('all')
    return res

def rights(world):
    "The calls whose own arguments, none replaced, are refused: there are none"
    res = []
    for name,make,_ in calls:
        if name in slow: continue
        f,kwargs = make(world)
        try: f(**kwargs)
        except Exception as e: res.append((name, repr(e)))
        plt.close('all')
    return res

def _child(first, last, seed, folder, out):
    "Try some cases, and write a line for each as soon as it is known"
    cases,world = bad_inputs(seed),World(folder)
    os.environ['FASTAI_HOME'] = str(folder)
    os.chdir(folder)
    with open(out, 'a', encoding='utf8') as f:
        for i in range(first, last):
            print(json.dumps(dict(begin=i)), file=f, flush=True)
            print(json.dumps(dict(i=i, **tried(world, cases[i]))), file=f, flush=True)

def all_tried(seed, only='', wait=200):
    "Results of all cases; a child that crashes or stands still is followed by another one, behind its case"
    cases = bad_inputs(seed)
    first,n,res = 0,len(cases),[]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)/'out.jsonl'
        while first<n:
            out.write_text('')
            args = [sys.executable, '-W', 'ignore', __file__, '--child', f'{first}:{n}', '--seed', str(seed),
                    '--folder', folder, '--only', only]
            child = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            seen = -1
            while True:
                try: child.wait(wait)
                except subprocess.TimeoutExpired:
                    if out.stat().st_size!=seen: seen = out.stat().st_size; continue # it goes on
                    child.kill(); child.wait()
                break
            lines = [json.loads(l) for l in out.read_text(encoding='utf8').splitlines()]
            res += [l for l in lines if 'verdict' in l]
            begun = [l['begin'] for l in lines if 'begin' in l]
            first = n if child.returncode==0 else (begun[-1] if begun else first)
            if child.returncode==0: break
            if not begun: sys.exit(child.stderr.read()[-2000:])
            name,_,arg,v = cases[first]
            how = 'hang' if child.returncode==-signal.SIGKILL else 'crash'
            res.append(dict(i=first, call=name, arg=arg, value=label(v), verdict=how, error=str(child.returncode),
                            says=child.stderr.read()[-300:], where='', figures=0))
            first += 1
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', default='', help='regular expression on the names of calls; nothing is written then')
    p.add_argument('--verdict', default='silent|traceback|hang|crash', help='which of the verdicts to print')
    p.add_argument('--rights', action='store_true', help='only make the calls with arguments that are right')
    p.add_argument('--child', help=argparse.SUPPRESS)
    p.add_argument('--folder', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.only: calls[:] = [c for c in calls if re.search(a.only, c[0])]
    if a.child:
        _child(*map(int, a.child.split(':')), a.seed, a.folder, Path(a.folder)/'out.jsonl')
        sys.exit()
    if a.rights:
        with tempfile.TemporaryDirectory() as folder: print(*rights(World(folder)), sep='\n')
        sys.exit()
    res = all_tried(a.seed, a.only)
    for r in res:
        if re.fullmatch(a.verdict, r['verdict']):
            what = f"{r['verdict']:9} {r['call']}({r['arg']}={r['value']})"
            print(f"{what} {r['error']} {r['where']}: {r['says'][:150]!r}")
    if open_ := [r for r in res if r['figures']>1]: print('figures left open:', *sorted({(r['call'],
         r['arg']) for r in open_}))
    count = Counter(r['verdict'] for r in res)
    print(len(res), dict(count))
    if a.only: sys.exit()
    from common import write
    keep = ('call','arg','value','error','says')
    write('bad_inputs', seed=a.seed, tried=len(res), calls=len(calls), count=dict(sorted(count.items())),
         left_open=len(open_), failed=[{k:r[k] for k in ('verdict',
         *keep)} for r in res if r['verdict'] not in ('sentence','python')])
