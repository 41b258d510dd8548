"""A small network and small pictures for tables of maps, and what a table holds"""
import os, shutil
from pathlib import Path
import numpy as np, pyarrow.parquet as pq, torch
from fastai.vision.all import Image, get_image_files, nn
from fastattn.data.demo import demo_path

def net(n=5, seed=0):
    "A network for pictures of 32 x 32 pixels, always the same"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        def conv(ni, nf): return nn.Sequential(nn.Conv2d(ni, nf, 3, 2, 1), nn.ReLU())
        return nn.Sequential(conv(3, 8), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n)).eval()

def prep(im):
    "A bare model's transform"
    return torch.from_numpy(np.array(im.convert('RGB').resize((32,32)))).permute(2,0,1)/255.

def link(f, to):
    "A second name for a file, or a copy where that is another disk"
    to.parent.mkdir(parents=True, exist_ok=True)
    try: os.link(f, to)
    except OSError: shutil.copy(f, to)

def pictures(path, n=48):
    "A folder of demo pictures in two subfolders"
    for i,f in enumerate(get_image_files(demo_path(n=64)/'train').sorted()[:n]): link(f, path/'ab'[i%2]/f'{i:03d}.png')
    return path

def plain(path, sizes):
    "A folder of pictures of one colour each, of these sizes"
    path.mkdir(parents=True, exist_ok=True)
    for i,s in enumerate(sizes): Image.new('RGB', s, (37*i%256,90,160)).save(path/f'{i:02d}.png')
    return path

def shards(path):
    "The finished shards of a table and its lists, by name, without the notes in them"
    files = [f for f in sorted(Path(path).glob('*.parquet')) if not f.name.startswith('.part-')]
    return {f.name:pq.read_table(f).replace_schema_metadata() for f in files}

def same(a, b):
    "Do two tables have the same files with the same rows, bit for bit?"
    a,b = shards(a),shards(b)
    return a.keys()==b.keys() and all(a[k].equals(b[k]) for k in a)

def parts(path):
    "What is unfinished in a folder"
    return sorted(f.name for f in Path(path).iterdir() if f.name.startswith('.part-'))
