"""The recorder beside whatever else a learner has: models it cannot read, compiled ones, other callbacks, other data"""
import warnings
import pandas as pd, PIL.Image, pytest, timm, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.preds import MCDropoutCallback
from fastai.vision.all import (BnFreeze, Callback, CancelFitException, CategoryBlock, CropPad, CrossEntropyLossFlat,
                               CSVLogger, CutMix, DataBlock, EarlyStoppingCallback, GradientAccumulation, GradientClip,
                               ImageBlock, ImageDataLoaders, Learner, MixedPrecision, MixUp, Path, ProgressCallback,
                               RandomResizedCrop, RandomSplitter, ReduceLROnPlateau, Resize, ResizeMethod,
                               SaveModelCallback, ShortEpochCallback, ShowGraphCallback, TerminateOnNaNCallback,
                               Transform, accuracy, get_image_files, nn, parent_label, set_seed)
from fastattn.all import AttentionRecorder, demo_boxes, demo_mask
from fastattn.data.demo import demo_path
from fastattn.callback import settling # methods of the recorder
from blocks import dls_of, files, learner_of

def conv(ni, nf): return nn.Sequential(nn.Conv2d(ni,nf,3,2,1), nn.BatchNorm2d(nf), nn.ReLU(), nn.Dropout(.1))
def small():
    return nn.Sequential(conv(3,8), conv(8,16), conv(16,16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16,8))

def fit(model, *cbs, n=1, dls=None, **kwargs):
    "The warnings of a training, its learner and recorder"
    rec = AttentionRecorder(every=1, **{'watch':2, **kwargs})
    learn = Learner(dls or dls_of('category', bs=4), model, loss_func=CrossEntropyLossFlat(), metrics=accuracy,
                    cbs=[rec,*cbs])
    with warnings.catch_warnings(record=True) as ws, learn.no_logging():
        warnings.simplefilter('always')
        learn.fit(n)
    return [str(w.message) for w in ws if 'AttentionRecorder' in str(w.message)],learn,rec

def fit_aloud(model):
    learn = Learner(dls_of('category', bs=4), model, loss_func=CrossEntropyLossFlat(), cbs=AttentionRecorder())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

class Fails(nn.Module):
    "Fails on three images, which are watched, and never a batch of a training"
    def __init__(self): super().__init__(); self.body = small()
    def forward(self, x):
        if len(x)==3: raise RuntimeError('an odd number, please\nand more')
        return self.body(x)

@pytest.mark.parametrize('model,says', [
    (nn.Sequential(nn.Flatten(), nn.Linear(3*64*64,8)), 'no statistics or heatmaps: This model has no spatial'),
    (Fails(), 'no heatmaps: RuntimeError: an odd number, please.')])
def test_a_model_that_cannot_be_read(model, says):
    ws,_,rec = fit(model, n=2, watch=3)
    assert len(ws)==1 and 'The training goes on' in ws[0] and says in ws[0] and not rec.snapshots

def test_the_error_of_the_model_is_its_own():
    vit = timm.create_model('vit_tiny_patch16_224', depth=1, num_classes=8)
    with pytest.raises(AssertionError, match='Input height'), pytest.warns(UserWarning, match='The training goes on'):
        fit_aloud(vit)

def test_without_a_validation_set():
    block = DataBlock((ImageBlock,CategoryBlock), get_y=parent_label, splitter=RandomSplitter(0))
    ws,_,rec = fit(small(), dls=block.dataloaders(files(), bs=4, num_workers=0))
    assert len(ws)==1 and 'no validation images to watch' in ws[0] and len(rec.stats) and not rec.snapshots

def test_what_the_user_got_wrong_is_an_error():
    for kwargs in (dict(method='gradcamm'), dict(layers='layr*'), dict(layer='layr'), dict(finner=1)):
        says = next((v for v in kwargs.values() if isinstance(v, str)), 'finner').strip('*')
        with pytest.raises((ValueError,TypeError), match=says): fit(small(), **kwargs)

