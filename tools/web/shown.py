"What a page shows of a notebook's code: the use, not the tests"
import ast, re

_test = re.compile(r'test_(?!dl$)|all_equal$')

def _called(node):
    "The name of the function that an expression calls, or None"
    if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name,ast.Attribute)):
        return node.func.id if isinstance(node.func, ast.Name) else node.func.attr

def is_check(
    s:ast.stmt # A statement
)->bool:
    "Does a statement only check something?"
    if isinstance(s, ast.Assert): return True
    if isinstance(s, ast.Expr):
        called = isinstance(s.value, ast.Call) and isinstance(s.value.func, ast.Name) and _called(s.value)
        return bool(called and _test.match(called))
    if isinstance(s, ast.ImportFrom): return s.module=='fastcore.test'
    if isinstance(s, (ast.For,ast.With)): return all(map(is_check, s.body))
    if isinstance(s, ast.FunctionDef): return any(is_check(o) for o in s.body)
    return False

def parsed(src):
    "The statements of a cell, `%` and `!` commands left out; None where it is no Python"
    try: return ast.parse(re.sub(r'^(\s*)[%!].*$', r'\1pass', src, flags=re.M).rstrip().rstrip(';')).body
    except SyntaxError: return None

_compound = ast.For,ast.With,ast.If,ast.Try

def _blocks(s): return [b for k in ('body','orelse','finalbody') if (b := getattr(s, k, None))]

def _checks_in(body):
    "The statements that only check, also within blocks that do something else, too"
    for s in body:
        if is_check(s): yield s
        elif isinstance(s, _compound):
            for b in _blocks(s): # a block must not become empty
                if not all(map(is_check, b)): yield from _checks_in(b)

def _others_in(body):
    "The statements, and the first lines of blocks, that stay"
    for s in body:
        if is_check(s): continue
        if not isinstance(s, _compound): yield s
        else:
            for b in _blocks(s): yield from b if all(map(is_check, b)) else _others_in(b)

def without_checks(src):
    "The source of a cell without its statements that only check, and whether there were any"
    body = parsed(src)
    if body is None: return src,False
    checks = [*_checks_in(body)]
    if not checks: return src,False
    lines = src.splitlines()
    whole = {n for s in _others_in(body) for n in range(s.lineno, s.end_lineno+1)}
    gone = {n for s in checks for n in range(min([s.lineno, *[d.lineno for d in getattr(s, 'decorator_list', [])]]),
                                             s.end_lineno+1)} - whole
    return '\n'.join(l for i,l in enumerate(lines, 1) if i not in gone).strip(),True

def names_in(
    src # Source of a cell
)->tuple: # Two sets: what is bound, and what is used
    "The names that a cell binds, and those that it uses"
    body = parsed(src)
    if body is None: return set(),set()
    nodes = [n for s in body for n in ast.walk(s)]
    bound = {n.id for n in nodes if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    bound |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef,ast.ClassDef))}
    return bound,{n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}

def is_imports(src):
    "Does a cell only import?"
    body = parsed(src)
    return bool(body) and all(isinstance(s, (ast.Import,ast.ImportFrom)) for s in body)

def shown(
    cells:list # Pairs of source and whether something is displayed
)->list: # The source to show of each, or None
    """What is displayed, and what it needs: the cells are gone through from the last to the first

    A cell that displays nothing is left out where it checks something, or where nothing after it needs what it does."""
    res,needed = [],set()
    for src,displays in reversed(cells):
        kept,checks = without_checks(src)
        bound,used = names_in(kept)
        free = src.lstrip().startswith('#| eval: false') or parsed(src) is None
        keep = bool(kept) and (displays or free or is_imports(kept) or bool(bound & needed) or
                               (not checks and not bound and bool(used & needed)))
        if keep: needed = (needed-bound) | used
        res.append(kept if keep else None)
    return res[::-1]

def uses_in(src):
    "The names of functions, classes and methods that a cell calls, and of objects that it reads"
    nodes = [n for s in parsed(src) or [] for n in ast.walk(s)]
    called = {_called(n) for n in nodes if isinstance(n, ast.Call)}-{None}
    return called | {n.id for n in nodes if isinstance(n, ast.Name)}
