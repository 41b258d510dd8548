"""What is left on disk when a writer is killed, when two write the same thing, and when the disk is full

Each writer makes version after version of a thing. A process that does so is killed (SIGKILL) at random moments, and
afterwards the thing must be one of its versions, whole, or not be there if it had never been. Two processes write the
same thing while a third looks at it all the time. And a file system of a two megabytes is filled up."""
import argparse, multiprocessing, os, random, shutil, signal, subprocess, tempfile, time, warnings
from collections import Counter
from fastai.vision.all import *
from fastattn.all import *
from fastattn.image.files import part_prefix, sweep, whole_file
from fastattn.cli.visualize import save_strip, strip_notes
from fastattn.cli.train import TrainConfig, run_train
from common import write

fork = multiprocessing.get_context('fork')

def recorder(i):
    "A recorder of version `i`: everything in it says so"
    r = AttentionRecorder()
    r.pictures = [Image.new('RGB', (40,30), (i%256,k,0)) for k in range(4)]
    r.labels = [f'{i}']*4
    r.snapshots = {e: Heatmap(torch.full((4,30,40), (i%97)/97), raw=torch.full((4,3,4), (i%97)/97), method='gradcam')
                   for e in range(3)}
    return r

class Writers:
    "For each kind of thing how version `i` is written to a path, and which version is there"
    def __init__(self):
        dls = demo_dls(n=48, size=32, bs=8)
        self.learn = attention_learner(folder_like(dls), demo_arch, pretrained=False)
        self.story = tell(self.learn, [dls.valid_ds.items[0]])[0]

    def write_record(self, path, i): recorder(i).save(path, overwrite=True)
    def read_record(self, path):
        r = AttentionRecorder.load(path)
        i = int(r.labels[0])
        assert all(p.getpixel((0,0))==(i%256,k,0) for k,p in enumerate(r.pictures))
        assert all(float(h.max())==float(torch.tensor((i%97)/97)) for h in r.snapshots.values())
        return i

    def write_gif(self, path, i):
        r = recorder(i)
        r.snapshots = {e:r.snapshots[0] for e in range(2+i%5)}
        r.to_gif(path, overwrite=True)
    def read_gif(self, path):
        with Image.open(path) as im:
            for k in range(im.n_frames): im.seek(k); im.load()
            return im.n_frames

    def write_checkpoint(self, path, i):
        with torch.no_grad(): one_param(self.learn.model).fill_(i)
        save_checkpoint(self.learn, path)
    def read_checkpoint(self, path): return int(one_param(load_checkpoint(path, device='cpu').model).flatten()[0])

    def write_strip(self, path, i): save_strip(self.story, path, dict(i=i))
    def read_strip(self, path):
        with Image.open(path) as im: im.load()
        return strip_notes(path)['i']

def folder_like(dls):
    "`DataLoaders` of `folder_dls` on some of the pictures, which a checkpoint can describe"
    d = Path(tempfile.mkdtemp())
    for f in [*dls.train_ds.items[:40], *dls.valid_ds.items]:
        (d/f.parent.name).mkdir(exist_ok=True)
        shutil.copy(f, d/f.parent.name)
    return folder_dls(d, 32, 8, num_workers=0)

suffixes = dict(record='', gif='.gif', checkpoint='', strip='.png')

def left_in(folder, path): return [f.name for f in folder.iterdir() if f!=path and f.name!=path.name+'.lock']

def _for_ever(w, kind, path, first):
    warnings.simplefilter('ignore')
    for i in range(first, 10**6): getattr(w, f'write_{kind}')(path, i)

def kills(w, kind, n, rnd):
    "Kill a writer `n` times; what went wrong, by name"
    d = Path(tempfile.mkdtemp())
    path,bad,start = d/f'thing{suffixes[kind]}',Counter(),0
    for k in range(n):
        there = path.exists()
        p = fork.Process(target=_for_ever, args=(w, kind, path, start))
        p.start()
        time.sleep(.02+.4*rnd.random())
        os.kill(p.pid, signal.SIGKILL); p.join()
        start += 1000
        if not path.exists():
            if there: bad['lost'] += 1
            continue
        try: getattr(w, f'read_{kind}')(path)
        except Exception as e: bad[f'{type(e).__name__}: {str(e)[:90]}'] += 1; shutil.rmtree(path, ignore_errors=True)
        sweep(d)
        if path.is_dir(): sweep(path)
        if left_in(d, path): bad['left over'] += 1
    shutil.rmtree(d)
    return dict(kills=n, bad=dict(bad))

