"Volumes and signals: every method gives the right map, or one sentence that says why it has none"
import re, warnings
import pytest, torch, torch.nn as nn, torch.nn.functional as F
from fastcore.basics import first
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastattn.core.pipeline import explain, explainers, candidates, suitable, fusions
from fastattn.core.grids import Grid, laid
from fastattn.core.inputs import as_batch
from fastattn.core.questions import contrast, similar_to
from fastattn.core.sampling import cell_shift, gradient_phases
from fastattn.image.heatmap import resize_maps, share_alike
from fastattn.image.volumes import SignalHeatmap, VolumeHeatmap

pytestmark = pytest.mark.filterwarnings('ignore')
kinds = ('volume','signal')

def net(kind, c=2, n=3, seed=0):
    "Three stages, whose BatchNorms have statistics, so that no layer is trivial"
    torch.manual_seed(seed)
    C,B,P = {'volume':(nn.Conv3d,nn.BatchNorm3d,nn.AdaptiveAvgPool3d),
             'signal':(nn.Conv1d,nn.BatchNorm1d,nn.AdaptiveAvgPool1d),
             'image':(nn.Conv2d,nn.BatchNorm2d,nn.AdaptiveAvgPool2d)}[kind]
    def block(i, o, s): return nn.Sequential(C(i, o, 3, s, 1), B(o), nn.ReLU())
    m = nn.Sequential(block(c,6,1), block(6,8,2), block(8,8,2), P(1), nn.Flatten(), nn.Linear(8,n)).eval()
    for o in m.modules():
        if isinstance(o, B): nn.init.normal_(o.running_mean, std=.1); nn.init.uniform_(o.weight, .5, 1.5)
    return m

def batch(kind, bs=2, c=2, seed=0):
    return torch.randn(bs, c, *dict(volume=(8,12,16), signal=(32,), image=(12,16))[kind],
                       generator=torch.Generator().manual_seed(seed))

few = dict(smoothgrad=dict(samples=2), sscam=dict(samples=1), iscam=dict(samples=2), integrated_gradients=dict(steps=4))

@pytest.mark.parametrize('kind', kinds)
def test_every_method_maps_or_refuses(kind):
    "No method that is registered, now or later, is drawn where it has no meaning"
    m,x = net(kind),batch(kind)
    before = {k:v.clone() for k,v in m.state_dict().items()}
    maps,refused = [],[]
    for name in list(explainers):
        try: h = explain(m, x, name, target=1, **few.get(name, {}))
        except ValueError as e:
            refused.append(name)
            what = dict(volume='volumes', signal='sequences')[kind]
            assert re.search(f"is a method for images, and `x` holds {what}", str(e))
            continue
        maps.append(name)
        assert type(h) is dict(volume=VolumeHeatmap, signal=SignalHeatmap)[kind]
        assert h.shape==(2,*x.shape[2:]) and h.raw.ndim==h.ndim and h.target==[1,1] and torch.isfinite(h).all()
        alone = explain(m, x[1], name, target=1, **few.get(name, {})) # of one, without a batch
        if name not in ('smoothgrad','smooth_gradcam_plus_plus'):
            assert torch.allclose(alone.raw[0], h.raw[1], atol=1e-5*float(h.raw.abs().max())+1e-8), name
    assert {'pyramidcam','gradcam','fullgrad','scorecam','ablationcam','eigencam','saliency','deeplift'} <= set(maps)
    assert {'rollout','occlusion','rise','soft_attention'} <= set(refused)
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    assert not any(o._forward_hooks or o._forward_pre_hooks for o in m.modules())
    assert set(suitable(m, x=x)) <= set(maps)

@pytest.mark.parametrize('name', ['gradcam','gradcam_plus_plus','xgradcam','layercam','hirescam','eigencam',
    'gradcam_elementwise','eigengradcam','kpcacam','shapleycam','scorecam','ablationcam','fullgrad','pyramidcam','cam',
    'saliency','deeplift','input_x_gradient','integrated_gradients','guided_backprop','lrp','attnlrp'])
