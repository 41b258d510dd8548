"The tutorial's app, as a server that is asked; and clicked in a browser, where there is one"
import importlib.util, json, os, shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pytest
from PIL import Image
pytest.importorskip('gradio', reason='gradio is not installed')
os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1')
chromium = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)

def cells():
    "The code of the notebook, without what is hidden or opens a page"
    nb = json.loads((Path(__file__).parents[1]/'nbs/tutorials/app.ipynb').read_text())
    srcs = [''.join(c['source']) for c in nb['cells'] if c['cell_type']=='code']
    return [s for s in srcs if not s.startswith(('#| hide','#| eval: false')) and 'subplots' not in s]

@pytest.fixture(scope='module')
def served():
    "The variables of the notebook, and the app's address"
    ns = {}
    for s in cells(): exec(s, ns)
    url = ns['app'].launch(prevent_thread_lock=True, quiet=True, show_error=True)[1]
    yield ns,url
    ns['app'].close()

def test_is_short():
    assert sum(len([l for l in s.splitlines() if l.strip()]) for s in cells())<=16

def test_asked(served, tmp_path):
    "What comes back over the network is what `explain` draws"
    from gradio_client import Client, handle_file
    ns,url = served
    file = ns['learn'].dls.valid_ds.items[3]
    client = Client(url, verbose=False, download_files=tmp_path)
    probs,heat = client.predict(handle_file(str(file)), 'gradcam', 'predicted', api_name='/look')
    want = ns['explain'](ns['learn'], file, 'gradcam').overlay()
    with Image.open(heat) as im: got = np.asarray(im.convert('RGB'), float)
    assert got.shape==np.asarray(want).shape and abs(got-np.asarray(want)).mean()<6 # it may be sent as a JPEG or WebP
    assert probs['label']==file.parent.name
    with pytest.raises(Exception): client.predict(handle_file(str(file)), 'gradcan', 'predicted', api_name='/look')

@pytest.mark.skipif(not chromium or importlib.util.find_spec('playwright') is None,
                    reason='chromium or playwright is not there')
def test_clicked(served):
    "A picture is given, the button is pressed, a heatmap is there"
    ns,url = served
    file = ns['learn'].dls.valid_ds.items[3]
    # in a thread of its own: Playwright refuses to run where another test has left an event loop
    with ThreadPoolExecutor(1) as thread: assert thread.submit(_pictures_after_click, url, file).result()>=2

def _pictures_after_click(url, file):
    "How many pictures the page shows when the answer is there"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = b.new_page()
        page.goto(url)
        page.set_input_files('input[type=file]', str(file))
        page.get_by_role('button', name='Submit').click()
        page.wait_for_selector('text='+file.parent.name, timeout=60_000)
        n = page.locator('img').count()
        b.close()
    return n
