"""Do maps add up? DeepLIFT (to the difference of two scores) and LRP (pixels, and what biases and softmax keep, to the
score) over kinds of networks: the miss, as a share of that sum; cost in plain forward passes, beside captum, zennit
and LXT in the same run; and how far the maps are from theirs in double precision.

zennit (0.5) and lxt (2.1) are not among this library's dependencies: put them on PYTHONPATH. lxt patches classes of
PyTorch and transformers; here that is undone after each of its passes."""
import argparse, copy, importlib, math, sys, warnings
from contextlib import contextmanager
from unittest.mock import MagicMock
import timm, torch, torch.nn as nn, torch.nn.functional as F, torchvision
from fastattn.attribution import layerwise # registers `lrp` and `attnlrp`
from fastattn.attribution.propagation import relevance
from fastattn.attribution.rules import multipliers
from fastattn.core.pipeline import explain
from fastattn.data.demo import demo_arch, demo_vit
from fastattn.detr.model import demo_detr
from fastattn.models.soft_attention import attention_head
from attribution import net as resnet_apart
from common import pairs, write
warnings.filterwarnings('ignore')
size,classes = 64,10

class Detr(nn.Module):
    "The class scores of one query"
    def __init__(self): super().__init__(); self.m = demo_detr()
    def forward(self, x): return self.m(x)['pred_logits'][:,0]

class Huggingface(nn.Module):
    def __init__(self):
        super().__init__()
        from transformers import ViTConfig, ViTForImageClassification
        self.m = ViTForImageClassification(ViTConfig(hidden_size=192, num_hidden_layers=6, num_attention_heads=3,
            intermediate_size=768, image_size=size, patch_size=8, num_labels=classes))
    def forward(self, x): return self.m(x).logits

def soft():
    body = nn.Sequential(*list(demo_arch())[:6])
    return nn.Sequential(body, attention_head(128, classes, activation='softmax'))

def timm_net(name, **kw): return lambda: timm.create_model(name, num_classes=classes, **kw)
vit = dict(img_size=size, depth=6)
nets = {'ResNet-18':lambda: torchvision.models.resnet18(num_classes=classes),
        'VGG-11 (batch norm)':lambda: torchvision.models.vgg11_bn(num_classes=classes),
        'DenseNet-121':timm_net('densenet121'), 'ConvNeXt (atto)':timm_net('convnext_atto'),
        'EfficientNet-B0 (gates, SiLU)':timm_net('efficientnet_b0'),
        'MobileNetV3 (gates, hard swish)':timm_net('mobilenetv3_small_100'),
        'RegNetY (gates)':timm_net('regnety_002'), 'ViT (CLS)':timm_net('vit_tiny_patch16_224', **vit, patch_size=8),
        'ViT (mean)':timm_net('vit_tiny_patch16_224', **vit, patch_size=8, class_token=False, global_pool='avg'),
        'ViT (transformers)':Huggingface,
        'Swin':timm_net('swin_tiny_patch4_window7_224', img_size=size, window_size=4, embed_dim=48, depths=(2,2,2,2),
                        num_heads=(3,3,6,6)),
        'soft attention':soft, 'DETR':Detr}

def made(name, seed=0):
    "The network with random weights and biases, after some batches of statistics; and images"
    torch.manual_seed(seed)
    m,g = nets[name](),torch.Generator().manual_seed(seed)
    for o in m.modules():
        if isinstance(o, (nn.Conv2d,nn.Linear)) and o.bias is not None: nn.init.normal_(o.bias, std=.05)
        if isinstance(o, nn.BatchNorm2d): o.momentum = None # the mean over all batches
    m.train()
    with torch.no_grad():
        for _ in range(8): m(images(16, g))
    return m.eval(),images(4, g)

def images(n, g):
    "Coarse and fine noise, so that images differ in what networks average, too"
    return sum(F.interpolate(torch.randn(n,3,k,k, generator=g), (size,size), mode='bilinear') for k in (1,2,8,size))/2

