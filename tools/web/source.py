"Source of functions and classes, found by file and line, and what it says of their parameters"
import ast
from functools import lru_cache
from .settings import root, in_repository

_defs = ast.FunctionDef,ast.ClassDef,ast.AsyncFunctionDef

@lru_cache(None)
def _definitions(path):
    "Lines of a module, and `{line: node}`; a decorated definition begins with its first decorator"
    text = (root/path).read_text(encoding='utf-8')
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, _defs)]
    return text.splitlines(),{l:n for n in nodes for l in {n.lineno, *[d.lineno for d in n.decorator_list]}}

def _node(path, line): return _definitions(path)[1].get(line)

def line_of(
    path:str, # Of a module, relative to the repository's root
    name:str # Of a function or class in it
)->int: # None where it is not defined there
    "Where a definition begins, for what nbdev does not locate: functions that a decorator has replaced"
    if (root/path).exists(): return next((l for l,n in sorted(_definitions(path)[1].items()) if n.name==name), None)

def source_at(
    path:str, # Of a module, relative to the repository's root
    line:int # Where the definition begins
)->tuple: # The source, and its address with line numbers; `(None,address)` where nothing is defined there
    "The definition that begins at a line"
    n = _node(path, line)
    if n is None: return None,in_repository(path)
    first = min([n.lineno, *[d.lineno for d in n.decorator_list]])
    return '\n'.join(_definitions(path)[0][first-1:n.end_lineno]),in_repository(path, (first,n.end_lineno))

def folded(
    path:str, line:int # As in `source_at`
)->str:
    "Source behind a fold, with a link to the file, as Markdown"
    src,url = source_at(path, line)
    link = f'[{path}]({url})'
    return f'Source: {link}' if src is None else f'::::{{dropdown}} Source\n{link}\n\n````python\n{src}\n````\n::::'

def _is_dataclass(n):
    return isinstance(n, ast.ClassDef) and any('dataclass' in ast.unparse(d) for d in n.decorator_list)

def _fields(n): return [o for o in n.body if isinstance(o, ast.AnnAssign)]

def fields_at(
    path:str, line:int # As in `source_at`
)->str:
    "The fields of a dataclass with their comments; None where no dataclass is defined there"
    lines,n = _definitions(path)[0],_node(path, line)
    if n is None or not _is_dataclass(n): return
    return '\n'.join([f'class {n.name}:', *[l for f in _fields(n) for l in lines[f.lineno-1:f.end_lineno]]])

def summary_at(
    path:str, line:int # As in `source_at`
)->str:
    "The first paragraph of a docstring, in one line"
    n = _node(path, line)
    return summary_of(n) if n is not None else ''

def summary_of(
    node # A definition, as `ast` parses it
)->str:
    "The first paragraph of its docstring, in one line"
    return ' '.join((ast.get_docstring(node) or '').split('\n\n')[0].split())

def bases_at(
    path:str, line:int # As in `source_at`
)->list:
    "The names of a class's bases; empty for a function"
    n = _node(path, line)
    return [ast.unparse(b).split('.')[-1] for b in n.bases] if isinstance(n, ast.ClassDef) else []

def undocumented(
    path:str, line:int # As in `source_at`
)->list:
    "Names of a definition's own parameters, or a dataclass's fields, that nothing is said about"
    lines,n = _definitions(path)[0],_node(path, line)
    if n is None: return []
    def _silent(o): # what a command's flag means is in its annotation
        return '# ' not in lines[o.end_lineno-1] and 'Annotated[' not in ast.unparse(o)
    if _is_dataclass(n): return [f.target.id for f in _fields(n) if _silent(f)]
    if isinstance(n, ast.ClassDef):
        n = next((o for o in n.body if isinstance(o, ast.FunctionDef) and o.name in ('__init__','__new__')), None)
        if n is None: return []
    args = [*n.args.posonlyargs, *n.args.args, *n.args.kwonlyargs]
    return [a.arg for a in args if a.arg not in ('self','cls') and _silent(a)]