def test_a_deep_image_is_the_image(name, monkeypatch):
    "A network that treats every slice as its 2-D twin treats the image: of equal slices, each has the image's map"
    monkeypatch.setattr('fastattn.cams.pyramid.gradient_phases', lambda *args: None) # these are measured on noise
    flat = net('image')
    deep = net('volume')
    middle = (torch.arange(3)==1).float()[:,None,None] # of each kernel, only the middle slice counts
    deep.load_state_dict({k:v[:,:,None]*middle if v.ndim==4 else v for k,v in flat.state_dict().items()})
    for o in deep.modules():
        if isinstance(o, nn.Conv3d): o.stride,o.padding = (1,*o.stride[1:]),(1,*o.padding[1:])
    x = batch('image')
    h = explain(flat, x, name, target=2, place='even')
    v = explain(deep, x[:,:,None].repeat(1,1,4,1,1), name, target=2, place='even')
    assert v.shape==(2,4,12,16)
    a,b = v.as_subclass(torch.Tensor),h.as_subclass(torch.Tensor)[:,None].expand(v.shape)
    # FullGrad adds 1e-7 to the gradients' largest value, and they are smaller here
    assert torch.allclose(a, b, atol=3e-3 if name=='fullgrad' else 1e-3 if 'eigen' in name or 'kpca' in name else 2e-4)

def test_gradcam_by_hand():
    m,x = net('volume'),batch('volume')
    a = m[:3](x).detach().requires_grad_()
    g, = torch.autograd.grad(m[3:](a)[:,1].sum(), a)
    raw = (g.mean((2,3,4), keepdim=True)*a).sum(1).relu().detach()
    h = explain(m, x, 'gradcam', target=1, place='even')
    assert h.layer=='2' and torch.allclose(h.raw, raw, atol=1e-6)
    big = F.interpolate(raw[:,None], x.shape[2:], mode='trilinear', align_corners=False)[:,0]
    assert torch.allclose(h.as_subclass(torch.Tensor), big/big.flatten(1).amax(1)[:,None,None,None], atol=1e-6)

