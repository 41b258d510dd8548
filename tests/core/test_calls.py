"A module that runs more than once: the map speaks for all of its runs, or the error says how to choose one."
import pytest, torch, torch.nn as nn, torch.nn.functional as F, timm
from fastattn.all import *
from fastattn.core.calls import views_of
from fastattn.core.registry import explainers

def cnn():
    return nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.ReLU(), nn.Conv2d(8,16,3,2,1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(16,4))
def vit(): return timm.create_model('test_vit', img_size=(32,48), num_classes=4)
def turn(x): return x.transpose(2,3).flip(-1)

class Views(nn.Module):
    "The mean of a model's scores over views of the image"
    def __init__(self, m, *views): super().__init__(); self.m,self.views = m,views
    def forward(self, x): return sum(self.m(v(x)) for v in self.views)/len(self.views)
def itself(x): return x
def mirror(x): return x.flip(-1)
def half(x): return F.interpolate(x, scale_factor=.5)
def corner(x): return x[:,:,:16,:24]
def dealt(x):
    g = torch.Generator().manual_seed(0)
    return x.flatten(2)[...,torch.randperm(x[0,0].numel(), generator=g)].view_as(x)

def seeded(make, *args):
    torch.manual_seed(0)
    return make(*args).eval()
def mirrored(make): return Views(seeded(make), itself, mirror).eval()
def image(n=2, h=32, w=48): return torch.randn(n,3,h,w, generator=torch.Generator().manual_seed(1))

# noise or patches of their own, or another model
random_ones = {'rise','smoothgrad','smooth_gradcam_plus_plus','sscam','iscam','occlusion','cross_attention',
               'bimodal_relevance','evidence','soft_attention','gates'}
chosen = [(n,kind) for n in sorted(explainers) for kind in (cnn,vit)
          if n not in random_ones and explainers[n].suited(seeded(kind))]

@pytest.mark.filterwarnings('ignore:.*maps of .* are empty')
@pytest.mark.parametrize('name,make', chosen)
def test_mirror_images(name, make):
    "The scores of a mirrored image are the same, so its map is the mirrored map: of every method, or it is refused"
    m,x = mirrored(make),image()
    try: h = explain(m, x, name, target=1, place='even').raw
    except ValueError as e:
        assert 'turns these back' in str(e) or 'run once' in str(e) or 'CAM is defined' in str(e), e
        return
    other = explain(m, x.flip(-1), name, target=1, place='even').raw.flip(-1)
    assert h.abs().max()>0 and torch.allclose(h, other, atol=2e-4*float(h.abs().max()))
    assert not torch.allclose(h, h.flip(-1), atol=1e-3*float(h.abs().max())) # and it is not even by itself

linear = [(cnn,'gradcam'),(cnn,'layercam'),(cnn,'hirescam'),(cnn,'cam'),(vit,'gradcam'),(vit,'attention')]
@pytest.mark.parametrize('make,name', linear)
def test_sum(make, name):
    "The maps of both views, each turned back, add up"
    m,x = mirrored(make),image()
    half = 1 if name=='attention' else .5 # the score of each view counts half
    want = half*(explain(m.m, x, name, target=1).raw + explain(m.m, x.flip(-1), name, target=1).raw.flip(-1))
    assert torch.allclose(explain(m, x, name, target=1).raw, want, atol=1e-5)

def test_quarter_turns_and_sizes():
    m,x = seeded(cnn),image(2, 32, 32)
    both = Views(m, itself, turn).eval()
    back = explain(m, turn(x), 'gradcam', target=1).raw.flip(-1).transpose(1,2)
    want = (explain(m, x, 'gradcam', target=1).raw+back)/2
    assert torch.allclose(explain(both, x, 'gradcam', target=1).raw, want, atol=1e-6)
    sizes = Views(m, itself, half).eval() # a view of half the size is laid on the finer grid
    assert explain(sizes, x, 'gradcam', target=1).raw.shape==(2,8,8)

def test_crops():
    "The map of a run that sees a part of the image lies on that part"
    m,x = Views(seeded(cnn), itself, corner).eval(),image()
    whole,part = (explain(m.m, o, 'gradcam', target=1).raw/2 for o in (x,corner(x)))
    h = explain(m, x, 'gradcam', target=1, layer='m.3').raw
    assert torch.allclose(h[:,4:], whole[:,4:], atol=1e-5)
    assert torch.allclose(h[:,:4,:6], whole[:,:4,:6]+part, atol=1e-3)
    h = explain(m, x, 'gradcam', target=1, layer=('m.3',1)).raw
    assert h.shape==(2,8,12) and h[:,4:].sum()==h[:,:,6:].sum()==0 and torch.allclose(h[:,:4,:6], part, atol=1e-3)

