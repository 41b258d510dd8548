"""All that fastai's documentation notebook on interpretation does, on the subclasses, with the demo set in the place of
its download; and what bad input says."""
import matplotlib.pyplot as plt, pytest, torch, torch.nn as nn
from fastai.vision.all import (CategoryBlock, DataBlock, ImageBlock, L, PILImageBW, RandomSubsetSplitter,
                               get_image_files, parent_label, set_seed, to_cpu, vision_learner)
from fastai import interpret as theirs
from fastcore.test import test_eq as eq, test_close as close
from fastattn.all import *
from fastattn.data.demo import *
from fastattn.interpret import confused # `plot_confused`

@pytest.fixture(scope='module')
def learn():
    set_seed(0)
    db = DataBlock(blocks=(ImageBlock(cls=PILImageBW), CategoryBlock),
                   get_items=lambda p: get_image_files(p, folders=['train','valid']),
                   splitter=RandomSubsetSplitter(.5,.3, seed=42), get_y=parent_label)
    return vision_learner(db.dataloaders(demo_path(n=160), bs=8, num_workers=0), demo_arch, n_in=1, pretrained=False)

def whole(learn, dl):
    x,y,out = [],[],[]
    with torch.no_grad():
        for b in dl: x += b[0]; y += b[1]; out += learn.model(b[0])
    return torch.stack(x),torch.stack(y),torch.stack(out)

@pytest.mark.parametrize('ds_idx', [1,0])
def test_all_items(learn, ds_idx):
    interp = Interpretation.from_learner(learn, ds_idx=ds_idx)
    x,y,out = whole(learn, learn.dls[ds_idx].new(drop_last=False, shuffle=False))
    inps,preds,targs,decoded,losses = interp[:]
    eq(inps, to_cpu(x)); eq(targs, to_cpu(y))
    close(losses, torch.stack([learn.loss_func(p,t) for p,t in zip(out,y)]), 1e-4)

def test_stored_losses(learn):
    interp = Interpretation.from_learner(learn)
    top,idx = interp.top_losses(9)
    dl = learn.dls.test_dl(L(learn.dls[1].items)[idx], with_labels=True)
    *_,losses = learn.get_preds(dl=dl, with_input=True, with_loss=True, with_decoded=True, act=None, reorder=False)
    close(top, losses, 1e-3)
    eq(len(interp.top_losses()[0]), len(learn.dls.valid_ds))
    eq(len(interp.top_losses(4, items=True)[2]), 4)
    assert (interp.top_losses(4, largest=False)[0].diff()>=0).all()

def test_confusion(learn, capsys):
    interp,plain = (c.from_learner(learn) for c in (ClassificationInterpretation, theirs.ClassificationInterpretation))
    eq(interp.confusion_matrix(), plain.confusion_matrix())
    eq(interp.most_confused(min_val=2), plain.most_confused(min_val=2))
    interp.plot_confusion_matrix(normalize=True, figsize=(4,4)); plt.close('all')
    interp.print_classification_report(); a = capsys.readouterr().out
    assert 'precision' in a and 'umbrella' in a

def pictures(fig): return sum(len(ax.images) for ax in fig.axes)

