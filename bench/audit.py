"""Is `audit_maps` right? On the demo network and on EfficientNet-Lite0, whose images have masks: does the order of
methods by an audit that knows no mask agree with their order by true masks, do the same methods share the top group
with other images, and are methods that are wrong on purpose found? The score was not tuned: its families count alike.

The order by masks is that of the mean of pointing, overlap at equal area and average precision, on the same images.
`--small` is a quick run for trying it out."""
import argparse, collections, time, warnings
import numpy as np, torch
from scipy.stats import kendalltau
from fastattn.all import *
from fastattn.metrics.audit import audit_maps
from fastattn.metrics.measuring import Auditor
from fastattn.metrics.subset import subset
from objects import located, composites, network, normed
from common import write
warnings.filterwarnings('ignore')

eight = ['gradcam','pyramidcam','layercam','gradcam_plus_plus','eigencam','saliency','input_x_gradient',
         'guided_backprop']
wrong = ['constant','shuffled_gradcam','edges']

def register_wrong():
    "Three methods that are wrong on purpose"
    @explainer(by_class=False)
    def constant(p): return torch.ones(len(p.x), 8, 8)

    @explainer(grad=True)
    def shuffled_gradcam(p):
        m = explainers['gradcam'].f(p)[0]
        order = torch.randperm(m[0].numel(), generator=torch.Generator().manual_seed(0)).to(m.device)
        return m.flatten(1)[:,order].view_as(m)

    @explainer(by_class=False, pixels=True)
    def edges(p):
        g = p.x.mean(1, keepdim=True)
        return (g[:,:,1:,:-1]-g[:,:,:-1,:-1]).abs()[:,0]+(g[:,:,:-1,1:]-g[:,:,:-1,:-1]).abs()[:,0]

def by_masks(learn, s, masks, methods):
    "`{method: (n,)}`: how well the maps of a `Subset` match masks, the mean of three measures"
    maps = Auditor(learn, s, {m:{} for m in methods}).explained(s.x, s.target)
    return {m:to_np(torch.stack([v.float() for v in located(h, masks).values()]).mean(0)) for m,h in maps.items()}

def to_np(t): return t.detach().cpu().numpy()

def agreement(score, truth, seed=0, draws=500):
    "Kendall's tau between scores and the means of `{method: (n,)}`, and its 95 % interval over images"
    names = list(score)
    v = np.stack([truth[m] for m in names])
    def _tau(w): return kendalltau([score[m] for m in names], w.mean(1))[0]
    g = np.random.default_rng(seed)
    taus = [_tau(v[:,g.integers(0, v.shape[1], v.shape[1])]) for _ in range(draws)]
    return dict(tau=round(float(_tau(v)), 2), interval=[round(float(o), 2) for o in np.quantile(taus, [.025,.975])])

def one(learn, x, masks_of, methods, n, seed):
    "One audit and what masks say: the table's essence"
    start = time.time()
    a = audit_maps(learn, x, methods, n=n, seed=seed)
    secs = time.time()-start
    s = subset(learn, x, n, seed)
    honest = [m for m in methods if m not in wrong and m in a.index]
    truth = by_masks(learn, s, masks_of(s), honest)
    return dict(seed=seed, seconds=round(secs, 1), top=sorted(a.index[a.group==1]),
                called_out=sorted(a.index[a.group==0]),
                score={m:round(float(a.score[m]), 3) for m in a.index},
                by_masks={m:round(float(v.mean()), 3) for m,v in truth.items()},
                **agreement({m:a.score[m] for m in honest}, truth, seed))

def summary(runs, **about):
    "What the audits of several seeds say together"
    tops = collections.Counter(tuple(r['top']) for r in runs)
    most,times = tops.most_common(1)[0]
    n = len(runs)
    return dict(**about, methods=eight, wrong_on_purpose=wrong,
                most_frequent_top_group=dict(methods=list(most), of_runs=[times,n]),
                wrong_called_out=[sum(set(wrong)<=set(r['called_out']) for r in runs), n],
                honest_called_out=sum(len(set(r['called_out'])-set(wrong)) for r in runs),
                tau_mean=round(float(np.mean([r['tau'] for r in runs])), 2), runs=runs)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('-n', type=int, default=64); p.add_argument('--repeats', type=int, default=10)
    p.add_argument('--composites', type=int, default=0, help='images for EfficientNet-Lite0 (minutes); 0 leaves it out')
    p.add_argument('--small', action='store_true')
    a = p.parse_args()
    if a.small: a.n,a.repeats = 12,2
    register_wrong()
    learn = demo_learner()
    def masks_of(s): return demo_masks(list(s.items))
    start = time.time()
    audit_maps(learn, None, eight, n=a.n, seed=99)
    timed = round(time.time()-start, 1)
    print('8 methods:', timed, 's', flush=True)
    runs = []
    for seed in range(a.repeats):
        runs.append(one(learn, None, masks_of, eight+wrong, a.n, seed))
        print(runs[-1], flush=True)
    res = summary(runs, images=a.n, seconds_of_8_methods=timed, threads=torch.get_num_threads())
    if a.composites:
        ims,masks,_ = composites(a.composites, 1)
        res['imagenet'] = one(network(), normed(ims), lambda s: masks[s.idxs], eight+wrong, min(a.n, len(ims)), 0)
        print(res['imagenet'], flush=True)
    if not a.small: write('audit', **res)
