"A page for each public name, from what nbdev says of it and from the first cell that shows it at work"
import ast, builtins, re
from posixpath import relpath
from .notebook import Unfit, doc_name, documentation, location
from .settings import root
from .shown import names_in, uses_in
from .source import bases_at, summary_at, summary_of

def groups()->dict: # `{heading: names}`, in the order of `fastattn.all`
    "The public names, grouped as the comments in `fastattn/all.py` group them"
    text = re.search(r'^__all__ = \[(.*?)^\]', (root/'fastattn/all.py').read_text(encoding='utf-8'), re.M|re.S)[1]
    parts = re.split(r'^\s*# (.*)$', text, flags=re.M)[1:]
    return {h:re.findall(r"'(\w+)'", names) for h,names in zip(parts[::2], parts[1::2])}

def public_names(): return [n for ns in groups().values() for n in ns]

def _suffix(pages, page): return page+pages[page]

def _link(label, page, pages): return f"[{label}]({relpath(page, 'reference')}{pages[page]})"

# what a reader needs no line for
_known = {*dir(builtins),*public_names(),*'learn dls interp files file items img model plt np pd Path'.split()}

class Example:
    "A cell that shows a name at work"
    def __init__(self, cell, page, title): self.cell,self.page,self.title = cell,page,title
    @property
    def rank(self):
        "Those without tests first, with a picture, with few names from elsewhere, and short ones"
        outs = self.cell['outputs']
        picture = any('image/png' in o.get('data', {}) for o in outs)
        unknown = names_in(self.cell['source'])[1]-_known
        test = re.search(r'test_|assert |warnings[.]', self.cell['source'])
        hidden = 'remove-input' in self.cell['metadata'].get('tags', [])
        return (bool(test), not picture, not outs, len(unknown)>3, hidden,
                len(self.cell['source'].splitlines())>9)

def find_examples(
    pages:list # `(page, title, notebook)`, those that users read first in front
)->dict: # `{name of a function, class or method: Example}`
    "The best cell for each name that any page uses"
    best = {}
    for page,title,nb in pages:
        for c in nb['cells']:
            if c['cell_type']!='code': continue
            e = Example(c, page, title)
            for n in uses_in(c['source']):
                if n not in best or e.rank<best[n].rank: best[n] = e
    return best

class Documented:
    "What nbdev says of a name: itself, and its methods"
    def __init__(self, page, md):
        self.page,self.md,self.methods,at = page,md,[],location(md, page)
        self.summary,self.bases = (summary_at(*at),bases_at(*at)) if at else ('',[])

def documented_in(
    docs:list # `(page, text from show_doc)`, in the order of the notebooks
)->dict: # `{name: Documented}`
    "All documented names, methods with their classes"
    res,methods = {},[]
    for page,md in docs:
        n = doc_name(md)
        if '.' in n: methods.append((n.split('.')[0], md))
        else: res[n] = Documented(page, md)
    for c,md in methods:
        if c in res: res[c].methods.append(md)
    return res

def all_methods(
    name:str, # Of a class
    docs:dict # From `documented_in`
)->list: # Texts from `show_doc`
    "The documented methods of a class and of its bases in this library, those of a class before those of its bases"
    found,seen = [],set()
    def _add(n):
        if n in seen or n not in docs: return
        seen.add(n)
        had = {doc_name(m).split('.')[-1] for m in found}
        found.extend(m for m in docs[n].methods if doc_name(m).split('.')[-1] not in had)
        for b in docs[n].bases: _add(b)
    _add(name)
    return found

def _class_of(name):
    "The class of an object that a module makes, as `explainers = Registry()`; None where there is none"
    for f in sorted((root/'fastattn').glob('*/*.py')):
        m = re.search(rf'^{name} = (\w+)\(', f.read_text(encoding='utf-8'), re.M)
        if m: return m[1]

def _example_cells(e, pages):
    return [dict(cell_type='markdown', metadata={}, source=f'## Example\n\nFrom {_link(e.title, e.page, pages)}:'),
            {**e.cell, 'metadata':dict(tags=[])}]

