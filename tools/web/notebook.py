"A page from a notebook that nbdev has processed"
import ast, re, yaml
from .links import page_of, relink, relink_names, unnest
from .settings import colab
from .shown import parsed, shown
from .signature import as_table
from .source import fields_at, folded, line_of, undocumented

class Unfit(ValueError): "A notebook that cannot be shown as it is"

_flag = re.compile(r'^#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*?)[ \t]*$', re.M)

def text_of(cell):
    "Source of a cell as one string"
    s = cell['source']
    return s if isinstance(s, str) else ''.join(s)

def flags_of(
    src # Of a cell
)->dict:
    "Directives such as `#| echo: false`"
    return dict(_flag.findall(src))

def without_flags(
    src # Of a cell
)->str:
    "The source without its directives"
    return _flag.sub('', src).strip()

def _joined(o): return o if isinstance(o, str) else ''.join(o)

## Documentation of a function or class, as `show_doc` writes it

_shown_doc = re.compile(r'^#+ (?P<name>[^\n]+)$(?P<rest>.*)', re.M|re.S)
_source_link = re.compile(r'^\[source\]\((?P<url>[^)]*)\)(\{[^}]*\})?\s*$', re.M)
def location(
    md:str, # From `show_doc`
    page:str # The page of its module
)->tuple: # None where it is not found
    "Path and line of what is documented"
    m = _source_link.search(md)
    at = m and re.search(r'/blob/[^/]+/(?P<path>[^#]+)#L(?P<line>\d+)', m['url'])
    if at: return at['path'],int(at['line'])
    path = f'fastattn/{page}.py'
    line = line_of(path, doc_name(md).split('.')[-1])
    return (path,line) if line else None

_signature = re.compile(r'^```python\n.*?^```', re.M|re.S)

def documentation(
    md:str, # From `show_doc`
    level:int, # Of the heading
    page:str, # The page it is for
    pages:dict, # `{page: suffix}`
    home:str=None # The page of its module; None is `page`
)->str:
    "Heading, signature and text as the site shows them, the source behind a fold"
    at = location(md, home or page)
    m = _shown_doc.search(_source_link.sub('', md).replace('---\n', '', 1))
    name,rest = m['name'].replace('\\_', '_').strip(),m['rest'].strip()
    if fields := at and fields_at(*at): rest = _signature.sub(lambda _: f'```python\n{fields}\n```', rest, 1)
    rest = relink_names(as_table(rest), page, pages)
    return f"{'#'*level} {name}\n\n{rest}\n\n{folded(*at) if at else ''}".rstrip()

def _silent(md, page):
    "The parameters that nothing is said about, with the name of the function"
    at = location(md, page)
    if at is None: return [f'{doc_name(md)}: its source is not found']
    return [f'{doc_name(md)}: {p}' for p in undocumented(*at)]

def doc_name(md):
    "The name of what `show_doc` has documented"
    m = _shown_doc.search(_source_link.sub('', md))
    return m and m['name'].replace('\\_', '_').strip()

def doc_of(
    cell # Of a processed notebook
):
    "The text of a cell that documents something, else None"
    if cell['cell_type']!='code' or 'show_doc(' not in text_of(cell): return
    for o in cell.get('outputs', []):
        if 'text/markdown' in o.get('data', {}): return _joined(o['data']['text/markdown'])

def as_notebook(
    cells # Of a page
)->dict:
    "A notebook that holds some cells"
    return dict(cells=cells, metadata=dict(language_info=dict(name='python')), nbformat=4, nbformat_minor=4)

## Cells

def _check_outputs(cell, nb):
    "Raise `Unfit` where what is stored is an error, or where something is to be seen and nothing is stored"
    src = text_of(cell)
    for o in cell.get('outputs', []):
        if o['output_type']=='error':
            raise Unfit(f"nbs/{nb}: the cell `{src[:60]}` has stored the error {o.get('ename')}.")
    body = parsed(src)
    last = body[-1] if body else None
    if cell.get('outputs') or not isinstance(last, ast.Expr) or flags_of(src).get('eval')=='false': return
    if src.rstrip().endswith(';') and 'plot_' not in src: return
    v = last.value
    named = isinstance(v, ast.Call) and (getattr(v.func, 'id', None) or getattr(v.func, 'attr', ''))
    value = isinstance(v, (ast.Name,ast.Subscript,ast.Tuple,ast.BinOp))
    if value or named and re.match(r'plot_|print$|show$|explain$', named):
        raise Unfit(f"nbs/{nb}: the cell `{src.splitlines()[-1][:60]}` has no stored output; "
                    f"run `python tools/docs.py execute nbs/{nb}`.")

def _markdown(src): return dict(cell_type='markdown', metadata={}, source=src)

def _visible_outputs(cell, flags):
    if flags.get('output')=='false': return []
    return [{**o, 'metadata':o.get('metadata') or {}} for o in cell.get('outputs', [])]

def _code(src, outputs, tags): return dict(cell_type='code', metadata=dict(tags=tags), source=src, outputs=outputs,
                                           execution_count=None)

def _front(cell):
    "Title and description from the frontmatter"
    return yaml.safe_load(text_of(cell).strip().strip('-')) or {}

def _head(front, nb):
    "Title, description, and on tutorials the way to Colab"
    head = [f"# {front['title']}"]
    if front.get('description'): head.append(f"*{front['description']}*")
    if nb.startswith('tutorials/'): head.append(f"[Open in Colab]({colab(f'nbs/{nb}')})")
    return '\n\n'.join(head)

def page_from(
    cells:list, # Of a notebook processed by nbdev
    nb:str, # Its path, relative to `nbs`
    pages:dict # `{page: suffix}` of all pages of the site
)->tuple: # The page as a notebook, its title, and what it says of public parameters without a word
    "The page of a notebook: use and pictures, documentation with the source folded, no tests"
    front = next((_front(c) for c in cells if c['cell_type']=='raw'), {})
    if 'title' not in front: raise Unfit(f"nbs/{nb} has no title: begin it with `# Title`.")
    res,level,last,lacks = [_markdown(_head(front, nb))],1,1,[]
    flags = [flags_of(text_of(c)) if c['cell_type']=='code' else {} for c in cells]
    code = [(c,f) for c,f in zip(cells, flags) if c['cell_type']=='code' and doc_of(c) is None]
    for c,_ in code: _check_outputs(c, nb)
    sources = iter(shown([(text_of(c), bool(_visible_outputs(c, f))) for c,f in code]))
    for c,f in zip(cells, flags):
        if c['cell_type']=='raw': continue
        if c['cell_type']=='markdown':
            src = re.sub(r'<!--.*?-->', '', text_of(c), flags=re.S).strip()
            if not src: continue
            found = re.findall(r'^(#+) ', re.sub(r'^```.*?^```', '', src, flags=re.M|re.S), re.M)
            if found: level = last = len(found[-1])
            res.append(_markdown(relink_names(relink(unnest(src), nb, pages), page_of(nb), pages)))
        elif (md := doc_of(c)) is not None:
            last = min(min(level, 2)+1+('.' in doc_name(md)), last+1)
            res.append(_markdown(documentation(md, last, page_of(nb), pages)))
            lacks += _silent(md, page_of(nb))
        else:
            src,outputs = next(sources),_visible_outputs(c, f)
            if src is None: continue
            src = without_flags(src)
            tags = ['remove-input'] if f.get('echo')=='false' else []
            if src and not (tags and not outputs): res.append(_code(src, outputs, tags))
    return as_notebook(res),front['title'],lacks
