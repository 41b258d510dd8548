"What every benchmark here shares: interleaved pairs, peak memory, and results as JSON with commit and seed"
import ctypes, gc, json, os, platform, statistics, subprocess, sys, time
from pathlib import Path
import torch

here = Path(__file__).parent

def pairs(f, ref, n=9, warm=2):
    "Times of `f` as ratios to `ref`, run in turn: median, and the quartiles as spread"
    for _ in range(warm): f(); ref()
    def clock(g): t = time.perf_counter(); g(); return time.perf_counter()-t
    rs = []
    for i in range(n): # who goes first alternates
        a,b = (clock(f),clock(ref)) if i%2 else reversed((clock(ref),clock(f)))
        rs.append(a/b)
    q = statistics.quantiles(rs, n=4)
    return dict(median=round(statistics.median(rs),3), quartiles=[round(q[0],3),round(q[2],3)], pairs=n)

def peak_mb(f):
    "Memory that `f` adds at its peak to what the process holds, in MB (Linux)"
    def status(k): return int(next(l for l in open('/proc/self/status') if l.startswith(k)).split()[1])/1024
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)             # what a warm-up has freed goes back to the system
    open('/proc/self/clear_refs','w').write('5') # forget the peak so far
    before = status('VmRSS')
    f()
    return status('VmHWM')-before

def in_child(script, *args):
    "Run a script in a process of its own and return the JSON that it prints last: memory is measured afresh each time"
    r = subprocess.run([sys.executable, '-W', 'ignore', str(script), *map(str, args)], capture_output=True, text=True,
                       check=True)
    return json.loads(r.stdout.strip().splitlines()[-1])

def mean_and_error(v):
    "Mean and standard error of a tensor of one number an image"
    return [round(v.mean().item(), 3), round((v.std()/len(v)**.5).item(), 3)]

def write(name, **res):
    "Keep a result with what it depends on"
    git = lambda *a: subprocess.run(['git', *a], cwd=here, capture_output=True, text=True).stdout.strip()
    about = dict(commit=git('rev-parse','--short','HEAD'), torch=torch.__version__, threads=torch.get_num_threads(),
                 cpu=platform.machine())
    (here/'results').mkdir(exist_ok=True)
    (here/'results'/f'{name}.json').write_text(json.dumps(dict(about=about, **res), indent=1)+'\n')
    print(json.dumps(res, indent=1))
