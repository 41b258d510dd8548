"The site: what a page shows of a notebook, links, faults that stop the build; the built site, read by a browser"
import functools, http.server, importlib.util, json, os, re, shutil, socketserver, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest

root = Path(__file__).parents[1]
sys.path.insert(0, str(root/'tools'))
from web import build, check, fresh, links, notebook, reference, sections, settings, shown, signature, source
from web.readme import build_readme

chromium = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)

## What is shown

def test_checks_are_not_shown():
    cells = [('import math', False), ('a = f(3)', False), ('b = g(4)\ntest_eq(b, 5)', False), ('a+1', True),
             ('x = 1\nassert x', False), ('h(a)\ntest_eq(a, 1)', True), ('#| eval: false\npip()', False)]
    assert shown.shown(cells) == ['import math', 'a = f(3)', None, 'a+1', None, 'h(a)', '#| eval: false\npip()']

def test_what_a_shown_cell_needs_is_shown():
    "Through several cells, and through a statement that changes what is needed"
    cells = [('n = 3', False), ('net = make(n)', False), ('net.eval()', False), ('other = make(1)', False),
             ('net', True)]
    assert shown.shown(cells) == ['n = 3', 'net = make(n)', 'net.eval()', None, 'net']

def test_functions_that_only_check_are_not_shown():
    assert shown.without_checks('def same(a):\n    test_eq(a, 1)\nsame(1)') == ('same(1)', True)
    assert shown.without_checks('for i in range(3): test_eq(i, i)') == ('', True)
    assert shown.without_checks('for i in r:\n    f(i)\n    test_eq(i, 1)') == ('for i in r:\n    f(i)', True)
    assert shown.without_checks('%pip install x\ny = 1') == ('%pip install x\ny = 1', False)

## Signatures

def test_a_signature_is_a_table():
    text = ("```python\ndef f(\n    x, # An image, `(c,h,w)`\n    mode:str='a,b', # `'a'` or `'b'` | both\n"
            "    y:NoneType=None,\n    **kwargs\n)->fastattn.image.Heatmap: # A map\n```\n\n*Does it*")
    got = signature.as_table(text)
    assert "f(x, mode='a,b', y=None, **kwargs)" in got
    assert "| `x` | An image, `(c,h,w)` |" in got and "| `mode:str='a,b'` | `'a'` or `'b'` \\| both |" in got
    assert '| *returns* `Heatmap` | A map |' in got and '| `y=None` | as in fastai' in got
    assert signature.as_table('```python\ndef f(x):\n```') == '```python\ndef f(x):\n```'

def test_parameters_without_a_word(tmp_path, monkeypatch):
    (tmp_path/'m.py').write_text('def f(\n    a, # One\n    b\n):\n    pass\n\n'
                                 '@dataclass\nclass D:\n    x:int # One\n    y:int\n')
    monkeypatch.setattr(source, 'root', tmp_path)
    assert source.undocumented('m.py', 1) == ['b'] and source.undocumented('m.py', 7) == ['y']
    assert source.fields_at('m.py', 7) == 'class D:\n    x:int # One\n    y:int'
    assert source.source_at('m.py', 7)[1].endswith('m.py#L7-L10')

## Links

pages = {'core/pipeline':'.ipynb', 'reference/explain':'.ipynb', 'tutorials/start':'.ipynb'}

def test_links_of_notebooks():
    def to(text, nb='tutorials/start.ipynb'): return links.relink(text, nb, pages)
    assert to('[a](../core/13_pipeline.ipynb#x)') == '[a](../core/pipeline.ipynb#x)'
    assert to('[`a`](start.ipynb) ![p](https://b.c)') == '[`a`](start.ipynb) ![p](https://b.c)'
    assert to('```\n[a](nowhere.md)\n```') == '```\n[a](nowhere.md)\n```'
    assert to('[a](../../bench/cams.py)') == f'[a]({settings.repository}/blob/{settings.branch}/bench/cams.py)'
    with pytest.raises(links.BrokenLink, match='tutorials/start.ipynb links to .nowhere.ipynb., which is not there'):
        to('[a](nowhere.ipynb)')

def test_links_of_names():
    twice = 'a [b [`c`](/core/pipeline.html#c) d](x.ipynb)'
    assert links.unnest(twice)=='a [b `c` d](x.ipynb)'
    from_nbdev = '[`explain`](/core/pipeline.html#explain) [`o`](/core/pipeline.html#o.p)'
    got = links.relink_names(from_nbdev, 'core/pipeline', pages)
    assert got == '[`explain`](../reference/explain.ipynb) [`o`](pipeline.ipynb#op)'

def test_readme_is_absolute_and_short():
    "A package index shows it, where relative links lead nowhere; it names every card of the gallery"
    text,_ = build_readme()
    assert not [l for l in re.findall(r'\]\(([^)]+)\)', text) if not l.startswith('https://')]
    assert len(text.splitlines())<=150
    titles = re.findall(r'^## (.*)$', '\n'.join(''.join(c['source']) for c in _nb('tutorials/gallery')['cells']), re.M)
    assert len(titles)==12 and not [t for t in titles if t not in text]

