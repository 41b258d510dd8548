"""Figures in a notebook behave as fastai's do: every cell is run by a real kernel, and its pictures are counted"""
import nbformat, pytest
from nbclient import NotebookClient

setup = """
import warnings; warnings.filterwarnings('ignore')
from fastai.vision.all import *
from fastattn.all import *
from fastattn.data.demo import *
from fastattn.interpret.compare import plot_methods
learn = vision_learner(demo_dls(n=64, bs=8), demo_arch, pretrained=False)
pic = learn.dls.valid_ds.items[0]
def plot(): return plot_methods(learn, pic, ['gradcam'])
"""
cells = [ # source, pictures that it shows
    ("plot()", 1), ("plot();", 1), ("fig = plot()", 1), ("fig", 1), ("plot(); print('in the middle')", 1),
    ("for _ in range(3): plot()", 3), ("plot()\nplot()", 2), ("fig = plot()\nfig", 1),
    ("plot()\nplt.savefig('a.png')\nprint(np.asarray(Image.open('a.png')).std()>10)", 1),
    ("fig = plot()\nprint(plt.gcf() is fig)", 1), ("print(plt.get_fignums())", 0), ("display(plot())", 1),
    ("h = explain(learn, pic)\nh", 1), ("explain(learn, [pic]*3)", 1), ("h.show();", 1), ("h;", 0),
    ("interp = ClassificationInterpretation.from_learner(learn)\ninterp.plot_top_losses(2, heatmap=True)", 1),
    ("interp.plot_top_losses(2, heatmap=True);", 1), ("interp.plot_top_losses(2)", 1),
    ("interp.show_results([0,1], heatmap=True)", 1), ("learn.show_attention(pic);", 1)]

@pytest.fixture(scope='module')
def ran(tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.delenv('MPLBACKEND', raising=False) # the tests' own; the kernel draws into the notebook
        return _run(tmp_path_factory.mktemp('nb'))

def _run(folder):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in (setup,*[c for c,_ in cells])])
    NotebookClient(nb, timeout=300, kernel_name='python3',
                   resources=dict(metadata=dict(path=str(folder)))).execute()
    return nb.cells[1:]

def _pictures(cell): return sum('image/png' in o.get('data', {}) for o in cell.outputs)
def _printed(cell): return ''.join(o.text for o in cell.outputs if o.output_type=='stream' and o.name=='stdout')

@pytest.mark.parametrize('i', range(len(cells)), ids=[c.splitlines()[-1] for c,_ in cells])
def test_pictures(ran, i): assert _pictures(ran[i])==cells[i][1]

def test_pyplot_finds_them(ran):
    said = {c:_printed(o).strip() for (c,_),o in zip(cells, ran) if _printed(o)}
    assert [v for v in said.values()]==['in the middle','True','True','[]']

def test_a_heatmap_is_html_too(ran):
    out = next(o for (c,_),o in zip(cells, ran) if c.startswith('explain(learn, [pic]*3)')).outputs[-1]
    assert out['data']['text/html'].count('<img')==3
