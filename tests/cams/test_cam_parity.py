"""Every activation map against the library that is its reference: grad-cam, torchcam or captum.

Where they differ from the paper or from each other, the paper is followed, and the reference is called so that
the difference vanishes:
- Grad-CAM++: grad-cam adds 1e-6 to equation 19's denominator, which is of that size; torchcam divides a
  copy, so that its quotient is lost. grad-cam is called with gradients scaled up and features scaled down.
- Smooth Grad-CAM++: torchcam takes the last noisy copy's gradient and features; its weights are compared for one
  copy, with scores scaled up (it adds 1e-8).
- Score-CAM: the paper enlarges a map before it scales it to 0..1; torchcam does it the other way round,
  grad-cam aligns corners. Both are given the paper's order.
- Ablation-CAM: grad-cam subtracts 1e7 where features can be negative; the paper sets to zero, and so does
  grad-cam where the smallest feature is zero.
- Principal components have no sign of their own.
"""
import copy, pathlib, warnings
import pytest, torch, torch.nn as nn, torch.nn.functional as F, torchvision
from fastattn.all import *

gc = pytest.importorskip('pytorch_grad_cam', reason='pip install grad-cam')
tc = pytest.importorskip('torchcam.methods', reason='pip install torchcam')
from pytorch_grad_cam.fullgrad_cam import FullGrad
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget

pytestmark = pytest.mark.filterwarnings('ignore')

def their_gradcam(cls, **kwargs):
    "What a class of grad-cam makes of the features, before it cuts and scales it"
    def f(model, layer, x, t, targets=None):
        with cls(model=model, target_layers=[model.get_submodule(layer)], **kwargs) as c:
            raw,own = [],c.get_cam_image
            def _keep(*args): raw.append(torch.as_tensor(own(*args)).detach().float()); return raw[-1].numpy()
            c.get_cam_image = _keep
            c(input_tensor=x, targets=targets or [ClassifierOutputTarget(i) for i in t])
        return raw[0]
    return f

def their_torchcam(cls, **kwargs):
    def f(model, layer, x, t):
        size = x.shape[-2:]
        with cls(model, layer, **kwargs) as c:
            if issubclass(cls, tc.ScoreCAM): # enlarged first, as in the paper
                def _unit(a, *args):
                    a = F.interpolate(a, size=size, mode='bilinear', align_corners=False)
                    lo,hi = a.amin((2,3), keepdim=True),a.amax((2,3), keepdim=True)
                    return (a-lo)/(hi-lo+1e-8)
                c._normalize = _unit
            out = model(x)
            torch.manual_seed(0)
            return c(list(t), out, normalized=False)[0].detach()
    return f

class PlusPlus(gc.GradCAMPlusPlus):
    def get_cam_weights(self, x, layer, t, a, g, s=1e5): return super().get_cam_weights(x, layer, t, a/s, g*s)/s

def their_smooth(model, layer, x, t):
    with tc.SmoothGradCAMpp(model, layer, num_samples=1, std=.15*float(x.max()-x.min())) as c:
        a = (model(x), c.hook_a[0].detach().clone())[1]
        torch.manual_seed(0)
        w = c._get_weights(list(t))[0].detach()
    return (w[...,None,None]*a).sum(1).relu()

def their_scorecam(model, layer, x, t):
    with pytest.MonkeyPatch.context() as m:
        m.setattr(nn, 'UpsamplingBilinear2d', lambda size: nn.Upsample(size=size, mode='bilinear', align_corners=False))
        return their_gradcam(gc.ScoreCAM)(model, layer, x, t)

def their_fullgrad(model, layer, x, t):
    c = FullGrad(model=model, target_layers=[])
    c.aggregate_multi_layers = lambda m: torch.tensor(m).sum(1)
    return c(input_tensor=x, targets=[ClassifierOutputTarget(i) for i in t])

def their_captum(name, **kwargs):
    def f(model, layer, x, t):
        import captum.attr as ca
        a = getattr(ca, name)(model, model.get_submodule(layer)).attribute(x, torch.tensor(list(t)), **kwargs).detach()
        return a.sum(1)
    return f

# our method: what it is compared with, and our options
cases = dict(
    gradcam=[(their_captum('LayerGradCam', relu_attributions=True), {}), (their_gradcam(gc.GradCAM), {}),
             (their_torchcam(tc.GradCAM), {})],
    gradcam_plus_plus=[(their_gradcam(PlusPlus), {})],
    xgradcam=[(their_gradcam(gc.XGradCAM), {}), (their_torchcam(tc.XGradCAM), {})],
    layercam=[(their_gradcam(gc.LayerCAM), {}), (their_torchcam(tc.LayerCAM), {})],
    hirescam=[(their_gradcam(gc.HiResCAM), {}), (their_captum('LayerGradientXActivation'), {})],
    gradcam_elementwise=[(their_gradcam(gc.GradCAMElementWise), {})],
    eigengradcam=[(their_gradcam(gc.EigenGradCAM), {})],
    shapleycam=[(their_gradcam(gc.ShapleyCAM), {})],
    eigencam=[(their_gradcam(gc.EigenCAM), {})],
    kpcacam=[(their_gradcam(gc.KPCA_CAM), {})],
    fullgrad=[(their_fullgrad, {})],
    ablationcam=[(their_gradcam(gc.AblationCAM), {})],
    scorecam=[(their_scorecam, {}), (their_torchcam(tc.ScoreCAM), {})],
    iscam=[(their_torchcam(tc.ISCAM, num_samples=2), dict(samples=2))],
    sscam=[(their_torchcam(tc.SSCAM, num_samples=2), dict(samples=2))],
    smooth_gradcam_plus_plus=[(their_smooth, dict(samples=1))],
    cam=[(their_torchcam(tc.CAM), {})])
