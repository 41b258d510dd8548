"""What the recorder and top losses send to fastai's callbacks for TensorBoard and Weights & Biases, as these read it"""
import pytest
from fastai.vision.all import resnet18, vision_learner
from fastattn.all import AttentionRecorder, Interpretation
from fastattn.callback.dashboards import has_dashboard
from blocks import dls_of

def _fit(cb, n=2):
    cbs = [AttentionRecorder(every=1, watch=2),cb]
    learn = vision_learner(dls_of('category', bs=4), resnet18, pretrained=False, cbs=cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(n)
    return learn

def test_tensorboard(tmp_path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    learn = _fit(TensorBoardCallback(log_dir=tmp_path, trace_model=False, log_preds=False))
    with learn.no_bar(): Interpretation.from_learner(learn).log_top_losses(2)
    assert has_dashboard(learn)
    learn.tensor_board.writer.close()
    read = EventAccumulator(str(tmp_path)).Reload()
    n = len(learn.dls.train)
    assert [e.step for e in read.Images('heatmaps')]==[0,n,2*n]
    assert [e.step for e in read.Images('top losses')]==[2*n]
    ours = [t for t in read.Tags()['scalars'] if t.startswith('mean of layers/')]
    assert len(ours)==len(learn.attention_recorder.names)
    assert [e.step for e in read.Scalars(ours[0])]==[e.step for e in read.Scalars('valid_loss')]
    df = learn.attention_recorder.stats
    layer = learn.attention_recorder.names[0]
    want = df[(df.layer==layer)&(df.epoch==1)]['mean'].mean()
    tag = next(t for t in ours if t.endswith(learn.attention_recorder.titles[layer]))
    assert read.Scalars(tag)[-1].value==pytest.approx(want, rel=1e-4)

def test_wandb(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    from fastai.callback import wandb as theirs
    monkeypatch.setattr(theirs, '_format_config', lambda config: {}) # in fastai 2.8.12 it fails on any number
    monkeypatch.setenv('WANDB_SILENT', 'true')
    sent = []
    run = wandb.init(mode='offline', dir=str(tmp_path), project='fastattn')
    log = wandb.log
    monkeypatch.setattr(wandb, 'log', lambda d, step=None, **kw: sent.append((step,d)) or log(d, step=step, **kw))
    try:
        learn = _fit(theirs.WandbCallback(log=None, log_preds=False))
        with learn.no_bar(): Interpretation.from_learner(learn).log_top_losses(2)
    finally: run.finish()
    pictures = [(s,k,type(v).__name__) for s,d in sent for k,v in d.items() if k in ('heatmaps','top losses')]
    n = len(learn.dls.train)
    steps = [(0,'heatmaps'),(n-1,'heatmaps'),(2*n-1,'heatmaps'),(2*n-1,'top losses')]
    assert pictures==[(*o,'Image') for o in steps]
    def _steps(start): return {s for s,d in sent if any(k.startswith(start) for k in d)}
    assert _steps('mean of layers/')==_steps('valid_loss')
    assert list(tmp_path.rglob('media/images/heatmaps*.png'))