def _nb(name): return json.loads((root/f'nbs/{name}.ipynb').read_text(encoding='utf-8'))

def test_tutorials_open_in_colab():
    "Their first code installs the package, and is not run here"
    for nb in sorted((root/'nbs/tutorials').glob('*.ipynb')):
        first = next(c for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='code')
        src = ''.join(first['source'])
        assert src.startswith('#| eval: false') and f"pip install -q {settings.name}" in src, nb.name

## What stops the build

def cell(src, outputs=(), kind='code'):
    return dict(cell_type=kind, source=src, metadata={}, **(dict(outputs=list(outputs)) if kind=='code' else {}))

head = cell('---\ntitle: T\ndescription: d\n---', kind='raw')
picture = dict(output_type='display_data', data={'image/png':''}, metadata={})

at = 'core/13_pipeline.ipynb'

@pytest.mark.parametrize('cells,says', [
    ([cell('a')], 'has no title'),
    ([head, cell('plot_heads(vit)')], 'no stored output; run `python tools/docs.py execute nbs/core/13'),
    ([head, cell('h')], 'has no stored output'),
    ([head, cell('1/0', [dict(output_type='error', ename='ZeroDivisionError')])], 'ZeroDivisionError'),
    ([head, cell('[a](gone.ipynb)', kind='markdown')], 'gone.ipynb')])
def test_unfit_notebooks(cells, says):
    with pytest.raises(ValueError, match='nbs/core/13_pipeline') as e: notebook.page_from(cells, at, pages)
    assert says in str(e.value)

def test_fit_notebook():
    cells = [head, cell('#| echo: false\nplot(3)', [picture]), cell('assert 1')]
    nb,title,lacks = notebook.page_from(cells, at, pages)
    assert (title,lacks)==('T',[]) and [c['source'] for c in nb['cells']]==['# T\n\n*d*','plot(3)']
    assert nb['cells'][1]['metadata']['tags']==['remove-input']

def test_cards_of_the_gallery():
    md,code = cell('## One\n\nA sentence.', kind='markdown'),cell('explain(learn)', [dict(data={'image/png':'AAAA'})])
    card, = sections.cards_of(dict(cells=[md,code]))
    assert (card['title'],card['text'],card['code'])==('One','A sentence.','explain(learn)')
    with pytest.raises(ValueError, match="'One' of the gallery has no picture"): sections.cards_of(dict(cells=[md]))
    long = {**code, 'source':'a\n'*6}
    with pytest.raises(ValueError, match='more than 5 lines'): sections.cards_of(dict(cells=[md, long]))

def test_faults_of_a_site(tmp_path):
    (tmp_path/'a.html').write_text('<a id="x"></a><a href="b.html#y">1</a><a href="c.html">2</a><img src="p.png">'
                                   '<a href="a.html#x">3</a><a href="https://example.org">4</a>'
                                   '<script src="https://cdn.example/x.js"></script>')
    (tmp_path/'b.html').write_text('<p>b [c](d.html)</p>')
    found = ' '.join(check.faults_of(tmp_path))
    says = ("'b.html#y': no such place","'c.html', which is not there","'p.png', which is not there",'another host',
            'as text')
    for o in says:
        assert o in found
    assert len(check.faults_of(tmp_path))==5

def test_a_folder_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path/'mine.txt').write_text('x')
    with pytest.raises(build.Stopped, match='is not empty and holds no site'): build.build(tmp_path)

## Outputs that are no longer true

def _png(n):
    "A picture with a title that ends in a number"
    import base64, io, matplotlib.pyplot as plt
    fig,ax = plt.subplots(figsize=(3,2))
    ax.set_title(f'loss {n}')
    b = io.BytesIO()
    fig.savefig(b, format='png')
    plt.close(fig)
    return base64.b64encode(b.getvalue()).decode()

def test_stale_outputs_are_found():
    assert fresh.texts_differ('loss 1.203 in 00:12', 'loss 1.207 in 03:40')==''
    assert fresh.texts_differ('loss 1.2', 'loss 1.3')=='1.2 is now 1.3'
    assert fresh.texts_differ("layer 'a'", "layer 'b'") and fresh.texts_differ('0.001', '0.015')
    assert fresh.pictures_differ(_png(.51), _png(.51))=='' and 'differs' in fresh.pictures_differ(_png(.51), _png(.57))
    out = dict(output_type='stream', text='3')
    assert fresh.cell_differs([out], [])=='1 outputs are now 0'
    assert fresh.cell_differs([out], [{**out, 'text':'3.01'}])==''

## The built site

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The whole site and what was said of it, built once by whichever process comes first"
    from filelock import FileLock
    shared = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ: shared = shared.parent
    out,said = shared/'site',shared/'site.json'
    with FileLock(shared/'site.lock'):
        if not said.exists(): said.write_text(json.dumps(build.build(out)))
    return out,json.loads(said.read_text())

