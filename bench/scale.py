"""What tables of maps cost: `save_maps` beside plain inference, its memory and its files over 100,000 pictures, and
what it takes to call it again (Linux)

All weights are random. The networks at 224 pixels read JPEG photographs 500 pixels wide. The table of 100,000 is made
with a small network whose maps have the 7 by 7 values, and whose classes the number, of a ResNet for ImageNet; each of
its pictures is another crop. Two processes with one thread each are timed from the moment when both have loaded the
model. A fixed cost is what a call takes on no picture at all: the time for 8, less 8 times the time for one more.
Needs psutil and timm: `pip install fastattn[bench]`."""
import argparse, itertools, json, os, random, statistics, subprocess, sys, tempfile, time, warnings
from functools import lru_cache
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here),str(here.parent)]
parts = ('throughput','processes','memory','restart','picture')
asked = dict(resnet50=('gradcam','auto'), vit_small_patch16_224=('gradcam','relevance','auto'))
text_columns = ('key','error','prediction','top','target','method','layer','grid','model')
numbers_of = dict(width=4, height=4, rank=4, score=4, probability=4, largest=4, top_scores=20, placement=16)

## Pictures and networks

@lru_cache(maxsize=None)
def photos():
    "The photographs in colour that come with scikit-image"
    import skimage
    from PIL import Image
    names = ('astronaut.png','chelsea.png','coffee.png','rocket.jpg','hubble_deep_field.jpg','motorcycle_left.png',
             'retina.jpg','ihc.png')
    return [Image.open(Path(skimage.__file__).parent/'data'/o).convert('RGB') for o in names]

def _crop(rng, im, w, h):
    x,y = rng.randint(0, im.width-w),rng.randint(0, im.height-h)
    return im.crop((x,y,x+w,y+h))

def make_photos(path, n, seed):
    "`n` JPEGs that are 500 pixels wide, each a crop of a photograph"
    rng = random.Random(seed)
    path.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        im = rng.choice(photos())
        w,h = (round(o*rng.uniform(.6, .95)) for o in im.size)
        im = _crop(rng, im, w, h).resize((500,round(500*h/w)))
        if not (path/f'{i:05d}.jpg').exists(): im.save(path/f'{i:05d}.jpg', quality=90)
    return path

def make_small(path, n, seed, px=28):
    "`n` PNGs of 28 pixels in folders of 1,000, each a crop of a small photograph"
    if path.is_dir() and sum(1 for _ in path.rglob('*.png'))>=n: return path
    rng = random.Random(seed)
    ims = [im.resize((w,w*im.height//im.width)) for im in photos() for w in (60,120,240,480)]
    for i in range(n):
        if i%1000==0: (path/f'{i//1000:04d}').mkdir(parents=True, exist_ok=True)
        _crop(rng, rng.choice(ims), px, px).save(path/f'{i//1000:04d}'/f'{i:08d}.png', compress_level=1)
    return path

def network(arch):
    "An untrained network: one of timm's, or `small-N`, which halves a picture N times"
    import timm, torch
    from torch import nn
    torch.manual_seed(0)
    if not arch.startswith('small-'): return timm.create_model(arch)
    cs = [3,*[32]*int(arch[6:])]
    convs = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a,b in zip(cs, cs[1:])]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 1000))

def learner(arch, px, files):
    "A learner with a thousand classes that reads pictures as fastai does"
    from fastai.vision.all import (CategoryBlock, CrossEntropyLossFlat, DataBlock, ImageBlock, IndexSplitter, Learner,
                                   Normalize, Resize, imagenet_stats)
    vocab = [f'class {i:03d}' for i in range(1000)]
    block = DataBlock((ImageBlock,CategoryBlock(vocab=vocab)), get_items=lambda _: list(files[:8]),
                      get_y=lambda _: vocab[0], splitter=IndexSplitter(range(4)), item_tfms=Resize(px),
                      batch_tfms=Normalize.from_stats(*imagenet_stats))
    dls = block.dataloaders('.', bs=4, num_workers=0)
    return Learner(dls, network(arch), loss_func=CrossEntropyLossFlat())

