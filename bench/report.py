"""Size of the report's page of 500 and of 5,000 pictures of 224 pixels, the seconds to write it, and the time until
headless Chromium shows its first picture

The network is small and untrained, so nearly every picture is wrong and has two maps; with a larger network, its passes
take most of the time. The larger set repeats its files."""
import argparse, shutil, statistics, sys, tempfile, time, warnings
from pathlib import Path

here = Path(__file__).parent
sys.path[:0] = [str(here),str(here.parent)]
warnings.filterwarnings('ignore')

def interpretation(n, size, made):
    "An interpretation of `n` pictures"
    from fastai.vision.all import (CategoryBlock, CrossEntropyLossFlat, DataBlock, ImageBlock, IndexSplitter, Learner,
                                   get_image_files, parent_label, set_seed)
    from fastattn.all import ClassificationInterpretation, demo_arch
    from fastattn.data.demo import demo_path
    import fastattn.interpret.report # adds the method
    set_seed(0)
    files = get_image_files(demo_path(n=made, size=size), folders=['train','valid']).sorted()
    items = (list(files)*(n//len(files)+1))[:n]
    block = CategoryBlock(sorted({parent_label(f) for f in files}))
    db = DataBlock((ImageBlock,block), get_items=lambda _: items[:8]+items, get_y=parent_label,
                   splitter=IndexSplitter(range(8, n+8)))
    learn = Learner(db.dataloaders('.', bs=32, num_workers=0), demo_arch(n_out=8), loss_func=CrossEntropyLossFlat())
    with learn.no_bar(): return ClassificationInterpretation.from_learner(learn)

def first_picture(path, runs=5):
    "Seconds from opening the page until its first picture with a map is drawn: the median, and until it can be used"
    from playwright.sync_api import sync_playwright
    seen,ready = [],[]
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
        for _ in range(runs):
            page = b.new_page(viewport=dict(width=1280, height=900))
            start = time.perf_counter()
            page.goto(path.as_uri(), wait_until='commit')
            page.wait_for_selector('html[data-ready]', state='attached')
            ready.append(time.perf_counter()-start)
            page.locator('#losses').scroll_into_view_if_needed()
            page.wait_for_selector('#losses .tile canvas')
            page.locator('#losses .tile img').first.evaluate('o => o.decode()')
            seen.append(time.perf_counter()-start)
            page.close()
        b.close()
    return round(statistics.median(seen), 2),round(statistics.median(ready), 2)

def measured(n, size, made):
    "What one page costs"
    interp = interpretation(n, size, made)
    with tempfile.TemporaryDirectory() as d, interp.learn.no_bar():
        start = time.perf_counter()
        path = interp.report(Path(d)/'page', k=n, methods='gradcam')
        took = time.perf_counter()-start
        text = path.read_text(encoding='utf-8')
        seen,ready = first_picture(path)
        maps = text.count('"size":[')-2*n # of each picture and of each record, too
        return dict(pictures=n, maps=maps, MB=round(path.stat().st_size/2**20, 2), seconds=round(took, 1),
                    seconds_per_picture=round(took/n, 4), ready=ready, first_picture=seen)

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--n', type=int, nargs='*', default=[500,5000])
    p.add_argument('--size', type=int, default=224)
    p.add_argument('--made', type=int, default=500, help='number of different pictures')
    p.add_argument('--quick', action='store_true', help='a small run, which writes nothing')
    args = p.parse_args()
    if args.quick: return print(measured(40, 64, 160))
    from common import write
    write('report', size=args.size, different=args.made, pages=[measured(n, args.size, args.made) for n in args.n])

if __name__ == '__main__': main()
