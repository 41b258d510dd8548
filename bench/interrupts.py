"""KeyboardInterrupt at random moments of everything that runs a model: what is left on the model or in PyTorch?

An interrupt comes as Ctrl-C does (SIGINT), or as an exception that another thread raises in this one, which comes
between any two steps of Python. Run again with the same seed, the moments are drawn again, and fall elsewhere: they are
times."""
import argparse, ctypes, io, os, pickle, random, signal, threading, time, warnings
from collections import Counter
from fastai.vision.all import *
from fastattn.all import *
from fastattn.core.hooks import rng_state
from fastattn.detr.model import demo_detr
from torch import overrides
from torch._dynamo import eval_frame
from common import write
import copy # fastai has a function of that name

_hooks = '_forward_hooks','_forward_pre_hooks','_backward_hooks','_backward_pre_hooks'

def standing(model, rng=True):
    "All that may be left changed, as something to compare"
    res = dict(hooks=[sum(len(getattr(m, k)) for k in _hooks) for m in model.modules()],
               modes=[m.training for m in model.modules()],
               forward=[m.__dict__.get('forward') for m in model.modules()],
               requires_grad=[p.requires_grad for p in model.parameters()],
               grad_of=[None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
               weights=[p.detach().double().sum().item() for p in model.parameters()],
               buffers=[b.double().sum().item() for b in model.buffers()],
               stance=eval_frame._stance.stance, grad=torch.is_grad_enabled(), inference=torch.is_inference_mode_enabled(),
               fastpath=torch.backends.mha.get_fastpath_enabled(), cudnn=torch.backends.cudnn.enabled,
               modes_of_functions=overrides._len_torch_function_stack(), autocast=torch.is_autocast_enabled('cpu'))
    if rng: res['random'] = [str(s) if not isinstance(s, Tensor) else s.sum().item() for _,s in rng_state()]
    return res

def interrupted(f, secs, kind):
    "Call `f`, and interrupt it after `secs`; was it?"
    main,go = threading.get_ident(),threading.Event()
    def _raise():
        go.wait()
        time.sleep(secs)
        if kind=='signal': os.kill(os.getpid(), signal.SIGINT)
        else: ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(KeyboardInterrupt))
    t,hit = threading.Thread(target=_raise, daemon=True),False
    t.start()
    try:
        go.set()
        f()
        hit = None # it came to its end first
        t.join()
        time.sleep(.01)
    except KeyboardInterrupt: hit = hit is not None
    t.join()
    return hit

def classifier(seed=0):
    set_seed(seed)
    return Learner(demo_dls(n=48, size=32, bs=8), demo_arch(), loss_func=CrossEntropyLossFlat(), metrics=accuracy)

def scenarios(seed):
    "`{name: (model, function, are random numbers restored?)}`"
    res,learn = {},classifier(seed)
    x,_ = learn.dls.valid.one_batch()
    learn.model.train()
    learn.model[2].eval() # modes of its own
    vit = demo_vit(size=32).train()
    for m in ('auto','gradcam','layercam','scorecam','ablationcam','fullgrad','deeplift','integrated_gradients',
              'guided_backprop','occlusion','rise','saliency'):
        few = dict(rise=dict(masks=200), integrated_gradients=dict(steps=8), occlusion=dict(window=16, stride=8)).get(m, {})
        res[m] = learn.model,partial(explain, learn, x[:4], m, **few),True
    for m in ('auto','rollout','relevance','legrad','value_attention','gradcam'):
        res[f'vit {m}'] = vit,partial(explain, vit, x, m),True
    pic = learn.dls.valid_ds.items[0]
    res['picture'] = learn.model,partial(explain, learn, pic, smooth=2, tta=True),True
    def traced(cls, m):
        with cls(m, '*'), torch.no_grad(): m(x)
    net = learn.model
    still = copy.deepcopy(net).eval()
    res['Trace'] = still,lambda: traced(Trace, still),True
    def attention():
        with AttentionTrace(vit), torch.no_grad(): vit(x)
    vit2 = copy.deepcopy(vit).eval()
    def attention2():
        with AttentionTrace(vit2), torch.no_grad(): vit2(x)
    res['AttentionTrace'] = vit2,attention2,True
    res['sanity_check'] = net,lambda: sanity_check(learn, x[:2], 'gradcam'),True
    res['insertion'] = net,lambda: insertion(learn, x[:2], explain(learn, x[:2])),True
    res['dream'] = net,lambda: visualize_class(learn, learn.dls.vocab[0], steps=4, size=32),True
    res['similar_to'] = net,lambda: explain(learn, x[:2], target=similar_to(learn, x[:1])),True
    res['tell'] = net,lambda: tell(learn, list(learn.dls.valid_ds.items[:3])),True
    detr,dx = demo_detr().eval(),torch.rand(1,3,64,64)
    res['detr'] = detr,lambda: DetrAttention(detr, dx),True
    trained = classifier(seed)
    trained.add_cb(AttentionRecorder(every=1, watch=2))
    def fit():
        with trained.no_bar(), trained.no_logging(): trained.fit(1)
    res['recorder'] = trained.model,fit,False
    return res,trained

