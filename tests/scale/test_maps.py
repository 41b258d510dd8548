"""Maps read back are those of `explain`, on pictures of all shapes, from all sources, for all kinds of labels"""
import io, itertools, random, sys, tarfile
from pathlib import Path
import numpy as np, pandas as pd, pyarrow.compute as pc, pytest, timm, torch
from fastai.vision.all import (CrossEntropyLossFlat, Image, ImageDataLoaders, L, Learner, Normalize, Resize,
                               ResizeMethod, imagenet_stats, nn, set_seed)
from fastattn.all import embeddings, explain
from fastattn.core.hooks import rng_state
from fastattn.data.demo import demo_arch
from fastattn.scale.maps import open_maps
from fastattn.scale.saving import save_maps
from small import net, pictures, prep, same, shards
sys.path.append(str(Path(__file__).parents[1]/'field'))
from blocks import files as block_files, learner_of

@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "A folder of photographs: wide, square, upright, turned by their EXIF, grey, of six megapixels, and very wide"
    import skimage.data, sklearn.datasets
    d = tmp_path_factory.mktemp('photos')
    cat,space = Image.fromarray(skimage.data.chelsea()),Image.fromarray(skimage.data.astronaut())
    china = Image.fromarray(sklearn.datasets.load_sample_image('china.jpg'))
    turned = Image.Exif()
    turned[0x112] = 6
    (d/'sub').mkdir()
    cat.save(d/'wide.jpg')
    space.save(d/'sub'/'square.png')
    space.crop((150,0,300,480)).save(d/'upright.jpg')
    cat.save(d/'turned.jpg', exif=turned)
    china.convert('L').save(d/'grey.png')
    china.resize((3000,2000)).save(d/'sub'/'large.jpg')
    china.crop((0,150,640,230)).save(d/'strip.png')
    return d

def items(d): return sorted(f for f in d.rglob('*') if f.suffix in ('.jpg','.png'))

def learner(d, model=None, tfm=Resize(64), seed=0, **kwargs):
    "An untrained learner for two classes"
    fs = items(d)
    dls = ImageDataLoaders.from_lists(d, fs, list('abc'*len(fs))[:len(fs)], item_tfms=tfm, bs=4, num_workers=0,
                                      batch_tfms=Normalize.from_stats(*imagenet_stats))
    set_seed(seed)
    return Learner(dls, demo_arch(n_out=3) if model is None else model, loss_func=CrossEntropyLossFlat(), **kwargs)

def check_like_explain(maps, d, learn, method, **kwargs):
    "Is each map, on its picture and on the model's own grid, what `explain` gives for this picture?"
    assert sorted(maps)==[f.relative_to(d).as_posix() for f in items(d)] and not len(maps.errors)
    for f in items(d):
        h,m = explain(learn, f, method, **kwargs),maps[f.relative_to(d).as_posix()]
        h = h[0] if h.ndim==3 else h
        top = float(h.raw.abs().max())
        assert top>0 and m.shape==h.shape and m.shape[::-1]==m.img.size
        assert (m-h).abs().max()<1e-3, f
        assert (m.raw-h.raw.squeeze(0).cpu()).abs().max()<=top/1024
        target = h.target[0] if isinstance(h.target, (list,tuple,L)) else h.target
        assert (m.method,m.layer,str(m.target),m.signed)==(h.method,h.layer,str(target),h.signed)

@pytest.mark.parametrize('how', [ResizeMethod.Crop,ResizeMethod.Squish,ResizeMethod.Pad])
def test_resize(photos, tmp_path, how):
    learn = learner(photos, tfm=Resize((64,96), how, pad_mode='zeros'))
    maps = save_maps(learn, photos, tmp_path/'maps', 'gradcam', bs=3)
    check_like_explain(maps, photos, learn, 'gradcam')
    check_like_explain(open_maps(tmp_path/'maps'), photos, learn, 'gradcam')

