"The demo with several seeds: accuracy, share of the mask on the object, seconds"
import argparse, tempfile
from fastattn.cli.demo import run_demo
from fastcore.foundation import L
from common import write

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seeds', type=int, nargs='+', default=[42,1,2])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as t: rs = [run_demo(f'{t}/{s}', seed=s) for s in a.seeds]
    keys = ('accuracy','energy_inside','object_area','seconds')
    write('demo', what='fastattn_demo, one row per seed (the seed also makes another set)', seeds=a.seeds,
          runs=[{k:r[k] for k in ('seed',*keys)} for r in rs])
