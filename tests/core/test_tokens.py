"Which tokens are patches is measured: text, boxes, steps and queries are none, and the others may lie anywhere."
import pytest, torch, torch.nn as nn, torch.nn.functional as F
from fastattn.all import *
from fastattn.attention.tokens import attentions
from fastattn.core.grids import Grid
transformers = pytest.importorskip('transformers')
transformers.logging.set_verbosity_error()

tiny = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
def hf(kind, **kwargs):
    torch.manual_seed(0)
    name = kind.removesuffix('ForObjectDetection').removesuffix('Model')
    return getattr(transformers, kind)(getattr(transformers, f'{name}Config')(**{**tiny, **kwargs})).eval()

def test_detection_tokens():
    "YOLOS: 100 detection tokens behind 10 x 10 patches; the same rows as the eager model's weights"
    m = hf('YolosForObjectDetection', patch_size=16, num_labels=3, image_size=[160,160], attn_implementation='eager')
    x = torch.randn(2,3,160,160)
    with torch.no_grad(): want = m(x, output_attentions=True).attentions[-1].mean(1)
    for q in (101,0,150):
        assert torch.allclose(explain(m, x, 'attention', query=q).raw.flatten(1), want[:,q,1:101], atol=1e-6)
    assert explain(m, x, 'gradcam', target=lambda o,idx: o.logits[:,3,1]).raw.shape==(2,10,10)
    assert attentions(m, x).reads==list(range(101,201)) # the output is computed from them

def text_and_image(kind, k, n):
    text = dict(vocab_size=50, max_position_embeddings=n)
    if kind=='CLIP': text |= dict(eos_token_id=49, bos_token_id=48)
    configs = dict(text_config={**tiny, **text}, vision_config={**tiny, 'image_size':64, 'patch_size':8})
    cfg = getattr(transformers, f'{kind}Config')(**configs)
    torch.manual_seed(0)
    class Scores(nn.Module):
        "The scores of `k` texts of `n` tokens"
        def __init__(self):
            super().__init__()
            self.m = getattr(transformers, f'{kind}Model')(cfg)
            self.register_buffer('ids', torch.randint(0, 48, (k,n)))
        def forward(self, x): return self.m(pixel_values=x, input_ids=self.ids).logits_per_image
    return Scores().eval()

@pytest.mark.parametrize('kind,k,n', [('CLIP',1,77),('CLIP',3,64),('Siglip',1,64),('Siglip',3,64)])
def test_two_towers(kind, k, n):
    "The image's tower is meant, also where a text has as many tokens as the image patches"
    m,x = text_and_image(kind, k, n),torch.randn(2,3,64,64)
    assert all('vision_model' in c.name or c.name=='m' for c in candidates(m, x))
    assert all('vision_model' in o for o in attentions(m, x).names)
    for method in ('gradcam','attention','rollout','relevance','legrad'):
        h = explain(m, x, method, target=0)
        assert h.raw.shape==(2,8,8) and 'vision_model' in str(h.layer)

@pytest.mark.parametrize('ratio', [.5,0.])
def test_masked(ratio):
    "A masked autoencoder drops patches and deals the rest anew: no grid is theirs, whatever the user says"
    m,x = hf('ViTMAEModel', image_size=64, patch_size=8, mask_ratio=ratio),torch.randn(2,3,64,64)
    for kwargs in ({}, dict(grid=(8,8) if ratio==0 else (4,8))):
        with pytest.raises(ValueError, match='as in a masked autoencoder'): explain(m, x, 'attention', **kwargs)
    assert explain(m, x, 'gradcam').layer=='embeddings.patch_embeddings' # before they are dealt

class Reader(nn.Module):
    "Reads a line of text: features of one row, and a recurrent network over its columns"
    def __init__(self, cls=nn.LSTM):
        super().__init__()
        self.c = nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.ReLU(), nn.Conv2d(8,16,3,2,1), nn.ReLU())
        self.l,self.f = cls(16, 16, bidirectional=True, batch_first=True),nn.Linear(32,10)
    def forward(self, x): return self.f(self.l(self.c(x).mean(2).transpose(1,2))[0])