@pytest.mark.parametrize('method', ['pyramidcam','layercam','deeplift','saliency'])
def test_methods(photos, tmp_path, method):
    learn = learner(photos)
    check_like_explain(save_maps(learn, photos, tmp_path/'maps', method, bs=3), photos, learn, method)

def test_options(photos, tmp_path):
    learn,kwargs = learner(photos),dict(target='b', layer='4', smooth=2, tta=True)
    maps = save_maps(learn, photos, tmp_path/'maps', 'gradcam', **kwargs)
    check_like_explain(maps, photos, learn, 'gradcam', **kwargs)

def test_vit(photos, tmp_path):
    set_seed(1)
    learn = learner(photos, timm.create_model('test_vit', img_size=64, num_classes=3))
    check_like_explain(save_maps(learn, photos, tmp_path/'maps', 'relevance', bs=3), photos, learn, 'relevance')

def test_bare_model(photos, tmp_path):
    "With torchvision's transforms, which crop"
    from torchvision import transforms as T
    tfm = T.Compose([T.Lambda(lambda im: im.convert('RGB')), T.Resize(72), T.CenterCrop(64), T.ToTensor(),
                     T.Normalize([.5]*3, [.5]*3)])
    set_seed(0)
    model = demo_arch().eval()
    maps = save_maps(model, photos, tmp_path/'maps', 'gradcam', prep=tfm, bs=3)
    check_like_explain(maps, photos, model, 'gradcam', prep=tfm)
    with torch.no_grad():
        for k,top,scores in maps.to_pandas(['key','top','top_scores']).itertuples(index=False):
            want = model(tfm(Image.open(photos/k) if 'turned' not in k else upright(photos/k))[None])[0].topk(5)
            assert list(top)==[str(i) for i in want.indices.tolist()]
            assert np.allclose(scores, want.values, atol=1e-4)

def upright(f):
    from PIL import ImageOps
    return ImageOps.exif_transpose(Image.open(f))

@pytest.mark.parametrize('arch,kind', [('attention_learner','category'), ('attention_learner','multi'),
                                       ('vision_learner','multi'), ('attention_learner','regression'),
                                       ('vision_learner','one_logit'), ('attention_learner','points')])
def test_kinds(tmp_path, arch, kind):
    set_seed(0)
    learn = learner_of(arch, kind)
    fs = [str(f) for f in block_files()[:6]]
    maps = save_maps(learn, fs, tmp_path/'maps', 'gradcam', bs=4)
    df = maps.to_pandas().set_index('key')
    for f in fs:
        k, = [k for k in maps if f.endswith('/'+k)]
        h,m = explain(learn, f, 'gradcam'),maps[k]
        h = h[0] if h.ndim==3 else h
        assert (m-h).abs().max()<1e-3
        assert str(m.target)==str(h.target[0] if isinstance(h.target, (list,tuple,L)) else h.target)
        assert {n:round(float(v), 3) for n,v in m.notes.items()}=={n:round(float(h.notes[n]), 3) for n in m.notes}
        with learn.no_bar(), learn.no_logging(): dec,_,out = learn.predict(f)
        if kind=='category': assert df.prediction[k]==dec
        if kind=='one_logit': assert df.prediction[k]==learn.dls.vocab[int(out.item()>.5)] # fastai decodes none
        if kind=='multi': assert df.prediction[k]==learn.dls.vocab[int(out.argmax())]
        if kind in ('regression','points'): assert maps.row(k)['prediction'] is None and maps.row(k)['top'] is None
    assert open_maps(tmp_path/'maps').about==maps.about

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A folder of pictures, and a table of it"
    base = tmp_path_factory.mktemp('small')
    root = pictures(base/'pics', 30)
    return root,save_maps(net(), root, base/'maps', 'gradcam', prep=prep, rows=7, bs=4, embeddings=True)

def columns(maps, keys=None):
    "Rows by key without keys; `keys` maps this table's to others"
    rows = [r for t in shards(maps.path).values() if 'map' in t.column_names for r in t.to_pylist()]
    return {(keys or (lambda k: k))(r.pop('key')):r for r in rows}

