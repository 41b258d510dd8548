"""Large pictures: the peak of memory, where the map lies, and that a small copy tells where the model's input lies"""
import json, math, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
import torchvision.transforms as T
from fastai.vision.all import CategoryBlock, CropPad, DataBlock, ImageBlock, IndexSplitter, Resize
from fastattn.core.pipeline import explain
from fastattn.core.registry import Explainer, explainers
from fastattn.image import reading as module
from fastattn.image.reading import Reader
from PIL import Image
from torch import Tensor, nn
from types import SimpleNamespace

size = 4800,3000 # 14 megapixels, more than are drawn or measured at full size

child = '''
import ctypes, gc, json, sys, warnings
import matplotlib; matplotlib.use('agg')
import torch, torchvision.transforms as T
from fastai.vision.all import *
from fastattn.core.pipeline import explain
def status(k): return int(next(l for l in open('/proc/self/status') if l.startswith(k)).split()[1])/1024
prep = T.Compose([T.Resize(64), T.CenterCrop(64), T.ToTensor()])
net = nn.Sequential(nn.Conv2d(3,4,8,8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
Image.MAX_IMAGE_PIXELS = None
def run(size):
    Image.linear_gradient('L').resize(size).convert('RGB').save(fn := sys.argv[1]+'/pic.jpg')
    gc.collect(); ctypes.CDLL(None).malloc_trim(0)
    open('/proc/self/clear_refs','w').write('5')
    before = status('VmRSS')
    h = explain(net, fn, 'gradcam', prep=prep)
    return h,status('VmHWM')-before
small,_ = run((300,200))
for _ in range(3): small.show()
h,mb = run((4800,3000))
print(json.dumps(dict(shape=list(h.shape), mb=mb, figures=len(plt.get_fignums()))))
'''

@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='the peak of memory is read as Linux tells it')
def test_peak(tmp_path):
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', child, str(tmp_path)], capture_output=True, text=True,
                       check=True)
    res = json.loads(r.stdout.splitlines()[-1])
    assert res['shape']==[1,3000,4800]
    assert res['figures']==1 # the last one, for `plt.savefig`
    # Pillow holds 4 bytes a pixel, and two copies of them while it reads a picture; the map has 4 bytes a pixel, too
    assert res['mb']<14.4e6*10/2**20, res

def _bright(p): return p.x.mean(1)

@pytest.fixture
def bright():
    explainers['bright'] = Explainer(_bright, pixels=True)
    yield
    del explainers['bright']

def test_square_in_the_corner(bright, monkeypatch):
    prep = T.Compose([T.Resize(80), T.CenterCrop(80), T.ToTensor()]) # the sides of the picture are cut off
    pic = Image.new('RGB', size, (20,40,60))
    pic.paste('white', (3300,2400,3900,3000))
    small = pic.resize((960,600))
    measured = []
    real = module.placement
    monkeypatch.setattr(module, 'placement', lambda b, size: (measured.append(size), real(b, size))[1])
    net = nn.Sequential(nn.Conv2d(3,4,8,8), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    def box(pic):
        h = explain(net, pic, 'bright', prep=prep)
        assert h.shape[1:]==pic.size[::-1]
        m = h[0].as_subclass(Tensor)
        ys,xs = ((m>.5).any(d).nonzero()[:,0] for d in (1,0))
        return np.array([xs.min()/m.shape[1],ys.min()/m.shape[0],(xs.max()+1)/m.shape[1],(ys.max()+1)/m.shape[0]])
    large = box(pic)
    assert abs(large-[3300/4800,.8,3900/4800,1]).max()<.01
    assert abs(large-box(small)).max()<.01
    assert math.prod(measured[0])<=2**20 and measured[1]==small.size

def processor():
    transformers = pytest.importorskip('transformers')
    return transformers.ViTImageProcessor(size=dict(height=64, width=64))

preps = {'resize and crop': lambda: T.Compose([T.Resize(64), T.CenterCrop(56), T.ToTensor()]),
         'squeezed': lambda: T.Compose([T.Resize((64,48)), T.ToTensor()]), 'processor': processor,
         'padded': lambda: T.Compose([T.Resize(48), T.Pad(8), T.ToTensor()]),
         'crop of so many pixels': lambda: T.Compose([T.CenterCrop(500), T.Resize(64), T.ToTensor()]),
         'nearest': lambda: T.Compose([T.Resize(64, T.InterpolationMode.NEAREST), T.CenterCrop(64), T.ToTensor()])}

def _photo():
    g = np.random.default_rng(0).integers(0, 255, (7,11,3), dtype=np.uint8)
    return Image.fromarray(g).resize((1200,800), Image.Resampling.BICUBIC)

@pytest.mark.parametrize('k', preps)
def test_small_copy_tells_the_placement(k): _same_placement(Reader(preps[k]()), 64)

@pytest.mark.parametrize('tfm', [Resize(64), Resize(64, method='squish'), Resize(64, method='pad', pad_mode='zeros'),
                                 CropPad(400)], ids=['crop','squish','pad','CropPad'])
def test_small_copy_of_a_learners_picture(tfm, tmp_path):
    for i in range(2): _photo().resize((60,40)).save(tmp_path/f'{i}.png')
    block = DataBlock((ImageBlock,CategoryBlock), get_y=lambda o: o.stem, splitter=IndexSplitter([1]), item_tfms=tfm)
    dls = block.dataloaders([tmp_path/f'{i}.png' for i in range(2)], bs=1, num_workers=0)
    _same_placement(module.LearnerReader(SimpleNamespace(dls=dls)), 400 if isinstance(tfm, CropPad) else 64)

def _same_placement(r, n):
    item, = r.open(_photo())
    true = r.place(item)
    assert all(k[1]==item.size for k in r._places) # it was measured on the picture, which is not large, or not at all
    by_copy = Reader.place(r, item, most=900)
    shares = [np.array([[b,a*n+b] for a,b in o]) for o in (true,by_copy)]
    assert abs(shares[0]-shares[1]).max()*n<.3, shares # pixels of the input
