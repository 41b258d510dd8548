"Gated U-Nets over twenty-one encoders and three image sizes: forward, backward, export, load, and a map at every skip."
import gc, warnings
import pytest, torch
import torch.nn.functional as F
from fastai.vision.all import (DataLoaders, Datasets, TensorImage, TensorMask, CrossEntropyLossFlat, load_learner,
                               no_random, resnet18, resnet34, xresnet18, densenet121, vgg11_bn,
                               squeezenet1_0, squeezenet1_1, alexnet)
from fastattn.all import DynamicUnet, attention_unet_learner, explain
from fastattn.models.unet import gate_masks

# encoder: number of skips
table = {resnet18:4, resnet34:4, xresnet18:4, densenet121:4, vgg11_bn:5, squeezenet1_0:3, squeezenet1_1:3, alexnet:3,
         'resnet10t':4, 'convnext_atto':3, 'efficientnet_lite0':4, 'tf_efficientnetv2_b0':4, 'mobilenetv3_small_050':4,
         'regnetx_002':4, 'swin_tiny_patch4_window7_224':3,
         'maxvit_rmlp_pico_rw_256':4, 'pvt_v2_b0':3, 'mambaout_femto':3, 'poolformer_s12':3, 'dla34':4,
         'edgenext_xx_small':3}
sizes = [(64,64), (96,160), (224,224)]
large = resnet18,'convnext_atto' # at 224 pixels; the others by hand
wide = *large,squeezenet1_1,'mobilenetv3_small_050','mambaout_femto','pvt_v2_b0' # one of each kind, not square
name = lambda o: o if isinstance(o, str) else f'fastai {o.__name__}' if callable(o) else 'x'.join(map(str, o))

def loaders(size, bs):
    with no_random(0): xs,ys = torch.randn(bs,3,*size),torch.randint(0,2,(bs,*size))
    def image(i): return TensorImage(xs[i])
    def mask(i): return TensorMask(ys[i])
    ds = Datasets(range(bs), [[image],[mask]])
    return DataLoaders.from_dsets(ds, ds, bs=bs, num_workers=0)

@pytest.mark.parametrize('size', sizes, ids=name)
@pytest.mark.parametrize('arch', table, ids=name)
def test_encoder(arch, size, tmp_path, request):
    slow = size==sizes[1] and arch not in wide or size==sizes[2] and arch not in large
    if slow and not request.config.getoption('slow'): pytest.skip('slow: run with --slow')
    bs = 2 if size[0]<200 else 1
    learn = attention_unet_learner(loaders(size, bs), arch, pretrained=False, n_out=2,
                                   loss_func=CrossEntropyLossFlat(axis=1))
    x,y = learn.dls.one_batch()
    learn.model.train()
    F.cross_entropy(learn.model(x).as_subclass(torch.Tensor), y.as_subclass(torch.Tensor)).backward()
    missing = [n for n,p in learn.model.named_parameters() if p.grad is None]
    # what timm leaves unused in the encoder is its own affair
    assert not [n for n in missing if not n.startswith('layers.0.')], missing
    enc = [p.grad for p in learn.model[0].parameters()]
    assert enc[0].abs().sum()>0 and sum(g is not None for g in enc)>.8*len(enc), 'gradients reach the stem'
    assert all(torch.isfinite(p.grad).all() for p in learn.model.parameters() if p.grad is not None)
    gates = gate_masks(learn.model)
    assert len(gates)==table[arch]
    # where a cell looks is measured for one of each kind, below: it takes as many passes as all the rest
    maps = [explain(learn, x, 'gates', layer=i, place='even').raw for i in range(len(gates))]
    assert all(a.shape[-2]<b.shape[-2] and a.shape[-1]<b.shape[-1] for a,b in zip(maps, maps[1:])), 'coarse to fine'
    assert all(0<=m.min() and m.max()<=1 for m in maps)
    place = 'measured' if arch in large and size==sizes[0] else 'even'
    assert explain(learn, x, 'gates', place=place).shape==(bs,*size)
    out = learn.model.eval()(x)
    assert out.shape==(bs,2,*size)
    if size!=sizes[0]: return # what follows does not depend on the size
    for n in gates: # each skip is used
        shut = learn.model.get_submodule(n).register_forward_hook(lambda m, i, o: o*0)
        with torch.no_grad(): assert not torch.allclose(learn.model(x), out), n
        shut.remove()
    learn.model.zero_grad()
    learn.export(tmp_path/'m.pkl')
    again = load_learner(tmp_path/'m.pkl')
    torch.testing.assert_close(again.model.eval()(x), out)
    torch.testing.assert_close(*(explain(o, x, 'gates', place='even').raw for o in (again,learn)))
