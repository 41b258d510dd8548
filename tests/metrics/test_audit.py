"ROAD and the grid pointing game against the references, and the audit on what users have"
import warnings
from copy import deepcopy
import numpy as np, pandas as pd, pytest, timm, torch
from fastai.vision.all import (BCEWithLogitsLossFlat, ImageDataLoaders, Learner, Tensor, TensorImage, image2tensor, nn,
                               parent_label, set_seed, tensor)
from fastattn.all import *
from fastattn.core.unchanged import rng_state
from fastattn.image.infill import impute
from fastattn.metrics.mosaics import Mosaics
from fastattn.metrics.subset import subset
warnings.filterwarnings('ignore')

@pytest.fixture(scope='module')
def learn(): return demo_learner()

@pytest.fixture(scope='module')
def xb(learn): return learn.dls.valid.one_batch()[0][:3].as_subclass(Tensor)

def test_imputation_is_that_of_grad_cam():
    road = pytest.importorskip('pytorch_grad_cam.metrics.road')
    x,keep = torch.rand(2,3,24,17),torch.rand(2,24,17)>.6
    theirs = torch.stack([road.NoisyLinearImputer(noise=0)(o, k.float()) for o,k in zip(x, keep)])
    assert torch.allclose(impute(x, keep), theirs, atol=1e-6)

@pytest.mark.parametrize('name', ['demo','vit'])
def test_road_is_that_of_grad_cam(name, learn, xb):
    ref = pytest.importorskip('pytorch_grad_cam.metrics.road')
    from pytorch_grad_cam.metrics.perturbation_confidence import (PerturbationConfidenceMetric, RemoveLeastRelevantFirst,
                                                                  RemoveMostRelevantFirst)
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
    torch.manual_seed(0)
    model = learn.model.eval() if name=='demo' else timm.create_model('vit_tiny_patch16_224', img_size=64, depth=2,
                                                                      num_classes=5).eval()
    maps = torch.rand(3,64,64)
    t,ps,quiet = [1,2,3],(20,50,90),ref.NoisyLinearImputer(noise=0)
    def _mean(cls):
        runs = [PerturbationConfidenceMetric(cls(p, quiet))(xb, maps.numpy(), [ClassifierOutputSoftmaxTarget(c) for c in t],
                                                            model) for p in ps]
        return np.mean(runs, 0)
    theirs = (_mean(RemoveLeastRelevantFirst)-_mean(RemoveMostRelevantFirst))/2
    ours = road(model, xb, maps, target=t, percentiles=ps, noise=0)
    assert np.abs(ours.numpy()-theirs).max()<1e-6

def _focus(maps, positions):
    "Focus as in Quantus 0.6: the share of the positive relevance in the quarters of the class"
    res = []
    for m,c in zip(maps, positions):
        h,w = m.shape[0]//2,m.shape[1]//2
        on = np.zeros_like(m)
        on[:h,:w],on[:h,w:],on[h:,:w],on[h:,w:] = c
        p = m.clip(0)
        res.append((on*p).sum()/(p.sum()+1e-9))
    return np.array(res)

def test_grid_pointing_is_focus():
    torch.manual_seed(0)
    ms,maps = Mosaics(torch.zeros(2,3,20,24), [[0,1,2,3]]*2, (2,2)),torch.randn(8,20,24)
    each = np.eye(4).tolist()*2
    theirs = _focus(maps.numpy(), each)
    assert np.abs(ms.inside(maps).flatten().numpy()-theirs).max()<1e-6
    try: from quantus.metrics.localisation.focus import Focus
    except ImportError: return # the formula stands above
    quantus = Focus(disable_warnings=True).evaluate_batch(a_batch=maps.numpy()[:,None], c_batch=each)
    assert np.abs(np.array(quantus)-theirs).max()<1e-6

@pytest.fixture
def wrong():
    "A method that is wrong on purpose in each of three ways, and one that fails"
    @explainer(by_class=False)
    def constant(p): return torch.ones(len(p.x), 8, 8)
    @explainer(grad=True)
    def shuffled(p):
        m = explainers['gradcam'].f(p)[0]
        return m.flatten(1)[:,torch.randperm(m[0].numel(), generator=torch.Generator().manual_seed(0))].view_as(m)
    @explainer(by_class=False, pixels=True)
    def edges(p):
        g = p.x.mean(1)
        return (g[:,1:,1:]-g[:,:-1,:-1]).abs()
    @explainer(by_class=False)
    def broken(p): raise KeyError('layer 7')
    names = ['constant','shuffled','edges','broken']
    yield names
    for n in names: del explainers[n]

