"Every notebook in `nbs/` is a test: `pytest` runs `tests/` and `nbs/` and counts them together."
import os
os.environ.setdefault('MPLBACKEND', 'Agg')
# each of the processes has a core of its own
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1')

import gc, importlib, io, signal, sys
from unittest.mock import patch
import pytest

class NotebookFailed(Exception): pass

# Seconds of what takes longest, first of all of what trains a network that others wait for or load: two processes are
# busy to the end if the longest go first. Whatever is not here counts as short.
longest = {
    'nbs/features/06_dreams.ipynb':400, 'tests/models/test_encoders.py':200, 'nbs/callback/04_recorder.ipynb':70,
    'tests/cli/test_train.py':290, 'nbs/detr/09_plots.ipynb':280, 'nbs/models/05_learners.ipynb':95,
    'tests/test_site.py::test_site_is_built':120, 'nbs/interpret/03_top_losses.ipynb':80, 'tests/cli/test_cli.py':75,
    'tests/cams/test_cam_parity.py':50, 'nbs/cams/06_cams.ipynb':50, 'nbs/interpret/04_interpretation.ipynb':45,
    'nbs/tutorials/other_labels.ipynb':33, 'nbs/tutorials/gallery.ipynb':32, 'nbs/tutorials/chapter18.ipynb':31,
    'nbs/tutorials/coming_from.ipynb':31, 'nbs/tutorials/which_method.ipynb':27, 'nbs/attribution/02_pixels.ipynb':90,
    'tests/field/test_blocks.py':85, 'tests/field/test_recorder.py':45, 'tests/field/test_notebook.py':25,
    'tests/field/test_dashboards.py':22, 'nbs/metrics/03_sanity.ipynb':45, 'nbs/cli/03_train.ipynb':40, 'nbs/features/03_projection.ipynb':37,
    'nbs/models/03_unet.ipynb':33, 'nbs/cli/02_resume.ipynb':25,
    'tests/metrics/test_audit.py':40, 'nbs/metrics/09_audit.ipynb':30, 'nbs/interpret/06_shortcuts.ipynb':30,
    'nbs/callback/05_settling.ipynb':25, 'tests/interpret/test_cleaner_lab.py':60, 'tests/interpret/test_report.py':60,
    'nbs/interpret/09_cleaner.ipynb':40, 'nbs/interpret/15_report.ipynb':40, 'nbs/interpret/16_progress.ipynb':60, 'nbs/interpret/07_confused.ipynb':21, 'tests/test_public.py':20,
    'tests/field/test_distributed.py':35, 'tests/scale/test_launch.py':40, 'tests/scale/test_kills.py':25,
    'tests/scale/test_maps.py':25, 'tests/features/test_patches.py':25, 'nbs/features/12_components.ipynb':20,
    'nbs/interpret/18_bodies.ipynb':20, 'tests/core/test_text.py':20, 'tests/core/test_volumes.py':20,
    'nbs/attribution/04_layerwise.ipynb':20, 'tests/attribution/test_lrp.py':20}

def pytest_collection_modifyitems(config, items):
    def _seconds(o): return longest.get(o.nodeid) or longest.get(o.nodeid.split('::')[0], 0)
    items.sort(key=lambda o: -_seconds(o)) # those of one file stay together

@pytest.fixture(scope='session')
def from_bench():
    "A function that imports a script of `bench/`, whose neighbours it may import"
    def _import(name):
        at = os.path.join(os.path.dirname(__file__), 'bench')
        with patch.object(sys, 'path', [at, *sys.path]): return importlib.import_module(name)
    return _import

def pytest_addoption(parser):
    parser.addoption('--slow', action='store_true', help='also run the cells and notebooks flagged `slow`')

def pytest_collect_file(file_path, parent):
    if file_path.suffix != '.ipynb' or file_path.name[0] in '_.' or '.ipynb_checkpoints' in file_path.parts: return
    return NotebookFile.from_parent(parent, path=file_path)

def _classes():
    "The classes that `@patch` adds methods to: this library's, and fastai's `Learner`"
    from fastai.learner import Learner
    modules = [m for n,m in list(sys.modules.items()) if n.split('.')[0]=='fastattn']
    def _is_ours(c): return isinstance(c, type) and c.__module__.startswith('fastattn')
    return {Learner, *(c for m in modules for c in vars(m).values() if _is_ours(c))}

class NotebookFile(pytest.File):
    def collect(self): yield NotebookItem.from_parent(self, name=self.path.stem)

class NotebookItem(pytest.Item):
    def setup(self):
        from fastcore.nbio import nb_frontmatter, read_nb
        from fastcore.basics import str2bool
        fm = nb_frontmatter(read_nb(self.path))
        if str2bool(fm.get('skip_exec', False)): pytest.skip('skip_exec')
        if str2bool(fm.get('slow', False)) and not self.config.getoption('slow'): pytest.skip('slow: run with --slow')

    def runtest(self):
        import fastattn.all # what a notebook defines again must stay neither in the library's registry nor on its classes
        from fastattn.core.registry import explainers
        registered,patched = dict(explainers),{c: dict(vars(c)) for c in _classes()}
        try: self._runtest()
        finally:
            explainers.clear(); explainers.update(registered)
            for c,own in patched.items():
                for k in [k for k,v in vars(c).items() if k not in own]: delattr(c, k)
                for k in [k for k,v in own.items() if vars(c).get(k) is not v]: setattr(c, k, own[k])

    def _runtest(self):
        from nbdev.config import get_config
        from nbdev.test import test_nb
        skip = get_config(self.path.parent).tst_flags.split()
        force = ['slow'] if self.config.getoption('slow') else []
        err, sigint, main = io.StringIO(), signal.getsignal(signal.SIGINT), sys.modules['__main__']
        try:
            with patch.object(sys, '__stderr__', err): ok, _ = test_nb(self.path, skip_flags=skip, force_flags=force)
        finally: # `test_nb` leaves its own handler on, and its shell a `__main__` that starts no further process
            signal.signal(signal.SIGINT, sigint)
            sys.modules['__main__'] = main
        if not ok: raise NotebookFailed(err.getvalue())

    def teardown(self):
        import matplotlib.pyplot as plt
        from IPython.core.interactiveshell import InteractiveShell
        sh, InteractiveShell._instance = InteractiveShell._instance, None
        if hasattr(sh, 'loop'): sh.close(); sh.user_ns.clear()  # free its thread and its models
        plt.close('all')
        plt.switch_backend('Agg')  # the notebook's shell chose the inline one
        gc.collect()

    def repr_failure(self, excinfo):
        return str(excinfo.value) if isinstance(excinfo.value, NotebookFailed) else super().repr_failure(excinfo)

    def reportinfo(self): return self.path, None, self.name