def test_tar_shards(small, tmp_path):
    "As WebDataset writes them, at once and by a pattern"
    root,maps = small
    fs = items(root)
    for n in range(3):
        with tarfile.open(tmp_path/f'{n:06d}.tar', 'w') as t:
            for i,f in list(enumerate(fs))[n::3]:
                for name,b in ((f'{i:04d}.png',f.read_bytes()), (f'{i:04d}.cls',b'3')):
                    info = tarfile.TarInfo(name)
                    info.size = len(b)
                    t.addfile(info, io.BytesIO(b))
    def _key(k): return fs[int(k.rpartition('/')[2][:4])].relative_to(root).as_posix()
    opts = dict(method='gradcam', prep=prep, bs=4, embeddings=True)
    for i,it in enumerate((tmp_path, [str(f) for f in tmp_path.glob('*.tar')], f'{tmp_path}/{{000000..000002}}.tar')):
        tars = save_maps(net(), it, tmp_path/'..'/f'tars{i}', **opts)
        assert '000001.tar/0004.png' in list(tars)
        check_near(columns(tars, _key), columns(maps))
        h = tars['000001.tar/0004.png']
        assert h.img.tobytes()==Image.open(fs[4]).convert('RGB').tobytes()
        assert (h-maps[_key('0004.png')]).abs().max()<1e-3

@pytest.mark.parametrize('way', [3,6])
def test_turned(photos, tmp_path, way):
    "fastai shows a model what the file holds, as it lies there: from a tar file too, and that is what is drawn"
    (tmp_path/'pics').mkdir()
    e = Image.Exif()
    e[0x112] = way
    im = Image.open(photos/'wide.jpg')
    im.save(tmp_path/'pics'/'turned.jpg', exif=e)
    im.save(tmp_path/'pics'/'plain.jpg')
    with tarfile.open(tmp_path/'0.tar', 'w') as t: t.add(tmp_path/'pics'/'turned.jpg', 'turned.jpg')
    learn = learner(tmp_path/'pics')
    maps = save_maps(learn, tmp_path/'pics', tmp_path/'maps', 'gradcam')
    tar = save_maps(learn, tmp_path/'0.tar', tmp_path/'tar', 'gradcam')
    a,b = maps['turned.jpg'],maps['plain.jpg']
    assert (a-b).abs().max()<1e-3 and a.img.tobytes()==b.img.tobytes() # both were saved alike
    assert (tar['0.tar/turned.jpg']-a).abs().max()<1e-3 and tar['0.tar/turned.jpg'].img.tobytes()==b.img.tobytes()

def check_near(a, b):
    "Are these the same rows, but for the rounding in a batch of other pictures?"
    assert a.keys()==b.keys() and len(a)
    for k in a:
        x,y = a[k],b[k]
        assert {c:v for c,v in x.items() if type(v) in (int,str)}=={c:v for c,v in y.items() if type(v) in (int,str)}
        assert x['top']==y['top'] and np.allclose(x['top_scores'], y['top_scores'], atol=1e-5)
        for c in ('map','embedding','placement'): assert np.allclose(x[c], y[c], atol=2e-3)
        for c in ('largest','score','probability'): assert np.isclose(x[c], y[c], rtol=1e-4)

def test_tables_and_lists(small, tmp_path):
    "A CSV beside its pictures, a `DataFrame` and a list: the maps of the folder"
    root,maps = small
    names = [f.relative_to(root).as_posix() for f in items(root)]
    df = pd.DataFrame(dict(label=1, file=names))
    opts = dict(method='gradcam', prep=prep, rows=7, bs=4, embeddings=True)
    df.to_csv(root/'table.csv', index=False)
    df.to_parquet(root/'table.parquet')
    for i,it in enumerate((root/'table.csv', root/'table.parquet')):
        assert same_rows(save_maps(net(), it, tmp_path/f'{i}', column='file', **opts), maps)
    (root/'table.csv').unlink()
    (root/'table.parquet').unlink()
    assert same_rows(save_maps(net(), df.assign(file=f'{root}/'+df.file), tmp_path/'df', column='file', **opts), maps)
    mixed = random.Random(0).sample([str(root/n) for n in names], len(names))
    assert same_rows(save_maps(net(), L(mixed), tmp_path/'list', **opts), maps)

