"""fastattn_visualize on ten thousand photographs: memory while it runs, and pictures a second beside the model's plain
inference (Linux)"""
import argparse, random, re, subprocess, sys, tempfile, threading, time
from fastai.vision.all import *
from fastattn.all import *
from fastattn.data.demo import *
from fastattn.data.folders import *
from fastattn.cli.checkpoint import find_arch
from fastattn.cli.visualize import run_visualize
from common import here, write

def make(path, n, seed):
    "`n` JPEGs of many sizes, crops of the photographs that come with scikit-learn and matplotlib"
    rng = random.Random(seed)
    for i in range(n):
        im = rng.choice(demo_photos())
        w,h = (rng.randint(200, o-1) for o in im.size)
        x,y = rng.randint(0, im.size[0]-w),rng.randint(0, im.size[1]-h)
        im.crop((x,y,x+w,y+h)).save(path/f'{i:05}.jpg', quality=85)

def rss(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])/1024

class Watch(threading.Thread):
    "Largest memory while at most `marks` strips were there; with the last mark the contact sheet is drawn"
    def __init__(self, out, marks):
        super().__init__(daemon=True); self.out,self.peaks,self.over = out,{m:0 for m in marks},False
    def run(self):
        while not self.over:
            n = sum(1 for _ in os.scandir(self.out)) if self.out.exists() else 0
            for m in self.peaks:
                if n<=m: self.peaks[m] = max(self.peaks[m], rss())
            time.sleep(1)

def by_command(t, bs):
    "Strips a second as `fastattn_visualize` itself says, with the processes that it starts"
    exe = Path(sys.executable).parent/'fastattn_visualize'
    said = subprocess.run([exe, t/'in', '--out', t/'by command', '--checkpoint', t/'model', '--batch-size', str(bs)],
                          capture_output=True, text=True, check=True).stdout
    return float(re.search(r'\(([\d.]+) a second', said)[1])

def speed(f, n): t = time.time(); f(); return n/(time.time()-t)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=10000); p.add_argument('--arch', default='demo_arch')
    p.add_argument('--size', type=int, default=64); p.add_argument('--bs', type=int, default=16)
    p.add_argument('--seed', type=int, default=0); p.add_argument('--name', default='visualize')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as t:
        t = Path(t)
        (t/'in').mkdir(); make(t/'in', a.n, a.seed)
        set_seed(a.seed)
        save_checkpoint(attention_learner(folder_dls(demo_path(160), size=a.size, num_workers=0), find_arch(a.arch),
                                          pretrained=False, activation='softmax'), t/'model')
        learn,some = load_checkpoint(t/'model'),picture_files(t/'in')[:min(1000, a.n)]
        x = torch.randn(a.bs, 3, a.size, a.size)
        def forward():
            with torch.no_grad():
                for _ in range(40): learn.model(x)
        def infer():
            with learn.no_bar(): learn.get_preds(dl=learn.dls.test_dl(some, bs=a.bs, num_workers=0))
        run_visualize(t/'in', t/'warm', t/'model', batch_size=a.bs) if a.n<100 else forward()
        rates = dict(forward_only=round(speed(forward, 40*a.bs),1),
                     inference_from_disk=round(speed(infer, len(some)),1))
        before,w = rss(),Watch(t/'out', sorted({min(1000, a.n-1), a.n//2, a.n-1, a.n+1}))
        w.start()
        res = run_visualize(t/'in', t/'out', t/'model', batch_size=a.bs)
        w.over = True; w.join()
        sizes = [f.stat().st_size for f in (t/'out').iterdir() if f.name!='contact_sheet.png']
        f = here/'results'/f'{a.name}.json'
        runs = json.loads(f.read_text())['runs'] if f.exists() else {}
        runs[str(a.n)] = dict(drawn=res['drawn'], seconds=res['seconds'],
                              drawn_per_second=round(res['drawn']/res['seconds'],1), by_command=by_command(t, a.bs),
                              plain=rates, largest_kb=round(max(sizes)/1e3),
                              rss_before=round(before), rss_peak_until={str(k):round(v) for k,v in w.peaks.items()},
                              output_mb=round(sum(sizes)/1e6))
        write(a.name, what=f'{a.arch}, {a.size} px, batch {a.bs}; by number of pictures: pictures a second, '
                           'and memory of the process in MB', runs=runs)
