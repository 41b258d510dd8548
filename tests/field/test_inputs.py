"Models of several inputs, and whatever models return."
import dataclasses, re, warnings
from collections import namedtuple
from types import SimpleNamespace
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from torch import nn
from fastai.vision.all import (CategoryBlock, ColReader, CrossEntropyLossFlat, DataBlock, ImageBlock, IndexSplitter,
                               Learner, RegressionBlock)
from fastattn.all import *
from fastattn.core.registry import explainers

class WithTable(nn.Module):
    "Scores of an image, times a number from the table beside it"
    def __init__(self, first=True):
        super().__init__()
        self.first,self.head = first,nn.Linear(8,4)
        self.body = nn.Sequential(nn.Conv2d(3,8,4,4), nn.ReLU(), nn.Conv2d(8,8,3,1,1), nn.ReLU())
    def forward(self, a, b):
        x,t = (a,b) if self.first else (b,a)
        return self.head(self.body(x).mean((2,3)))*t[:,:1]

class Two(nn.Module):
    "Compares two images by one encoder"
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3,8,4,4), nn.ReLU(), nn.Conv2d(8,8,3,1,1), nn.ReLU())
    def forward(self, a, b):
        return (self.body(a).mean((2,3))*self.body(b).mean((2,3))).sum(1, keepdim=True).expand(-1,2)

def images(n=3): return torch.randn(n,3,24,32, generator=torch.Generator().manual_seed(1))
table = torch.tensor([[1.,5],[2,6],[-1,7]])

# of one input alone: made for a kind of model of its own, or drawing at random
at_random = {'rise','sscam','iscam','smoothgrad','smooth_gradcam_plus_plus'}
alone = {n for n,e in explainers.items() if e.demo is not None}|at_random

@pytest.mark.filterwarnings('ignore:.*maps of .* are empty')
@pytest.mark.parametrize('name', sorted(set(explainers)-alone))
def test_image_and_table(name):
    "Each image with its own row, in either order, in every method"
    torch.manual_seed(0)
    for first in (True,False):
        m,x = WithTable(first).eval(),images()
        before = [t.clone() for t in m.state_dict().values()]
        h = explain(m, (x,table) if first else (table,x), name, target=1, place='even')
        for i in range(3): # the scores of an image alone, with its row
            one = nn.Sequential(m.body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,4)).eval()
            one[3].weight.data,one[3].bias.data = m.head.weight.data*table[i,0],m.head.bias.data*table[i,0]
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                kwargs = {} if explainers[name].pixels or explainers[name].trace else dict(layer='0.3')
                want = explain(one, x[i:i+1], name, target=1, place='even', **kwargs)
            off = (h[i].raw-want.raw[0]).abs().max()
            assert name=='pyramidcam' or off<=1e-4*float(want.raw.abs().max())+1e-7, i
        assert 'forward' not in m.__dict__ and all(map(torch.equal, before, m.state_dict().values()))

def test_which_image():
    torch.manual_seed(0)
    m,a,b = Two().eval(),images(),images().flip(0)*2
    for i in (0,1):
        h = explain(m, (a,b), 'gradcam', target=0, image=i)
        # the encoder runs on both, and only its run on this image is drawn
        assert torch.allclose(h.raw, explain(m, (a,b), 'gradcam', target=0, image=i, layer=('body.3',i)).raw, atol=1e-6)
        other = explain(m, ((a*1.,b) if i==0 else (a,b*1.)), 'gradcam', target=0, image=i)
        assert torch.equal(h, other)
    with pytest.raises(ValueError, match='`image` is the number of an input'): explain(m, (a,b), 'gradcam', image=2)
    with pytest.raises(ValueError, match='a row for each of the 3 images'): explain(m, (a,b[:2]), 'gradcam')
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2304,2))
    with pytest.raises(ValueError, match='names one of several'): explain(flat, a, 'saliency', image=1)

def loaders(tmp, kind):
    files = []
    for i in range(12):
        Image.fromarray(np.random.RandomState(i).randint(0, 255, (24,32,3), np.uint8)).save(f := tmp/f'{i}.png')
        files.append(str(f))
    df = pd.DataFrame(dict(f=files, g=files[::-1], t=np.arange(12.)+1, y=list('ab')*6))
    blocks = {'table':(ImageBlock,RegressionBlock,CategoryBlock), 'two':(ImageBlock,ImageBlock,CategoryBlock)}[kind]
    get_x = [ColReader('f'),ColReader('t' if kind=='table' else 'g')]
    db = DataBlock(blocks, n_inp=2, get_x=get_x, get_y=ColReader('y'), splitter=IndexSplitter([1,4,6,9]))
    return db.dataloaders(df, bs=4, num_workers=0),df