def test_the_last_epoch_is_kept():
    class Stops(Callback):
        order = 60
        def after_epoch(self): raise CancelFitException
    first = Stops()
    first.order = 0 # before the recorder's turn
    for stop in (EarlyStoppingCallback('accuracy', min_delta=9), Stops(), first):
        _,learn,rec = fit(small(), stop, n=5)
        assert max(rec.snapshots)==rec.epochs==max(1, len(learn.recorder.values))<5

def test_given_twice():
    rec = AttentionRecorder(every=1, watch=2)
    learn = Learner(dls_of('category', bs=4), small(), loss_func=CrossEntropyLossFlat(), cbs=[rec,rec])
    with pytest.warns(UserWarning, match='given to the learner twice'), learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert rec.iters==len(learn.dls.train) and rec.epochs==1 and not rec.stats.duplicated(['iter','layer']).any()

@pytest.fixture(scope='module')
def eager():
    set_seed(0)
    return fit(small())[1:]

@pytest.mark.parametrize('how', ['module','in place','a part'])
@pytest.mark.parametrize('when', ['before','after'])
def test_compiled(how, when, eager):
    set_seed(0)
    model = small()
    rec = AttentionRecorder(every=1, watch=2)
    learn = Learner(dls_of('category', bs=4), model, loss_func=CrossEntropyLossFlat())
    if when=='after': learn.add_cb(rec)
    if how=='module': learn.model = torch.compile(model, backend='eager')
    else: (model if how=='in place' else model[1]).compile(backend='eager')
    if when=='before':
        with learn.no_bar(), learn.no_logging(): learn.fit(1) # it has been compiled when the recorder comes
        set_seed(0)
        model.load_state_dict(small().state_dict())
        learn.dls,learn.opt = dls_of('category', bs=4),None
        learn.add_cb(rec)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert sorted(rec.snapshots)==[0,1]
    assert rec.stats.layer.tolist()==eager[1].stats.layer.tolist()
    for k in ('mean','std'): assert rec.stats[k].tolist()==pytest.approx(eager[1].stats[k].tolist(), abs=1e-5)
    for a,b in zip(model.state_dict().values(), eager[0].model.state_dict().values()): assert torch.equal(a, b)

def test_larger_images():
    def _dls(size):
        return ImageDataLoaders.from_folder(demo_path(n=64), item_tfms=Resize(size), bs=8, num_workers=0)
    _,learn,rec = fit(small(), dls=_dls(64))
    labels = rec.labels
    learn.dls = _dls(96)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert {e:h.shape[-1] for e,h in rec.snapshots.items()}=={0:64, 1:64, 2:96} and rec.labels==labels
    rec.plot_snapshots()

combinations = [
    [MixUp, lambda: GradientAccumulation(8), SaveModelCallback, CSVLogger],
    [CutMix, lambda: GradientClip(.1), ReduceLROnPlateau, ShowGraphCallback],
    [MixedPrecision, ChannelsLast, TerminateOnNaNCallback, BnFreeze],
    [lambda: ShortEpochCallback(.5), MCDropoutCallback, ProgressCallback]]