def same_rows(a, b): return same(a.path, b.path)

def test_test_dl(photos, tmp_path):
    learn = learner(photos)
    fs = items(photos)
    there = save_maps(learn, photos, tmp_path/'folder', 'gradcam', bs=3)
    assert same_rows(save_maps(learn, learn.dls.test_dl(fs), tmp_path/'dl', 'gradcam', bs=3), there)
    pics = save_maps(learn, [Image.open(f).convert('RGB') for f in fs[:3]], tmp_path/'pics', 'gradcam')
    assert list(pics)==[f'{i:08d}' for i in range(3)] and pics['00000001'].img is None
    with pytest.raises(TypeError, match='it is a DataLoader'):
        save_maps(learn, torch.utils.data.DataLoader([1,2]), tmp_path/'none')

def test_workers(photos, tmp_path):
    "Other processes read the same pictures, bit for bit"
    learn = learner(photos)
    tables = [save_maps(learn, photos, tmp_path/f'{n}', 'gradcam', bs=2, rows=3, num_workers=n) for n in (0,2)]
    assert same_rows(*tables) and len(tables[0])==7

def test_pictures(photos, tmp_path):
    learn = learner(photos, tfm=Resize(64, ResizeMethod.Pad, pad_mode='zeros'))
    maps = save_maps(learn, photos, tmp_path/'maps', 'gradcam', keep='picture')
    for k in maps:
        pic,drawn = maps.picture(k),maps[k].overlay()
        w,h = drawn.size
        assert 200<max(pic.size)<=256 and abs(pic.size[0]/pic.size[1]-w/h)<.05*w/h
        gap = np.abs(np.float32(drawn.resize(pic.size, Image.Resampling.BILINEAR, reducing_gap=2))-np.float32(pic))
        assert gap.mean()<8, k # WebP loses a little
    with pytest.raises(FileExistsError, match="another `keep`"): save_maps(learn, photos, tmp_path/'maps', 'gradcam')

def test_embeddings(photos, tmp_path):
    learn,fs = learner(photos),items(photos)
    maps = save_maps(learn, photos, tmp_path/'maps', 'gradcam', embeddings=True)
    got,want = maps.embeddings(),embeddings(learn, fs)
    order = [list(map(str, got.items)).index(str(f)) for f in fs]
    assert torch.allclose(got.x[order], want.x, rtol=2e-3, atol=1e-3)
    assert [got.predicted[i] for i in order]==list(want.predicted) and got.layer==want.layer
    with pytest.raises(ValueError, match='embeddings=True'):
        save_maps(learn, photos, tmp_path/'none', 'gradcam').embeddings()

def test_mean_map(small):
    root,maps = small
    for which in (None,*maps.to_pandas(['prediction']).prediction.unique()):
        keys = list(maps if which is None else maps.filter(prediction=which))
        raws = [maps[k].raw/maps[k].raw.max().clamp(min=1e-30) for k in keys]
        h = maps.mean_map(which)
        assert h.notes['n']==len(keys) and torch.allclose(h.raw, torch.stack(raws).mean(0), atol=1e-3)
        assert h.shape==(32,32)
    with pytest.raises(ValueError, match="No picture has the prediction 'cat'"): maps.mean_map('cat')

