"""Data sets with masks or boxes in the layouts in which they are handed out: ImageNet-S, Pascal VOC, COCO; and a
user's own network for them.

`pictures_in(folder)` finds out which of the three a folder is, and lists what can be asked: a picture, the name of a
class in it, and a function that reads where objects of that class are. Nothing here is downloaded."""
import dataclasses, json, random
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
import numpy as np, timm, torch
from PIL import Image, ImageDraw
from fastattn.core.inputs import batch_of, class_names

@dataclasses.dataclass
class Seen:
    "A class in a picture of a data set"
    path:Path # The picture
    name:str # The class: a WordNet id in ImageNet-S, a name in VOC and COCO
    read:callable # Reads two arrays `(h,w)`: True on objects of the class, True where nobody knows
    boxes:list # `(x0,y0,x1,y1)` in pixels, ends excluded; empty where the data set has none

def lines_of(path):
    "The lines of a text file that hold something"
    return [l.strip() for l in Path(path).read_text(encoding='utf-8').splitlines() if l.strip()]

def _there(path, what):
    if not path.exists(): raise ValueError(f"There is no {what} at {str(path)!r}.")
    return path

def in_boxes(boxes, size):
    "`(h,w)`, True inside any of the boxes, for a picture of `size` (width, height)"
    res = np.zeros(size[::-1], bool)
    for x0,y0,x1,y1 in boxes: res[max(0,round(y0)):round(y1),max(0,round(x0)):round(x1)] = True
    return res

## ImageNet-S

# classes that ImageNet-S 919 counts as one: the key is annotated as the value
merged = dict(n04356056='n04355933', n04493381='n02808440', n03642806='n03832673', n04008634='n03773504',
              n03887697='n15075141')
imagenet_s_sizes = 50,300,919

def imagenet_s_mask(path, number):
    "Where a mask has the class of that number (red + 256 green), and where it says 1000, which means ignored"
    a = np.array(Image.open(path).convert('RGB')).astype(int)
    ids = a[...,0]+256*a[...,1]
    return ids==number,ids==1000

def imagenet_s(
    root, # The folder with `validation` and `validation-segmentation`
    wnids=None # All WordNet ids of the data set; None takes the names of the folders, if these are 50, 300 or 919
):
    "Classes are numbered from 1 in the order of their sorted WordNet ids"
    root = Path(root)
    masks = _there(root/'validation-segmentation', 'folder of masks')
    folders = sorted(d.name for d in (root/'validation').iterdir() if d.is_dir())
    if wnids is None:
        if len(folders) not in imagenet_s_sizes:
            raise ValueError(f"{str(root/'validation')!r} has {len(folders)} classes, not 50, 300 or 919, so their "
                             "numbers are unknown; give --classes, a file with all WordNet ids of the data set.")
        wnids = folders
    number = {w:i for i,w in enumerate(sorted(wnids), 1)}
    if lost := [f for f in folders if merged.get(f, f) not in number and f not in number]:
        raise ValueError(f"The class {lost[0]!r} of {str(root/'validation')!r} is not among the "
                         f"{len(number)} WordNet ids given.")
    res = []
    for wnid in folders:
        n = number.get(wnid) or number[merged[wnid]]
        for f in sorted((root/'validation'/wnid).iterdir()):
            if f.suffix.lower() not in ('.jpeg','.jpg','.png'): continue
            m = _there(masks/wnid/f'{f.stem}.png', f'mask of {f.name!r}')
            res.append(Seen(f, wnid, lambda m=m, n=n: imagenet_s_mask(m, n), []))
    return res

## Pascal VOC

voc_names = ('aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person '
             'pottedplant sheep sofa train tvmonitor').split()

def voc_boxes(path):
    "`{name: [box, ...]}` of an annotation, whose pixels are numbered from 1, ends included"
    res = defaultdict(list)
    for o in ET.parse(path).getroot().iter('object'):
        x0,y0,x1,y1 = (float(o.find('bndbox').find(k).text) for k in ('xmin','ymin','xmax','ymax'))
        res[o.find('name').text.strip()].append((x0-1,y0-1,x1,y1))
    return dict(res)

def voc_ids(path):
    "The index of a class for each pixel: 0 is the background, 255 void"
    im = Image.open(path)
    if im.mode not in ('P','L'):
        raise ValueError(f"{str(path)!r} is a picture of colours; a VOC mask has a palette, whose indices are classes.")
    return np.array(im)

def voc_mask(path, name):
    "Where a mask has the class, and where it is void"
    a = voc_ids(path)
    return a==voc_names.index(name)+1,a==255