def test_to_choose():
    "Other inputs, and runs that build on each other and are all read, are refused; one run can be asked for"
    m,x = Views(seeded(cnn), itself, dealt).eval(),image()
    words = r"choose a run of 'm.3', such as `layer=\('m.3', 0\)`"
    with pytest.raises(ValueError, match=words): explain(m, x, 'gradcam', target=1, layer='m.3')
    h = explain(m, x, 'gradcam', target=1, layer=('m.3',0))
    assert h.layer==('m.3',0) and torch.allclose(h.raw, .5*explain(m.m, x, 'gradcam', target=1).raw, atol=1e-6)
    assert explain(m, x, 'ablationcam', target=1, layer=('m.3',-1)).raw.shape==(2,8,12)
    with pytest.raises(ValueError, match='Run 2 is out of range'): explain(m, x, 'gradcam', target=1, layer=('m.3',2))
    t = Views(seeded(vit), itself, mirror).eval()
    assert torch.allclose(explain(t, x, 'attention', layer=('m',0)).raw, explain(t.m, x, 'attention').raw, atol=1e-6)
    back = explain(t.m, x.flip(-1), 'attention').raw.flip(-1) # the second run sees the mirrored image
    assert torch.allclose(explain(t, x, 'attention', layer=('m',1)).raw, back, atol=1e-6)

class Glimpses(nn.Module):
    "Recurrent attention: each look depends on the one before, and the scores of all are added"
    def __init__(self, last_only=False):
        super().__init__()
        self.last_only,self.stem,self.look,self.head = last_only,nn.Conv2d(3,8,4,4),nn.Conv2d(8,8,3,1,1),nn.Linear(8,4)
    def forward(self, x):
        f,scores = self.stem(x).relu(),[]
        for _ in range(3):
            f = self.look(f).relu()
            scores.append(self.head(f.mean((2,3))))
        return scores[-1] if self.last_only else sum(scores)

class Deep(nn.Module):
    "Deep supervision: one head on features of two stages"
    def __init__(self):
        super().__init__()
        self.a,self.b = nn.Conv2d(3,8,4,4),nn.Conv2d(8,8,2,2)
        self.head = nn.Sequential(nn.Conv2d(8,8,1), nn.ReLU(), nn.Conv2d(8,4,1))
    def forward(self, x):
        a = self.a(x).relu()
        return self.head(a).mean((2,3))+self.head(self.b(a).relu()).mean((2,3))

def test_chains():
    m,x = seeded(Glimpses),image()
    with pytest.raises(ValueError, match='on its own output'): explain(m, x, 'gradcam', target=1, layer='look')
    last = seeded(Glimpses, True)
    assert views_of(last, x, 'look')==[] and explain(last, x, 'gradcam', target=1, layer='look').raw.shape==(2,8,12)
    deep = seeded(Deep)
    fine,coarse = (explain(deep, x, 'hirescam', target=1, layer=('head.1',k)).raw for k in (0,1))
    want = fine+F.interpolate(coarse[:,None], size=(8,12), mode='bilinear')[:,0]
    assert torch.allclose(explain(deep, x, 'hirescam', target=1, layer='head.1').raw, want, atol=1e-5)

class Shared(nn.Module):
    "One block of a transformer, used three times, as in ALBERT"
    def __init__(self):
        super().__init__()
        self.embed,self.head = nn.Conv2d(3,16,8,8),nn.Linear(16,4)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    def forward(self, x):
        t = self.embed(x).flatten(2).transpose(1,2)
        for _ in range(3): t = self.block(t)
        return self.head(t.mean(1))

def test_shared_block():
    "The last run of a chain is the last layer; products go through all runs"
    m,x = seeded(Shared),image()
    with torch.no_grad(), AttentionTrace(m, heads='mean') as t: m(x)
    maps = [a[:,0] for a in t['block.self_attn']]
    assert torch.allclose(explain(m, x, 'attention').raw.flatten(1), maps[-1].mean(1), atol=1e-6)
    first = explain(m, x, 'attention', layer=('block.self_attn',0))
    assert torch.allclose(first.raw.flatten(1), maps[0].mean(1), atol=1e-6)
    r = torch.full((2,1,24), 1/24)
    for a in reversed(maps): r = r@((a+torch.eye(24))/2)
    assert torch.allclose(explain(m, x, 'rollout').raw.flatten(1), r[:,0], atol=1e-6)

class Siamese(nn.Module):
    "One encoder on two pictures, which come as six channels"
    def __init__(self, m): super().__init__(); self.m = m
    def forward(self, x): return (self.m[:5](x[:,:3])-self.m[:5](x[:,3:])).abs().flatten(1)@self.m[6].weight.T

def test_siamese():
    "Both pictures are read where they lie"
    m,x = Siamese(seeded(cnn)).eval(),torch.cat([image(),image().flip(2)], 1)
    h = explain(m, x, 'hirescam', target=1)
    parts = [explain(m, x, 'hirescam', target=1, layer=(h.layer,k)).raw for k in (0,1)]
    assert torch.allclose(h.raw, sum(parts), atol=1e-5)
