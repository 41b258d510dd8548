"""The default layer of segmentation networks of many kinds: one that depends on the deepest features, and no branch"""
import pytest, timm, torchvision.models.segmentation as tv
from functools import partial
import torch, torch.nn.functional as F
from fastai.vision.all import create_body, resnet18
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from fastattn.all import DynamicUnet, Trace, explain
from fastattn.core.layers import candidates

def conv(ni, nf, ks=3, stride=1): return nn.Sequential(nn.Conv2d(ni,nf,ks,stride,ks//2), nn.BatchNorm2d(nf), nn.ReLU())
def resized(x, like): return F.interpolate(x, size=like.shape[2:], mode='bilinear')

class Encoder(nn.Module):
    widths = 8,16,24,32,40
    def __init__(self, n=5):
        super().__init__()
        self.stages = nn.ModuleList(conv(i,o,3,2) for i,o in zip((3,*self.widths), self.widths[:n]))
    def forward(self, x):
        res = []
        for s in self.stages: x = s(x); res.append(x)
        return res

class Fpn(nn.Module):
    "A feature pyramid whose finest level alone is read, or the sum of all levels; there are layers nobody reads"
    def __init__(self, sums=False, n=3):
        super().__init__()
        self.encoder,self.fpn = Encoder(),FeaturePyramidNetwork([16,24,32,40], 16)
        self.sums,self.head = sums,nn.Sequential(conv(16,16), nn.Conv2d(16,n,1))
    def forward(self, x):
        ps = list(self.fpn({str(i):f for i,f in enumerate(self.encoder(x)[1:])}).values())
        return resized(self.head(sum(resized(p, ps[0]) for p in ps) if self.sums else ps[0]), x)

class Pyramid(nn.Module):
    "Pools to coarser grids than the deepest one, as PSPNet and UperNet do"
    def __init__(self):
        super().__init__()
        self.encoder,self.last,self.scores = Encoder(3),conv(24+32,32),nn.Conv2d(32,3,1)
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(n), conv(24,8,1)) for n in (1,2,3,6))
    def forward(self, x):
        f = self.encoder(x)[-1]
        return resized(self.scores(self.last(torch.cat([f,*(resized(p(f), f) for p in self.pools)], 1))), x)

class DeepLab(nn.Module):
    "A side branch of fine features that the deepest ones have no part in, as in DeepLabV3+"
    def __init__(self):
        super().__init__()
        self.encoder,self.aspp,self.low = Encoder(4),conv(32,32),conv(16,6,1)
        self.fuse,self.scores = conv(38,32),nn.Conv2d(32,3,1)
    def forward(self, x):
        f = self.encoder(x)
        y,low = self.aspp(f[3]),self.low(f[1])
        return resized(self.scores(self.fuse(torch.cat([resized(y, low),low], 1))), x)

class TwoPaths(nn.Module):
    "The branch of the stage above is computed after the deepest one and added to it, as in BiSeNet"
    def __init__(self):
        super().__init__()
        self.encoder,self.arm32,self.arm16 = Encoder(),conv(40,16),conv(32,16)
        self.head32,self.head16,self.scores = conv(16,16),conv(16,16),nn.Conv2d(16,3,1)
    def forward(self, x):
        f = self.encoder(x)
        y = self.head32(resized(self.arm32(f[4]), f[3]))
        return resized(self.scores(resized(self.head16(self.arm16(f[3])+y), f[1])), x)

class Scored(nn.Module):
    "Each stage has one score per class at once, as in FCN-8s"
    def __init__(self):
        super().__init__()
        self.encoder,self.scores = Encoder(),nn.ModuleList(nn.Conv2d(c,3,1) for c in (24,32,40))
    def forward(self, x):
        f = self.encoder(x)
        y = resized(self.scores[2](f[4]), f[3])+self.scores[1](f[3])
        return resized(resized(y, f[2])+self.scores[0](f[2]), x)

class UNet(nn.Module):
    "With gates of the skip connections, and an auxiliary head on the deepest features, where these are asked for"
    def __init__(self, gated=False, auxiliary=False, n=3):
        super().__init__()
        self.encoder,self.gated,self.auxiliary = Encoder(),gated,auxiliary
        cs = Encoder.widths
        self.ups = nn.ModuleList(nn.ConvTranspose2d(cs[i+1], cs[i], 2, 2) for i in range(4))
        self.convs = nn.ModuleList(conv(2*cs[i], cs[i]) for i in range(4))
        self.gates,self.scores,self.aux = nn.ModuleList(nn.Conv2d(c,c,1) for c in cs),nn.Conv2d(8,n,1),conv(40,12)
    def forward(self, x):
        f = self.encoder(x)
        y = f[4]
        for i in (3,2,1,0):
            y = self.convs[i](torch.cat([self.ups[i](y)[:,:,:f[i].shape[2],:f[i].shape[3]],f[i]], 1))
            if self.gated: y = y*self.gates[i](f[i]).sigmoid()
        out = resized(self.scores(y), x)
        return dict(out=out, aux=self.aux(f[4])) if self.auxiliary else out

