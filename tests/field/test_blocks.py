"""Every kind of label on every kind of learner: recorder, top losses, results, a picture, export and load"""
import re, warnings
import matplotlib.pyplot as plt, pytest
from fastai.vision.all import load_learner, parent_label, torch
from fastattn.all import (AttentionRecorder, ClassificationInterpretation, Interpretation, SegmentationInterpretation,
                          explain)
from blocks import architectures, files, kinds, learner_of

cells = [(k,a) for k in kinds for a in architectures if (a=='attention_unet_learner')<=(k=='masks') and
         (k!='masks' or a in ('vision_learner','attention_unet_learner'))]
words = dict( # a pattern for the name of the first watched picture; `{}` is its class
    category='{}', multi=r'(\w+, )*{}(, \w+)*', one_hot='{}', regression=r'0\.\d{{3,4}}', two_numbers=r'[\d.]+, [\d.]+',
    points='2 points', masks='object', one_logit='neg|pos', two_targets=r'{} / 0\.\d+')
above = dict( # a pattern for the titles of top losses
    category=r'pred: \w+ [01]\.\d\d\nactual: \w+ 0\.\d\d\nloss',
    multi=r'pred: (nothing|\w+ 0\.\d\d)', one_hot=r'pred: (nothing|\w+ 0\.\d\d)',
    regression=r'pred: -?[\d.e-]{1,8}\nactual: [\d.]{1,6}\n', two_numbers=r'pred: -?[\d.]{1,8}, -?[\d.]{1,8}\n',
    points=r'off by [\d.]+ px on average\nloss', masks=r'loss \d\.\d{3}   \d+\.png\ninput',
    one_logit=r'pred: (neg|pos) 0\.\d\d\nactual: (neg|pos) 0\.\d\d\n', two_targets=r'actual: \w+ / 0\.\d+\nloss')

def _titles(fig): return [ax.get_title() for ax in fig.axes if ax.images]

@pytest.mark.parametrize('kind,arch', cells, ids=lambda o: o.replace(' ', '_'))
def test_all(kind, arch, tmp_path):
    rec = AttentionRecorder(every=1, watch=2)
    learn = learner_of(arch, kind, cbs=rec)
    with learn.no_bar(), learn.no_logging(), warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*AttentionRecorder')
        learn.fit(1)
    assert sorted(rec.snapshots)==[0,1] and len(rec.stats)
    pattern = words[kind].format(parent_label(learn.dls.valid_ds.items[rec.idxs[0]]))
    assert re.fullmatch(pattern, rec.labels[0]), rec.labels
    assert len(set(rec.titles.values()))==len(rec.titles) and not set(rec.titles.values())&set(rec.titles)
    cls = SegmentationInterpretation if kind=='masks' else ClassificationInterpretation
    if not hasattr(learn.dls, 'vocab') and kind!='masks': cls = Interpretation
    with learn.no_bar(): interp = cls.from_learner(learn)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*are empty')
        for target in ('pred','actual','both'):
            fig = interp.plot_top_losses(2, heatmap=True, target=target)
            titles = _titles(fig)
            assert not any(l.endswith(':') for t in titles for l in t.splitlines())
            assert re.match(above[kind], titles[0]), titles[0]
        if kind in ('regression','two_numbers','points'): assert len(titles)==2 # there is one map
        learn.show_results(heatmap=True, max_n=2)
        h = explain(learn, files()[0])
        learn.export(tmp_path/'model.pkl')
        again = explain(load_learner(tmp_path/'model.pkl'), files()[0])
    torch.testing.assert_close(again.as_subclass(torch.Tensor), h.as_subclass(torch.Tensor), atol=1e-4, rtol=0)
    plt.close('all')
