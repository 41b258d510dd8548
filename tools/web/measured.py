"""The section "Measured" of the site: an index, and a page for each benchmark of `bench/` that has results.

`pages(root)` gives the pages as Markdown (MyST), `pictures(root)` the files that they show. Every number is read from
`bench/results`, every description from the script that made it."""
import ast, fnmatch, json, re
from pathlib import Path
from .benches import bench_of, captions, key_number, part_names, benches, elsewhere, shapes
from .tables import bullets, in_cell, first_up, is_leaf, is_number, is_table, row_lines, meanings, in_prose, \
    plain_word, sections, table

## Which script makes which result

def _option(tree, name):
    "The default of the command-line option `--name` of a script"
    for n in ast.walk(tree):
        if isinstance(n, ast.Call) and getattr(n.func, 'attr', '')=='add_argument' and n.args:
            if getattr(n.args[0], 'value', None)==f'--{name}':
                return next((k.value.value for k in n.keywords if k.arg=='default'), None)

def _part(v): return v.value if isinstance(v, ast.Constant) else '*'

def _glob(node, tree):
    "The name that `node`, the first argument of `write`, stands for; `*` is what only a run knows"
    if isinstance(node, ast.Constant): return node.value
    if isinstance(node, ast.JoinedStr): return ''.join(map(_part, node.values))
    return _option(tree, node.attr) if isinstance(node, ast.Attribute) else None

def _writes(path):
    "Globs on the names of the results that the script at `path` writes"
    tree = ast.parse(path.read_text(encoding='utf-8'))
    res = [_glob(n.args[0], tree) for n in ast.walk(tree)
           if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id=='write' and n.args]
    if None in res: raise ValueError(f'bench/{path.name} writes a result whose name cannot be read from the script.')
    return list(dict.fromkeys(res))

def _owner(name, makes, what):
    "The script among `makes` that writes the result `name`"
    for script,globs in makes.items():
        if any(fnmatch.fnmatchcase(name, g) for g in globs): return script
    raise ValueError(f'No script in bench/ makes {what}.')

def measured(root:Path) -> dict[str,dict[str,dict]]:
    "The results of each benchmark, as `{script: {result: content}}`"
    makes = {p.stem:_writes(p) for p in sorted((root/'bench').glob('*.py'))}
    res = {k:{} for k,globs in makes.items() if globs}
    for f in sorted((root/'bench/results').glob('*.json')):
        owner = _owner(f.stem, makes, f'bench/results/{f.name}')
        res[owner][f.stem] = json.loads(f.read_text(encoding='utf-8'))
    for k,v in res.items():
        if not v and k not in elsewhere: raise ValueError(f'bench/{k}.py has no result in bench/results.')
    return {k:v for k,v in res.items() if v}

def _shown(root):
    "The pictures of each benchmark, as `{script: {name: path}}`"
    makes = {p.stem:[*_writes(p),p.stem] for p in sorted((root/'bench').glob('*.py'))}
    res = {}
    for f in sorted((root/'bench/results').glob('*.png')):
        res.setdefault(_owner(f.stem, makes, f'bench/results/{f.name}'), {})[f.stem] = f
    return res

def pictures(root:Path) -> dict[str,Path]:
    "What has to be copied into the site, as `{path in the site: file}`"
    return {f'bench/{f.name}':f for fs in _shown(root).values() for f in fs.values()}

## Pages

_own_command = re.compile(r'[;:] `python bench/[^`]*`(?=$|[,.])')

def _description(path):
    "The module docstring of a script as paragraphs, without its own command, which the page shows anyway"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    ps = [_own_command.sub('', re.sub(r'\s+', ' ', p)) for p in re.split(r'\n\s*\n', doc)]
    return [in_prose(p) for p in ps if p.strip()]

def _commands(stem, res):
    given = bench_of(stem).commands
    return [f'python bench/{stem}.py {o}'.strip() for o in (given(res) if given else [''])]

def _seed_words(seed):
    "`seed 0`, `seeds 0, 1, 2`, or nothing"
    vs = seed if isinstance(seed, list) else [] if seed is None else [seed]
    words = ', '.join(in_cell(v if is_number(v) else repr(v)) for v in vs)
    return f"seed{'s' if len(vs)>1 else ''} {words}" if vs else ''

