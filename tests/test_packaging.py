"The package as a whole: one set of metadata, commands that are what the README says, rooms that import downwards only."
import ast, json, re, subprocess, sys
from configparser import ConfigParser
from pathlib import Path
import pytest, yaml
import fastattn

try: import tomllib
except ImportError: import tomli as tomllib

root = Path(__file__).resolve().parents[1]
read = lambda p: (root/p).read_text(encoding='utf-8')
ini = ConfigParser(interpolation=None)
ini.read_string(read('settings.ini'))
cfg, toml = ini['DEFAULT'], tomllib.loads(read('pyproject.toml'))
modules = [p for p in sorted((root/'fastattn').rglob('*.py')) if not p.stem.startswith('_')]
dotted = lambda p, base=root/'fastattn': '.'.join(p.relative_to(base).with_suffix('').parts)

def _room(nb):
    "The module that notebook `nb` exports, if any"
    src = '\n'.join(''.join(c['source']) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'])
    m = re.search(r'^#\| ?default_exp:? ([\w.]+)$', src, re.M)
    return m and m[1]

def _listed(o):
    "The notebooks of a sidebar, in its order"
    for c in o: yield from [c] if isinstance(c, str) else _listed(c['contents'])

sidebar = [root/'nbs'/o for o in _listed(yaml.safe_load(read('nbs/sidebar.yml'))['website']['sidebar']['contents'])]
rooms = [r for r in map(_room, sidebar) if r] + ['all'] # in reading order
# Other libraries are loaded when first needed.
may_load = {'fastattn', 'fastai', 'fastcore', 'plum', 'fastprogress', 'torch', 'torchvision', 'timm', 'matplotlib',
            'numpy', 'PIL'}
setup_user = 'python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/fastattn_demo'
setup_dev = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"

def test_metadata_agree():
    proj = toml['project']
    assert proj['name'] == cfg['lib_name'] == toml['tool']['nbdev']['lib_path'] == 'fastattn'
    assert proj['description'] == cfg['description']
    assert proj['requires-python'] == f">={cfg['min_python']}"
    assert proj['urls']['Repository'] == cfg['git_url']
    assert proj['urls']['Homepage'] == cfg['doc_url']
    assert 'version' in proj['dynamic'] and 'dependencies' in proj['dynamic']
    assert fastattn.__version__ == cfg['version']
    assert f"[{cfg['version']}]" in read('CHANGELOG.md')

def test_citation():
    "What others cite agrees with `settings.ini`, and has no date that would go stale"
    cff = yaml.safe_load(read('CITATION.cff'))
    assert cff['cff-version']=='1.2.0' and cff['type']=='software' and cff['message'].endswith('.')
    assert (cff['title'],cff['version'],cff['abstract']) == (cfg['lib_name'],cfg['version'],cfg['description'])
    assert cff['authors'] == [{'name':cfg['author']}] and cff['repository-code'] == cfg['git_url']
    assert cff['license'] == {'apache2':'Apache-2.0'}[cfg['license']] and 'date-released' not in cff

def test_source_distribution_has_its_files():
    "All that `MANIFEST.in` names is there, among it what `setup.py` and readers need"
    named = re.search(r'^include (.*)$', read('MANIFEST.in'), re.M)[1].split()
    assert all((root/f).is_file() for f in named)
    assert {'settings.ini','LICENSE','README.md','CHANGELOG.md','CITATION.cff'} <= set(named)

def test_requirements_are_lower_bounds():
    reqs = cfg['requirements'].split()
    assert {re.split('[<>=!~]', r)[0] for r in reqs} == {'fastai', 'torch', 'timm', 'matplotlib', 'numpy', 'pillow'}
    for r in reqs: assert re.fullmatch(r'\w+>=[\d.]+', r), r
    for k in ('dev_requirements', 'bench_requirements'): assert '==' not in cfg[k]

def test_console_scripts_exist():
    for s in cfg['console_scripts'].split():
        mod, func = s.split('=')[1].split(':')
        tree = ast.parse(read(mod.replace('.', '/') + '.py'))
        assert func in [n.name for n in tree.body if isinstance(n, ast.FunctionDef)], s

def test_set_up_commands():
    lines = [l.strip() for l in read('README.md').splitlines()]
    assert [l for l in lines if l.startswith('python3 -m venv')] == [setup_user, setup_dev]
    assert setup_dev in read('.ci/run').splitlines()

def _imported(node, room):
    "Modules that an import `node` names, relative ones seen from `room`"
    if isinstance(node, ast.Import): return [a.name for a in node.names]
    if not node.level: return [node.module]
    base = ['fastattn', *room.split('.')][:-node.level]
    return (['.'.join([*base, *node.module.split('.')])] if node.module else
            ['.'.join([*base, a.name]) for a in node.names])

def _imports(tree, room, top=False):
    "Names of modules that `tree` imports, or only those it does while it is itself imported"
    for n in ast.iter_child_nodes(tree):
        if isinstance(n, (ast.Import, ast.ImportFrom)): yield from _imported(n, room)
        elif not (top and isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
            yield from _imports(n, room, top)

def _wrong_imports(room, src):
    "What is wrong with the imports of the module `room`, whose source is `src`"
    if room not in rooms: return [f'{room} has no place in nbs/sidebar.yml']
    tree,before = ast.parse(src),rooms[:rooms.index(room)]
    up = [m for m in _imports(tree, room) if m.split('.')[0]=='fastattn' and
          not any(m==f'fastattn.{o}' or f'fastattn.{o}'.startswith(m+'.') for o in before)]
    heavy = [m for m in _imports(tree, room, top=True) if m.split('.')[0] not in may_load | sys.stdlib_module_names]
    return ([f'{room} imports {m}, which does not come before it' for m in up] +
            [f'{room} loads {m} when imported: load it where it is first needed' for m in heavy])

def test_there_is_something_to_look_at():
    "The checks below are worth nothing where they find no files"
    assert len(modules)>50 and len(rooms)>50 and {'checks','core.pipeline','cli.commands','all'}<=set(rooms)
    assert len(rooms)==len(set(rooms)) and {dotted(p) for p in modules}==set(rooms)

@pytest.mark.parametrize('path', modules, ids=dotted)
def test_imports(path): assert not _wrong_imports(dotted(path), path.read_text(encoding='utf-8'))

@pytest.mark.parametrize('room,src,says', [
    ('core.hooks', 'from .layers import *', 'imports fastattn.core.layers'),
    ('core.hooks', 'from ..cams.gradient import *', 'imports fastattn.cams.gradient'),
    ('image.files', 'def f():\n    from fastattn.all import explain', 'imports fastattn.all'),
    ('cams.pyramid', 'import fastattn.detr.plots', 'imports fastattn.detr.plots'),
    ('checks', 'from . import image', 'imports fastattn.image'),
    ('core.hooks', 'import transformers', 'loads transformers'), ('core.nowhere', '', 'has no place')])
def test_wrong_imports_are_found(room, src, says): assert any(says in o for o in _wrong_imports(room, src))

def test_numbers_give_the_order():
    "In a folder the notebooks are read by their numbers, of which no two are alike"
    there = [p for p in (root/'nbs').rglob('*.ipynb')
             if '.ipynb_checkpoints' not in p.parts and not p.name.startswith('_')]
    assert sorted(sidebar)==sorted(there), 'nbs/sidebar.yml lists every notebook once'
    for d in {p.parent for p in there} - {root/'nbs'/'tutorials'}:
        ps = [p for p in sidebar if p.parent==d and p.name!='index.ipynb']
        numbers = [p.name[:2] for p in ps]
        assert all(n.isdigit() for n in numbers) and numbers==sorted(set(numbers)), f'{d.name}: {numbers}'
        for p in ps:
            if r := _room(p):
                assert r=='.'.join([*p.relative_to(root/'nbs').parts[:-1], p.stem[3:]]), f'{p.name} exports {r}'

def test_methods_are_found():
    "The registry's list of modules alone looks upwards: every module on it registers a method, and no other does"
    from fastattn.core.registry import methods_in
    registers = {dotted(p) for p in modules if re.search(r'^@explainer\(', p.read_text(encoding='utf-8'), re.M)}
    assert registers==set(methods_in)
    code = ("from fastattn.core.pipeline import *; import torch; from torch import nn; "
            "m = nn.Sequential(nn.Conv2d(3,4,3), nn.AdaptiveAvgPool2d(1), nn.Flatten()); "
            "print(explain(m, torch.rand(1,3,8,8), 'gradcam').method)")
    assert subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                          check=True).stdout.strip()=='gradcam'

def test_public_names():
    "Some sixty, each defined, and of fastai's names only the four that are meant to be replaced"
    import fastattn.all as ours, fastai.vision.all as fastai
    names = ours.__all__
    assert 45<=len(names)<=66 and len(names)==len(set(names)) and all(hasattr(ours, n) for n in names)
    theirs = {n for n in names if hasattr(fastai, n) and getattr(fastai, n) is not getattr(ours, n)}
    assert theirs=={'Interpretation', 'ClassificationInterpretation', 'SegmentationInterpretation', 'DynamicUnet'}
    folders = {p.parent.name for p in modules}
    assert not folders & set(names), 'a folder that bears the name of a function hides it'
    assert all(not p.read_text() for p in (root/'fastattn').glob('*/__init__.py'))

def test_help():
    "Python's own help shows what each argument means, of every public function"
    import fastattn.all as ours
    for n in ('explain', 'plot_methods', 'attention_learner', 'AttentionRecorder', 'plot_heads', 'tell'):
        doc = getattr(ours, n).__doc__
        assert doc.count('\n\nArguments:\n')==1 and len(doc.splitlines())>6, doc
    assert '\n    target: ' in ours.explain.__doc__ and '\n\nReturns:\n' in ours.explain.__doc__

def test_import_is_cheap():
    "Beyond what fastai loads, no library but this one, and no source is read (for the comments behind arguments)"
    code = ("import sys, json, linecache, fastai.vision.all; before = set(sys.modules); import fastattn.all; "
            "new = {m.split('.')[0] for m in set(sys.modules)-before}-set(sys.stdlib_module_names); "
            "print(json.dumps([sorted(new), [f for f in linecache.cache if 'fastattn' in f]]))")
    r = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, check=True,
                       cwd=root)
    assert json.loads(r.stdout) == [['fastattn'], []]