@pytest.mark.parametrize('kind', kinds)
def test_options(kind):
    m,x = net(kind),batch(kind)
    n = x.ndim-2
    h = explain(m, x, 'layercam', layer=['0','2'], fuse='product')
    assert h.layer==('0','2') and h.raw.shape[1:]==x.shape[2:]
    assert explain(m, x, 'gradcam', smooth=2).shape==(2,*x.shape[2:])
    assert explain(m, x, 'gradcam', enlarge=1.5).raw.shape[1:]==tuple(-(-round(o*1.5)//4) for o in x.shape[2:])
    assert explain(m, x, 'gradcam', whole=True).shape==(2,*x.shape[2:])
    assert explain(m, x, size=6).shape==(2,*[6]*n)
    if n==3: assert explain(m, x, size=(3,4,5)).shape==(2,3,4,5)
    for size in ((4,5),0,'x',(1,2,3,4)):
        with pytest.raises(ValueError, match='`size` is'): explain(m, x, size=size)
    if n==3:
        one = explain(m, torch.cat([x,x.flip(-1)]), 'gradcam', tta=True, target=1, place='even').raw
        assert torch.allclose(one[:2], one[2:].flip(-1), atol=1e-5)
    else:
        with pytest.raises(ValueError, match='no mirror image'): explain(m, x, tta=True)
    for t in (contrast(0, 1), similar_to(m, x[:1]), [0,2], lambda out, idx: out[:,1]):
        assert explain(m, x, 'gradcam', target=t).shape==(2,*x.shape[2:])

def test_candidates():
    cs = candidates(net('volume'), batch('volume'))
    assert cs.auto().name=='2' and cs.auto().grid==laid((2,3,4)) and '2 x 3 x 4' in repr(cs)
    cs = candidates(net('signal'), batch('signal'))
    assert cs.auto().name=='2' and cs.auto().grid==laid((8,))

def test_where_cells_look():
    "A convolution without padding on the left moves what cells see; it is measured along each axis"
    torch.manual_seed(0)
    m = nn.Sequential(nn.ConstantPad3d((0,0,0,0,4,0), 0.), nn.Conv3d(1,4,(5,1,1)), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
                      nn.Flatten(), nn.Linear(4,2)).eval()
    shift = cell_shift(m, torch.randn(1,1,12,16,16), '2', laid((12,16,16)))
    assert shift[0]<-.5 and shift[1:]==(0.,0.)

def test_gradients_of_a_strided_shortcut_are_spread():
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv3d(1,4,3,padding=1), nn.ReLU(), nn.Conv3d(4,4,1,2), nn.ReLU(), nn.AdaptiveAvgPool3d(1),
                      nn.Flatten(), nn.Linear(4,2)).eval()
    nn.init.uniform_(m[-1].weight, .1, 1)
    x = torch.randn(1,1,8,8,8)
    ph = gradient_phases(m, x, '1', laid((8,8,8)), laid((4,4,4)))
    assert ph.shape==(2,2,2,2) and float(ph[0,0,0,0])>7.9 # one position in eight gets all of the gradient
    raw = explain(m, x, 'pyramidcam', layer=['1','3']).raw
    assert (raw>0).float().mean()>.2

def test_resizing():
    v = torch.rand(2,3,4,5)
    assert torch.allclose(resize_maps(v, (6,8,10)), F.interpolate(v[:,None], (6,8,10), mode='trilinear')[:,0])
    assert torch.allclose(resize_maps(v[:,0,0], (10,)), F.interpolate(v[:,:1,0], 10, mode='linear')[:,0])
    for n in (1,3):
        t = torch.arange(6.).view(1,1,*[1]*(n-1),6).expand(1,1,*[6]*n)
        moved = resize_maps(t, [6]*n, shift=(*[0]*(n-1),1/6))
        assert torch.allclose(moved[...,1:], t[...,:-1], atol=1e-5)

class VoxelNet(nn.Module):
    "A U-Net of one level"
    def __init__(self, C, T, c=2, n=3):
        super().__init__()
        self.down,self.deep,self.up,self.head = C(c,6,3,1,1),C(6,8,3,2,1),T(8,6,2,2),C(12,n,1)
    def forward(self, x):
        a = self.down(x).relu()
        return self.head(torch.cat([a,self.up(self.deep(a).relu()).relu()], 1))

@pytest.mark.parametrize('kind,C,T', [('volume',nn.Conv3d,nn.ConvTranspose3d),('signal',nn.Conv1d,nn.ConvTranspose1d)])
def test_segmentation_of_voxels(kind, C, T):
    "The score is the mean over the predicted region, as for images"
    torch.manual_seed(1)
    m,x = VoxelNet(C, T).eval(),batch(kind)
    out = m(x)
    region = (out.argmax(1)==1).flatten(1)
    region = region|~region.any(1, keepdim=True) # where the class is predicted nowhere, all of the volume
    want = ((out[:,1].flatten(1)*region).sum(1)/region.sum(1)).detach()
    h = explain(m, x, 'gradcam', target=1)
    assert torch.allclose(h.notes['score'], want, atol=1e-5) and h.shape==(2,*x.shape[2:]) and h.target==[1,1]
    assert explain(m, x).shape==h.shape and explain(m, x, 'saliency').shape==h.shape
    assert explain(m, x, 'gradcam', target=1, enlarge=1.5).shape==h.shape
    if kind=='volume': assert explain(m, x, 'gradcam', tta=True).shape==h.shape

class Classifier(nn.Module):
    "Patches and a transformer encoder behind a CLS token, for volumes or signals"
    def __init__(self, conv, n_cells):
        super().__init__()
        self.embed,self.cls = conv,nn.Parameter(torch.randn(1,1,16))
        self.pos = nn.Parameter(.1*torch.randn(1,n_cells+1,16))
        def _block(): return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
        self.blocks = nn.Sequential(_block(), _block())
        self.norm,self.head = nn.LayerNorm(16),nn.Linear(16,3)
    def forward(self, x):
        t = self.embed(x).flatten(2).transpose(1,2)
        t = torch.cat([self.cls.expand(len(t),-1,-1),t], 1)+self.pos
        return self.head(self.norm(self.blocks(t))[:,0])

@pytest.mark.parametrize('kind,conv,dims', [('volume',nn.Conv3d(2,16,4,4),(2,3,4)),('signal',nn.Conv1d(2,16,4,4),(8,))])
def test_tokens(kind, conv, dims):
    "Tokens of a transformer are located in the volume or the signal"
    torch.manual_seed(0)
    m,x = Classifier(conv, torch.tensor(dims).prod()).eval(),batch(kind)
    c = candidates(m, x).auto()
    assert c.grid.is_tokens and c.grid.shape==dims and c.grid.prefix==1
    assert explain(m, x, 'hirescam').raw.shape==(2,*dims)
    with pytest.raises(ValueError, match="'rollout' is a method for images"): explain(m, x, 'rollout')

def test_channels_last_inside():
    "As in a video Swin: where the shape does not tell, it is measured"
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed,self.mix,self.act,self.head = nn.Conv3d(2,8,2,2),nn.Linear(8,8),nn.GELU(),nn.Linear(8,3)
        def forward(self, x): return self.head(self.act(self.mix(self.embed(x).movedim(1,-1))).mean((1,2,3)))
    m,x = Last().eval(),torch.randn(2,2,16,16,16)
    c = candidates(m, x).auto()
    assert (c.name,c.grid.kind,c.grid.shape,c.channels)==('act','nhwc',(8,8,8),8)
    assert explain(m, x, 'gradcam').raw.shape==(2,8,8,8)

def test_learner(tmp_path):
    "A plain `TensorDataset`, or one with class names; batches as the data loader gives them"
    m,x,y = net('volume', c=1),batch('volume', 8, c=1),torch.arange(8)%3
    ds = torch.utils.data.TensorDataset(x, y)
    dls = DataLoaders.from_dsets(ds, ds, bs=4, num_workers=0)
    learn = Learner(dls, m, loss_func=CrossEntropyLossFlat())
    b = dls.one_batch()
    h = explain(learn, b[0])
    assert h.shape==(4,8,12,16) and h.target==m.eval()(b[0]).argmax(1).tolist()
    assert explain(learn, b).shape==explain(learn, (b[0],)).shape==h.shape
    assert explain(learn, b[0][0]).shape==(1,8,12,16)
    dls.vocab = ['none','ball','cube']
    h = explain(learn, b[0], target='cube')
    assert h.target==['cube']*4 and 0<=float(h.notes['probability'][0])<=1

says = [(lambda m, v, s: explain(m['volume'], v[0,0]), r'shape \(bs,c,d,h,w\)'),
        (lambda m, v, s: explain(m['volume'], torch.randn(3,8,8,8)), r'\(or \(c,d,h,w\) with 2 channels\)'),
        (lambda m, v, s: explain(m['volume'], v.transpose(1,2)), r'channels at axis 1'),
        (lambda m, v, s: explain(m['volume'], v.movedim(1,-1)), r'channels at axis 1'),
        (lambda m, v, s: explain(m['image'], v), r'shape \(bs,c,h,w\); it has \(2, 2, 8, 12, 16\)'),
        (lambda m, v, s: explain(m['signal'], v), r'shape \(bs,c,t\)'),
        (lambda m, v, s: explain(m['signal'], s.transpose(1,2)), r'channels at axis 1'),
        (lambda m, v, s: explain(m['signal'], s[0,0]), r'shape \(bs,c,t\)'),
        (lambda m, v, s: explain(m['signal'], torch.randn(2,5,32)), 'does not run on sequences'),
        (lambda m, v, s: explain(m['volume'], v[:0]), 'empty batch'),
        (lambda m, v, s: candidates(m['volume'], v[0]), None),
        (lambda m, v, s: candidates(m['signal'], v), r'a batch \(bs,c,t\)'),
        (lambda m, v, s: explain(m['volume'], v, 'occlusion'), "'occlusion' is a method for images"),
        (lambda m, v, s: explain(m['volume'], v).overlay(), 'heatmap of volumes'),
        (lambda m, v, s: explain(m['signal'], s)[0].overlay(), 'heatmap of signals'),
        (lambda m, v, s: explain(m['volume'], v, 'gradcam', layer='5'), 'no rows and columns')]

@pytest.mark.parametrize('f,match', says)
def test_wrong_shapes_are_refused_in_a_sentence(f, match):
    nets = {k:net(k) for k in ('volume','signal','image')}
    with pytest.raises(ValueError, match=match): f(nets, batch('volume'), batch('signal'))

def test_video_network():
    "Strides of its own along time, as in torchvision's r3d_18"
    def block(i, o, s): return nn.Sequential(nn.Conv3d(i, o, 3, s, 1, bias=False), nn.BatchNorm3d(o), nn.ReLU())
    torch.manual_seed(0)
    m = nn.Sequential(block(3,8,(1,2,2)), block(8,8,1), block(8,12,2), block(12,16,2), nn.AdaptiveAvgPool3d(1),
                      nn.Flatten(), nn.Linear(16,4)).eval()
    x = torch.randn(1,3,8,32,32)
    cs = candidates(m, x)
    assert cs.auto().grid==laid((2,4,4)) and [o.grid.shape for o in cs.stages()]==[(4,8,8),(8,16,16)]
    h = explain(m, x)
    assert (h.method,h.shape,h.raw.shape)==('pyramidcam',(1,8,32,32),(1,8,16,16))

def test_parity_with_torchcam():
    tc = pytest.importorskip('torchcam.methods')
    m,x = net('volume'),batch('volume', 1)
    for ours,theirs in dict(gradcam='GradCAM', xgradcam='XGradCAM', layercam='LayerCAM').items():
        with getattr(tc, theirs)(m, '2', input_shape=tuple(x.shape[1:])) as cam:
            ref = cam(1, m(x), normalized=False)[0]
        assert torch.allclose(explain(m, x, ours, target=1).raw, ref, atol=1e-5*float(ref.abs().max())+1e-8), ours
