"The default map is no lattice, on the field's networks"
import pytest, timm, torch
from fastattn.all import *

field = ['resnet18','resnet34','resnet50','convnext_atto','efficientnet_lite0','mobilenetv2_050','densenet121',
         'vgg11_bn','regnety_002','seresnet18','swin_tiny_patch4_window7_224','res2net50_26w_4s']
more = ['hardcorenas_a','ghostnet_050','dla34'] # named before they were run

@pytest.mark.parametrize('arch', field+more)
def test_even(arch):
    torch.manual_seed(0)
    model,x = timm.create_model(arch).eval(),torch.randn(4,3,224,224)
    h = explain(model, x)
    r = h.raw.clamp(min=0)
    shares = torch.stack([r[:,a::2,b::2].sum()/r.sum() for a in (0,1) for b in (0,1)])
    assert .2<=shares.min() and shares.max()<=.3, shares