def voc(root):
    "Pictures of `ImageSets/Segmentation/val.txt` by their masks; without that list those of `Main/val.txt` by boxes"
    root = Path(root)
    lists = [root/'ImageSets'/k/'val.txt' for k in ('Segmentation','Main')]
    given = next((l for l in lists if l.exists()), None)
    if given is None: raise ValueError(f"There is no list of validation pictures at {str(lists[0])!r}.")
    res = []
    for stem in (l.split()[0] for l in lines_of(given)):
        f = _there(root/'JPEGImages'/f'{stem}.jpg', 'picture')
        a,m = root/'Annotations'/f'{stem}.xml',root/'SegmentationClass'/f'{stem}.png'
        boxes = voc_boxes(a) if a.exists() else {}
        if given==lists[0]:
            there = np.unique(np.array(Image.open(_there(m, f'mask of {f.name!r}'))))
            there = np.unique(voc_ids(_there(m, f'mask of {f.name!r}')))
            names = [voc_names[i-1] for i in there.tolist() if 0<i<=len(voc_names)]
            res += [Seen(f, n, lambda m=m, n=n: voc_mask(m, n), boxes.get(n, [])) for n in names]
        else:
            _there(a, 'annotation')
            res += [Seen(f, n, lambda f=f, b=b: _boxed(f, b), b) for n,b in boxes.items()]
    return res

def _boxed(path, boxes):
    on = in_boxes(boxes, Image.open(path).size)
    return on,np.zeros_like(on)

## COCO

def coco_mask(segmentation, size):
    "`(h,w)` of one annotation, from polygons or from runs"
    if isinstance(segmentation, dict): return _from_runs(segmentation, size)
    im = Image.new('1', size)
    for p in segmentation: ImageDraw.Draw(im).polygon([tuple(o) for o in np.reshape(p, (-1,2)).tolist()], fill=1)
    return np.array(im)

def _from_runs(rle, size):
    try: from pycocotools import mask
    except ImportError:
        raise ImportError("Some masks of this data set are written as runs; `pip install pycocotools` to read them."
                          ) from None
    if isinstance(rle['counts'], list): rle = mask.frPyObjects(rle, *size[::-1])
    return mask.decode(rle).astype(bool)

def _coco_read(annotations, crowds, size):
    def _union(l):
        res = np.zeros(size[::-1], bool)
        for a in l: res |= coco_mask(a['segmentation'], size)
        return res
    on = _union(annotations)
    return on,_union(crowds)&~on

def coco(root):
    "`val2017` and `instances_val2017.json`, beside it or in `annotations`; a crowd counts as unknown"
    root = Path(root)
    f = next(p for p in _coco_files(root) if p.exists())
    d = json.loads(f.read_text(encoding='utf-8'))
    if lost := [k for k in ('images','annotations','categories') if k not in d]:
        raise ValueError(f"{str(f)!r} has no {lost[0]!r}, which annotations of COCO have.")
    names,by = {c['id']:c['name'] for c in d['categories']},defaultdict(list)
    for a in d['annotations']: by[a['image_id'],a['category_id']].append(a)
    res = []
    for im in sorted(d['images'], key=lambda o: o['id']):
        path,size = _there(root/'val2017'/im['file_name'], 'picture'),(im['width'],im['height'])
        for (_,c),l in sorted((k,v) for k,v in _of_image(by, d, im['id'])):
            own,crowds = ([a for a in l if bool(a.get('iscrowd'))==v] for v in (False,True))
            if not own: continue
            boxes = [(x,y,x+w,y+h) for x,y,w,h in (a['bbox'] for a in own)]
            res.append(Seen(path, names[c], lambda o=own, k=crowds, s=size: _coco_read(o, k, s), boxes))
    return res

def _of_image(by, d, i): return [((i,c['id']),by[i,c['id']]) for c in d['categories'] if (i,c['id']) in by]

def _coco_files(root): return [root/o/'instances_val2017.json' for o in ('annotations','.')]

## Which of them a folder is

def pictures_in(
    root, # A folder in the layout of ImageNet-S, VOC or COCO
    wnids=None # See `imagenet_s`
): # The name of the layout, and a list of `Seen`
    "Raises `ValueError` where a folder is none of these, or lacks a part"
    root = Path(root)
    if not root.is_dir(): raise ValueError(f"There is no folder {str(root)!r}.")
    found = None
    if (root/'validation').is_dir(): found = 'ImageNet-S',imagenet_s(root, wnids)
    elif (root/'JPEGImages').is_dir(): found = 'Pascal VOC',voc(root)
    elif (root/'val2017').is_dir() and any(p.exists() for p in _coco_files(root)): found = 'COCO',coco(root)
    if found is None:
        raise ValueError(f"{str(root)!r} is no folder of ImageNet-S (validation and validation-segmentation), of "
                         "Pascal VOC (JPEGImages and ImageSets) or of COCO (val2017 and instances_val2017.json).")
    if not found[1]: raise ValueError(f"There is no picture with an object in {str(root)!r}.")
    return found

