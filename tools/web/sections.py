"The sections of the site, from the order in `nbs/sidebar.yml`, and their index pages"
import base64, re, yaml
from .links import page_of
from .settings import root

def sidebar()->list: # `(section, paths of notebooks relative to nbs)`
    "The sections of `nbs/sidebar.yml`"
    y = yaml.safe_load((root/'nbs/sidebar.yml').read_text(encoding='utf-8'))
    return [(o['section'],o['contents']) for o in y['website']['sidebar']['contents'] if isinstance(o, dict)]

_told = 'Get started','Tutorials','How to','How it works' # the others are rooms of the library

def notebooks_of(section): return next(nbs for s,nbs in sidebar() if s==section)

def rooms(): return [(s,nbs) for s,nbs in sidebar() if s not in _told]

def first_picture(nb):
    "The first PNG that a page shows, as bytes, or None"
    for c in nb['cells']:
        for o in c.get('outputs', []):
            if b := o.get('data', {}).get('image/png'): return base64.b64decode(b if isinstance(b, str) else ''.join(b))

def description(nb):
    "The line below the title"
    m = re.search(r'^\*(.+?)\*$', nb['cells'][0]['source'], re.M|re.S)
    return m[1].replace('\n', ' ') if m else ''

def _toctree(entries, caption=None, hidden=True):
    opts = [':hidden:'] if hidden else []
    if caption: opts.append(f':caption: {caption}')
    return '\n'.join(['```{toctree}', *opts, '', *entries, '```', ''])

def cards_page(
    title:str, text:str, # Heading, and what stands below it
    nbs:list, # Paths of notebooks
    made:dict, # `{page: notebook}`
    pictures:dict # `{path on the site: bytes}`, to which the cards' pictures are added
)->str:
    "A section's index: a card with a picture for each page"
    out = [f'# {title}', '', text, '', '::::{grid} 1 2 2 3', ':gutter: 3', '']
    for path in nbs:
        page = page_of(path)
        nb,png = made[page],first_picture(made[page])
        title = nb['cells'][0]['source'].splitlines()[0].lstrip('# ')
        out += [f':::{{grid-item-card}} {title}', f':link: /{page}', ':link-type: doc']
        if png:
            name = f"cards/{page.replace('/', '_')}.png"
            pictures[name] = png
            out += [f':img-bottom: /{name}', ':img-alt: the first picture of this page']
        out += ['', description(nb), ':::', '']
    return '\n'.join([*out, '::::', '', _toctree([f'/{page_of(p)}' for p in nbs])])

## The landing page

_card = re.compile(r'^## (?P<title>[^\n]+)\n+(?P<text>.*)$', re.S)
most_lines = 5 # of code on a card

def cards_of(
    nb # The page of `tutorials/gallery.ipynb`
)->list: # Dicts of `title`, `text`, `code` and `png`
    "The things that people come for: a heading with a sentence, and the cell with one picture that follows"
    res = []
    for c in nb['cells']:
        if c['cell_type']=='markdown' and (m := _card.match(c['source'].strip())): res.append(dict(m.groupdict()))
        elif c['cell_type']=='code' and res and 'png' not in res[-1] and (png := first_picture(dict(cells=[c]))):
            res[-1].update(code=c['source'], png=png)
    for r in res:
        if 'png' not in r: raise ValueError(f"The card {r['title']!r} of the gallery has no picture.")
        if len(r['code'].splitlines())>most_lines:
            raise ValueError(f"The card {r['title']!r} has more than {most_lines} lines.")
    return res

def _from_root(text):
    "Links of a page in `tutorials/`, as they are from the landing page"
    return re.sub(r'\]\((?![a-z]+:|#)([^)]+)\)', lambda m: f"]({re.sub(r'^[.]/', '', _up(m[1]))})", text)

def _up(url): return url[3:] if url.startswith('../') else f'tutorials/{url}'

def landing(
    cards:list, # From `cards_of`
    claim:str, # What the library is, in one sentence
    pictures:dict # To which the cards' pictures are added
)->str:
    "The first page"
    out = ['# fastattn', '', claim, '', '```sh', 'pip install fastattn', '```', '',
           '```{button-ref} tutorials/start', ':ref-type: doc', ':color: primary', '',
           'Get started: five minutes from photographs to heatmaps', '```', '',
           '::::{grid} 1 2 2 3', ':gutter: 3', '']
    for i,c in enumerate(cards):
        name = f'cards/gallery_{i+1:02}.png'
        pictures[name] = c['png']
        out += [f":::{{grid-item-card}} {c['title']}", f':img-top: /{name}', f":img-alt: {c['title']}", '',
                _from_root(c['text'].strip()), '', '```python', c['code'], '```', ':::', '']
    entries = ['Get started <tutorials/start>','Tutorials <tutorials/index>','How to <howto/index>',
               'Reference <reference/index>','How it works <inside/index>','Measured <measured/index>']
    return '\n'.join([*out, '::::', '', _toctree(entries)])

def inside_index(text, made):
    "The rooms of the library, in the order in which a module may import another"
    out = [text, '']
    for s,nbs in rooms():
        out += [f'### {s}', '', '| module | what it holds |', '|---|---|']
        out += [f"| [{page_of(p)}](../{p_link(p)}) | {description(made[page_of(p)])} |" for p in nbs] + ['']
    trees = [(None, notebooks_of('How it works')), *rooms()]
    return '\n'.join(out+[_toctree([f'/{page_of(p)}' for p in nbs], s) for s,nbs in trees])

def p_link(nb): return page_of(nb)+'.ipynb'
