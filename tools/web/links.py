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
_from_nbdev = re.compile(r'\]\(/(?P<page>[\w/]+)\.html#(?P<anchor>[^)]*)\)')

_linked_twice = re.compile(r'\[([^\[\]]*)\[([^\[\]]+)\]\(/[^()]*\)([^\[\]]*)\]\(')

def unnest(text):
    "Undo nbdev's links of names inside links"
    while (new := _linked_twice.sub(r'[\1\2\3](', text))!=text: text = new
    return text

def relink(
    text:str, # Markdown of a notebook
    nb:str, # The notebook it is from, relative to `nbs`
    pages:dict # `{page: suffix}` of all pages of the site
)->str:
    "Links that work on the site; raises `BrokenLink` for one that leads nowhere"
    def _to(m):
        label,url = m[1],m[2]
        if re.match(r'[a-z]+:|#|/', url): return m[0] # `relink_names` takes those that begin with a slash
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

def relink_names(
    text:str, # Markdown in which nbdev has linked names in backticks
    page:str, # The page it is for
    pages:dict # `{page: suffix}`
)->str:
    "Links of names lead to the reference, and of names that have no page there to their module"
    public = {p.split('/')[1].lower():p for p in pages if p.startswith('reference/')}
    def _to(m):
        to,anchor = public.get(m['anchor'].split('.')[0]),''
        if to is None: to,anchor = m['page'],'#'+m['anchor'].replace('.', '')
        if to not in pages: raise BrokenLink(f"{page} links to {m[0][2:-1]!r}, which is not there.")
        return f"]({relpath(to, str(PurePosixPath(page).parent))}{pages[to]}{anchor})"
    return _from_nbdev.sub(_to, text)