class FrozenUNet(UNet):
    "Its encoder runs without gradients"
    def __init__(self):
        super().__init__()
        forward = self.encoder.forward
        self.encoder.forward = torch.no_grad()(forward)

class AllLinear(nn.Module):
    "One linear layer for each stage, from the deepest on, and one that joins them, as in SegFormer"
    def __init__(self):
        super().__init__()
        self.encoder,self.linears = Encoder(),nn.ModuleList(nn.Linear(c,16) for c in Encoder.widths[1:])
        self.fuse,self.scores = conv(64,16,1),nn.Conv2d(16,3,1)
    def forward(self, x):
        fs = self.encoder(x)[1:]
        def _mapped(linear, f): return linear(f.flatten(2).transpose(1,2)).transpose(1,2).unflatten(2, f.shape[2:])
        ys = [_mapped(*o) for o in zip(self.linears, fs)][::-1]
        return resized(self.scores(self.fuse(torch.cat([resized(y, fs[0]) for y in ys], 1))), x)

def fastai_unet(size): return DynamicUnet(create_body(resnet18(), cut=-2), 3, size)
def of_torchvision(f): return f(weights=None, weights_backbone=None, num_classes=5, aux_loss=True)

networks = dict( # function, side of the image, layer, and deepest layer
    fpn=(Fpn, 96, 'head.0', 'encoder'), fpn_sum=(partial(Fpn, True), 96, 'head.0', 'encoder'),
    fpn_as_many=(partial(Fpn, n=16), 96, 'head.0', 'encoder'), unet_frozen=(FrozenUNet, 96, 'convs.3', 'encoder'),
    pyramid=(Pyramid, 64, 'last', 'encoder'), deeplab=(DeepLab, 96, 'fuse', 'encoder'),
    two_paths=(TwoPaths, 96, 'head16', 'encoder'), scored=(Scored, 96, 'encoder.stages.4', 'encoder'),
    unet=(UNet, 96, 'convs.3', 'encoder'), unet_odd=(UNet, 100, 'convs.3', 'encoder'),
    unet_gated=(partial(UNet, gated=True), 96, 'convs.3', 'encoder'),
    unet_auxiliary=(partial(UNet, auxiliary=True), 96, 'convs.3', 'encoder'),
    unet_as_many=(partial(UNet, n=32), 96, 'convs.3', 'encoder'), all_linear=(AllLinear, 96, 'fuse', 'encoder'),
    fastai=(partial(fastai_unet, (96,64)), (96,64), 'layers.4', 'layers.0'),
    fastai_odd=(partial(fastai_unet, (100,100)), 100, 'layers.4', 'layers.0'),
    lraspp=(partial(tv.lraspp_mobilenet_v3_large, weights=None, weights_backbone=None, num_classes=5), 96,
            'classifier.cbr', 'backbone.16'),
    fcn=(partial(of_torchvision, tv.fcn_resnet50), 64, 'classifier.3', 'backbone.layer4'),
    deeplabv3=(partial(of_torchvision, tv.deeplabv3_mobilenet_v3_large), 96, 'classifier.3', 'backbone.16'))

@pytest.mark.parametrize('name', networks)
def test_default_layer(name):
    torch.manual_seed(0)
    make,size,layer,deepest = networks[name]
    model = make().eval()
    x = torch.randn(2, 3, *((size,size) if isinstance(size, int) else size))
    c = candidates(model, x).auto()
    assert c.name==layer
    deepest = 'encoder.stages.'+str(len(model.encoder.stages)-1) if deepest=='encoder' else deepest
    def _features():
        with Trace(model, layer) as t, torch.no_grad(): model(x)
        return t[layer]
    was = _features()
    hook = model.get_submodule(deepest).register_forward_hook(lambda m,a,o: o+torch.randn_like(o))
    try: assert not torch.allclose(_features(), was)
    finally: hook.remove()
    scores = (lambda o,i: o['out'][:,1].mean((1,2))) if isinstance(model(x), dict) else 1
    assert explain(model, x, target=scores).shape==(2,*x.shape[2:])

class Numpy(UNet):
    "A part of it leaves PyTorch, so that it does not run with a graph"
    def forward(self, x):
        res = super().forward(x)
        return res+torch.from_numpy(res.cpu().numpy()).mean()

def test_without_a_graph_it_is_the_deepest():
    model = Numpy().eval()
    assert candidates(model, torch.randn(1,3,96,96)).auto().name=='encoder.stages.4'
    assert explain(model, torch.randn(1,3,96,96), 'eigencam').shape==(1,96,96)
