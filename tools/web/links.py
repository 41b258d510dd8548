"Links of a page: to other pages of the site, or to files in the repository"
import re
from pathlib import PurePosixPath
from posixpath import normpath, relpath
from .settings import root, in_repository

class BrokenLink(ValueError): "A link that leads nowhere"

def page_of(
    nb # Path of a notebook, relative to `nbs`
)->str: # Without a suffix
    "The page of a notebook: `core/13_pipeline.ipynb` is on `core/pipeline`"
    p = PurePosixPath(nb)
    return str(p.with_name(re.sub(r'^\d+[a-z]*_', '', p.stem)))

_fence = re.compile(r'(^```.*?^```)', re.M|re.S)
_link = re.compile(r'(?<!\\)(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)')
_name = re.compile(r'(?<![\[\w`])`([A-Za-z_]\w*)(\(\))?`(?!`|\]\()')

def relink(
    text:str, # Markdown of a notebook
    nb:str, # The notebook it is from, relative to `nbs`
    pages:dict # `{page: suffix}` of all pages of the site
)->str:
    "Links that work on the site; raises `BrokenLink` for one that leads nowhere"
    def _to(m):
        label,url = m[1],m[2]
        if re.match(r'[a-z]+:|#|/', url): return m[0]
        path,_,anchor = url.partition('#')
        at = normpath(PurePosixPath(nb).parent/path)
        page = page_of(at) if at.endswith('.ipynb') else at.removesuffix('.md')
        if page in pages:
            to = relpath(page, str(PurePosixPath(page_of(nb)).parent))
            return f"{label}({to}{pages[page]}{'#'+anchor if anchor else ''})"
        file = (root/'nbs'/at).resolve()
        if file.exists() and file.is_relative_to(root):
            return f'{label}({in_repository(file.relative_to(root).as_posix())})'
        raise BrokenLink(f"nbs/{nb} links to {url!r}, which is not there.")
    return ''.join(o if o.startswith('```') else _link.sub(_to, o) for o in _fence.split(text))

def link_names(
    text:str, # Markdown
    page:str, # The page it is on
    names:dict # `{public name: its page, with suffix}`
)->str:
    "The first mention of each public name in a text leads to its reference"
    seen = {n for n,p in names.items() if p.rpartition('.')[0]==page}
    def _to(m):
        n = m[1]
        if n not in names or n in seen: return m[0]
        seen.add(n)
        return f'[{m[0]}]({relpath(names[n], str(PurePosixPath(page).parent))})'
    def _line(l): return l if l.lstrip().startswith('#') or re.search(r'\[[^\]]*`[^\]]*\]\(', l) else _name.sub(_to, l)
    return ''.join(b if b.startswith('```') else '\n'.join(map(_line, b.split('\n'))) for b in _fence.split(text))
