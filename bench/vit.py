"""Time and memory of attention methods on a ViT-S/16, as ratios to a plain inference forward in the same run;
`python bench/vit.py`"""
import argparse, json, sys
import timm, torch
from fastattn.core.pipeline import explain
from fastattn.attention.trace import AttentionTrace
from common import here, in_child, pairs, peak_mb, write

def model(px): return timm.create_model('vit_small_patch16_224', img_size=px).eval()

@torch.no_grad()
def forward(m, x): return m(x)

@torch.no_grad()
def all_heads(m, x):
    "What storing every head of every layer takes"
    with AttentionTrace(m) as t: m(x)
    return list(t.values())

@torch.no_grad()
def textbook(m, x):
    "Rollout as it is usually written: matrices of the mean over heads, and products of matrices"
    with AttentionTrace(m, heads='mean') as t: m(x)
    n = next(iter(t.values())).shape[-1]
    r = torch.eye(n).expand(len(x),n,n)
    for a in t.values(): r = ((a[:,0]+torch.eye(n))/2) @ r
    return r[:,0,1:]

methods = {n:(lambda m, x, n=n: explain(m, x, n))
           for n in ('attention','rollout','relevance','legrad','grad_rollout','gradcam')}
methods.update(textbook=textbook, all_heads=all_heads, forward=forward)

def memory(name, px, seed):
    torch.manual_seed(seed)
    m,x = model(px),torch.randn(1,3,px,px)
    methods[name](m, x) if name!='all_heads' else methods['attention'](m, x) # libraries load, layers are found
    return peak_mb(lambda: methods[name](m, x))

small = ('attention','rollout','textbook','relevance','legrad','grad_rollout','gradcam')
sizes = {(224,4):(small,9), (768,1):(('attention','rollout','textbook','relevance','gradcam'),7)}

def times(seed):
    torch.manual_seed(seed)
    res = {}
    for (px,bs),(names,n) in sizes.items():
        m,x = model(px),torch.randn(bs,3,px,px)
        for o in names:
            res[f'{o} {px}px batch {bs}'] = pairs(lambda: methods[o](m, x), lambda: forward(m, x), n, warm=1)
            print(o, px, res[f'{o} {px}px batch {bs}'], file=sys.stderr, flush=True)
    return res

def memories():
    return {f'{o} 1024px':round(in_child(__file__, '--one', o, 1024))
            for o in ('forward','rollout','relevance','all_heads')}

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', choices=('time','memory'),
                   help='measure this alone, and keep the other part of the results')
    p.add_argument('--one', nargs=2, help='print the memory of one method at one size')
    a = p.parse_args()
    if a.one: print(json.dumps(memory(a.one[0], int(a.one[1]), a.seed))); sys.exit()
    fn = here/'results'/'vit.json'
    old = json.loads(fn.read_text()) if fn.exists() else {}
    time = old.get('time', {}) if a.only=='memory' else times(a.seed)
    mem = old.get('memory_mb', {}) if a.only=='time' else memories()
    write('vit', what='vit_small_patch16_224 at several sizes: time as ratio to a plain forward under no_grad; '
                      'extra peak memory in MB at batch 1, each in a process of its own', seed=a.seed, time=time,
          memory_mb=mem,
          rollout_share_of_all_heads_1024px=round(mem['rollout 1024px']/mem['all_heads 1024px'],3) if mem else None)