def plain(learn, files, bs):
    "Plain inference from disk"
    import torch
    learn.model.eval()
    with torch.no_grad():
        for x, in learn.dls.test_dl(files, bs=bs, num_workers=0): learn.model(x)

## Clocks

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def rated(f, ref, n, pictures, warm=1):
    "Time of `save_maps` as a ratio to plain inference, and pictures a second of both"
    from common import pairs
    took = dict(plain=[], save_maps=[])
    def _kept(k, g): return lambda: took[k].append(seconds(g))
    res = dict(time=pairs(_kept('save_maps', f), _kept('plain', ref), n, warm))
    return res|{f'{k}_per_second':round(pictures/statistics.median(v[warm:]), 2) for k,v in took.items()}

def _fresh(path):
    "Folders that are not there yet"
    return (Path(tempfile.mkdtemp(dir=path))/'maps' for _ in itertools.count())

def _files(path, n): return sorted(Path(path).glob('*.jpg'))[:n]

## Parts: each runs in a process of its own

def throughput(path, work, n, pairs, few, bs, px, networks):
    "One process: each network and method beside plain inference, fixed costs, and pictures that a core reads"
    from fastattn.scale.saving import save_maps
    files,new = _files(path, n),_fresh(work)
    res = dict(pictures=n, batch=bs, px=px)
    for arch in networks:
        learn = learner(arch, px, files)
        if 'read_per_core' not in res: res['read_per_core'] = round(reading_rate(learn, files, bs), 1)
        for method in asked[arch]:
            made = []
            def _save(fs=files): made.append(save_maps(learn, fs, next(new), method=method, bs=bs, num_workers=0))
            first = seconds(lambda: _save(files[:8]))
            takes = made[0].about['method']
            if method=='auto':
                res.setdefault('auto_takes', {})[arch] = takes
                if takes in asked[arch]: continue # it has been measured
            k = pairs if arch=='resnet50' and method=='gradcam' else min(few, pairs)
            row = rated(_save, lambda: plain(learn, files, bs), k, n)
            eight = statistics.median(seconds(lambda: _save(files[:8])) for _ in range(min(3, k)))
            each = (n/row['save_maps_per_second']-eight)/(n-8)
            row |= dict(fixed_seconds=round(eight-8*each, 2), first_call_of_8_seconds=round(first, 2))
            res.setdefault('rows', {})[f'{arch}, {method}'] = row
            print(arch, method, row, file=sys.stderr, flush=True)
    return res

def reading_rate(learn, files, bs):
    "Pictures a second that one core opens, resizes and makes into tensors, as a worker process of `save_maps` does"
    import torch
    from fastattn.image.reading import reading
    from fastattn.scale.batches import JobReader, jobs_of
    from fastattn.scale.sources import source_of
    source,n = source_of(list(files)),torch.get_num_threads()
    reader,jobs = JobReader(source, reading(learn, None)),list(jobs_of('', list(source.entries()), bs))
    torch.set_num_threads(1)
    reader[jobs[0]]
    took = [seconds(lambda: [reader[j] for j in jobs]) for _ in range(3)]
    torch.set_num_threads(n)
    return len(files)/statistics.median(took)

def worker(path, n, arch, method, bs, px, rows):
    "One of several processes: does what it reads from its standard input"
    from fastattn.scale.saving import save_maps
    rank,world = int(os.environ['RANK']),int(os.environ['WORLD_SIZE'])
    files = _files(path, n)
    learn = learner(arch, px, files)
    print('done', flush=True)
    for line in sys.stdin:
        if line.strip()=='plain': plain(learn, files[rank::world], bs)
        else: save_maps(learn, files, line.strip(), method=method, bs=bs, rows=rows, num_workers=0)
        print('\ndone', flush=True)