def miss(delta, whole): return float(f'{(delta.abs()/whole.abs().clamp(min=1e-12)).median():.1e}')

def completeness(name):
    "The miss in single and double precision, and what keeps relevance, as shares of what all of them get"
    m,x = made(name)
    res,ask = {},dict(deeplift={}, lrp={}, attnlrp=dict(gamma_linear=0., gamma=0.))
    for how,net,z in (('single',m,x),('double',copy.deepcopy(m).double(),x.double())):
        for method,kw in ask.items():
            h = explain(net, z, method, **kw)
            res[f'{method}, {how}'] = miss(h.notes['delta'], h.notes['difference' if method=='deeplift' else 'score'])
    sizes = {k:h.notes[k].abs().mean().item() for k in ('pixels','biases','softmax','activations')}
    res['shares'] = {k:round(v/sum(sizes.values()), 2) for k,v in sizes.items()}
    return res

def scored(m):
    t = []
    def _score(z, i=None):
        out = m(z)
        if not t: t.append(out.argmax(1))
        return out.gather(1, (t[0] if i is None else t[0][i])[:len(z),None])[:,0]
    return _score

def costs(name, n):
    "Time in plain forward passes without gradients"
    m,x = made(name)
    def _forward():
        with torch.no_grad(): m(x)
    t = m(x).argmax(1).tolist()
    return {k:pairs(lambda: explain(m, x, k, target=t, **kw), _forward, n) for k,kw in
            dict(deeplift={}, lrp={}, attnlrp=dict(gamma=0., gamma_linear=0.)).items()}

## Others

def by_captum(n):
    from captum.attr import DeepLift
    m,hand = (resnet_apart(apart=o) for o in (False,True))
    x = torch.randn(4,3,size,size, generator=torch.Generator().manual_seed(0))
    t = m(x).argmax(1)
    def _forward():
        with torch.no_grad(): m(x)
    def _hand(x=x, m=hand): return DeepLift(m).attribute(x.clone().requires_grad_(), torch.zeros_like(x),
        target=t).sum(1)
    res = {'DeepLIFT, ResNet-18, captum (ReLUs taken apart)':pairs(_hand, _forward, n),
           'DeepLIFT, ResNet-18, fastattn':pairs(lambda: explain(m, x, 'deeplift', target=t.tolist()), _forward, n)}
    a,b = explain(m.double(), x.double(), 'deeplift', target=t.tolist()).raw,_hand(x.double(), hand.double())
    return res,{'DeepLIFT, ResNet-18, captum':off(a, b)}

def off(a, b): return float(f'{((a-b).double().norm()/b.double().norm()).item():.1e}')

def by_zennit(n):
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite, SpecialFirstLayerMapComposite, layer_map_base
    from zennit.rules import Epsilon, Flat, Gamma, ZBox, ZPlus
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer
    from zennit.types import Convolution
    def _rules(conv, first=None, eps=1e-6):
        layers = layer_map_base(1e-12)+[(Convolution,conv),(nn.Linear,Epsilon(eps))]
        def _make(c):
            if first is None: return LayerMapComposite(layers, canonizers=c)
            return SpecialFirstLayerMapComposite(layers, [(Convolution,first)], canonizers=c)
        return _make
    settings = {'epsilon':(_rules(Epsilon(.01), eps=.01), dict(gamma=0., epsilon=.01)),
                'z+':(_rules(ZPlus()), dict(gamma=math.inf)),
                'gamma, box':(_rules(Gamma(.25), ZBox(-4., 4.)), dict(gamma=.25, first='box', box=(-4.,4.))),
                'z+, flat':(_rules(ZPlus(), Flat()), dict(gamma=math.inf, first='flat'))}
    cost,apart = {},{}
    for name,canoniser in (('ResNet-18',ResNetCanonizer),('VGG-11 (batch norm)',VGGCanonizer)):
        m,x = made(name)
        for o in m.modules():
            if isinstance(o, nn.ReLU): o.inplace = False
            if isinstance(o, nn.BatchNorm2d): o.eps = 0. # zennit merges a batch norm and leaves its eps in
        t = m(x).argmax(1)
        def _theirs(make, m=m, x=x):
            with Gradient(model=m, composite=make([canoniser()])) as g:
                return g(x, lambda out: torch.eye(classes).to(out)[t]*out)[1]
        def _forward():
            with torch.no_grad(): m(x)
        for k in ('epsilon','z+','gamma, box'):
            make,kw = settings[k]
            cost[f'LRP ({k}), {name}, zennit'] = pairs(lambda: _theirs(make), _forward, n)
            cost[f'LRP ({k}), {name}, fastattn'] = pairs(lambda: explain(m, x, 'lrp', target=t.tolist(), **kw),
                _forward, n)
        m,x = m.double(),x.double()
        for k,(make,kw) in settings.items():
            a,_ = relevance(m, lambda z, i: m(z).gather(1, t[i][:,None])[:,0], x, **kw)
            apart[f'LRP ({k}), {name}, zennit'] = off(a, _theirs(make, m, x))
    return cost,apart

