"""Two processes train one model: rank 0 records, neither waits for the other, and both learn what they learn without

PyTorch's gloo connects them on the CPU. What fastai and PyTorch do on GPUs only, sending indices and synchronising
batch norm, is replaced by the same on the CPU. Both still wait for the other process: whoever is alone hangs."""
import json, os, subprocess, sys
import pytest, torch
from fastai.vision.all import CrossEntropyLossFlat, Learner, set_seed
from safetensors.torch import load_file
from fastattn.all import AttentionRecorder, demo_dls, demo_mask

pytest.importorskip('accelerate', reason="fastai's `distrib_ctx` needs accelerate")
pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
                                reason='PyTorch without gloo cannot connect processes on the CPU')

model = '''
from fastai.vision.all import nn
def conv(ni, nf): return nn.Sequential(nn.Conv2d(ni,nf,3,2,1), nn.BatchNorm2d(nf), nn.ReLU(), nn.Dropout(.1))
def small():
    return nn.Sequential(conv(3,8), conv(8,16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16,8))
'''
exec(model) # the same in this process

script = model+'''
import json, os, sys, warnings
from datetime import timedelta as delta
from accelerate.utils import InitProcessGroupKwargs
from fastai.distributed import DistributedDL
from fastai.vision.all import *
from safetensors.torch import save_file
from torch.distributed.nn.functional import all_reduce
from fastai import interpret as theirs
from fastattn.all import *
from fastattn.callback import settling
from fastattn.core.hooks import rng_state
import timm

out,rank,said = Path(sys.argv[1]),rank_distrib(),{}

def _broadcast(self, t, rank):
    t = LongTensor(t)
    torch.distributed.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = _broadcast

def _synced(self, x):
    if not self.training: return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
    x,dims = x.as_subclass(Tensor),[0,*range(2, x.ndim)]
    mean,square = all_reduce(torch.stack([x.mean(dims),(x*x).mean(dims)]))/num_distrib()
    var = square-mean**2
    with torch.no_grad():
        for a,b in ((self.running_mean,mean),(self.running_var,var)): a.lerp_(b, self.momentum)
    def _as(o): return o.view(1, -1, *[1]*(x.ndim-2))
    return (x-_as(mean))/_as(var+self.eps).sqrt()*_as(self.weight)+_as(self.bias)
nn.SyncBatchNorm.forward = _synced
nn.parallel.DistributedDataParallel._passing_sync_batchnorm_handle = noop # it refuses the CPU

def train(learn, *cbs, n=1, inside=noop, sync_bn=True):
    limit = InitProcessGroupKwargs(timeout=delta(seconds=45))
    with learn.no_logging(), learn.distrib_ctx(sync_bn=sync_bn, kwargs_handlers=[limit]), learn.no_bar():
        learn.fit(n, cbs=cbs)
        inside()
    return learn

def left(learn):
    "What is left on a learner"
    ms = list(learn.model.modules())
    hooks = sum(len(m._forward_hooks)+len(m._forward_pre_hooks)+len(m._backward_hooks) for m in ms)
    return hooks + sum('forward' in m.__dict__ for m in ms) + ('_do_epoch' in learn.__dict__)

def weights(learn): return {k:v.clone().contiguous() for k,v in learn.model.state_dict().items()}
def state(learn):
    "Weights, and the states of all random number generators"
    def _number(s): return tensor([hash(str(s.tolist() if isinstance(s, Tensor) else s))])
    return weights(learn) | {f'rng{i}':_number(s) for i,(_,s) in enumerate(rng_state(learn))}

def learner(**kwargs):
    set_seed(0)
    return Learner(demo_dls(n=64, bs=4), small(), loss_func=CrossEntropyLossFlat(), **kwargs)

def error(f):
    try: f()
    except Exception as e: return f'{type(e).__name__}: {e}'

# 1. the same weights with the recorder as without it
rec = AttentionRecorder(every=1, watch=4, masks=demo_mask)
with warnings.catch_warnings(record=True) as ws:
    warnings.simplefilter('always')
    for name,cbs in (('plain',[]),('recorded',[rec])):
        learn = train(learner(), *cbs, n=2)
        save_file(state(learn), str(out/f'{name}{rank}.safetensors'))
        said[f'left {name}'] = left(learn)
said['warnings'] = [str(w.message) for w in ws if 'Recorder' in str(w.message)]
said['synced'] = sum(isinstance(m, nn.SyncBatchNorm) for m in learn.model.modules())

# 2. the record
said |= dict(stats=len(rec.stats), heads=len(rec.heads), snapshots=sorted(rec.snapshots), pictures=len(rec.pictures))
plots = dict(stats=rec.plot_stats, snapshots=rec.plot_snapshots, heads=rec.plot_heads, settling=rec.plot_settling,
             table=lambda: rec.settling)
said['plots'] = {k:error(f) for k,f in plots.items()}
said['files'] = [str(rec.save(out/f'rec{rank}')),str(rec.to_gif(out/f'{rank}.gif'))]

# 3. losses belong to their items, after the context and inside it, on both ranks and on one
def true_losses(learn):
    f = nn.CrossEntropyLoss(reduction='none')
    learn.model.eval()
    with torch.no_grad(): return torch.cat([f(learn.model(x.as_subclass(Tensor)), y.long().as_subclass(Tensor))
                                            for x,y in learn.dls.valid])
def losses(cls=ClassificationInterpretation):
    with learn.no_bar(): return cls.from_learner(learn).losses
def gap(a): return (a.as_subclass(Tensor)-true_losses(learn)).abs().max().item()
said['after'] = gap(losses())
said["fastai's"] = gap(losses(theirs.Interpretation))
if rank==0:
    interp = ClassificationInterpretation.from_learner(learn)
    interp.plot_top_losses(4, heatmap=True)
    said['titles'] = [ax.get_title() for ax in plt.gcf().axes]
    said['want'] = [f'{l:.2f}' for l in true_losses(learn).topk(4)[0].tolist()]
    said['confusion'] = int(interp.confusion_matrix().sum())
learn = learner()
def _inside(): said['inside'] = gap(losses())
train(learn, inside=_inside)

# 4. the learners of this library, with and without synchronised batch norm
def dls(**kwargs): return demo_dls(n=64, bs=4, **kwargs)
vit = timm.create_model('test_vit', img_size=64, num_classes=8, depth=2)
for name,make in dict(
        attention=lambda: attention_learner(dls(), demo_arch, pretrained=False, activation='softmax'),
        gated=lambda: attention_learner(dls(), demo_arch, pretrained=False, unet=True),
        unet=lambda: attention_unet_learner(dls(masks=True), demo_arch, pretrained=False),
        vit=lambda: Learner(dls(), vit, loss_func=CrossEntropyLossFlat())).items():
    set_seed(1)
    rec = AttentionRecorder(every=2, watch=2)
    learn = train(make(), rec, sync_bn=name!='gated')
    said[name] = dict(left=left(learn), epochs=sorted(rec.snapshots), heads=len(rec.heads), labels=rec.labels,
                      method=[h.method for h in rec.snapshots.values()],
                      target=[str(t) for h in rec.snapshots.values() for t in h.target or []])
    save_file(weights(learn), str(out/f'{name}{rank}.safetensors'))

# 5. a compiled part: its statistics take a second forward pass in training mode, on rank 0 alone
learn,rec = learner(),AttentionRecorder(every=1, watch=2)
part = learn.model[1][0]
part._compiled_call_impl = part._call_impl # as `compile()` does, without the seconds
train(learn, rec)
said['compiled'] = dict(stats=len(rec.stats), left=left(learn),
                        buffers=[o.double().sum().item() for o in learn.model.buffers()])

# 6. an error in a batch, on both ranks
class Fails(Callback):
    order = 60 # when the recorder waits for the forward pass
    def before_batch(self):
        if self.training and self.iter==2: raise ValueError('a bad batch')
learn = learner()
said['error'] = error(lambda: train(learn, AttentionRecorder(every=1, watch=2), Fails())),left(learn)
def _wrong(): train(learner(), AttentionRecorder(layers='layr*'))
said['wrong'] = error(_wrong) # on both, so that neither waits

(out/f'{rank}.json').write_text(json.dumps(said))
torch.distributed.destroy_process_group()
'''