@pytest.mark.parametrize('width', [96,128,144])
@pytest.mark.parametrize('cls', [nn.LSTM,nn.GRU])
def test_steps(cls, width):
    "Steps of a recurrent network: 24, 32 or 36 of them, which could be 4 x 6, 4 x 8 or 6 x 6 patches"
    m,x = Reader(cls).eval(),torch.randn(1,3,32,width)
    assert not any(c.grid.is_tokens for c in candidates(m, x))
    assert explain(m, x, 'gradcam', target=lambda o,idx: o[:,:,1].amax(1)).raw.shape==(1,8,width//4)

class Detect(nn.Module):
    "What a YOLO head makes of its boxes"
    def __init__(self, k): super().__init__(); self.cv,self.dfl = nn.Conv2d(16,4*k+4,1),nn.Conv1d(4*k,k,1)
    def forward(self, f):
        o = self.cv(f).flatten(2)
        n = self.dfl.in_channels
        return torch.cat([self.dfl(o[:,:n]), o[:,n:].sigmoid()], 1)

@pytest.mark.parametrize('k', [4,6,8,12,96])
def test_boxes(k):
    m,x = nn.Sequential(nn.Conv2d(3,16,8,8), nn.ReLU(), Detect(k)).eval(),torch.rand(1,3,64,96)
    assert not any(c.grid.is_tokens for c in candidates(m, x))
    h = explain(m, x, 'gradcam', target=lambda o,idx: o[:,k+1].amax(-1))
    assert h.raw.shape==(1,8,12)

class Resampler(nn.Module):
    "Latent queries that read 49 of 64 patches' worth: no grid of 7 x 7"
    def __init__(self, n=49):
        super().__init__()
        self.embed,self.q = nn.Conv2d(3,16,8,8),nn.Parameter(torch.randn(1,n,16))
        self.read,self.norm,self.head = nn.MultiheadAttention(16, 2, batch_first=True),nn.LayerNorm(16),nn.Linear(16,3)
    def forward(self, x):
        t = self.embed(x).flatten(2).transpose(1,2)
        return self.head(self.norm(self.read(self.q.expand(len(x),-1,-1), t, t)[0]).mean(1))

@pytest.mark.parametrize('n', [49,64,65])
def test_latent_queries(n):
    torch.manual_seed(0)
    m,x = Resampler(n).eval(),torch.randn(1,3,64,64)
    assert [c.name for c in candidates(m, x) if c.grid.is_tokens]==[] and candidates(m, x).auto().name=='embed'

class Patches(nn.Module):
    "A transformer on a linear embedding of patches, which come in rows or columns, with tokens before and behind"
    def __init__(self, columns=False, front=1, behind=0, depth=3):
        super().__init__()
        self.columns,self.embed = columns,nn.Linear(192,32)
        self.front,self.behind = (nn.Parameter(torch.randn(1,n,32)) for n in (front,behind))
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)
        self.encoder,self.head = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False),nn.Linear(32,3)
    def forward(self, x):
        p = F.unfold(x, 8, stride=8).unflatten(2, (x.shape[2]//8,-1))
        t = self.embed((p.transpose(2,3) if self.columns else p).flatten(2).transpose(1,2))
        front,behind = (o.expand(len(x),-1,-1) for o in (self.front,self.behind))
        return self.head(self.encoder(torch.cat([front,t,behind], 1)).mean(1))

@pytest.mark.parametrize('columns,front,behind', [(False,1,0),(False,0,7),(True,1,0),(True,0,5),(False,3,20)])
def test_order(columns, front, behind):
    "The planted patch is where attention from one more token, and Grad-CAM's features, find it"
    torch.manual_seed(0)
    m,x = Patches(columns, front, behind).eval(),torch.randn(1,3,48,64)
    c = candidates(m, x).auto()
    assert (c.grid.h,c.grid.w,c.grid.n_tokens)==(6,8,48+front+behind)
    other = x.clone(); other[:,:,16:24,40:48] += 3 # row 2, column 5
    with Trace(m, 'encoder.layers.0') as t: m(x); m(other)
    moved = (c.grid.read(t['encoder.layers.0'][1])-c.grid.read(t['encoder.layers.0'][0])).norm(dim=1)[0]
    assert divmod(int(moved.argmax()), 8)==(2,5)
    for method in ('attention','rollout','relevance','legrad','gradcam'):
        assert explain(m, x, method).raw.shape==(1,6,8)

def test_user_knows():
    "`grid=` is taken where nothing is known, and refused where it contradicts what was measured"
    m,x = Patches().eval(),torch.randn(1,3,48,64)
    assert explain(m, x, 'attention', grid=(6,8)).raw.shape==(1,6,8)
    with pytest.raises(ValueError, match='of which 6 x 8 = 48 are patches'): explain(m, x, 'attention', grid=(7,7))
