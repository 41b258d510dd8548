"""The cleaner in JupyterLab, driven by headless Chromium: a picture moved, one deleted, one undone, the kernel restarted"""
import json, os, shutil, socket, subprocess, sys, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(chromium is None, reason='there is no Chromium on the path')

code = """
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastattn.all import *
from fastattn.interpret.cleaner import HeatmapCleaner
with no_random():
    dls = folder_dls('pets', size=64, bs=16)
    learn = attention_learner(dls, demo_arch, pretrained=False)
    cleaner = HeatmapCleaner(learn, max_n=12)
cleaner
"""

def notebook(path, source):
    cell = dict(cell_type='code', id='a', metadata={}, execution_count=None, outputs=[], source=source)
    kernel = dict(display_name='Python 3', language='python', name='python3')
    path.write_text(json.dumps(dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)))

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with pictures in two classes and a notebook"
    import numpy as np
    from PIL import Image
    d,rng = tmp_path_factory.mktemp('lab'),np.random.default_rng(0)
    for s,n in (('train',16),('valid',8)):
        for c in ('cat','dog'):
            (d/'pets'/s/c).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 255, (8,8,3), dtype=np.uint8)).resize((96,72)).save(d/'pets'/s/c/f'{i}.png')
    # a name that would run, if it were HTML
    shutil.copy(d/'pets/train/cat/0.png', d/'pets/train/cat/<img src=x onerror=document.title="run">.png')
    notebook(d/'cleaner.ipynb', code)
    return d

@pytest.fixture(scope='module')
def lab(folder, tmp_path_factory):
    "The address of a JupyterLab in that folder"
    pytest.importorskip('jupyterlab')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    home = tmp_path_factory.mktemp('jupyter')
    env = {**os.environ, 'JUPYTER_CONFIG_DIR':str(home/'config'), 'JUPYTER_DATA_DIR':str(home/'data'),
           'JUPYTER_RUNTIME_DIR':str(home/'run'), 'PYTHONPATH':os.pathsep.join([str(Path(__file__).parents[2]),
           os.environ.get('PYTHONPATH', '')]), 'OMP_NUM_THREADS':'1'}
    args = ['--no-browser', '--allow-root', f'--port={port}', '--ip=127.0.0.1', '--IdentityProvider.token=',
            '--ServerApp.password=', f'--ServerApp.root_dir={folder}', '--LabApp.news_url=',
            '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    log = open(home/'log', 'w')
    p = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *args], env=env, cwd=folder, stdout=log, stderr=log)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'{url}/api/status', timeout=1); break
            except OSError:
                assert p.poll() is None, (home/'log').read_text()[-2000:]
                time.sleep(.5)
        yield url
    finally:
        p.terminate()
        p.wait(20)

def tree(d): return sorted(o.relative_to(d).as_posix() for o in d.rglob('*.png'))

