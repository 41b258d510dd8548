"README.md and its pictures, from `nbs/index.ipynb`"
import re, sys, warnings
from pathlib import Path
from .links import page_of
from .notebook import flags_of, without_flags
from .settings import in_repository, page_address, picture_address, root

nbs, images = root/'nbs', root/'docs/images'

_link = re.compile(r'(\]\(|(?:src|href)=")(?![a-z]+:|[#/])([^)"\s]+)')

def _relink(m):
    "A link that works from `nbs/`, made to work from anywhere: to a page of the site, or to a file in the repository"
    path,_,anchor = m[2].partition('#')
    p = (nbs/path).resolve()
    if not p.exists() or not p.is_relative_to(root): sys.exit(f'nbs/index.ipynb links to {path!r}, which is not there.')
    if p.suffix != '.ipynb': return m[1] + in_repository(p.relative_to(root).as_posix())
    return m[1] + page_address(page_of(p.relative_to(nbs))) + ('#'+anchor if anchor else '')

def _strip_frontmatter(src): return re.sub(r'\A---\n.*?\n---\n*', '', src, flags=re.S)

def _readme_cell(cell):
    "`cell` as the README shows it; None if hidden"
    if cell.cell_type == 'raw': return
    if cell.cell_type == 'markdown':
        cell.source = _link.sub(_relink, _strip_frontmatter(cell.source))
        return cell
    flags = flags_of(cell.source)
    if {'hide', 'default_exp'} & flags.keys() or flags.get('include') == 'false': return
    cell.source = without_flags(cell.source)
    if flags.get('echo') == 'false': cell.metadata.transient = dict(remove_source=True)
    if flags.get('output') == 'false': cell.outputs = []
    cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr']
    for o in cell.outputs:
        html = o.get('data', {}).get('text/html')
        if html: o.data['text/html'] = re.sub(r'<(style|script)\b.*?</\1>\s*', '', html, flags=re.S)
    return cell if cell.source or cell.outputs else None

def build_readme():
    "The text of the README and its pictures as `{name: bytes}`, from `nbs/index.ipynb`"
    import nbformat
    from nbconvert import MarkdownExporter
    nb = nbformat.read(nbs/'index.ipynb', as_version=4)
    nb.cells = [c for c in map(_readme_cell, nb.cells) if c]
    nb.metadata['language_info'] = dict(name='python')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        text, res = MarkdownExporter().from_notebook_node(nb)
    names = {old: f'readme_{i}{Path(old).suffix}' for i, old in enumerate(res['outputs'])}
    for old, new in names.items(): text = text.replace(f']({old})', f']({picture_address(new)})')
    text = text.replace('![png](', '![what these lines draw](')
    text = '\n'.join(l.rstrip() for l in text.splitlines())
    text = ('<!-- Made from nbs/index.ipynb by tools/docs.py: edit that one. -->\n\n' +
            re.sub(r'\n{3,}', '\n\n', text).strip() + '\n')
    return text, {new: res['outputs'][old] for old, new in names.items()}

def readme():
    "Write README.md and its pictures"
    text, pics = build_readme()
    (root/'README.md').write_text(text, encoding='utf-8')
    for p in images.glob('readme_*'): p.unlink()
    for name, b in pics.items():
        images.mkdir(parents=True, exist_ok=True)
        (images/name).write_bytes(b)

def check():
    "Exit with a sentence if README.md is not what `nbs/index.ipynb` gives"
    text, pics = build_readme()
    f = root/'README.md'
    if not f.exists() or f.read_text(encoding='utf-8') != text:
        sys.exit('README.md is not what nbs/index.ipynb gives: run `python tools/docs.py readme`.')
    if {p.name: p.read_bytes() for p in images.glob('readme_*')} != pics:
        sys.exit('docs/images is not what nbs/index.ipynb gives: run `python tools/docs.py readme`.')
    print('README.md is fresh.')
