"""The recorder beside whatever else a learner has: models it cannot read, compiled ones, other callbacks, other data"""
import warnings
import pytest, timm, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.preds import MCDropoutCallback
from fastai.vision.all import (BnFreeze, Callback, CancelFitException, CategoryBlock, CrossEntropyLossFlat, CSVLogger,
                               CutMix, DataBlock, EarlyStoppingCallback, GradientAccumulation, GradientClip,
                               ImageBlock, ImageDataLoaders, Learner, MixedPrecision, MixUp, ProgressCallback,
                               RandomSplitter, ReduceLROnPlateau, Resize, SaveModelCallback, ShortEpochCallback,
                               ShowGraphCallback, TerminateOnNaNCallback, accuracy, nn, parent_label, set_seed)
from fastattn.all import AttentionRecorder
from fastattn.data.demo import demo_path
from blocks import dls_of, files

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
