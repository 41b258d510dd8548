"Time and memory of attention methods on a ViT-S/16, as ratios to a plain inference forward in the same run; `python bench/vit.py [--n 9]`"
import argparse, json, sys
import timm, torch
from fastattn.core import explain
from fastattn.capture import AttentionTrace
import fastattn.flow
from common import in_child, pairs, peak_mb, write

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

methods = {n:(lambda m, x, n=n: explain(m, x, n)) for n in ('attention','rollout','relevance','legrad','grad_rollout','gradcam')}
methods.update(textbook=textbook, all_heads=all_heads, forward=forward)

def memory(name, px, seed):
    torch.manual_seed(seed)
    m,x = model(px),torch.randn(1,3,px,px)
    methods[name](m, x) if name!='all_heads' else methods['attention'](m, x) # libraries load, layers are found
    return peak_mb(lambda: methods[name](m, x))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0); p.add_argument('--n', type=int, default=9)
    p.add_argument('--memory', nargs=2, help='only this: print the memory of one method at one size'); p.add_argument('--only', nargs='*')
    a = p.parse_args()
    if a.memory: print(json.dumps(memory(a.memory[0], int(a.memory[1]), a.seed))); sys.exit()
    torch.manual_seed(a.seed)
    time = {}
    for px,bs in ((224,4),(384,4),(768,1)):
        m,x = model(px),torch.randn(bs,3,px,px)
        for n in a.only or ('attention','rollout','textbook','relevance','legrad','grad_rollout','gradcam'):
            time[f'{n} {px}px batch {bs}'] = pairs(lambda: methods[n](m, x), lambda: forward(m, x), a.n if px<768 else 7)
            print(n, px, time[f'{n} {px}px batch {bs}'], file=sys.stderr, flush=True)
    if a.only: sys.exit()
    mem = {f'{n} {px}px':round(sorted(in_child(__file__, '--memory', n, px) for _ in range(3))[1]) for px in (224,1024) for n in ('forward','rollout','relevance','all_heads')}
    write('vit', what='vit_small_patch16_224 at several sizes: time as ratio to a plain forward under no_grad; extra peak memory in MB at batch 1 (median of 3 processes)', seed=a.seed, time=time, memory_mb=mem,
          rollout_share_of_all_heads_1024px=round(mem['rollout 1024px']/mem['all_heads 1024px'],3))
