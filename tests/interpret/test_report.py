"""The report's page: what it holds for every kind of label, that it is safe to open and works in a browser, and the
comparison of two models on the same pictures."""
import base64, importlib.util, json, re, shutil
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from fastai.vision.all import (BCEWithLogitsLossFlat, CategoryBlock, DataBlock, ImageBlock, ImageDataLoaders, L,
                               Learner, MSELossFlat, MultiCategoryBlock, Path, PointBlock, RandomSplitter,
                               RegressionBlock, get_image_files, parent_label, set_seed)
from fastattn.all import *
from fastattn.data.demo import *
from fastattn.image.files import is_ours
from fastattn.interpret.progress import compare_interps, mcnemar
from fastattn.interpret.report_tables import wilson_interval
from fastattn.interpret import report_page

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
in_browser = pytest.mark.skipif(not chromium or importlib.util.find_spec('playwright') is None,
                                reason='chromium or playwright is not there')
pytest.importorskip('jinja2')
rude = '<img src=x onerror=alert(1)>','"quoted" \'name\' &amp;','<script>alert(2)'

def held(page, id='data'):
    "What the page keeps under an id"
    return json.loads(re.search(rf'<script type="application/json" id="{id}">(.*?)</script>', page, re.S)[1])

def parsed(text):
    "The names of all tags and of all attributes of a page"
    tags,names = set(),set()
    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs): tags.add(tag); names.update(k for k,_ in attrs)
    Tags().feed(text)
    return tags,names

def small(block, get_y, n_out, loss, files=None, cls=ClassificationInterpretation, **kwargs):
    "An untrained learner, and its interpretation"
    set_seed(2)
    db = DataBlock((ImageBlock,block), get_items=lambda p: files or get_image_files(p, folders=['train','valid'])[:40],
                   get_y=get_y, splitter=RandomSplitter(.5, seed=1))
    dls = db.dataloaders(demo_path(n=160), bs=8, num_workers=0)
    learn = Learner(dls, demo_arch(n_out=n_out), loss_func=loss, **kwargs)
    with learn.no_bar(): return cls.from_learner(learn)

def mean(f): return float(np.asarray(Image.open(f)).mean())
def several(f): return [parent_label(f), 'bright' if mean(f)>110 else 'dark']

@pytest.fixture(scope='module')
def demo():
    learn = demo_learner()
    with learn.no_bar(): return ClassificationInterpretation.from_learner(learn)

@pytest.fixture(scope='module')
def rudely(tmp_path_factory):
    "An interpretation of files and classes whose names are HTML"
    root,files = tmp_path_factory.mktemp('rude'),[]
    for i,f in enumerate(get_image_files(demo_path(n=160)/'train')[:30]):
        d = root/rude[i%3]
        d.mkdir(exist_ok=True)
        files.append(Path(shutil.copy(f, d/f'{rude[(i+1)%3]}{i}.png')))
    return small(CategoryBlock, parent_label, 3, None, L(files))

@pytest.fixture(scope='module')
def page(demo, tmp_path_factory):
    audit = demo.learn.audit_maps(methods=['gradcam','saliency'], n=8)
    path = tmp_path_factory.mktemp('report')/'page'
    return demo.report(path, k=90, audit=audit, methods=['gradcam','soft_attention','input_x_gradient'])

def test_counts_and_maps(demo, page):
    data,cm = held(page.read_text(encoding='utf-8')),demo.confusion_matrix()
    for k,v in data['cells'].items():
        i,j = map(int, k.split(','))
        assert v['count']==cm[i,j] and v['pictures']
    assert len(data['pictures'])==90 and [m['palette'] for m in data['methods']]==['magma','magma','RdBu_r']
    n = data['pictures'][0]['number']
    h = demo.heatmaps([n], 'gradcam')[0]
    m = held(page.read_text(encoding='utf-8'), 'picture-0')['maps']['gradcam']['pred']
    got = np.frombuffer(base64.b64decode(m['values']), np.uint8).reshape(m['size'])/255
    there = np.asarray(Image.fromarray(np.float32(got)).resize(h.shape[::-1], Image.BILINEAR))
    assert abs(there-h.as_subclass(torch.Tensor).numpy()).max()<.12 # on the same place, at half the resolution