def reference_page(
    name:str, # A public name
    docs:dict, # From `documented_in`
    examples:dict, # From `find_examples`
    pages:dict # `{page: suffix}`
)->list: # Cells
    "The page of a name; raises `Unfit` where it is nowhere documented or shown"
    if name not in docs and (c := _class_of(name)) in docs: docs[name] = docs[c]
    if name not in docs: raise Unfit(f"{name!r} is in `fastattn.all`, and no notebook documents it.")
    if name not in examples: raise Unfit(f"{name!r} is in `fastattn.all`, and no visible cell of a notebook uses it.")
    d,page = docs[name],f'reference/{name}'
    text = re.sub(r'^# .*', f'# {name}', documentation(d.md, 1, page, pages, d.page))
    src = re.search(r'::::\{dropdown\}.*', text, re.S)
    body = text[:src.start()].rstrip() if src else text
    def md(s): return dict(cell_type='markdown', metadata={}, source=s)
    cells = [md(f"{body}\n\nExplained in {_link('its notebook', d.page, pages)}.")]
    cells += _example_cells(examples[name], pages)
    if methods := all_methods(name, docs):
        cells.append(md('## Methods'))
        cells += [md(re.sub(r'^### \w+\.', '### ', documentation(m, 3, page, pages))) for m in methods]
    if src: cells.append(md('## Source\n\n'+src[0]))
    return cells

def reference_index(docs, pages):
    "The public names with a sentence each, in their groups"
    lines = ['# Reference', '', 'Every name that `from fastattn.all import *` brings. What is not listed here is '
             'imported from its module; [How it works](../inside/index.md) lists the modules. All methods that '
             '`explain` takes are on [their own page](methods.md).', '']
    for h,names in groups().items():
        lines += [f'## {h[0].upper()+h[1:]}', '', '| name | what it does |', '|---|---|']
        for n in names:
            says = docs[n].summary.replace('|', '\\|')
            lines.append(f"| [`{n}`]({n}{pages[f'reference/{n}']}) | {says} |")
        lines.append('')
    toc = '\n'.join(['methods', *public_names()])
    return '\n'.join(lines)+f'\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n'

## Methods of `explain`

_families = [('Class activation maps', 'cams'), ('Attention of transformers', 'attention'), ('Detectors', 'detr'),
             ('Attribution to pixels', 'attribution'), ('Models that attend', 'models')]

def _options(f):
    "Names of a method's options with their defaults, from its source"
    a = f.args
    pairs = zip(a.args[len(a.args)-len(a.defaults):], a.defaults)
    return ', '.join(f'`{p.arg}={ast.unparse(d)}`' for p,d in pairs)

def _registered():
    "`(folder, module, function)` of each method, found in the modules"
    for f in sorted((root/'fastattn').glob('*/*.py')):
        for n in ast.parse(f.read_text(encoding='utf-8')).body:
            if isinstance(n, ast.FunctionDef) and any('explainer' in ast.unparse(d) for d in n.decorator_list):
                yield f.parent.name,f'{f.parent.name}/{f.stem}',n

def methods_page(pages):
    "A table of all methods, by family"
    found = list(_registered())
    lines = ['# Methods of `explain`', '', "`explain(learn, 'cat.jpg', 'gradcam')`: the name of a method is the third "
             'argument, and its options are given by name. [Which method?](../tutorials/which_method.ipynb) says when '
             'to use which, and [the comparison](../cams/cams.ipynb) what each costs.', '']
    for title,folder in _families:
        rows = [(n,p) for d,p,n in found if d==folder and p in pages]
        if not rows: continue
        lines += [f'## {title}', '', '| method | what it computes | options |', '|---|---|---|']
        for n,p in rows:
            doc = summary_of(n).replace('|', '\\|')
            lines.append(f"| [`{n.name}`](../{p}{pages[p]}) | {doc} | {_options(n)} |")
        lines.append('')
    return '\n'.join(lines)
