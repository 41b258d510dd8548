"""Seconds that `import fastattn.all` takes beyond `import fastai.vision.all`, in fresh processes;
`python bench/import_time.py`"""
import argparse, json, os, statistics, subprocess, sys, tempfile
from common import here, write

code = """import time, json, sys
a = time.perf_counter()
import fastai.vision.all
b = time.perf_counter()
sys.pycache_prefix,sys.dont_write_bytecode = sys.argv[1],sys.argv[2]!='write'
c = time.perf_counter()
import fastattn.all
print(json.dumps([b-a, time.perf_counter()-c]))"""

def once(tree, folder, mode='read'):
    "Seconds for fastai and for what `tree` adds, whose compiled files lie in `folder` or are compiled again"
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, folder, mode], capture_output=True, text=True,
                       check=True, cwd='/', env=dict(os.environ, PYTHONPATH=tree))
    return json.loads(r.stdout)

def spread(v):
    q = statistics.quantiles(v, n=4)
    return dict(median=round(statistics.median(v),3), quartiles=[round(q[0],3),round(q[2],3)], smallest=round(min(v),3))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=9)
    p.add_argument('--beside', help='another checkout, measured in turn with this one')
    a = p.parse_args()
    trees = dict(here=str(here.parent), **({'beside':a.beside} if a.beside else {}))
    with tempfile.TemporaryDirectory() as kept, tempfile.TemporaryDirectory() as none:
        for t in trees.values(): once(t, kept, 'write')
        folders = dict(compiled=kept, compiled_anew=none)
        times = [{(k,f):once(t, d) for k,t in trees.items() for f,d in folders.items()} for _ in range(a.n)]
    def of(k, f, i): return spread([t[k,f][i] for t in times])
    res = {k:dict({f:of(k, f, 1) for f in folders}, fastai=of(k, 'compiled', 0)) for k in trees}
    write('import_time', what='seconds of `import fastattn.all` after `import fastai.vision.all`, with compiled files '
                              'and without, and of the latter alone; fresh processes, in turn', n=a.n, **res)