def driven(lab, folder):
    from playwright.sync_api import sync_playwright
    faults,shots = [],Path(os.environ.get('FASTATTN_SHOTS', '')) if os.environ.get('FASTATTN_SHOTS') else None
    def shot(page, name):
        if shots: page.locator('.fastattn-tiles').last.screenshot(path=shots/f'{name}.png')
    with sync_playwright() as pw:
        b = pw.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = b.new_page(viewport=dict(width=1280, height=1000))
        page.on('pageerror', lambda e: faults.append(str(e)))
        page.goto(f'{lab}/lab/tree/cleaner.ipynb?reset')
        def run():
            page.get_by_text('Run', exact=True).first.click()
            page.get_by_text('Run All Cells', exact=True).first.click()
            try: page.wait_for_selector('.fastattn-tiles figure', timeout=240_000)
            except Exception:
                if shots: page.screenshot(path=shots/'failed.png')
                raise AssertionError('no tiles; the page says: '+page.locator('.jp-Notebook').inner_text()[-1500:])
        page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=90_000)
        page.wait_for_timeout(3000)
        dialog = page.locator('.jp-Dialog').get_by_role('button', name='Select', exact=True)
        if dialog.count(): dialog.click() # which kernel, where JupyterLab does not choose itself
        run()
        def tiles(): return page.locator('.fastattn-tiles figure')
        def until(f, what):
            for _ in range(100):
                if f(): return
                page.wait_for_timeout(200)
            raise AssertionError(what)
        until(lambda: page.evaluate("[...document.querySelectorAll('.fastattn-tiles img')].slice(0,4)"
                                    ".every(o=>o.naturalWidth>0)"), 'the pictures are shown')
        shot(page, 'cleaner_first')
        edits = folder/'pets'/'fastattn_edits.json'
        def now():
            from fastattn.data.edits import Edits
            return Edits(edits).now if edits.exists() else {}
        names = [o.get_attribute('title') for o in tiles().all()]
        # keys: the first deleted, the second moved to the second class, the third marked and taken back
        tiles().nth(0).focus()
        page.keyboard.press('d')
        until(lambda: now()=={names[0]:'<Delete>'}, 'deleted by key')
        page.keyboard.press('2') # the focus has gone on to the next picture
        until(lambda: now().get(names[1])=='dog', 'moved by key')
        tiles().nth(2).locator('select').select_option('<Later>')
        until(lambda: now().get(names[2])=='<Later>', 'marked by the menu')
        page.get_by_role('button', name='Undo').click()
        until(lambda: names[2] not in now(), 'undone')
        # heatmaps, other views
        page.get_by_role('button', name='Predicted').click()
        until(lambda: page.evaluate("document.querySelector('.fastattn-tiles button[aria-pressed=true]').textContent")
              =='Predicted', 'heatmaps')
        page.wait_for_timeout(1500)
        shot(page, 'cleaner_heatmaps')
        page.get_by_label('Class', exact=True).select_option('dog')
        until(lambda: any(names[1]==o.get_attribute('title') for o in tiles().all()), 'the moved picture is shown there')
        page.get_by_label('Class', exact=True).select_option('cat')
        until(lambda: len(tiles().all())==12, 'a page of twelve')
        page.get_by_role('button', name='Next page').click()
        until(lambda: 'of 17' in page.locator('.fastattn-tiles .bar').nth(1).inner_text(), 'the second page')
        assert page.title()!='run'
        page.get_by_label('Order', exact=True).select_option('duplicates')
        until(lambda: len(tiles().all())==2, 'a picture and its copy')
        shot(page, 'cleaner_duplicates')
        # the kernel is restarted
        decided = now()
        page.get_by_text('Kernel', exact=True).first.click()
        page.get_by_text('Restart Kernel…', exact=True).first.click()
        page.get_by_role('button', name='Confirm Kernel Restart').click()
        page.wait_for_timeout(1500)
        page.get_by_text('Edit', exact=True).first.click()
        page.get_by_text('Clear Outputs of All Cells', exact=True).first.click()
        page.wait_for_selector('.fastattn-tiles', state='detached')
        run()
        assert now()==decided
        until(lambda: 'Apply 2 edits' in page.locator('.fastattn-tiles').inner_text(), 'the edits are still there')
        assert tiles().first.locator('select').input_value()=='<Delete>'
        shot(page, 'cleaner_restarted')
        before = tree(folder/'pets')
        page.get_by_role('button', name='Apply 2 edits').click()
        page.get_by_role('button', name='Really apply').click()
        until(lambda: 'deleted from the set' in page.locator('.fastattn-tiles .say').inner_text(), 'applied')
        shot(page, 'cleaner_applied')
        after = tree(folder/'pets')
        assert names[0] not in after and names[1] not in after and names[1].replace('cat', 'dog') in ' '.join(after)
        page.get_by_role('button', name='Restore').click()
        until(lambda: 'put back' in page.locator('.fastattn-tiles .say').inner_text(), 'restored')
        assert tree(folder/'pets')==before and now()==decided
        b.close()
    assert not [f for f in faults if 'fastattn' in f]
    return True

def test_cleaner_in_jupyterlab(lab, folder):
    with ThreadPoolExecutor(1) as thread: assert thread.submit(driven, lab, folder).result()