slow = ('scorecam','iscam','sscam')                # a pass for each channel: at a layer with few
signless = ('eigencam','eigengradcam','kpcacam')
uncut = ('cam',)                                   # torchcam cuts it; grad-cam leaves all maps uncut at this point

def apart(model):
    "BatchNorm and activation as two modules, which FullGrad's reference asks for"
    for m in list(model.modules()):
        for n,c in list(m.named_children()):
            if isinstance(c, nn.BatchNorm2d) and type(c) is not nn.BatchNorm2d:
                bn = nn.BatchNorm2d(c.num_features, c.eps)
                bn.load_state_dict(c.state_dict())
                setattr(m, n, nn.Sequential(bn, c.drop, c.act).eval())
    return model

@pytest.fixture(scope='module')
def nets():
    "Random weights, and ImageNet's on photographs"
    import skimage
    from PIL import Image
    torch.manual_seed(1)
    rnd = torchvision.models.resnet18(num_classes=10).eval()
    real,prep = imagenet_lite0()
    photos = torch.stack([prep(Image.open(pathlib.Path(skimage.__file__).parent/'data'/f).convert('RGB'))
                          for f in ('coffee.png','chelsea.png')])
    return dict(random=(rnd, torch.randn(2,3,64,96), 'layer4', 'layer1'),
                real=(real, photos[:,:,16:-48,32:-32].contiguous(), 'bn2', 'blocks.2'))

def close(a, b, name, what):
    "Within 1e-5 of the map's largest value, which may be thousands or a thousandth"
    top = b.abs().amax()
    assert top>0, f'{what}: the reference is empty, so nothing is shown'
    err = float((a-b).abs().amax()/top)
    assert err<=1e-5 or (name in signless and err<=1e-4), f'{what}: off by {err:.1e} of the largest value'

@pytest.mark.parametrize('weights', ['random','real'])
@pytest.mark.parametrize('name', sorted(cases))
def test_is_the_reference(nets, name, weights):
    model,x,last,early = copy.deepcopy(nets[weights])
    layer = early if name in slow else last
    if name=='ablationcam': layer = 'layer1' if weights=='random' else 'blocks.1.1.bn2' # behind a ReLU
    if name in slow: x = x[:1,:,-96:,-96:]                          # a pass for each channel
    if name=='ablationcam': x = x[:1,:,-64:,-64:]                   # likewise, and in double
    if name=='fullgrad': model,x = apart(model),x[:,:,-64:,-96:]
    if name=='smooth_gradcam_plus_plus':
        x = x[:1]
        lin = [m for m in model.modules() if isinstance(m, nn.Linear)][0]
        lin.weight.data *= 1000                     # against their 1e-8
    if name=='ablationcam': # they keep scores in single precision: in double, and near zero, little is lost by that
        model,x = model.double(),x.double()
        with torch.no_grad(): [m for m in model.modules() if isinstance(m, nn.Linear)][0].bias -= model(x).amax()-.01
    with torch.no_grad(): t = model(x).argmax(1).tolist()
    for theirs,opts in cases[name]:
        h = explain(model, x, name, target=t, **({} if name=='fullgrad' else dict(layer=layer)), **opts).raw
        ref = theirs(copy.deepcopy(model), layer, x.clone(), t)
        what = f'{name}, {weights} weights'
        if name in signless:
            s = (ref*h).sum((1,2), keepdim=True).sign()
            close(h*s, ref, name, what)
        elif name=='cam': close(h.relu(), ref, name, what)
        else: close(h.relu(), ref.relu(), name, what)

def test_shapleycam_where_it_differs(nets):
    "With a score that is not linear, on a network with smooth activations, second derivatives count"
    import timm
    torch.manual_seed(0)
    model = timm.create_model('efficientnet_lite0', num_classes=10, act_layer=nn.SiLU).double().eval()
    x = torch.randn(2,3,64,96).double()
    def rest(o, idx): return o[:,3]-F.cross_entropy(o, torch.full((len(o),), 3), reduction='none') # the paper's score
    h,g = (explain(model, x, 'shapleycam', target=rest, layer='blocks.4'),
           explain(model, x, 'gradcam', target=rest, layer='blocks.4'))
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST
    ref = their_gradcam(gc.ShapleyCAM)(copy.deepcopy(model), 'blocks.4', x, None, [ClassifierOutputReST(3)]*2).relu()
    close(h.raw, ref, 'shapleycam', 'shapleycam')
    assert (h.raw-g.raw).abs().max()>1e-3*g.raw.abs().max()

def test_contrast_is_finercams(nets):
    model,x,last,_ = nets['random']
    near = contrast().settle(model(x).detach(), None, 2)
    targets = [FinerWeightedTarget(int(a), b.tolist(), 1.) for a,b in zip(near.a, near.b)]
    ref = their_gradcam(gc.GradCAM)(copy.deepcopy(model), last, x, None, targets).relu()
    close(explain(model, x, 'gradcam', target=contrast()).raw, ref, 'gradcam', 'contrast')

def test_layercams_fusion(nets):
    "Maps of several layers, scaled to their maxima, through tanh and the greater of each place"
    model,x,_,_ = nets['random']
    layers = ['layer2','layer3']
    maps = [explain(model, x, 'layercam', layer=l).raw for l in layers]
    size = maps[0].shape[-2:]
    up = [F.interpolate(m[:,None], size=size, mode='bilinear', align_corners=False)[:,0] for m in maps]
    ref = tc.LayerCAM.fuse_cams([m/m.amax((1,2), keepdim=True) for m in up])
    close(explain(model, x, 'layercam', layer=layers, fuse='max', place='even').raw, ref, 'layercam', 'fusion')