def test_site_is_built(site):
    "Without a warning, a broken link, a missing picture or a docment without a word: any of these stops it"
    out,made = site
    assert made['megabytes']<60 and made['pages']>150
    for n in reference.public_names(): assert (out/f'reference/{n}.html').exists()
    page = (out/'reference/explain.html').read_text(encoding='utf-8')
    assert 'Example' in page and '<img' in page and '#L' in page
    for n,method in (('ClassificationInterpretation','plot_top_losses'), ('AttentionRecorder','plot_heads')):
        assert f'<h3>{method}<' in (out/f'reference/{n}.html').read_text(encoding='utf-8')
    assert not (out/'core/pipeline.html').read_text(encoding='utf-8').count('test_eq')

class Browser:
    """Headless Chromium on the served site; errors on the console and requests to other hosts are kept in `faults`

    Opened, used and closed in one thread of its own: Playwright refuses to run where a test has left an event loop."""
    def __init__(self, url):
        from playwright.sync_api import sync_playwright
        self.url,self.faults = url,[]
        self.playwright = sync_playwright().start()
        self.chromium = self.playwright.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        self.page = self.chromium.new_page(viewport=dict(width=1280, height=900))
        self.page.on('console', lambda m: self.fault(m.text) if m.type=='error' else None)
        self.page.on('pageerror', self.fault)
        self.page.on('request', self.asked)

    def fault(self, says): self.faults.append(f'{self.page.url}: {says}')

    def asked(self, r):
        if not r.url.startswith((self.url,'data:','blob:','about:')): self.fault(f'asks {r.url}')

    def open(self, path): self.page.goto(self.url+path)

    def close(self):
        self.chromium.close()
        self.playwright.stop()

@pytest.fixture(scope='module')
def browse(site):
    "A function that lets a function use a `Browser`"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = socketserver.ThreadingTCPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with ThreadPoolExecutor(1) as thread:
        b = thread.submit(Browser, f'http://127.0.0.1:{server.server_address[1]}/').result()
        def _use(f):
            res = thread.submit(f, b).result()
            assert not b.faults
            return res
        yield _use
        thread.submit(b.close).result()
    server.shutdown()

in_browser = pytest.mark.skipif(not chromium or importlib.util.find_spec('playwright') is None,
                                reason='chromium or playwright is not there')

@in_browser
@pytest.mark.parametrize('asked,page', [
    ('gradcam','cams/gradient'), ('which pixels did this box come from','detr/attention'),
    ('AttentionRecorder','reference/AttentionRecorder')])
def test_search(browse, asked, page):
    def _found(b):
        b.open(f"search.html?q={asked.replace(' ', '+')}")
        b.page.wait_for_function("document.querySelectorAll('ul.search li a').length>0", timeout=30_000)
        b.page.wait_for_timeout(1500) # results come one by one
        return b.page.eval_on_selector_all('ul.search li a', 'as => as.map(a => a.href)')
    found = browse(_found)
    assert any(f'/{page}.html' in o for o in found[:10]), found[:10]

@in_browser
def test_pages_open(browse, pytestconfig):
    "Pages of the sidebar, every ninth of them without `--slow`: no error on the console, no picture that does not load"
    tops = ['index','reference/index','inside/index','measured/index','tutorials/index','howto/index']
    every = [links.page_of(nb) for _,nbs in sections.sidebar() for nb in nbs]
    every += [f'reference/{n}' for n in reference.public_names()]
    def _broken(b, p):
        b.open(f'{p}.html')
        return b.page.eval_on_selector_all('img', 'os => os.filter(o => o.complete && !o.naturalWidth).map(o => o.src)')
    for p in [*tops, *every[::1 if pytestconfig.getoption('slow') else 9]]:
        assert not browse(functools.partial(_broken, p=p)), p

@in_browser
def test_detector_page_is_clicked(browse):
    "Two points clicked: the map of what each attends to is drawn"
    def _maps(b):
        b.open('detr/viewer.html')
        frame = b.page.frame_locator('iframe').first
        picture,shown = frame.locator('#pic'),frame.locator('#map')
        picture.scroll_into_view_if_needed()
        frame.locator('button[data-mode=from]').click()
        seen,box = [shown.evaluate('c => c.toDataURL()')],picture.bounding_box()
        for x,y in ((.3,.4), (.8,.7)):
            picture.click(position=dict(x=box['width']*x, y=box['height']*y))
            b.page.wait_for_timeout(300)
            seen.append(shown.evaluate('c => c.toDataURL()'))
        return seen
    assert len(set(browse(_maps)))==3

@in_browser
@pytest.mark.parametrize('width', [390, 820, 1400])
def test_nothing_is_wider_than_the_window(browse, width):
    def _widths(b):
        b.page.set_viewport_size(dict(width=width, height=800))
        res = {}
        for p in ('index','tutorials/chapter18','reference/explain','measured/cams'):
            b.open(f'{p}.html')
            res[p] = b.page.evaluate('document.documentElement.scrollWidth')
        return res
    assert not {p:w for p,w in browse(_widths).items() if w>width+1}