def test_nothing_changes(demo, tmp_path):
    learn = demo.learn
    weights = {k:v.clone() for k,v in learn.model.state_dict().items()}
    modes,grads = [m.training for m in learn.model.modules()],[p.requires_grad for p in learn.model.parameters()]
    torch.manual_seed(3); before = torch.get_rng_state(),np.random.get_state()[1].tolist()
    demo.report(tmp_path/'a', k=8)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist()==before[1]
    assert all(torch.equal(v, weights[k]) for k,v in learn.model.state_dict().items())
    assert modes==[m.training for m in learn.model.modules()]
    ps = list(learn.model.parameters())
    assert grads==[p.requires_grad for p in ps] and all(p.grad is None for p in ps)
    assert not any(m._forward_hooks for m in learn.model.modules())

@pytest.mark.parametrize('kind', ['multi','binary','regression','points','masks'])
def test_other_labels(kind, tmp_path):
    args = dict(multi=(MultiCategoryBlock, several, 10, BCEWithLogitsLossFlat(thresh=.3)),
                binary=(CategoryBlock, lambda f: 'a' if parent_label(f)<'coffee' else 'b', 1, BCEWithLogitsLossFlat()),
                regression=(RegressionBlock, mean, 1, MSELossFlat()),
                points=(PointBlock, lambda f: [(10.,20.),(30.,40.)], 4, MSELossFlat()))
    if kind=='masks':
        dls = demo_dls(n=160, bs=8, masks=True)
        with (learn := Learner(dls, torch.nn.Conv2d(3, 9, 3, padding=1))).no_bar():
            interp = SegmentationInterpretation.from_learner(learn)
        kw = dict(methods='saliency')
    else:
        cls = ClassificationInterpretation if kind in ('multi','binary') else Interpretation
        interp,kw = small(*args[kind], cls=cls),{}
    text = interp.report(tmp_path/kind, k=12, **kw).read_text(encoding='utf-8')
    data = held(text)
    assert len(data['pictures'])==12 and bool(data['cells'])==(kind in ('multi','binary'))
    assert ('id="confusion"' in text)==(kind in ('multi','binary'))
    if kind=='multi': assert sum(v['count'] for k,v in data['cells'].items())==10*len(interp.losses)

def test_pictures_that_vanish(tmp_path):
    files = [Path(shutil.copy(f, tmp_path/f'{parent_label(f)}{i}.png'))
             for i,f in enumerate(get_image_files(demo_path(n=160)/'train')[:24])]
    interp = small(CategoryBlock, lambda f: f.name[0], 8, None, L(files))
    gone = interp.dl.items[3]
    gone.unlink()
    text = interp.report(tmp_path/'page').read_text(encoding='utf-8')
    data = held(text)
    assert '1 picture could not be read' in text and gone.name in text
    assert sorted(p['number'] for p in data['pictures'])==[i for i in range(12) if i!=3]
    for f in interp.dl.items: f.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match='None of the pictures'): interp.report(tmp_path/'other')