def _conditions(d):
    "One line of what a result depends on"
    about = d.get('about', {})
    threads = about.get('threads')
    parts = [about.get('commit') and f"commit `{about['commit']}`", about.get('torch') and f"PyTorch {about['torch']}",
             threads and f"{threads} thread{'s' if threads!=1 else ''}", in_cell(about.get('cpu', '')),
             in_cell(d.get('device', '')), _seed_words(d.get('seed', d.get('seeds')))]
    return f"*Measured at {', '.join(filter(None, parts))}.*"

_told_elsewhere = ('about','what','seed','seeds','device')

def _result(name, d, level):
    "The tables of one result, and its conditions"
    body = {k:v for k,v in d.items() if k not in _told_elsewhere}
    if name in shapes: body = shapes[name](body)
    leaves = {k:v for k,v in body.items() if is_leaf(v, k) and v!={}}
    rest = {k:v for k,v in body.items() if k not in leaves}
    is_one = name not in shapes and not leaves and len(rest)>1 and is_table(rest)
    shown = table(rest) if is_one else sections(rest, level)
    return [*bullets(leaves),'',*shown,'',_conditions(d),'']

def _meanings(lines):
    "What the columns mean that occur in tables, said once"
    heads = {c.strip() for a,b in zip(lines, lines[1:]) if b.startswith('| ---') for c in a.strip('|').split('|')}
    def _is_in(k, h): return k in (h,h.partition(': ')[0],h.rpartition(': ')[2],h.partition(',')[0])
    found = [f'- *{k}*: {v}.' for k,v in meanings.items() if any(_is_in(k, h) for h in heads)]
    return ['## What the columns mean','',*found,''] if found else []

def _page(root, stem, res, shown):
    "The page of one benchmark"
    several = len(res)>1
    whats = {n:in_prose(d['what']) for n,d in res.items() if d.get('what')}
    once = set(whats.values()) if len(set(whats.values()))==1 and len(whats)>len(res)/2 else set()
    lines = [f'# {bench_of(stem).title}','']
    if key := key_number(stem, res): lines += [f'**{key}.**','']
    for p in (*_description(root/'bench'/f'{stem}.py'),*once): lines += [p,'']
    lines += ['To repeat it:','','```sh',*_commands(stem, res),'```','']
    tables = []
    for n in sorted(res, key=lambda n: (n!=stem,'gains' not in res[n],n)):
        part = n.removeprefix(stem).strip('_')
        if several and part: tables += [f'## {part_names.get(part, first_up(plain_word(part)))}','']
        if n in whats and not once: tables += [whats[n],'']
        tables += _result(n, res[n], 3 if several and part else 2)
    for n,f in shown.items():
        caption = captions.get(n, bench_of(stem).title)
        tables += [f'![{caption}](../bench/{f.name})','',caption,'']
    return _joined([*lines,*tables,*_meanings(tables)])

def _joined(lines): return re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)).strip()+'\n'

_how = """## How measurements are made

- **Time** is a ratio: what is measured and what it is compared with run in turn, in one process, and who goes first
  alternates. The number is the median of these pairs, the brackets hold the lower and the upper quartile. Below 1 is
  quicker than what it is compared with.
- **Memory** is what a call adds at its peak to what the process held before, in MB, in a process of its own
  (Linux), with libraries loaded and layers found.
- **Means** over images stand with their standard error, `.886 ± .020`.
- Every page is from one run of its script on one machine, unless it says otherwise; a page says at which commit, with
  which PyTorch, threads and seed. Ratios travel between machines better than seconds do."""

def _ordered(stems): return sorted(stems, key=lambda k: (list(benches).index(k) if k in benches else len(benches),k))

def _index(res):
    "The table of all benchmarks, and how measurements are made"
    stems = _ordered(res)
    def _row(k): return [bench_of(k).title,key_number(k, res[k]).replace('|', r'\|'),f'[{k.replace("_", " ")}]({k}.md)']
    rows = [_row(k) for k in stems]
    missing = [f'`bench/{k}.py` {why}, and has no results here.' for k,why in elsewhere.items() if k not in res]
    what = ('What is claimed about cost and correctness is measured by a script in `bench/`, and the numbers are read '
            'from what it wrote.')
    index = row_lines(['what','the key number','page'], rows, ())
    return _joined(['# Measured','',what,'',*index,'',*missing,'',_how,'',
                    '```{toctree}',':hidden:','',*stems,'```'])

def pages(root:Path) -> dict[str,str]:
    "The pages of the section, as `{path in the site: Markdown}`"
    root = Path(root)
    res,shown = measured(root),_shown(root)
    return {'measured/index.md':_index(res),
            **{f'measured/{k}.md':_page(root, k, v, shown.get(k, {})) for k,v in res.items()}}