@contextmanager
def patched():
    "The patches of lxt's AttnLRP for a ViT of transformers, for one pass"
    import transformers.models.vit.modeling_vit as vit
    from transformers.activations import GELUActivation
    for o in ('bitsandbytes','bitsandbytes.nn'): sys.modules.setdefault(o, MagicMock())
    for o in 'qwen2 qwen3 bert llama gemma3 gpt2'.split(): # models that are not asked for, and need other versions
        sys.modules.setdefault(f'lxt.efficient.models.{o}', MagicMock())
    from lxt.efficient import patches
    was = vit.eager_attention_forward,vit.ALL_ATTENTION_FUNCTIONS,nn.LayerNorm.forward,GELUActivation.forward
    class Interface(dict):
        def get_interface(self, k, default): return self.get(k, default)
    try:
        patches.patch_attention(vit)
        vit.ALL_ATTENTION_FUNCTIONS = Interface(vit.ALL_ATTENTION_FUNCTIONS)
        patches.patch_method(patches.layer_norm_forward, nn.LayerNorm)
        patches.patch_method(patches.non_linear_forward, GELUActivation, keep_original=True)
        yield
    finally:
        (vit.eager_attention_forward,vit.ALL_ATTENTION_FUNCTIONS,nn.LayerNorm.forward,GELUActivation.forward) = was

def by_lxt(n):
    m,x = made('ViT (transformers)')
    t = m(x).argmax(1)
    def _theirs(m=m, x=x):
        with patched():
            leaf = x.clone().requires_grad_()
            g, = torch.autograd.grad(m(leaf).gather(1, t[:,None]).sum(), leaf)
        return x*g
    def _forward():
        with torch.no_grad(): m(x)
    plain = dict(gamma=0., gamma_linear=0., epsilon=0.)
    cost = {'AttnLRP, ViT (transformers), lxt':pairs(_theirs, _forward, n),
            'AttnLRP, ViT (transformers), fastattn':pairs(lambda: explain(m, x, 'attnlrp', target=t.tolist(), **plain),
                                                          _forward, n)}
    m,x = m.double(),x.double()
    a,_ = relevance(m, lambda z, i: m(z).gather(1, t[i][:,None])[:,0], x, epsilon=0.)
    return cost,{'AttnLRP, ViT (transformers), lxt':off(a, _theirs(m, x))}

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=7)
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    complete = {k:completeness(k) for k in nets}
    cost = {k:costs(k, a.n) for k in ('ResNet-18','ConvNeXt (atto)','EfficientNet-B0 (gates, SiLU)','ViT (CLS)')}
    others = [f(a.n) for f in (by_captum,by_zennit,by_lxt)]
    write('complete',
        what='random weights and biases, after 8 batches of statistics, 64 px, 4 images. Miss: median over '
                           'images of the difference to the sum, as a share of it. Cost in plain forward passes',
                           seed=a.seed,
          complete=complete, cost=cost, beside={k:v for c,_ in others for k,v in c.items()},
          apart={k:v for _,o in others for k,v in o.items()})