## What a network is asked about them

def fitted(im, size, share=1., mask=False):
    "The middle of a picture, or of an array of booleans, cropped to `share` of what fits, in `size` (height, width)"
    if mask: im = Image.fromarray(np.asarray(im).astype(np.uint8)*255)
    h,w = size
    r = share*min(im.width/w, im.height/h)
    x,y = (im.width-r*w)/2,(im.height-r*h)/2
    how = Image.Resampling.NEAREST if mask else Image.Resampling.BICUBIC
    im = im.resize((w,h), how, box=(x,y,x+r*w,y+r*h))
    return torch.tensor(np.array(im)>0) if mask else im

def _plain(name): return name.lower().replace('_', ' ').replace('-', ' ').strip()

def questions(learn, items, names, size, prep=None, share=1., n=48, seed=0, least=50):
    """Of `n` pictures of a data set, drawn at random, that show a class of the network in their crop: what the network
    takes, `(n,h,w)` True on objects and True where nobody knows, and the numbers of the classes"""
    number = {_plain(v):i for i,v in enumerate(names)}
    known = [o for o in items if _plain(o.name) in number]
    if not known:
        there = ', '.join(sorted({o.name for o in items})[:5])
        raise ValueError(f"None of the classes of the folder ({there}) is among those of the network "
                         f"({', '.join(map(str, names[:5]))}); give a network that knows them.")
    random.Random(seed).shuffle(known)
    ims,on,void,classes = [],[],[],[]
    for o in known:
        a,b = (fitted(m, size, share, mask=True) for m in o.read())
        if a.sum()<least: continue
        for l,v in zip((ims,on,void,classes), (fitted(Image.open(o.path).convert('RGB'), size, share),a,b,
                                               number[_plain(o.name)])): l.append(v)
        if len(ims)==n: break
    if not ims: raise ValueError(f"No crop of a picture shows {least} pixels of an object.")
    x = torch.cat([batch_of(learn, ims[i:i+32], prep).cpu() for i in range(0, len(ims), 32)])
    return x.as_subclass(torch.Tensor),torch.stack(on),torch.stack(void),classes

## The network of a user

def normalised(mean, std):
    "A transform of pictures that have their size already"
    mean,std = (torch.tensor(o)[:,None,None] for o in (mean,std))
    return lambda im: (torch.tensor(np.array(im)).permute(2,0,1)/255-mean)/std

def imagenet_names(layout):
    "The names of the ImageNet classes, as the data set calls them"
    info = timm.data.ImageNetInfo('imagenet-1k')
    if layout=='ImageNet-S': return [info.index_to_label_name(i) for i in range(1000)]
    return [info.index_to_description(i).split(',')[0] for i in range(1000)]

def _weights(path):
    if str(path).endswith('.safetensors'):
        from safetensors.torch import load_file
        return load_file(path)
    return torch.load(path, map_location='cpu', weights_only=True)

def users_model(
    where, # Folder of `save_checkpoint`, exported learner, or the name of a timm model
    weights=None, # The weights of the timm model
    names=None, # Its classes; None takes those of the learner, or of ImageNet
    layout='ImageNet-S', # The data set
    side=None # Side of its pictures in pixels, for a learner that resizes none
): # Learner or model, names, size of its pictures, a transform, and the share of a picture that it sees
    "Raises `ValueError` where it cannot be found"
    if Path(where).exists():
        from fastattn.cli.visualize import open_model
        learn = open_model(Path(where), device='cpu')[0]
        size = (side,side) if side else tuple(batch_of(learn, [Image.new('RGB', (320,192))]).shape[-2:])
        if size==(192,320): raise ValueError(f"{str(where)!r} resizes no pictures; give --size, their side in pixels.")
        return learn,names or list(class_names(learn)),size,None,1.
    if not weights: raise ValueError(f"{where!r} is no folder and no file; for a model of timm give --weights, too.")
    names = names or imagenet_names(layout)
    model = timm.create_model(where, num_classes=len(names))
    model.load_state_dict(_weights(weights))
    c = timm.data.resolve_data_config({}, model=model)
    return model.eval(),names,tuple(c['input_size'][1:]),normalised(c['mean'], c['std']),c['crop_pct']