class Small(WithTable):
    def forward(self, x, t):
        if t.ndim<4: return super().forward(x, t.view(-1,1))
        return self.head(self.body(x).mean((2,3))-self.body(t).mean((2,3)))

@pytest.mark.parametrize('kind', ['table','two'])
def test_learner(kind, tmp_path):
    "`explain`, the interpretation classes and the recorder, on learners with two inputs"
    dls,df = loaders(tmp_path, kind)
    rec = AttentionRecorder(every=1, watch=2)
    learn = Learner(dls, Small(), loss_func=CrossEntropyLossFlat(), cbs=rec)
    learn.model.head = nn.Linear(8,2)
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning) # the recorder warns where it records nothing
        warnings.filterwarnings('ignore', message='.*(empty|[Ff]ast|pickle|jit|deprecated|std|non-finite|copy)')
        learn.fit(1)
    assert len(rec.snapshots)==2 and len(rec.stats)>0 and rec.watched.shape==(2,3,24,32)
    b = dls.test_dl(df[:3], bs=3).one_batch()
    h = explain(learn, df[:3], 'gradcam')
    assert h.shape==(3,24,32) and h.img[0].size==(32,24)
    assert torch.allclose(h.raw, explain(learn, tuple(b[:2]), 'gradcam').raw, atol=1e-6)
    full = dls.valid.one_batch() # with its labels
    assert explain(learn, full, 'gradcam', target='a').shape==(4,24,32)
    with learn.no_bar():
        i = ClassificationInterpretation.from_learner(learn)
        maps = i.heatmaps([0,2], 'gradcam')
        want = explain(learn, df.iloc[[1,6]], 'gradcam')
        assert torch.allclose(maps.raw, want.raw, atol=1e-6)
        i.plot_top_losses(2, heatmap=True)

@dataclasses.dataclass
class Output: features:torch.Tensor; logits:torch.Tensor
@dataclasses.dataclass(frozen=True)
class Nested: heads:list; n:int=3
Pair = namedtuple('Pair', 'scores features')

outputs = {
    'tensor':lambda s,f: s, 'dict with logits':lambda s,f: dict(features=f, logits=s),
    'dict':lambda s,f: dict(a=s, b=f), 'dataclass':lambda s,f: Output(f, s),
    'dataclass of lists':lambda s,f: Nested([s,s*2]), 'named tuple':lambda s,f: Pair(s, f),
    'namespace':lambda s,f: SimpleNamespace(a=s, b=f), 'list of heads':lambda s,f: [s,s.sum(1)],
    'tuple':lambda s,f: (s,f),
    'one number':lambda s,f: s[:,0], 'squeezed':lambda s,f: s[:,:1].squeeze(), 'depth':lambda s,f: f[:,:1],
    'segmentation':lambda s,f: dict(out=f, aux=f), 'boxes':lambda s,f: f.flatten(2),
    'list of dicts':lambda s,f: [dict(a=s)],
    'dict of lists':lambda s,f: dict(heads=[s,f]), 'dict of dicts':lambda s,f: dict(a=dict(b=s))}

class Returns(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind,self.body,self.head = kind,nn.Sequential(nn.Conv2d(3,8,4,4), nn.ReLU()),nn.Linear(8,4)
    def forward(self, x):
        f = self.body(x)
        return outputs[self.kind](self.head(f.mean((2,3))), f)

@pytest.mark.filterwarnings('ignore:.*maps of .* are empty')
@pytest.mark.parametrize('kind', outputs)
@pytest.mark.parametrize('n', [1,2])
def test_outputs(kind, n):
    "It works, or the message says how to ask, and what it says works"
    torch.manual_seed(0)
    m,x = Returns(kind).eval(),images(n)
    try: h = explain(m, x, 'gradcam')
    except ValueError as e:
        said = re.search(r'`target=(lambda .*?)`[.,;]?', str(e))
        assert said and '...' not in said[1], str(e)
        h = explain(m, x, 'gradcam', target=eval(said[1]))
    assert h.raw.shape==(n,6,8) and len(candidates(m, x))