def run(path):
    "Start the script twice; kill both and fail where they do not end"
    (path/'script.py').write_text(script)
    env = os.environ|dict(OMP_NUM_THREADS='1', ACCELERATE_USE_CPU='true', MPLBACKEND='Agg', CUDA_VISIBLE_DEVICES='',
                          PYTHONHASHSEED='0', PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    # `accelerate launch --cpu` starts several processes through MPI only
    cmd = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', 'script.py', str(path)]
    p = subprocess.Popen(cmd, cwd=path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try: log,_ = p.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        p.terminate() # `torchrun` ends those that it has started
        pytest.fail(f'The processes wait for each other:\n{p.communicate(timeout=60)[0][-4000:]}')
    assert p.returncode==0, '\n'.join(l for l in log.splitlines() if '^^^' not in l)[-6000:]

@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    "The folder of what the two processes have written, and what each has said"
    path = tmp_path_factory.mktemp('ranks')
    run(path)
    return path,[json.loads((path/f'{r}.json').read_text()) for r in range(2)]

def same(a, b): return a.keys()==b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def test_the_training_is_the_same(ranks):
    path,said = ranks
    plain,recorded = ([load_file(path/f'{k}{r}.safetensors') for r in range(2)] for k in ('plain','recorded'))
    for r in range(2): assert same(plain[r], recorded[r]) # random states included
    weights = [{k:v for k,v in o.items() if not k.startswith('rng')} for o in recorded]
    assert same(*weights) and said[0]['synced']==2
    for s in said: assert s['left plain']==s['left recorded']==0 and not s['warnings']

def test_one_record(ranks):
    path,(zero,one) = ranks
    assert zero['snapshots']==[0,1,2] and zero['stats'] and zero['pictures']==4
    assert not any(one[k] for k in ('stats','heads','snapshots','pictures'))
    assert zero['files']==[str(path/'rec0'),str(path/'0.gif')] and one['files']==[str(path/'rec1'),str(path/'1.gif')]
    assert (path/'0.gif').exists() and not (path/'1.gif').exists() and not (path/'rec1').exists()
    assert [k for k,v in zero['plots'].items() if v]==['heads'] # a CNN has none
    for says in one['plots'].values(): assert says.startswith('ValueError: Only rank 0 records, and this is rank 1;')

def test_it_is_that_of_one_process(ranks):
    path,_ = ranks
    rec = AttentionRecorder.load(path/'rec0')
    set_seed(0)
    alone = AttentionRecorder(every=1, watch=4, masks=demo_mask)
    learn = Learner(demo_dls(n=64, bs=4), small(), loss_func=CrossEntropyLossFlat(), cbs=alone)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert rec.labels==alone.labels and [p.tobytes() for p in rec.pictures]==[p.tobytes() for p in alone.pictures]
    assert rec.names==alone.names and rec.titles==alone.titles and list(rec.stats)==list(alone.stats)
    assert torch.equal(rec.snapshots[0], alone.snapshots[0]) # before the first batch all weights are the same
    assert rec.snapshots[0].target==alone.snapshots[0].target
    assert rec.settling.auc_inside.notna().all()

def test_interpretation(ranks):
    _,said = ranks
    for s in said: assert s['after']<1e-5 and s['inside']<1e-5
    # fastai's own gives items the losses of others; if that ends, `alone` may be simpler
    assert said[0]["fastai's"]>1e-2
    zero = said[0]
    assert all(f'loss {w}'.rstrip('0') in t for w,t in zip(zero['want'], zero['titles'])) and zero['confusion']==16

@pytest.mark.parametrize('name', ['attention','gated','unet','vit'])
def test_learners(ranks, name):
    path,said = ranks
    zero,one = (s[name] for s in said)
    assert zero['left']==one['left']==0
    assert zero['epochs']==[0,1] and not one['epochs'] and bool(zero['heads'])==(name=='vit') and not one['heads']
    assert same(*(load_file(path/f'{name}{r}.safetensors') for r in range(2)))
    if name=='unet': assert zero['labels'] and not any(t.isdigit() for t in zero['target']) # by name

def test_a_second_pass_in_training_mode(ranks):
    _,(zero,one) = ranks
    assert zero['compiled']['stats'] and not one['compiled']['stats'] and zero['compiled']['left']==0
    assert zero['compiled']['buffers']==one['compiled']['buffers']

def test_errors(ranks):
    for s in ranks[1]:
        assert 'a bad batch' in s['error'][0] and s['error'][1]==0
        assert s['wrong'].startswith('ValueError') and 'layr' in s['wrong']
