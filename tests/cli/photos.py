"A set of real photographs, made of those that installed packages ship: random crops of each are a class."
import random
from pathlib import Path
import matplotlib, numpy as np
from PIL import Image

def photographs():
    "RGB images by name; names as hard as folder names get"
    import skimage.data, sklearn.datasets
    arr = {'chelsea the cat':skimage.data.chelsea(), 'coffee "to go"':skimage.data.coffee(),
           "astronaut's":skimage.data.astronaut(), '火箭':skimage.data.rocket(),
           'Ωmega $5 & più':sklearn.datasets.load_sample_image('china.jpg'),
           'flower∕rose':sklearn.datasets.load_sample_image('flower.jpg')}
    pics = {k:Image.fromarray(v) for k,v in arr.items()}
    pics['grace_hopper'] = Image.open(Path(matplotlib.get_data_path())/'sample_data/grace_hopper.jpg').convert('RGB')
    return pics

def photo_set(path, n=24, size=96, seed=0):
    "`train` and `test`, `n` and `n//3` crops for each class; some as other kinds of files"
    rng = random.Random(seed)
    for c,im in photographs().items():
        W,H = im.size
        for split,k in (('train',n),('test',n//3)):
            d = Path(path)/split/c
            d.mkdir(parents=True)
            for i in range(k):
                s = rng.uniform(.3,.7)*min(W,H)
                x,y = rng.uniform(0,W-s),rng.uniform(0,H-s)
                crop = im.resize((size,size), Image.Resampling.BILINEAR, box=(x,y,x+s,y+s))
                if i==0: crop.convert('CMYK').save(d/f'{i}.jpg')
                elif i==1: crop.save(d/f'{i}.webp')
                elif i==2: e = Image.Exif(); e[0x112] = 6; crop.rotate(90).save(d/f'{i}.jpg', exif=e, quality=95)
                else: crop.save(d/f'{i}.jpg', quality=92)
    return Path(path)