def compare(before, after, skip=()):
    return [k for k in before if k not in skip and before[k]!=after[k]]

def trial(name, model, f, rng, n, rnd):
    "Interrupt `f` `n` times; what was left, by name, and how many came in time"
    warnings.simplefilter('ignore')
    f() # layers are found, libraries are loaded
    def _seconds(): t = time.perf_counter(); f(); return time.perf_counter()-t
    secs = min(_seconds() for _ in range(3))
    left,hits = Counter(),0
    training = () if rng else ('grad_of','weights','buffers','modes','random')
    for i in range(n):
        before = standing(model, rng)
        # half of them near the beginning and the end, where things are set up and put back
        at = rnd.choice([rnd.random(), rnd.random()**4, 1-rnd.random()**4])*secs*.9
        hit = interrupted(f, at, ('signal','thread')[i%2])
        hits += bool(hit)
        for k in compare(before, standing(model, rng), training): left[k] += 1
        if hit and i%10==0:
            try: copy.deepcopy(model); pickle.dumps(model)
            except Exception as e: left[f'copy: {type(e).__name__}'] += 1
        if left: break # what comes later would be counted again
    plt.close('all')
    return dict(tried=i+1, in_time=hits, left=dict(left), seconds=round(secs, 3))

def injected(learn, n, rnd):
    "Exceptions raised inside a training that is recorded: in a module's forward pass, or by another callback"
    left,raised = Counter(),0
    events = 'before_batch','after_pred','after_loss','after_step','after_batch','after_train','before_validate','after_epoch'
    for i in range(n):
        error,at,count = rnd.choice([RuntimeError,KeyboardInterrupt,ValueError,MemoryError]),rnd.randrange(6),[0]
        def _boom(*args):
            count[0] += 1
            if count[0]>at: raise error('injected')
        before = standing(learn.model, False)
        cb = Callback(after_create=noop)
        cb.order = rnd.choice([-20,20,54,56,90])
        if i%2: setattr(cb, rnd.choice(events), lambda: _boom())
        else: hook = rnd.choice(list(learn.model.modules())).register_forward_pre_hook(_boom)
        try:
            with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=cb if i%2 else None)
        except error: raised += 1
        if not i%2: hook.remove()
        for k in compare(before, standing(learn.model, False), ('grad_of','weights','buffers','modes')): left[k] += 1
        try: copy.deepcopy(learn.model); pickle.dumps(learn.model)
        except Exception as e: left[f'copy: {type(e).__name__}'] += 1
    return dict(tried=n, raised=raised, left=dict(left))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=40, help='interrupts of each scenario')
    p.add_argument('--injected', type=int, default=80, help='exceptions injected into trainings')
    p.add_argument('--only', default='', help='names, separated by commas')
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    rnd,res = random.Random(a.seed),{}
    todo,trained = scenarios(a.seed)
    for k,(m,f,rng) in todo.items():
        if a.only and k not in a.only.split(','): continue
        res[k] = trial(k, m, f, rng, a.n, rnd)
        print(k, res[k], flush=True)
    inside = injected(trained, a.injected, rnd)
    print('injected', inside)
    if not a.only: write('interrupts', what='interrupts at random moments, and after how many something was left',
                         seed=a.seed, interrupts=sum(r['in_time'] for r in res.values()),
                         left=sum(bool(r['left']) for r in res.values()), injected=inside, scenarios=res)