def test_plot_confused(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    a,b,m = interp.most_confused()[0]
    fig = interp.plot_confused(a, b, k=2)
    heads = [o.get_suptitle() for o in fig.subfigs[0].subfigs]
    assert heads[0].startswith(f'{a} taken for {b}') and (f'(2 of {m})' in heads[0])==(m>2) and pictures(fig)>=4
    v = learn.dls.vocab
    eq(pictures(interp.plot_confused(v.o2i[a], v.o2i[b], k=2, method='saliency')), pictures(fig)) # a signed method
    never = next(i for i in range(len(v)) if interp.confusion_matrix()[v.o2i[a],i]==0 and v[i]!=a)
    for args,says in (((a,v[never]), f"No image of '{a}' is taken for '{v[never]}'; `plot_confused"), ((a,a), 'itself'),
                      (('umbrela',None), "close names: 'umbrella'"), ((99,None), 'out of range')):
        with pytest.raises(ValueError, match=says): interp.plot_confused(*args)
    with pytest.raises(TypeError, match='no option'): interp.plot_confused(a, b, method='gradcam', finner=1)

def test_plot_confused_follows_the_learner(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    was = interp._answers()
    assert interp._answers() is was
    with torch.no_grad(): learn.model[-1][-1].weight.add_(.01)
    assert interp._answers() is not was
    with torch.no_grad(): learn.model[-1][-1].weight.sub_(.01)

def drawn(f):
    plt.close('all'); f()
    fig = plt.gcf()
    return [(ax.get_title(), [im.get_array().tolist() for im in ax.get_images()]) for ax in fig.axes]

def test_without_heatmap_it_is_fastais(learn):
    ours,plain = Interpretation.from_learner(learn),theirs.Interpretation.from_learner(learn)
    for k in (4, range(2,6)):
        assert drawn(lambda: ours.plot_top_losses(k, nrows=2))==drawn(lambda: plain.plot_top_losses(k, nrows=2))
    assert drawn(lambda: ours.show_results([0,3]))==drawn(lambda: plain.show_results([0,3]))
    assert isinstance(ours.plot_top_losses(2, return_fig=True), plt.Figure)
    plt.close('all')

def test_with_heatmap(learn):
    interp = ClassificationInterpretation.from_learner(learn)
    assert (isinstance(interp, theirs.ClassificationInterpretation) and isinstance(interp, Interpretation) and
            isinstance(interp, theirs.Interpretation))
    for k in (4, range(2,6), [0,-1]):
        fig = interp.plot_top_losses(k, heatmap=True)
        assert (isinstance(fig, plt.Figure) and
                sum(bool(ax.get_images()) for ax in fig.axes)==(k if isinstance(k,int) else len(k)))
    title = interp.plot_top_losses(1, heatmap=True).axes[0].get_title()
    i = interp.top_losses(1)[1].item()
    _,p,t,d,_ = interp[i]
    v = learn.dls.vocab
    assert (f'pred: {v[d[0]]} {p[0][d[0]]:.2f}' in title and f'actual: {v[t[0]]} {p[0][t[0]]:.2f}' in title and
            interp.dl.items[i].name in title)
    assert len(plt.get_fignums())==1 # the last one stays open, as after fastai's own

def test_one_batched_pass(learn):
    "All k heatmaps come from one pass over one batch"
    interp,calls = Interpretation.from_learner(learn),[]
    interp.heatmaps(range(3)) # the search for the layer is done once
    h = learn.model[1].register_forward_pre_hook(lambda m,a: calls.append(len(a[0])))
    try: interp.heatmaps(range(7))
    finally: h.remove()
    assert calls==[7]

@pytest.mark.parametrize('f,says', [
    (lambda i: i.plot_top_losses(10**5), 'k=100000 is out of range'),
    (lambda i: i.plot_top_losses(10**5, heatmap=True), 'k=100000 is out of range'),
    (lambda i: i.plot_top_losses(2, heatmap=True, layer='0.layr'), 'close names'),
    (lambda i: i.plot_top_losses(2, heatmap=True, target='umbrela'), "close names: 'umbrella'"),
    (lambda i: i.plot_top_losses(2, heatmap=True, method='gradcamm'), "No explainer is called 'gradcamm'"),
    (lambda i: i.plot_top_losses(2, heatmap=True, cmap='magmaa'), 'close names')])
def test_bad_input(learn, f, says):
    with pytest.raises(ValueError, match=says): f(Interpretation.from_learner(learn))

def test_bad_files(learn, tmp_path):
    with pytest.raises(FileNotFoundError, match='no.jpg'): explain(learn, tmp_path/'no.jpg')
    (tmp_path/'zero.jpg').touch()
    with pytest.raises(ValueError, match="zero.jpg' is empty"): explain(learn, tmp_path/'zero.jpg')
    (tmp_path/'text.jpg').write_text('hello')
    with pytest.raises(ValueError, match="text.jpg' cannot be read as an image"): explain(learn, tmp_path/'text.jpg')
    with pytest.raises(IsADirectoryError, match='is a folder'): explain(learn, tmp_path)
    with pytest.raises(ValueError, match='nothing to explain'): explain(learn, list(get_image_files(tmp_path/'none')))

@pytest.mark.parametrize('c', [1,5])
def test_channels(c):
    "Models of one and of five channels"
    m = nn.Sequential(nn.Conv2d(c,8,3,2,1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8,3))
    x = torch.rand(2,c,16,16)
    h = explain(m, x)
    assert h.shape==(2,16,16) and h[0].overlay(x[0]).size==(16,16)
    with pytest.raises(ValueError, match=f'takes {c} channels'):
        explain(m, torch.rand(2,c+1 if c==1 else 3,16,16)[:, :0 if c==1 else 3])

def test_no_spatial_features():
    with pytest.raises(ValueError, match='no spatial features'):
        explain(nn.Sequential(nn.Flatten(), nn.Linear(3*64,2)), torch.rand(2,3,8,8))