@pytest.mark.parametrize('pref', ['folder','column'])
def test_rows_whose_pictures_vanish(pref, tmp_path):
    "Of a `DataFrame` with names in a folder, and with paths"
    rows = []
    for i,f in enumerate(get_image_files(demo_path(n=160)/'train')[:24]):
        fn = Path(shutil.copy(f, tmp_path/f'{i}.png'))
        rows.append((fn.name if pref=='folder' else str(fn), parent_label(f)))
    df = pd.DataFrame(rows, columns=['file','label'])
    set_seed(2)
    dls = ImageDataLoaders.from_df(df, tmp_path if pref=='folder' else '/', bs=8, num_workers=0, valid_pct=.5, seed=1,
                                   **({} if pref=='folder' else dict(pref='')))
    with (learn := Learner(dls, demo_arch(n_out=8))).no_bar():
        interp = ClassificationInterpretation.from_learner(learn)
    gone = Path(interp.dl.items.iloc[2]['file']).name
    (tmp_path/gone).unlink()
    text = interp.report(tmp_path/'page').read_text(encoding='utf-8')
    assert '1 picture could not be read' in text and f'left out: {gone}' in text
    assert sorted(p['number'] for p in held(text)['pictures'])==[i for i in range(12) if i!=2]
    for f in tmp_path.glob('*.png'): f.unlink()
    with pytest.raises(FileNotFoundError, match='None of the pictures'): interp.report(tmp_path/'other')

def test_bad_input(demo, tmp_path, monkeypatch):
    (tmp_path/'mine.html').write_text('<p>mine</p>')
    for name,kw,says in (('mine',{}, 'overwrite=True'), ('mine',dict(overwrite=True),'was not made by fastattn'),
                         ('a/b',{}, 'There is no folder'), ('a.pdf',{}, 'ends in .html'), ('.',{}, 'is a folder'),
                         ('x',dict(k=0),'at least 1'), ('x',dict(methods='gradcan'),"'gradcam'"),
                         ('x',dict(methods=['rollout']),'does not suit this model'),
                         ('x',dict(recorder=AttentionRecorder()),'holds no heatmaps'), ('x',dict(audit=1),'audit_maps'),
                         ('x',dict(shortcuts=1),'find_shortcuts'), ('x',dict(title=1),'is a text')):
        with pytest.raises((OSError,ValueError,TypeError)) as e: demo.report(tmp_path/name, **kw)
        assert says in str(e.value) and str(e.value).count('\n')==0
    assert sorted(o.name for o in tmp_path.iterdir())==['mine.html'] # nothing is left behind
    monkeypatch.setitem(__import__('sys').modules, 'jinja2', None)
    with pytest.raises(ImportError, match=r"pip install 'fastattn\[report\]'"): demo.report(tmp_path/'x')

def test_names_are_quoted(rudely, tmp_path):
    "Nothing that a name holds becomes HTML, and the policy names the page's own style and script only"
    text = rudely.report(tmp_path/'page', title=rude[0]).read_text(encoding='utf-8')
    assert is_ours(tmp_path/'page.html')
    tags,names = parsed(text)
    assert not tags&{'img','iframe','object','link'} and not {n for n in names if n.startswith('on') or n=='style'}
    assert not names&{'src','srcset','action'} and all(h.startswith('#') for h in re.findall(r'href="(.*?)"', text))
    assert text.startswith('<!DOCTYPE html>') and text.count('<script>')==1 and '://' not in text
    for block in re.findall(r'<script type="application/json".*?>(.*?)</script>', text, re.S): assert '<' not in block
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', text)[1].replace('&#39;', "'")
    assert policy==report_page.content_policy(report_page.report_css, report_page.report_js)
    assert policy.startswith("default-src 'none'; img-src data: blob:;") and 'unsafe' not in policy

