"A learner's pictures are read as its own data loader reads them, whatever that is."
import warnings
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.vision.all import (nn, Tensor, Path, DataBlock, TransformBlock, CategoryBlock, IntToFloatTensor,
                               IndexSplitter, PILImage, TensorImage, ToTensor, Resize, ColReader, parent_label, Learner,
                               CrossEntropyLossFlat, load_learner)
from fastattn.all import *
from fastattn.core.inputs import batch_of

def _spot(a, rows, channel):
    "A bright square in one channel"
    a[rows:rows+16,rows:rows+16,channel] = 255
    return a

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Two classes of pictures: red above, green below; the same as arrays, and as six bands"
    d = tmp_path_factory.mktemp('pictures')
    a = _spot(_spot(np.zeros((64,64,3), np.uint8), 8, 0), 40, 1)
    for c in 'ab':
        (d/c).mkdir()
        for i in range(4):
            Image.fromarray(a).save(d/c/f'{i}.png')
            np.save(d/c/f'{i}.npy', a); np.save(d/c/f'{i}.bands.npy', np.concatenate([a,a], 2))
    return d

def bgr(fn): return PILImage.create(np.asarray(Image.open(fn))[...,[1,0,2]].copy())
def windowed(fn): return PILImage.create(((np.asarray(Image.open(fn))[...,[1,0,2]]>99)*np.uint8(200)).copy())
def tensor_of(fn): return TensorImage(torch.tensor(np.load(fn)[...,[1,0,2]].copy()).permute(2,0,1))
def six_bands(fn): return TensorImage(torch.tensor(np.load(fn)[...,[1,0,2,4,3,5]].copy()).permute(2,0,1))
def darker(im:PILImage): return PILImage.create(((np.asarray(im)/255)**2*255).astype(np.uint8)) # no placement survives
class Reversed(PILImage):
    @classmethod
    def create(cls, fn, **kwargs): return cls(bgr(fn))

def learner(reads, files, c=3, item_tfms=ToTensor, **kwargs):
    "Its class `a` looks for the first channel of what it is given"
    images = TransformBlock(type_tfms=reads, batch_tfms=IntToFloatTensor)
    block = DataBlock((images, CategoryBlock), item_tfms=item_tfms,
                      splitter=IndexSplitter([0,5]), **kwargs)
    m = nn.Sequential(nn.Conv2d(c,2,4,4,bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    m[0].weight.data.zero_(); m[0].weight.data[0,0] = 1; m[0].weight.data[1,1] = 1
    return Learner(block.dataloaders(files, bs=2, num_workers=0), m, loss_func=CrossEntropyLossFlat())

def of(folder, kind): return sorted(folder.rglob(f'*/?{kind}'))
kinds = {'bgr':(bgr,'.png',3), 'image class':(Reversed.create,'.png',3), 'windowed':(windowed,'.png',3),
         'npy':(tensor_of,'.npy',3), 'six bands':(six_bands,'.bands.npy',6)}

@pytest.mark.parametrize('kind', kinds)
def test_paths(folder, kind):
    "What is explained is the batch that `learn.predict` sees, and its map lies on the square that the model sees first"
    reads,suffix,c = kinds[kind]
    files = of(folder, suffix)
    learn = learner(reads, files, c, get_y=parent_label)
    for x in (files[0], str(files[0]), files[:3]):
        want = learn.dls.test_dl(files[:len(x) if isinstance(x, list) else 1], bs=8).one_batch()[0]
        assert torch.equal(batch_of(learn, x), want.as_subclass(Tensor))
        h = explain(learn, x, 'gradcam', target='a')[0]
        assert all(40<=o<56 for o in divmod(int(h.argmax()), 64))
        assert h.img.size==(64,64)

def test_other_names(folder):
    "`tell`, `plot_methods` and `similar_images` read the same"
    files = of(folder, '.npy')
    learn = learner(tensor_of, files, get_y=parent_label)
    with learn.no_bar():
        h = tell_one(learn, files[0])
        assert all(40<=o<56 for o in divmod(int(h.argmax()), 64))
        assert plot_methods(learn, files[:2], 'gradcam', target='a')
        assert similar_images(learn, files[0], k=2, dl=files).idxs.shape==(1,2)

def tell_one(learn, x): return tell(learn, [x], 'gradcam', target='a')[0].heat

def test_rows(folder):
    "Rows of a table, all of it, and an image that stands for none"
    files = of(folder, '.png')
    df = pd.DataFrame(dict(f=[str(o) for o in files], y=[o.parent.name for o in files]))
    learn = learner([lambda o: Path(o['f']),bgr], df, get_y=ColReader('y'))
    for x,items in ((df,df),(df.iloc[2],df.iloc[2:3]),([df.iloc[0],df.iloc[1]],df.iloc[:2])):
        assert torch.equal(batch_of(learn, x), learn.dls.test_dl(items, bs=8).one_batch()[0].as_subclass(Tensor))
    assert all(40<=o<56 for o in divmod(int(explain(learn, df.iloc[2], 'gradcam', target='a')[0].argmax()), 64))
    with pytest.raises(TypeError, match='as in `learn.predict`'): explain(learn, Image.open(files[0]), 'gradcam')

def test_changed_tones(folder):
    "Where the input cannot be located on the photograph, the map is drawn on what the model sees"
    files = of(folder, '.png')
    learn = learner(PILImage.create, files, item_tfms=[darker, Resize(32), ToTensor()], get_y=parent_label)
    h = explain(learn, files[0], 'gradcam')
    assert h.shape==(1,32,32) and h.img[0].size==(32,32)

def test_exported(folder, tmp_path):
    "After export and load, without any item"
    files = of(folder, '.png')
    learn = learner(bgr, files, get_y=parent_label)
    h = explain(learn, files[0], 'gradcam', target='a')
    learn.export(tmp_path/'m.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(tmp_path/'m.pkl')
    assert torch.equal(explain(again, files[0], 'gradcam', target='a'), h)
