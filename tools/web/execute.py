"Notebooks run in a kernel of their own, and outputs that may be published"
import copy, json, re, sys, sysconfig, tempfile
from pathlib import Path
from .notebook import flags_of
from .settings import root

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
    s = re.sub(rf'{re.escape(tempfile.gettempdir())}/tmp\w{{8}}/', '', s) # another name in each run
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
    kept = [] if flags_of(cell.source).get('output')=='false' else cell.outputs # shown nowhere
    cell.outputs = [o for o in map(_scrub, kept) if o and not _is_left_over(o, cell.source)]
    if _timeless(cell.outputs) == _timeless(old): cell.outputs = old

def run(
    path:Path, # Of a notebook
    slow:bool=True # Run the cells flagged `#| slow` too? If not, they keep their outputs
)->tuple: # The notebook as it was, and with new outputs, cleaned; both as nbformat's
    "Run a notebook in its folder, in a kernel of its own; raises `SystemExit` where a cell fails"
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError
    from nbdev.clean import clean_nb
    from nbdev.test import nb_test_cells
    nb = nbformat.read(path, as_version=4)
    old = copy.deepcopy(nb)
    clean_nb(old)
    ids = {c.id for c in nb_test_cells(path) if slow or 'slow' not in flags_of(c.source)}
    for c in nb.cells:
        if c.id not in ids: c.metadata.tags = ['skip-execution']  # for nbclient; cleaned away below
    client = NotebookClient(nb, timeout=None, coalesce_streams=True, record_timing=False, store_widget_state=False,
                            resources=dict(metadata=dict(path=str(path.parent))))
    try: client.execute()
    except CellExecutionError as e: sys.exit(f'{path.name} is left as it was.\n{e}')
    clean_nb(nb)
    for c, o in zip(nb.cells, old.cells):
        if c.id in ids: _scrub_cell(c, o.outputs)
    return old, nb

def execute(path:Path):
    "Run the notebook at `path` and store its outputs"
    store(run(path)[1], path)

def store(nb, path:Path):
    "Write a notebook as nbdev would clean it"
    import nbformat
    from nbdev.clean import nbdev_clean
    nbformat.write(nb, path)
    nbdev_clean.__wrapped__(str(path))