def test_wrong_methods_come_last(learn, wrong):
    model,state = deepcopy(learn.model.state_dict()),rng_state(learn)
    a = learn.audit_maps(['gradcam',*wrong], n=16)
    assert a.index[0]=='gradcam' and a.group.tolist()==[1,0,0,0] and set(a.index[1:])==set(wrong[:3])
    assert a.note['constant']=='the same at all positions' and a.note['edges']=='does not depend on what was learned'
    assert a.note['shuffled']=='no better than random maps' and 'layer 7' in a.failed['broken']
    for n in wrong[:3]: assert f'Not {n}' in a.advice
    assert 'broken fails' in a.advice and 'Believe gradcam: it takes' in a.advice
    assert all(torch.equal(v, model[k]) for k,v in learn.model.state_dict().items()) # as it was, also at random
    for (_,u),(_,v) in zip(state, rng_state(learn)): assert str(u)==str(v)

def test_bad_input(learn, xb):
    few = learn.audit_maps(['gradcam','saliency'], n=4)
    assert '4 images are too few for an interval; 8 are the least' in few.advice and few.low.isna().all()
    s = subset(learn, n=64)
    one = audit_maps(learn, [o for o,c in zip(s.items, s.classes) if c==s.classes[0]], ['gradcam'])
    assert 'predicts one class for all' in one.advice and 'There is no grid pointing game' in one.advice and 'grid' not in one
    with pytest.raises(ValueError, match='64 x 32'):
        learn.audit_maps(['gradcam'], n=4, masks=lambda f: np.ones((32,64)))
    class Same(nn.Module):
        def __init__(self): super().__init__(); self.conv = nn.Conv2d(3,4,3)
        def forward(self, x): return self.conv(x).mean((2,3))*0+tensor([0.,1,0,0])
    with pytest.raises(ValueError, match='gives the same answer for all 3 images'): audit_maps(Same().eval(), xb)
    with pytest.raises(ValueError, match='No explainer is called'): learn.audit_maps(['gradcan'])

def test_goes_on_where_it_was(learn, tmp_path):
    first = learn.audit_maps(['gradcam'], n=8, path=tmp_path/'a.json')
    both = learn.audit_maps(['gradcam','saliency'], n=8, path=tmp_path/'a.json')
    whole = learn.audit_maps(['gradcam','saliency'], n=8)
    for k in ('score','road','insertion_blur','grid','mirrored'): assert np.allclose(both[k], whole[k][both.index], atol=1e-6)
    assert first.passes['gradcam']==both.passes['gradcam'] # what was measured is not measured again
    with pytest.raises(ValueError, match='another model'): learn.audit_maps(['gradcam'], n=8, seed=1, path=tmp_path/'a.json')

def test_other_learners(learn, tmp_path):
    "Two classes with one output, several labels, a bare model and a folder, a ViT"
    files = [o for o in learn.dls.valid_ds.items if parent_label(o) in ('cat','skull')][:24]
    dls = ImageDataLoaders.from_path_func(tmp_path, files, parent_label, bs=8, valid_pct=.5, seed=0)
    set_seed(0)
    two = Learner(dls, demo_arch(n_out=1), loss_func=BCEWithLogitsLossFlat())
    dls.c = 2
    a = two.audit_maps(['gradcam','saliency'], n=12)
    assert 'road' in a and len(a)==2
    rows = pd.DataFrame(dict(f=[str(o) for o in files], y=[f'{parent_label(o)} dark' for o in files]))
    many = Learner(ImageDataLoaders.from_df(rows, path='/', label_delim=' ', bs=8, seed=0), demo_arch(n_out=3))
    assert len(many.audit_maps(['gradcam'], n=2))==1
    prep = lambda im: (TensorImage(image2tensor(im)).float()/255-.45)/.225
    assert len(audit_maps(learn.model, learn.dls.path/'valid', ['gradcam'], n=8, prep=prep))==1
    vit = timm.create_model('vit_tiny_patch16_224', img_size=64, depth=2, num_classes=5).eval()
    assert len(audit_maps(vit, torch.randn(2,3,64,64), ['rollout','gradcam']))==2