def processes(path, work, n, pairs, bs, px, networks, rows=32, world=2):
    "Two processes with one thread each on one table, beside two that share plain inference"
    res = dict(pictures=n, batch=bs, px=px, rows_in_a_shard=rows)
    for arch in networks:
        env = dict(os.environ, WORLD_SIZE=str(world), OMP_NUM_THREADS='1')
        ask = json.dumps(dict(path=str(path), n=n, arch=arch, method='gradcam', bs=bs, px=px, rows=rows))
        ps = [subprocess.Popen([sys.executable, '-W', 'ignore', __file__, '--child', 'worker', ask], text=True,
                               env=dict(env, RANK=str(r)), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
              for r in range(world)]
        def _wait():
            for p in ps:
                while (line := p.stdout.readline()).strip()!='done':
                    if not line: raise RuntimeError('A process has ended.')
        def _all(line):
            for p in ps: print(line, file=p.stdin, flush=True)
            _wait()
        new = _fresh(work)
        _wait()
        try: row = rated(lambda: _all(next(new)), lambda: _all('plain'), pairs, n)
        finally:
            for p in ps: p.stdin.close()
            for p in ps: p.wait()
        res.setdefault('rows', {})[f'{arch}, gradcam'] = row
    return res

def memory(path, table):
    "A table of many small pictures: resident memory after each shard, seconds, and bytes by column"
    import psutil
    from fastattn.scale import saving
    from fastattn.scale.pieces import Pieces
    learn,samples = learner('small-2', 28, list(Path(path, '0000').iterdir())),[]
    def rss(): return psutil.Process().memory_info().rss/2**20
    write_rows = saving.write_rows
    def _sampled(rows, *args):
        write_rows(rows, *args)
        samples.append((len(rows),rss()))
    saving.write_rows = _sampled
    before = rss()
    took = seconds(lambda: saving.save_maps(learn, path, table, method='gradcam', num_workers=0))
    n = len(Pieces(table))
    ends = list(itertools.accumulate(k for k,_ in samples))
    first = [m for (_,m),e in zip(samples, ends) if e<=n/10] or [samples[0][1]]
    last = [m for (k,m),e in zip(samples, ends) if e-k>=.9*n] or [samples[-1][1]]
    a,b = map(statistics.mean, (first,last))
    return dict(pictures=n, shards=len(samples), seconds=round(took, 1), pictures_per_second=round(n/took, 1),
                rss_before_mb=round(before), rss_first_tenth_mb=round(a, 1), rss_last_tenth_mb=round(b, 1),
                rss_most_mb=round(max(m for _,m in samples), 1), growth=round(b/a, 3), **sizes(table))

def sizes(table):
    "Bytes of a row in the files of a table: by column, and beside the raw numbers"
    import pyarrow.parquet as pq
    cols,rows,files = {},0,sorted(Path(table).glob('maps-*.parquet'))
    for f in files:
        meta = pq.read_metadata(f)
        rows += meta.num_rows
        for g in range(meta.num_row_groups):
            for c in (meta.row_group(g).column(i) for i in range(meta.num_columns)):
                k = c.path_in_schema.partition('.')[0]
                cols[k] = cols.get(k, 0)+c.total_compressed_size
    by = {k:round(v/rows, 2) for k,v in cols.items()}
    h,w = json.loads((Path(table)/'maps.json').read_text())['grid']
    raw = 2*h*w+sum(numbers_of.values())
    of = dict(raw_map=2*h*w, raw_numbers=raw, map=by['map'], numbers=by['map']+sum(by[k] for k in numbers_of),
              text=sum(by[k] for k in text_columns), files=sum(f.stat().st_size for f in files)/rows,
              lists=sum(f.stat().st_size for f in Path(table).glob('list-*.parquet'))/rows)
    of = {k:round(v, 2) for k,v in of.items()}
    return dict(grid=[h,w], bytes_of_a_row=of, numbers_to_raw=round(of['numbers']/raw, 3),
                files_to_raw=round(of['files']/raw, 3), bytes_by_column=by)

def in_tars(path, to, n=10):
    "The pictures of a folder in tar files"
    import tarfile
    files = sorted(Path(path).rglob('*.png'))
    Path(to).mkdir()
    for i in range(n):
        with tarfile.open(Path(to)/f'{i:03d}.tar', 'w') as t:
            for f in files[i::n]: t.add(f, f.name)
    return to

def restart(path, table):
    "What it takes to call `save_maps` again, to add a picture, and to read from a table"
    import shutil
    from fastattn.scale.maps import open_maps
    from fastattn.scale.pieces import Pieces
    from fastattn.scale.saving import save_maps
    from fastattn.scale.sources import source_of
    from common import peak_mb
    path,table = Path(path),Path(table)
    learn = learner('small-2', 28, list((path/'0000').iterdir()))
    def _again(): return save_maps(learn, path, table, method='gradcam', num_workers=0)
    def _median(f, k=3): return round(statistics.median(seconds(f) for _ in range(k)), 4)
    source,some,new = source_of(path),next((path/'0000').iterdir()),[]
    with tempfile.TemporaryDirectory(dir=table.parent) as d, tempfile.TemporaryDirectory(dir=table.parent) as t:
        entries,tars = [],in_tars(path, Path(t)/'tars')
        list_mb = peak_mb(lambda: entries.extend(source.entries()))
        add_mb = peak_mb(lambda: Pieces(d).add(entries))
        def _cut():
            shutil.rmtree(d)
            Path(d).mkdir()
            return Pieces(d).add(entries)
        res = dict(pictures=len(entries), listing_seconds=_median(lambda: list(source.entries())),
                   listing_mb=round(list_mb, 1), cutting_seconds=_median(_cut), cutting_mb=round(add_mb, 1))
        res['listing_tar_seconds'] = _median(lambda: list(source_of(tars).entries()))
    res['comparing_seconds'] = _median(lambda: Pieces(table).add(entries)) # none of them is new
    _again() # facts about the model are measured once in a process
    res |= dict(rerun_seconds=_median(_again), rerun_mb=round(peak_mb(_again), 1))
    def _one_more():
        new.append(path/'0000'/f'new-{time.time_ns()}.png')
        shutil.copy(some, new[-1])
        _again()
    res['adding_one_seconds'] = _median(_one_more)
    maps = open_maps(table)
    res |= dict(shards=len(maps.pieces.names()), open_and_len_seconds=_median(lambda: len(open_maps(table))),
                footers_ms_each=round(1000*_median(lambda: open_maps(table).dataset)/len(maps.pieces.names()), 3))
    df = maps.to_pandas()
    keys = random.Random(0).sample(sorted(df.key[~df.key.str.contains('new-')]), min(50, len(entries)))
    took = [seconds(lambda: maps[k]) for k in keys]
    name,of = df.prediction.mode()[0],int(df.prediction.value_counts().iloc[0])
    return res|dict(one_map_ms=round(1000*statistics.median(took), 2), mean_map_of=of,
                    mean_map_seconds=_median(lambda: maps.mean_map(name)), to_pandas_seconds=_median(maps.to_pandas))

def picture(path, work, n, pairs, bs, px):
    "`keep='picture'` beside `keep='raw'`, with a network that takes little time itself"
    from common import pairs as timed
    from fastattn.scale.saving import save_maps
    files,new,took,made = _files(path, n),_fresh(work),dict(raw=[], picture=[]),{}
    learn = learner('small-5', px, files)
    def _save(keep):
        made[keep] = next(new)
        took[keep].append(seconds(lambda: save_maps(learn, files, made[keep], method='gradcam', keep=keep, bs=bs,
                                                    num_workers=0)))
    time = timed(lambda: _save('picture'), lambda: _save('raw'), pairs, 1)
    ms = {f'{k}_ms':round(1000*statistics.median(v[1:])/n, 2) for k,v in took.items()}
    both = {k:sizes(v) for k,v in made.items()}
    return dict(pictures=n, time=time, **ms, picture_bytes=round(both['picture']['bytes_by_column']['picture']),
                raw_row_bytes=both['raw']['bytes_of_a_row']['files'])

children = dict(throughput=throughput, worker=worker, memory=memory, restart=restart, picture=picture)

def in_process(name, threads, **kwargs):
    "A part in a process of its own, with this many threads"
    ask = json.dumps(kwargs, default=str)
    r = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--child', name, ask], text=True, check=True,
                       stdout=subprocess.PIPE, env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
    return json.loads(r.stdout.strip().splitlines()[-1])

def run(
    n_throughput=192, # Photographs in a call
    n_processes=256, # Photographs for two processes
    n_memory=100_000, # Small pictures
    n_picture=300, # Photographs for `keep='picture'`
    pairs=7, # Interleaved pairs
    few=3, # At most as many pairs for the ViT and for 'auto', and for two processes
    parts=parts, # Which of them
    networks=tuple(asked), # Which of them
    threads=2, # Of one process
    work=None, # Folder that keeps pictures and the large table from one run to the next; None is a temporary one
    seed=0,
    bs=32,
    px=224
)->dict: # A dict for each part
    "Measure"
    with tempfile.TemporaryDirectory(dir=work) as t:
        keep,t,res = Path(work or t),Path(t),{}
        table = keep/f'table-{n_memory}'
        if {'throughput','processes','picture'}&set(parts):
            jpgs = make_photos(keep/'photos', max(n_throughput, n_processes, n_picture), seed)
        if {'memory','restart'}&set(parts): pngs = make_small(keep/f'small-{n_memory}', n_memory, seed)
        both = dict(bs=bs, px=px, work=t)
        nets,fewer = dict(networks=networks),min(few, pairs)
        for p in parts:
            start = time.time()
            if p=='throughput':
                res[p] = in_process(p, threads, path=jpgs, n=n_throughput, pairs=pairs, few=few, **both, **nets)
            if p=='processes': res[p] = processes(jpgs, n=n_processes, pairs=fewer, **both, **nets)
            if p=='picture': res[p] = in_process(p, threads, path=jpgs, n=n_picture, pairs=fewer, **both)
            if p=='memory' or p=='restart' and not table.exists():
                if table.exists(): raise FileExistsError(f"{str(table)!r} is there already; remove it first.")
                made = in_process('memory', threads, path=pngs, table=table)
                if p=='memory': res[p] = made
            if p=='restart': res[p] = in_process(p, threads, path=pngs, table=table)
            res[p]['took_seconds'] = round(time.time()-start)
            print(f"{p}: {res[p]['took_seconds']} s", file=sys.stderr, flush=True)
    return res

def git_commit():
    "The commit that is checked out"
    return subprocess.run(['git','rev-parse','--short','HEAD'], cwd=here, capture_output=True, text=True).stdout.strip()

def merged(old, new):
    "Results with those of earlier runs for parts, and for networks of a part, that have not been measured now"
    def _both(a, b):
        kept = a.get('rows', {}) if all(a.get(k)==b[k] for k in ('pictures','batch','px') if k in b) else {}
        more = {'auto_takes':a.get('auto_takes', {})|b['auto_takes']} if 'auto_takes' in b else {}
        return b|more|({'rows':kept|b['rows']} if 'rows' in b else {})
    return {k:_both(old.get(k, {}), new[k]) if k in new else old[k] for k in parts if k in new or k in old}

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--parts', nargs='+', choices=parts, default=parts)
    p.add_argument('--networks', nargs='+', choices=asked, default=tuple(asked))
    p.add_argument('--n-throughput', type=int, default=192); p.add_argument('--n-processes', type=int, default=256)
    p.add_argument('--n-memory', type=int, default=100_000); p.add_argument('--n-picture', type=int, default=300)
    p.add_argument('--pairs', type=int, default=7); p.add_argument('--few', type=int, default=3)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--work', help='a folder that keeps pictures and the large table from one run to the next')
    p.add_argument('--child', nargs=2, help=argparse.SUPPRESS)
    a = vars(p.parse_args())
    if child := a.pop('child'):
        warnings.filterwarnings('ignore')
        return print(f"\n{json.dumps(children[child[0]](**json.loads(child[1])))}")
    import torch
    from common import write
    torch.set_num_threads(a['threads'])
    new,f = run(**a),here/'results'/'scale.json'
    old = json.loads(f.read_text()) if f.exists() else {}
    write('scale', seed=0, **merged(old, new), commits=old.get('commits', {})|dict.fromkeys(new, git_commit()))

if __name__=='__main__': main()