class Browser:
    """Headless Chromium on a file; errors on the console, dialogs and requests are kept in `faults`

    Used in one thread of its own: Playwright refuses to run where a test has left an event loop."""
    def __init__(self, path, **kwargs):
        from playwright.sync_api import sync_playwright
        self.faults,self.playwright = [],sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        self.page = self.chromium.new_page(**{**dict(viewport=dict(width=1280, height=900)), **kwargs})
        self.page.on('console', lambda m: self.faults.append(m.text) if m.type in ('error','warning') else None)
        self.page.on('pageerror', lambda e: self.faults.append(str(e)))
        self.page.on('dialog', lambda d: (self.faults.append(d.message), d.dismiss()))
        self.page.on('request', lambda r: None if r.url.startswith(('data:','blob:',path.as_uri()))
                     else self.faults.append(r.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector('html[data-ready]', state='attached')

    def close(self):
        self.chromium.close()
        self.playwright.stop()

def browsed(path, f, **kwargs):
    "What `f` returns for the page; there must be no fault"
    def _run():
        b = Browser(path, **kwargs)
        try: return f(b.page),b.faults
        finally: b.close()
    with ThreadPoolExecutor(1) as thread: res,faults = thread.submit(_run).result()
    assert not faults, faults
    return res

def confused(page):
    "A cell of the confusion matrix with wrong answers, as the page names it: which there are depends on the training"
    cells = held(page.read_text(encoding='utf-8'))['cells']
    return next(k for k in cells if len(set(k.split(',')))==2)

@in_browser
def test_every_control(demo, page):
    cell = confused(page)
    actual,predicted = (demo.vocab[int(o)] for o in cell.split(','))
    def _use(p):
        p.click(f'[data-cell="{cell}"]')
        assert p.inner_text('#cell-pictures h3').startswith(f'{actual} taken for {predicted}')
        assert p.get_attribute(f'[data-cell="{cell}"]', 'aria-pressed')=='true'
        tile = '#cell-pictures .tile >> nth=0'
        p.wait_for_selector(f'{tile} >> canvas >> nth=1') # maps of both classes
        first = p.eval_on_selector(f'{tile} >> canvas >> nth=0', 'c => c.toDataURL()')
        assert first!=p.eval_on_selector(f'{tile} >> canvas >> nth=1', 'c => c.toDataURL()')
        p.focus('.bar .opacity')
        p.keyboard.press('ArrowLeft')
        assert p.evaluate("getComputedStyle(document.querySelector('.pic canvas')).opacity")=='0.55'
        for v,n in (('pred',1),('actual',1),('none',0)):
            p.check(f'[name=target][value={v}]')
            assert p.locator(tile).locator('canvas').count()==n
        p.check('[name=target][value=both]')
        p.select_option('#method', 'soft_attention')
        assert p.locator(tile).locator('canvas').count()==1 and p.is_disabled('[name=target][value=actual]')
        p.select_option('#method', 'gradcam')
        p.click('#losses .more')
        assert p.evaluate("document.activeElement.className")=='open'
        p.click('details.class summary >> nth=2')
        p.wait_for_selector('details[open] .tile img')
        p.focus('#top-pictures .open >> nth=0')
        p.keyboard.press('Enter')
        assert p.is_visible('#large') and p.is_disabled('#large-before')
        p.keyboard.press('ArrowRight')
        assert p.inner_text('#large-where').startswith('2 of')
        for button,at in (('before','1 of'), ('after','2 of')):
            p.click(f'#large-{button}')
            assert p.inner_text('#large-where').startswith(at)
        p.click('#large-close')
        assert not p.is_visible('#large')
        p.evaluate('window.print = () => { window.printed = true }')
        p.click('#print')
        p.wait_for_function('window.printed')
        p.focus('#top-pictures .open >> nth=0')
        p.keyboard.press('Enter')
        p.keyboard.press('Escape')
        assert not p.is_visible('#large')
        assert p.evaluate("document.activeElement.className")=='open' # the focus returns
        assert 'Which maps to believe' in p.inner_text('#audit')
        alts = p.eval_on_selector_all('.tile img', 'is => is.map(i => i.alt)')
        assert alts and all(re.search('(Right|Wrong), predicted .*, actual .*, loss ', a) for a in alts)
        small = p.evaluate("""[...document.querySelectorAll('body *')].filter(e => e.children.length===0
            && e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize)<14).map(e => e.outerHTML.slice(0,80))
            .filter(o => !o.startsWith('<script') && !o.startsWith('<style'))""")
        assert not small, small[:3]
        heads = p.eval_on_selector_all('th', 'ts => ts.every(t => t.scope)')
        assert heads and p.locator('main').count()==1 and p.locator('nav[aria-label]').count()==1
    browsed(page, _use)

@in_browser
def test_large_picture(page):
    "Previous, Next and Close, the opacity beside them, and a click beside the dialog"
    def _use(p):
        p.click('#top-pictures .open >> nth=1')
        name = p.inner_text('#large-name')
        assert p.inner_text('#large-where').startswith('2 of') and p.is_enabled('#large-before')
        p.wait_for_selector('#large-views canvas')
        p.click('#large-after')
        assert p.inner_text('#large-where').startswith('3 of') and p.inner_text('#large-name')!=name
        p.click('#large-before')
        assert p.inner_text('#large-name')==name
        p.click('#large-before')
        assert p.is_disabled('#large-before') and p.inner_text('#large-where').startswith('1 of')
        n = int(p.inner_text('#large-where').split()[-1])
        for _ in range(n-1): p.click('#large-after')
        assert p.is_disabled('#large-after') and p.inner_text('#large-where')==f'{n} of {n}'
        p.focus('#large .opacity')
        p.keyboard.press('Home')
        assert p.inner_text('#large-where')==f'{n} of {n}' # an arrow key moves the slider only
        assert p.evaluate("getComputedStyle(document.querySelector('#large canvas')).opacity")=='0'
        assert p.input_value('.bar .opacity')=='0'
        p.click('#large-close')
        assert not p.is_visible('#large')
        p.click('#top-pictures .open >> nth=0')
        p.mouse.click(3, 450)
        assert not p.is_visible('#large')
    browsed(page, _use)

@in_browser
def test_lazy(page):
    "Pictures far from the screen are not decoded, and dropped when they have left it"
    def _use(p):
        p.wait_for_timeout(300)
        n = p.locator('.tile').count()
        assert 0<=p.locator('.tile img').count()<n
        p.evaluate("document.querySelector('#losses').scrollIntoView()")
        p.wait_for_selector('#losses .tile img')
        p.evaluate('scrollTo(0, document.body.scrollHeight)')
        p.wait_for_selector('#losses .tile img', state='detached')
    browsed(page, _use, viewport=dict(width=1280, height=300))

@in_browser
@pytest.mark.parametrize('scheme', ['light','dark'])
def test_narrow(page, scheme):
    cell = confused(page)
    def _use(p):
        p.click(f'[data-cell="{cell}"]')
        return p.evaluate('[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]')
    width,colour = browsed(page, _use, viewport=dict(width=390, height=844), color_scheme=scheme)
    assert width==390 and (colour=='rgb(255, 255, 255)')==(scheme=='light')

@in_browser
def test_rude_names_are_inert(rudely, tmp_path):
    path = rudely.report(tmp_path/'page', title=rude[0])
    def _use(p):
        p.click('[data-cell] >> nth=0')
        p.wait_for_selector('#cell-pictures .tile img')
        p.click('#cell-pictures .open >> nth=0')
        assert p.inner_text('h1')==rude[0]
        assert p.locator('[onerror]').count()==0 and p.locator('img[src=x]').count()==0
        return p.inner_text('#large-name')
    assert any(o[:5] in browsed(path, _use) for o in rude)

@in_browser
def test_epochs(tmp_path):
    "Maps by epoch of a recorder that the learner has"
    interp = small(CategoryBlock, parent_label, 8, None, cbs=AttentionRecorder(watch=3))
    with interp.learn.no_bar(), interp.learn.no_logging(): interp.learn.fit(2)
    path = interp.report(tmp_path/'page', k=4)
    def _use(p):
        assert p.locator('#watched canvas').count()==3 and p.inner_text('#epoch-name')=='epoch 2'
        last = p.eval_on_selector('#watched canvas', 'c => c.toDataURL()')
        p.focus('#epoch')
        p.keyboard.press('Home')
        assert p.inner_text('#epoch-name')=='start'
        assert last!=p.eval_on_selector('#watched canvas', 'c => c.toDataURL()')
        p.click('#play')
        p.wait_for_selector('#epoch-name:text-is("epoch 2")')
        assert p.inner_text('#play')=='Play'
    browsed(path, _use)

@in_browser
def test_print(page):
    "All of the page is drawn on paper, without the controls; classes are opened for it, and folded again"
    def _use(p):
        p.click('details.class summary >> nth=1')
        p.wait_for_selector('details[open] .tile img')
        p.evaluate("window.print = () => { window.printed = document.querySelectorAll('details[open]').length }")
        p.click('#print')
        p.wait_for_function('window.printed')
        n = p.locator('details.class').count()
        assert p.evaluate('printed')==n and p.locator('.tile').count()==p.locator('.tile:has(img)').count()
        p.evaluate("dispatchEvent(new Event('afterprint'))")
        assert p.locator('details[open]').count()==1 and p.locator('details[open] >> nth=0').is_visible()
        p.wait_for_selector('details:not([open]) .tile img', state='detached')
        p.emulate_media(media='print')
        p.evaluate("dispatchEvent(new Event('beforeprint'))")
        p.wait_for_timeout(500)
        assert p.locator('details[open]').count()==n and p.locator('.tile').count()==p.locator('.tile:has(img)').count()
        assert not p.is_visible('.bar') and not p.is_visible('nav')
        return len(p.pdf())
    assert browsed(page, _use)>50_000

@in_browser
def test_wide_tables_on_paper(page, tmp_path):
    "Neither a matrix of 40 classes nor a table of many columns runs over a page of A4"
    names = {f:f'{parent_label(f)} number {i%5}' for i,f in enumerate(get_image_files(demo_path(n=160)))}
    many = small(CategoryBlock(sorted({*names.values()})), lambda f: names[f], 40, None, L(list(names)))
    columns = {f'a long heading {i}':['words that are wrapped','nothing_to_wrap_at',i] for i in range(14)}
    path = many.report(tmp_path/'page', k=12, audit=pd.DataFrame(columns))
    def _use(p):
        p.emulate_media(media='print')
        right = p.eval_on_selector_all('.wide table', 'ts => ts.map(t => t.getBoundingClientRect().right)')
        return [p.evaluate('document.documentElement.scrollWidth'), *right]
    assert '<th scope="col" class="turn">' in path.read_text(encoding='utf-8')
    for o in (path,page): assert max(browsed(o, _use, viewport=dict(width=718, height=1000)))<=718 # 19 cm

def test_intervals():
    statsmodels = [(8,10,.4902,.9433),(0,20,0,.1611),(45,50,.7864,.9565)] # of its `proportion_confint(.., 'wilson')`
    for k,n,low,high in statsmodels: assert np.allclose(wilson_interval(k, n), (low,high), atol=1e-4)
    assert np.isclose(mcnemar(3, 12), .03515625) # R: binom.test(3, 15)

def test_progress(demo):
    learn = demo.learn
    early = demo_arch_interp(learn)
    got = compare_interps(early, demo)
    assert len(got.gained)>len(got.lost) and got.p_value<1e-6 and got.difference[1]>0
    assert 'more than chance' in repr(got) and '<table' in got._repr_html_()
    assert len(got.plot(k=2, method='gradcam').axes)>=4

def demo_arch_interp(learn):
    "The interpretation of an untrained network on the same pictures"
    with (raw := Learner(learn.dls, demo_arch(n_out=8))).no_bar(): return ClassificationInterpretation.from_learner(raw)

def test_progress_of_several_labels():
    a,b = (small(MultiCategoryBlock, several, 10, BCEWithLogitsLossFlat(thresh=t)) for t in (.3,.5))
    got = compare_interps(a, b)
    assert len(got.was)==20 and not got.was.any() # all labels of a picture at once
