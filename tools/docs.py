"""Notebooks with outputs, and the README: `docs.py execute NB...`, `docs.py readme`, `docs.py check`."""
import argparse, copy, json, os, re, sys, sysconfig, warnings
from pathlib import Path

root = Path(__file__).resolve().parents[1]
nbs, images = root/'nbs', root/'docs/images'

## Executing

def _local_paths():
    "Pairs of a regex for a path of this machine and what to write instead, longest first"
    lib = {sysconfig.get_path('purelib'), sysconfig.get_path('platlib'), sysconfig.get_path('stdlib')}
    ps = [(o, '') for o in sorted(lib, key=len, reverse=True)] + [(str(root), ''), (str(Path.home()), '~/')]
    return [(re.compile(rf'(?<![\w.]){re.escape(p)}(?:/|\b)'), new) for p, new in ps if len(p) > 1]

_warning = re.compile(r'^(\S+?):\d+: (\w*Warning: .*\n)(?:  .*\n?)?', re.M)
_torch_log = re.compile(r'^\[[WI]\d*[ :].*\n?', re.M)

def _stderr(s):
    "`s` with the warnings of other libraries dropped and those of this one kept, without their place"
    keep = lambda m: '' if 'site-packages' in m[1] or '/lib/python' in m[1] else m[2]
    return _torch_log.sub('', _warning.sub(keep, s))

def _text(s):
    "`s` without paths of this machine"
    for pat, new in _local_paths(): s = pat.sub(new, s)
    return re.sub(r'\S*/ipykernel_\d+/\d+\.py', 'cell', s)

def _scrub(o):
    "Output `o` as it may be published; None if nothing is left"
    if o.output_type == 'stream':
        o.text = _text(_stderr(o.text) if o.name == 'stderr' else o.text)
        return o if o.text.strip() else None
    if o.output_type == 'error': o.traceback = [_text(t) for t in o.traceback]
    data = o.get('data', {})
    # pictures inside HTML are not shown on GitHub, where the same as PNG is
    if 'image/png' in data and 'src="data:' in data.get('text/html', ''): del data['text/html']
    for k, v in data.items():
        if k.startswith('text/'): data[k] = _text(v)
    return o

def _timeless(outs):
    return re.sub(r'\b\d+:\d\d\b', '',
                  json.dumps([(o.get('data'), o.get('text'), o.get('traceback')) for o in outs], sort_keys=True))

def _is_left_over(o, source):
    "A figure that a test has made and left to pyplot, which is nothing to look at"
    last = (source.strip().splitlines() or [''])[-1]
    return o.output_type=='display_data' and 'image/png' in o.data and re.match(r'\s*(test_|assert |for .*test_)', last)

def _scrub_cell(cell, old):
    "Scrub the outputs of `cell`; where only the clock differs from the `old` ones, keep those"
    cell.outputs = [o for o in map(_scrub, cell.outputs) if o and not _is_left_over(o, cell.source)]
    if _timeless(cell.outputs) == _timeless(old): cell.outputs = old

def execute(path:Path):
    "Run the notebook at `path` in its folder, in a kernel of its own, and store cleaned outputs"
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbdev.clean import clean_nb, nbdev_clean
    from nbdev.test import nb_test_cells
    nb = nbformat.read(path, as_version=4)
    old = copy.deepcopy(nb)
    clean_nb(old)
    run = {c.id for c in nb_test_cells(path)}
    for c in nb.cells:
        if c.id not in run: c.metadata.tags = ['skip-execution']  # for nbclient; cleaned away below
    client = NotebookClient(nb, timeout=None, coalesce_streams=True, record_timing=False, store_widget_state=False,
                            resources=dict(metadata=dict(path=str(path.parent))))
    try: client.execute()
    except CellExecutionError as e: sys.exit(f'{path.name} is left as it was.\n{e}')
    clean_nb(nb)
    for c, o in zip(nb.cells, old.cells):
        if c.id in run: _scrub_cell(c, o.outputs)
    nbformat.write(nb, path)
    nbdev_clean.__wrapped__(str(path))

## README

_flag = re.compile(r'^#\|[ \t]*([\w-]+)[ \t]*:?[ \t]*(.*?)[ \t]*$', re.M)
_link = re.compile(r'(\]\(|(?:src|href)=")(?![a-z]+:|[#/])([^)"#\s]+)')

def _relink(m):
    "A link that works from `nbs/`, made to work from the root"
    p = (nbs/m[2]).resolve()
    return m[1] + (p.relative_to(root).as_posix() if p.exists() and p.is_relative_to(root) else m[2])

def _strip_frontmatter(src): return re.sub(r'\A---\n.*?\n---\n*', '', src, flags=re.S)

def _readme_cell(cell):
    "`cell` as the README shows it; None if hidden"
    if cell.cell_type == 'raw': return
    if cell.cell_type == 'markdown':
        cell.source = _link.sub(_relink, _strip_frontmatter(cell.source))
        return cell
    flags = dict(_flag.findall(cell.source))
    if {'hide', 'default_exp'} & flags.keys() or flags.get('include') == 'false': return
    cell.source = _flag.sub('', cell.source).strip()
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
    for old, new in names.items(): text = text.replace(f']({old})', f'](docs/images/{new})')
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

def main():
    p = argparse.ArgumentParser(description=__doc__)
    sub = p.add_subparsers(dest='cmd', required=True)
    sub.add_parser('execute', help='run notebooks and store their outputs').add_argument('nbs', nargs='+', type=Path)
    sub.add_parser('readme', help='write README.md from nbs/index.ipynb')
    sub.add_parser('check', help='is README.md fresh?')
    args = p.parse_args()
    for k in ('IN_TEST', 'MPLBACKEND'): os.environ.pop(k, None)
    if args.cmd == 'readme': return readme()
    if args.cmd == 'check': return check()
    for o in args.nbs:
        print(f'executing {o}', flush=True)
        execute(o.resolve())

if __name__ == '__main__': main()