def two(w, kind, secs):
    "Two writers for some seconds, and a reader"
    d = Path(tempfile.mkdtemp())
    path,bad,whole = d/f'thing{suffixes[kind]}',Counter(),0
    ps = [fork.Process(target=_for_ever, args=(w, kind, path, i*10**4)) for i in range(2)]
    for p in ps: p.start()
    end = time.time()+secs
    while time.time()<end:
        try: getattr(w, f'read_{kind}')(path); whole += 1
        except FileNotFoundError: bad['absent'] += whole>0
        except ValueError: bad['refused, since it changed while it was read'] += 1 # of several files
        except Exception as e: bad[f'{type(e).__name__}: {str(e)[:90]}'] += 1
    died = sum(p.exitcode is not None for p in ps)
    for p in ps: p.kill(); p.join()
    shutil.rmtree(d)
    return dict(seconds=secs, read_whole=whole, died=died, bad={k:v for k,v in bad.items() if v})

def full_disk(w):
    "Write onto a small file system until it is full; None where none can be mounted"
    d = Path(tempfile.mkdtemp())
    if subprocess.run(['mount','-t','tmpfs','-o','size=2m','tmpfs',str(d)], capture_output=True).returncode: return
    bad = {}
    try:
        for kind in suffixes:
            path = d/f'thing{suffixes[kind]}'
            if kind!='checkpoint': getattr(w, f'write_{kind}')(path, 1)
            fill = d/'fill'
            try:
                with open(fill, 'wb', buffering=0) as f:
                    while True: f.write(b'x'*4096)
            except OSError: pass # it is full
            try: getattr(w, f'write_{kind}')(path, 2); said = 'written'
            except Exception as e: said = f'{type(e).__name__}: {str(e)[:120]}'
            kept = kind=='checkpoint' or getattr(w, f'read_{kind}')(path)==getattr(w, f'read_{kind}')(path)
            bad[kind] = dict(said=said, older_is_whole=bool(kept), left=left_in(d, path))
            for f in d.iterdir(): shutil.rmtree(f) if f.is_dir() else f.unlink()
    finally: subprocess.run(['umount',str(d)])
    return bad

def trained(n, rnd, epochs=3):
    "Kill a training run `n` times, resume it each time; do its weights equal those of a run that was left alone?"
    from safetensors.torch import load_file
    src = folder_like(demo_dls(n=48, size=32, bs=8)).folder.path
    cfg = TrainConfig('demo_arch', False, img_size=32, epoch=epochs, batch_size=8)
    d = Path(tempfile.mkdtemp())
    def _run(out, resume): run_train(src, cfg, out, device='cpu', num_workers=0, resume=resume)
    _run(d/'alone', False)
    for k in range(n):
        resume = (d/'killed').exists() and any(not f.name.startswith(part_prefix) for f in (d/'killed').iterdir())
        p = fork.Process(target=_run, args=(d/'killed', resume))
        p.start(); time.sleep(.5+4*rnd.random()); p.kill(); p.join()
    _run(d/'killed', (d/'killed').exists() and any((d/'killed').glob('*.safetensors')))
    a,b = (load_file(d/o/'model.safetensors') for o in ('alone','killed'))
    return dict(kills=n, equal=all(torch.equal(a[k], b[k]) for k in a))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--kills', type=int, default=25, help='of each kind of thing')
    p.add_argument('--seconds', type=float, default=5, help='of two writers, for each kind')
    p.add_argument('--trained', type=int, default=8, help='kills of a training run')
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    torch.set_num_threads(1)
    plt.switch_backend('Agg')
    w,rnd = Writers(),random.Random(a.seed)
    write('writers', what='writers that are killed, two at a time, and on a full disk', seed=a.seed,
          kills={k:kills(w, k, a.kills, rnd) for k in suffixes}, two={k:two(w, k, a.seconds) for k in suffixes},
          full_disk=full_disk(w), trained=trained(a.trained, rnd) if a.trained else None)
