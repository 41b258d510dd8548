"""Time and peak memory of a heatmap of a large picture, by a learner and by a bare model with `prep`, and of drawing
it: pictures of 12, 88 and 169 megapixels, each in a process of its own (Linux). `read` is fastai alone: the file is
opened and sent through the transforms. With `--before` the results are kept beside later ones"""
import argparse, sys, tempfile, time, warnings
import matplotlib
matplotlib.use('agg')
import torchvision
from fastai.vision.all import *
from fastattn.all import *
from common import here, in_child, peak_mb, write

sizes = {12:(4000,3000), 88:(11000,8000), 169:(13000,13000)} # width and height by megapixels
Image.MAX_IMAGE_PIXELS = None

def make(path, size, seed=0):
    "A JPEG of a colour gradient plus noise"
    W,H = size
    im,rng = Image.new('RGB', size),np.random.default_rng(seed)
    noise = rng.integers(0, 64, (100,W,3), dtype=np.uint8)
    x = np.linspace(0, 191, W)
    for top in range(0, H, 100):
        y = np.linspace(0, 191, H)[top:top+100,None]
        band = np.stack([x+0*y, y+0*x, (x+y)/2], -1).astype(np.uint8)+np.roll(noise[:len(y)], top, 1)
        im.paste(Image.fromarray(band), (0,top))
    im.save(path, quality=85)

def a_learner(folder):
    "A ResNet-18, untrained, that reads pictures as most do"
    for i in range(4): make(folder/f'{i}.jpg', (320,240), i)
    block = DataBlock((ImageBlock,CategoryBlock), get_y=lambda o: 'ab'[int(o.stem)%2], splitter=IndexSplitter([0,1]),
                      item_tfms=Resize(224), batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False))
    dls = block.dataloaders([folder/f'{i}.jpg' for i in range(4)], bs=2, num_workers=0)
    return Learner(dls, torchvision.models.resnet18(num_classes=2), loss_func=CrossEntropyLossFlat())

def measured(f):
    "What `f` returns, its seconds (on the clock, and of one processor), and the MB that it adds at its peak"
    seen = {}
    def _run():
        t,cpu = time.perf_counter(),time.process_time()
        seen['res'] = f()
        seen.update(seconds=round(time.perf_counter()-t, 2), cpu_seconds=round(time.process_time()-cpu, 2))
    mb = peak_mb(_run)
    return seen.pop('res'),dict(seen, peak_mb=round(mb))

def child(path, kind):
    torch.manual_seed(0)
    folder = Path(path).parent
    learn = a_learner(folder)
    T = torchvision.transforms
    prep = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(*imagenet_stats)])
    def run(fn): return explain(learn, fn) if kind=='learner' else explain(learn.model, fn, prep=prep)
    run(folder/'0.jpg').overlay()
    def read(): return learn.dls.test_dl([path]).one_batch() if kind=='learner' else prep(PILImage.create(path))
    _,res = measured(read)
    out = dict(read=res)
    h,out['explain'] = measured(lambda: run(path))
    pic,out['overlay'] = measured(h.overlay)
    _,out['save'] = measured(lambda: pic.save(folder/'out.jpg'))
    del pic
    _,out['show'] = measured(lambda: h.show().figure.savefig(folder/'out.png'))
    plt.close('all')
    _,out['html'] = measured(h._repr_html_)
    plt.close('all')
    _,out['size_224'] = measured(lambda: explain(learn, path, size=224) if kind=='learner'
                                 else explain(learn.model, path, size=224, prep=prep))
    print(json.dumps(out))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--child', nargs=2); p.add_argument('--megapixels', type=int, nargs='*', default=list(sizes))
    p.add_argument('--name', default='large_pictures'); p.add_argument('--seed', type=int, default=0)
    p.add_argument('--before', action='store_true')
    a = p.parse_args()
    if a.child:
        child(*a.child)
        sys.exit()
    res = {}
    with tempfile.TemporaryDirectory() as t:
        for mp in a.megapixels:
            make(fn := Path(t)/f'{mp}.jpg', sizes[mp], a.seed)
            res[mp] = dict(picture_mb=round(math.prod(sizes[mp])*3/2**20),
                           **{k:in_child(__file__, '--child', fn, k) for k in ('learner','prep')})
            fn.unlink()
    there = here/'results'/f'{a.name}.json'
    kept = json.loads(there.read_text()) if there.exists() else {}
    kept = {k:kept.get(k) for k in ('before','megapixels')} | {'before' if a.before else 'megapixels':res}
    write(a.name, what='seconds, and MB added at the peak', seed=a.seed, **kept)