def test_filter(small):
    root,maps = small
    df = maps.to_pandas()
    assert len(df)==len(maps)==30 and not {'map','embedding','picture'}&set(df)
    assert list(maps.to_pandas(['key','map'])['map'].map(len).unique())==[64]
    lo,hi = df.probability.quantile([.3,.7])
    kept = {'all':maps.filter(), 'class':maps.filter(prediction=df.prediction[0]),
            'several':maps.filter(prediction=['0','1','2','3']), 'pair':maps.filter(probability=(lo,hi)),
            'open':maps.filter(probability=(None,lo)), 'expression':maps.filter(pc.field('probability')>hi),
            'twice':maps.filter(probability=(lo,None)).filter(prediction=df.prediction[0]),
            'none':maps.filter(error=True)}
    p = df.probability
    want = dict(all=p>-1, pair=(p>=lo)&(p<=hi), open=p<=lo, expression=p>hi, several=df.prediction.isin(list('0123')),
                twice=(p>=lo)&(df.prediction==df.prediction[0]), none=p>2)|{'class':df.prediction==df.prediction[0]}
    for k,m in kept.items(): assert sorted(m)==sorted(df.key[want[k]]), k
    assert 0<len(kept['pair'])<30 and 0<len(kept['twice'])<30
    with pytest.raises(ValueError, match="no column 'predicted'.*prediction"): maps.filter(predicted='a')
    with pytest.raises(ValueError, match='pair'): maps.filter(probability=(0,1,2))
    outside = next(iter(maps.filter(pc.field('probability')>hi)))
    with pytest.raises(KeyError, match='not among these rows'): kept['open'][outside]

def test_duckdb(small):
    duckdb = pytest.importorskip('duckdb')
    root,maps = small
    got = duckdb.sql(f"select key, prediction, len(map) as n from '{maps.parquet}' where rank=1 order by key").df()
    want = maps.filter(rank=1).to_pandas(['key','prediction']).sort_values('key')
    assert got.key.tolist()==want.key.tolist() and got.prediction.tolist()==want.prediction.tolist()
    assert len(got) and set(got.n)=={64}

def state(learn):
    "Modes, weights, gradients and random states"
    m = learn.model
    rng = [torch.get_rng_state().tolist(), str(np.random.get_state()), str(random.getstate()),
           *[str(s) for s in rng_state(learn)]]
    return ([(n,o.training,len(o._forward_hooks)) for n,o in m.named_modules()],
            [(n,p.requires_grad,p.grad is None or p.grad.sum().item(),p.sum().item()) for n,p in m.named_parameters()],
            [(n,b.sum().item()) for n,b in m.named_buffers()], rng, torch.is_grad_enabled())

@pytest.mark.parametrize('workers', [0,2])
def test_nothing_changes(photos, tmp_path, workers):
    "Modes, gradients, buffers, random states and the loader's own are what they were, also after an error"
    learn = learner(photos)
    learn.model.train()
    learn.model[1].eval()
    learn.model(torch.rand(2,3,64,64)).sum().backward()
    learn.model[2][0].weight.requires_grad_(False)
    before = state(learn)
    opts = dict(method='gradcam', bs=3, num_workers=workers, embeddings=True, keep='picture')
    save_maps(learn, photos, tmp_path/'maps', **opts)
    assert state(learn)==before
    save_maps(learn, photos, tmp_path/'maps', **opts)
    with pytest.raises(FileExistsError): save_maps(learn, photos, tmp_path/'maps', 'layercam')
    assert state(learn)==before

def test_the_folder_moves(small, tmp_path):
    "Pictures are found by `root=`; without them a map is shown alone, with a warning"
    root,_ = small
    moved = pictures(tmp_path/'pics', 8)
    maps = save_maps(net(), moved, tmp_path/'maps', 'gradcam', prep=prep)
    k = next(iter(maps))
    moved.rename(tmp_path/'elsewhere')
    with pytest.warns(UserWarning, match='root='): assert open_maps(tmp_path/'maps')[k].img is None
    h = open_maps(tmp_path/'maps', tmp_path/'elsewhere')[k]
    assert h.img.size==h.shape[::-1]
    again = save_maps(net(), tmp_path/'elsewhere', tmp_path/'maps', 'gradcam', prep=prep)
    assert len(again)==8 and again[k].img is not None
