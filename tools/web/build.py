"Builds the site: notebooks, reference, measured pages, Sphinx, checks"
import json, os, re, shutil, subprocess, sys, tempfile, time
from pathlib import Path
from . import check, measured, reference, sections
from .links import page_of
from .notebook import as_notebook, doc_of, page_from
from .settings import cfg, root

here = Path(__file__).parent

class Stopped(Exception): "What stops the build, in a sentence"

def processed()->Path:
    "The notebooks as nbdev prepares them for documentation: imports are run, functions documented"
    from nbdev.serve import proc_nbs
    import fastattn
    if not Path(fastattn.__file__).is_relative_to(root):
        raise Stopped(f"{fastattn.__file__} is imported, and not {root}: install that one with `pip install -e`.")
    try: return Path(proc_nbs(str(root/'nbs'), force=True)) # what is kept would have old line numbers
    except Exception as e: # of a worker, with its traceback as text
        text = str(e.__cause__ or e).strip().splitlines()
        raise Stopped(f"nbdev cannot process the notebooks: {text[-1] if text else e!r}") from e

def _cells(f): return json.loads(f.read_text(encoding='utf-8'))['cells']

def _write(to, what):
    to.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(what, bytes): to.write_bytes(what)
    else: to.write_text(what if isinstance(what, str) else json.dumps(what), encoding='utf-8')

def _fail(lines, what):
    more = [f'... and {len(lines)-40} more'] if len(lines)>40 else []
    if lines: raise Stopped('\n'.join([what, *lines[:40], *more]))

def _page_names(told, tables):
    "`{page: suffix}` of all pages of the site"
    reference_pages = dict.fromkeys((f'reference/{n}' for n in reference.public_names()), '.ipynb')
    indices = [*(f'{d}/index' for d in ('reference','tutorials','howto','inside')),'reference/methods','index']
    return {page_of(nb):'.ipynb' for nb in told} | reference_pages | dict.fromkeys(indices, '.md') | tables

def _from_notebooks(proc, told, pages):
    "`{page: notebook}`, `{page: title}`, and pairs of page and documentation; stops for what is not documented"
    made,titles,docs,lacks = {},{},[],[]
    for nb in told:
        page,cells = page_of(nb),_cells(proc/nb)
        made[page],titles[page],lack = page_from(cells, nb, pages)
        docs += [(page, md) for c in cells if (md := doc_of(c)) is not None]
        lacks += [f'nbs/{nb}: {o}' for o in lack]
    _fail(lacks, 'Nothing is said about these parameters:')
    return made,titles,docs

def _reference(made, titles, docs, pages):
    "The pages of the reference; examples come first from what users read first"
    first = [page_of(nb) for s in ('Get started','How to','Tutorials') for nb in sections.notebooks_of(s)]
    order = [*first, *[p for p in made if p not in first]]
    examples,docs = reference.find_examples([(p, titles[p], made[p]) for p in order]),reference.documented_in(docs)
    res = {f'reference/{n}.ipynb':as_notebook(reference.reference_page(n, docs, examples, pages))
           for n in reference.public_names()}
    return res | {'reference/index.md':reference.reference_index(docs, pages),
                  'reference/methods.md':reference.methods_page(pages)}

def made_pages(
    proc:Path # From `processed`
)->dict: # `{path: text, notebook or bytes}`
    "All sources of the site; raises `Stopped`, and names it, where a notebook cannot be shown"
    told,tables,pictures = [nb for _,nbs in sections.sidebar() for nb in nbs],measured.pages(root),{}
    pages = _page_names(told, {p.removesuffix('.md'):'.md' for p in tables})
    made,titles,docs = _from_notebooks(proc, told, pages)
    res = {p+'.ipynb':nb for p,nb in made.items()} | _reference(made, titles, docs, pages) | tables
    for section,folder in (('Tutorials','tutorials'), ('How to','howto')):
        nbs = sections.notebooks_of(section)
        res[f'{folder}/index.md'] = sections.cards_page(section, _intro[folder], nbs, made, pictures)
    res['index.md'] = sections.landing(sections.cards_of(made['tutorials/gallery']), cfg['description']+'.', pictures)
    res['inside/index.md'] = sections.inside_index((here/'inside.md').read_text(encoding='utf-8'), made)
    return res | {to:f.read_bytes() for to,f in measured.pictures(root).items()} | pictures

_intro = dict(tutorials='Longer stories, each on a network that is trained on the page.',
              howto='Short answers, for your model, your labels, and the library that you know.')

def _sphinx(src, out, warnings):
    "Run Sphinx in a process of its own; what it warns about is in the file `warnings`"
    options = ['-q', '-b', 'html', '-j', 'auto', '-c', src, '-w', warnings]
    cmd = [sys.executable, '-m', 'sphinx', *map(str, [*options, src, out])]
    paths = os.pathsep.join(filter(None, [str(here.parent),os.environ.get('PYTHONPATH')])) # `conf.py` imports `web`
    r = subprocess.run(cmd, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH':paths})
    lines = [l for l in warnings.read_text(encoding='utf-8').splitlines() if l.strip()] if warnings.exists() else []
    if r.returncode and not lines: raise Stopped(f'Sphinx has failed: {r.stderr.strip()[-800:]}')
    return [l.replace(str(src)+'/', '') for l in lines]

heavy = 150_000 # bytes of a picture

def _lighten(html):
    "Write heavy pictures as WebP, a quarter as large, and name them in the pages"
    from PIL import Image
    heavies = [f for f in (html/'_images').glob('*.png') if f.stat().st_size>heavy]
    for f in heavies:
        with Image.open(f) as im: flat = Image.alpha_composite(Image.new('RGBA', im.size, 'white'), im.convert('RGBA'))
        flat.convert('RGB').save(f.with_suffix('.webp'), quality=92, method=4)
        f.unlink()
    names = re.compile('|'.join(re.escape(f.name) for f in heavies) or '(?!)')
    for page in html.rglob('*.html'):
        text = page.read_text(encoding='utf-8')
        new = names.sub(lambda m: m[0].removesuffix('.png')+'.webp', text)
        if new!=text: page.write_text(new, encoding='utf-8')

def build(
    out:Path # Folder of the site, which is replaced
)->dict: # `pages`, `megabytes` and `seconds`
    "Build and check the site; raises `Stopped` for whatever a reader would stumble over, and leaves `out` as it was"
    start = time.time()
    if out.exists() and any(out.iterdir()) and not (out/'.nojekyll').exists():
        raise Stopped(f"{str(out)!r} is not empty and holds no site; choose another folder.")
    try: sources = made_pages(processed())
    except ValueError as e: raise Stopped(str(e)) from e
    with tempfile.TemporaryDirectory() as t:
        src,html = Path(t)/'src',Path(t)/'html'
        for path,what in sources.items(): _write(src/path, what)
        shutil.copytree(here/'static', src/'_static')
        shutil.copy(here/'conf.py', src/'conf.py')
        _fail(_sphinx(src, html, Path(t)/'warnings'), 'Sphinx warns:')
        shutil.rmtree(html/'.doctrees', ignore_errors=True)
        for f in (html/'_static').rglob('*.html'): f.unlink() # templates of the theme
        _lighten(html)
        _fail(check.faults_of(html), 'The site has faults:')
        (html/'.nojekyll').touch()
        if out.exists(): shutil.rmtree(out)
        shutil.move(html, out)
    n = sum(1 for _ in out.rglob('*.html'))
    mb = sum(f.stat().st_size for f in out.rglob('*') if f.is_file())/1e6
    return dict(pages=n, megabytes=round(mb,1), seconds=round(time.time()-start))