@pytest.mark.parametrize('makers', combinations, ids=range(len(combinations)))
def test_other_callbacks(makers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ws,learn,rec = fit(small(), *[m() for m in makers], n=2)
    assert not ws and sorted(rec.snapshots)==[0,1,2] and len(rec.stats)
    assert not sum(len(m._forward_hooks)+len(m._forward_pre_hooks) for m in learn.model.modules())

def folder_dls(**kwargs): return ImageDataLoaders.from_folder(demo_path(n=64), bs=8, num_workers=0, **kwargs)

transforms = [CropPad(96), CropPad(40), RandomResizedCrop(48), Resize(40, 'squish'), Resize((32,64), 'crop'),
              Resize((48,80), ResizeMethod.Pad, pad_mode='zeros')]

@pytest.mark.parametrize('tfm', transforms, ids=range(len(transforms)))
def test_objects_follow_the_transforms(tfm):
    "Where a picture is its own mask, what the model sees is the mask to compare with"
    def _file(f): return demo_path(n=64)/'masks'/Path(f).relative_to(demo_path(n=64))
    _,_,seen = fit(small(), dls=folder_dls(item_tfms=tfm), masks=demo_mask)
    block = DataBlock((ImageBlock,CategoryBlock), get_items=lambda p: get_image_files(p, folders=['train','valid']),
                      get_x=_file, get_y=parent_label, splitter=lambda fs: [[i for i,f in enumerate(fs) if g in f.parts]
                                                                            for g in ('train','valid')], item_tfms=tfm)
    alike = block.dataloaders(demo_path(n=64), bs=8, num_workers=0).valid_ds
    where = {f:i for i,f in enumerate(alike.items)}
    dl = block.dataloaders(demo_path(n=64), bs=len(where), num_workers=0).valid
    x = dl.one_batch()[0]
    for f,m in zip(seen._items, seen._objects):
        inside = x[where[f]].mean(0)>.5
        assert inside.shape==m.shape and inside.any() and (inside!=m).float().mean()<.02

@pytest.mark.parametrize('kind,kwargs,known', [
    ('multi',{},False), ('multi',dict(boxes=demo_boxes),True), ('masks',{},True), ('points',dict(masks=demo_mask),True),
    ('two_targets',dict(boxes=demo_boxes),True), ('regression',{},False)])
def test_settling_of_any_labels(kind, kwargs, known):
    learn = learner_of('vision_learner', kind)
    rec = AttentionRecorder(watch=2, **kwargs)
    learn.add_cb(rec)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    df = rec.settling
    assert len(df)==4 and df.auc_inside.notna().all()==known and (df[df.epoch==1].with_last>.999).all()
    assert len(rec.plot_settling().axes)==1+known

def test_objects_of_table_rows():
    root = demo_path(n=64)
    names = [f.relative_to(root).as_posix() for f in get_image_files(root, folders=['train','valid'])]
    df = pd.DataFrame(dict(f=names))
    df = df.assign(label=df.f.map(parent_label), is_valid=df.f.str.startswith('valid'))
    def _dls(): return ImageDataLoaders.from_df(df, root, valid_col='is_valid', bs=8, num_workers=0)
    for kwargs in (dict(masks=lambda r: demo_mask(root/r.f)), dict(boxes=lambda r: demo_boxes(root/r.f)),
                   dict(masks=[demo_mask(root/f) for f in df[df.is_valid].f])):
        ws,_,rec = fit(small(), dls=_dls(), **kwargs)
        assert not ws and rec.settling.pointing.notna().all()

class Tilted(Transform):
    def encodes(self, o:PIL.Image.Image): return type(o)(o.rotate(30))

def test_no_localisation():
    "What cannot be measured gives one warning, and the heatmaps are recorded all the same"
    turned = folder_dls(item_tfms=Tilted())
    for dls,kwargs,says in ((turned, dict(masks=demo_mask), 'do more to a picture than crop'),
                            (None, dict(masks=lambda f: 1/0), 'division by zero'),
                            (None, dict(masks=lambda f: 'x'), 'one number for each pixel'),
                            (None, dict(boxes=lambda f: (.1,.1,.9,.9)), 'not in the pixels of its picture'),
                            (None, dict(boxes=lambda f: [3,4]), 'a box is (x0,y0,x1,y1)')):
        ws,_,rec = fit(small(), dls=dls, n=2, **kwargs)
        assert len(ws)==1 and 'records no localisation' in ws[0] and says in ws[0]
        assert sorted(rec.snapshots)==[0,1,2] and rec.settling.auc_inside.isna().all()

def test_other_images_settle_anew():
    "After progressive resizing, maps are compared on the last grid, and objects are those of the new size"
    ws,learn,rec = fit(small(), dls=folder_dls(item_tfms=Resize(64)), masks=demo_mask)
    learn.dls = folder_dls(item_tfms=Resize(96))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not ws and rec.settling.notna().drop(columns='with_previous').all().all() and len(rec.settling)==6
    assert rec._objects[0].shape==(96,96)