def _too_long(path):
    "Lines of more than 120 characters, of a module or of the code of a notebook"
    if path.suffix=='.py': # nbdev's own list of names is as wide as nbdev makes it
        lines = re.sub(r'^__all__ = \[.*?\]\n', '', path.read_text(encoding='utf-8'), flags=re.S|re.M).splitlines()
    else:
        lines = [l for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if c['cell_type']=='code'
                 for l in ''.join(c['source']).splitlines()]
    return [l for l in lines if len(l)>120]

@pytest.mark.parametrize('path', modules+sidebar, ids=lambda p: p.relative_to(root).as_posix())
def test_lines_are_short(path): assert not _too_long(path)

def test_links_lead_somewhere():
    "Links between notebooks, and from the README, lead to files"
    for f in [*sidebar, root/'README.md', root/'CONTRIBUTING.md']:
        text = f.read_text(encoding='utf-8')
        if f.suffix=='.ipynb':
            text = '\n'.join(''.join(c['source']) for c in json.loads(text)['cells'] if c['cell_type']=='markdown')
        for link in re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', text):
            assert (f.parent/link).exists(), f'{f.relative_to(root)}: {link}'

@pytest.mark.parametrize('path', [p for p in modules if 'AUTOGENERATED' in p.read_text(encoding='utf-8')], ids=dotted)
def test_notebook_of_module(path):
    nb = re.search(r'File to edit: (\S+\.ipynb)', path.read_text(encoding='utf-8'))[1]
    assert (path.parent/nb).exists(), f'{nb} is gone, {path.name} is still here'

def test_no_local_paths():
    r = subprocess.run(['git', 'ls-files', '-coz', '--exclude-standard'], cwd=root, capture_output=True, text=True)
    if r.returncode: pytest.skip('not a git checkout')
    local = re.compile(r'(?<![\w.:/+=-])/(?:work|root|home|Users)/[\w.]')
    for f in filter(None, r.stdout.split('\0')):
        p = root/f
        if not p.is_file(): continue
        try: text = p.read_text(encoding='utf-8')
        except UnicodeDecodeError: continue
        m = local.search(text)
        assert not m, f'{f}: {text[max(0, m.start()-40):m.end()+40]!r}'
