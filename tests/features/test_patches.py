"""Patches of several pictures: looking leaves nothing behind, pictures and models of every kind, and the page, which
gives the same answers in a browser as Python does"""
import importlib.util, json, shutil, subprocess
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pytest, timm, torch, torch.nn as nn, torch.nn.functional as F
from PIL import Image
from fastattn.features.alike import cosines, plot_similarity, similarity
from fastattn.features.clicked import ClickSimilarity, save_similarity
from fastattn.features.components import patch_pca, plot_pca
from fastattn.features.patches import patch_features

chromium = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)

def noise(w, h, seed=0):
    return Image.fromarray(np.random.RandomState(seed).randint(0, 255, (h,w,3), dtype=np.uint8))

def prep(pic, size=(64,64)):
    "A transform to `(c,h,w)` that squeezes the picture"
    return torch.from_numpy(np.asarray(pic.resize(size[::-1]), np.float32)).permute(2,0,1)/255

def middle(pic):
    "The middle of a picture, half as wide and half as high"
    w,h = pic.size
    return prep(pic.crop((w//4, h//4, w//4+w//2, h//4+h//2)))

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3,8,3,4,1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8,12,3,2,1),
                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(12,5))

def same(before, after):
    return before.keys()==after.keys() and all(torch.equal(v, after[k]) for k,v in before.items())

@pytest.mark.parametrize('fails', [False,True])
def test_nothing_is_left(fails):
    m,pics = net().train(),[noise(90,60),noise(60,90,1)]
    for p in m[3].parameters(): p.requires_grad_(False)
    m[0].weight.grad = torch.ones_like(m[0].weight)
    m[1].eval()
    def _state(): return ([o.training for o in m.modules()], [p.requires_grad for p in m.parameters()],
                          [len(o._forward_hooks) for o in m.modules()], torch.is_grad_enabled(),
                          torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())
    weights,before = {k:v.clone() for k,v in m.state_dict().items()},_state()
    if fails:
        with pytest.raises(ValueError): similarity(m, pics[0], (90,3), pics[1:], prep=prep)
    else:
        plot_pca(m, pics, foreground=False, prep=prep)
        plot_similarity(m, pics[0], (5,5), pics[1:], prep=prep)
    assert _state()==before and same(weights, m.state_dict())
    assert torch.equal(m[0].weight.grad, torch.ones_like(m[0].weight))

def test_contexts():
    "Under no_grad, in inference mode, in half precision and under autocast; features are float32"
    x = torch.rand(3,3,64,48)
    ref = patch_features(net(), x)
    assert ref.x[0].shape==(8,6,12)
    with torch.no_grad(): assert torch.equal(patch_features(net(), x).x[2], ref.x[2])
    with torch.inference_mode(): assert torch.allclose(patch_features(net(), x.clone()).x[2], ref.x[2], atol=1e-6)
    half = patch_features(net().bfloat16(), x).x[2]
    with torch.autocast('cpu', torch.bfloat16): cast = patch_features(net(), x).x[2]
    for o in (half,cast): assert o.dtype==torch.float32 and F.cosine_similarity(o, ref.x[2], dim=2).mean()>.99
    assert torch.allclose(patch_features(net(), x[1:2]).x[0], ref.x[1], atol=1e-5) # alone as in a batch

@pytest.mark.parametrize('name,grid,kwargs', [
    ('resnet10t',(2,3),{}), ('vit_tiny_patch16_224',(4,6),dict(img_size=(64,96), depth=2)),
    ('vit_small_patch14_reg4_dinov2',(4,6),dict(img_size=(56,84), depth=2, num_classes=0)),
    ('swin_tiny_patch4_window7_224',(2,3),dict(img_size=(64,96), depths=(1,1,1,1), embed_dim=24))])
def test_models(name, grid, kwargs):
    "Convolutions, tokens with and without registers, channels last"
    size = kwargs.get('img_size', (64,96))
    m = timm.create_model(name, **kwargs).eval()
    p = patch_features(m, [noise(90,60),noise(60,90,1)], prep=lambda o: prep(o, size))
    assert [tuple(o.shape[:2]) for o in p.x]==[grid]*2
    assert len(plot_pca(p, foreground=False).axes)==4

def test_tokens_are_those_of_the_model():
    kwargs = dict(img_size=56, depth=2, num_classes=0, dynamic_img_size=True)
    m = timm.create_model('vit_small_patch14_reg4_dinov2', **kwargs).eval()
    for size in ((56,56),(42,70)):
        x = torch.rand(1,3,*size)
        with torch.no_grad(): ref = m.forward_features(x)[0,5:]
        assert torch.allclose(patch_features(m, x).x[0].flatten(0, 1), ref, atol=1e-5)

def test_same_basis_and_no_chance():
    "The colours of a picture do not depend on the order, and two calls give the same"
    pics = [noise(90,60,i) for i in range(3)]
    f = lambda ps: patch_pca(patch_features(net(), ps, prep=prep), False)
    a,b,c = f(pics),f(pics),f(pics[::-1])
    assert torch.equal(a.scores[0], b.scores[0])
    assert torch.allclose(a.colours(a.scores[0]), c.colours(c.scores[2]), atol=1e-3)

def test_placement():
    "A patch lies where the transforms have put it; crops leave the rest of the picture empty"
    h = similarity(net(), noise(80,40), (40,20), prep=middle)
    m = h.as_subclass(torch.Tensor)[0]
    assert m.shape==(40,80) and m[:,:19].max()==m[:,61:].max()==m[:9].max()==0 and m[15:25,30:50].max()>.5
    assert abs(h.notes['best'][0]-torch.tensor([40.,20.])).max()<=5
    with pytest.raises(ValueError, match='does not see'): similarity(net(), noise(80,40), (3,20), prep=middle)

def test_cosines():
    "Against cosines by hand, for pictures of several sizes and a point at each corner"
    p = patch_features(net(), [noise(90,60),noise(60,90,1)], prep=prep)
    for point,cell in (((0,0),(0,0)),((89,59),(7,7)),((0,59),(7,0)),((46,31),(4,4))):
        assert p.cell(0, point)==cell
        for o,c in zip(p.x, cosines(p, 0, point)):
            assert torch.allclose(c, F.cosine_similarity(o, p.x[0][cell][None,None], dim=2), atol=1e-5)

@pytest.mark.parametrize('call,says', [
    (lambda m: plot_pca(m, [noise(9,9)], prep=prep), 'foreground=False'),
    (lambda m: plot_pca(m, [], prep=prep), 'No picture'),
    (lambda m: plot_pca(m, [noise(9,9)]*2, 'nope', prep=prep), 'nope'),
    (lambda m: similarity(m, noise(9,7), (9,3), prep=prep), '9 x 7 pixels'),
    (lambda m: similarity(m, noise(9,7), (float('nan'),3), prep=prep), 'points'),
    (lambda m: similarity(m, torch.rand(2,3,64,64), (3,3)), 'others'),
    (lambda m: patch_features(m, torch.rand(3,64)), 'bs,c,h,w'),
    (lambda m: patch_features(m, torch.full((1,3,64,64), float('nan'))), 'NaN')])
def test_bad_input(call, says):
    with pytest.raises((ValueError,TypeError), match=says): call(net())

def page_of():
    p = patch_features(net(), [noise(90,60),noise(60,90,1),noise(80,80,2)], prep=prep)
    p.wheres[2] = ((2/64,-.5),(1/64,0)) # padded left and right
    return p,ClickSimilarity(p, names=['a','b <i>','c'])

@pytest.mark.skipif(shutil.which('node') is None, reason='the page is run by node where there is one')
def test_page_by_node():
    "The script finds the patches, cosines and best matches that Python finds"
    p,page = page_of()
    script = page.html.split('<script>')[1].split('</script>')[0]
    js = script+('\nconst all=D.pictures.map(P=>unit(ints(P.q),D.d)),i=cellAt(.3,.6,D.pictures[0]),'
                 'cs=cosines(all,D.d,0,i);'
                 'console.log(JSON.stringify({i,cs:cs.map(c=>Array.from(c)),at:centre(D.pictures[0],i),'
                 'best:cs.map((c,k)=>best(c,bytes(D.pictures[k].seen)))}))')
    got = json.loads(subprocess.run(['node','-'], input=js, capture_output=True, text=True, check=True).stdout)
    at = (.3*90-.5,.6*60-.5)
    row,col = p.cell(0, at)
    assert got['i']==row*8+col
    ref = cosines(p, 0, at)
    for j,(c,r) in enumerate(zip(got['cs'], ref)):
        seen = p.seen(j).flatten()
        assert (torch.tensor(c)-r.flatten())[seen].abs().max()<.05
        assert seen[got['best'][j]] and r.flatten()[got['best'][j]]>r.max()-.05
    x,y = p.centre(0, row, col)
    assert np.allclose(got['at'], ((x+.5)/90,(y+.5)/60), atol=1e-5)

@pytest.mark.skipif(not chromium or importlib.util.find_spec('playwright') is None,
                    reason='chromium or playwright is not there')
def test_page_in_browser(tmp_path):
    "Clicks and keys move the point; nothing is requested, and nothing goes wrong"
    p,page = page_of()
    fn = save_similarity(tmp_path/'page.html', p, names=['a','b <i>','c'])
    def _run():
        from playwright.sync_api import sync_playwright
        faults = []
        with sync_playwright() as pw:
            b = pw.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
            t = b.new_page(viewport=dict(width=1000, height=700))
            t.on('console', lambda m: faults.append(m.text)); t.on('pageerror', lambda e: faults.append(str(e)))
            t.on('request', lambda r: None if r.url.startswith(('data:',fn.as_uri())) else faults.append(r.url))
            t.goto(fn.as_uri())
            t.wait_for_selector('html[data-ready]', state='attached')
            said = [t.inner_text('#say')]
            t.click('#pics canvas >> nth=1', position=dict(x=3, y=3)); said.append(t.inner_text('#say'))
            for key in ('ArrowRight','ArrowDown','ArrowUp','ArrowUp'): t.keyboard.press(key)
            said.append(t.inner_text('#say'))
            t.focus('#pics canvas >> nth=0'); t.keyboard.press('Enter'); said.append(t.inner_text('#say'))
            shot = lambda: t.eval_on_selector('#pics canvas >> nth=2', 'c => c.toDataURL()')
            before = shot(); t.click('#hide'); after = shot()
            captions = t.eval_on_selector_all('figcaption', 'os => os.map(o => o.textContent)')
            b.close()
        return said,before!=after,captions,faults
    with ThreadPoolExecutor(1) as thread: said,changed,captions,faults = thread.submit(_run).result()
    assert not faults and changed
    starts = ['Point in a, row 5 of 8, column 5 of 8','Point in b <i>, row 1 of 8, column 1 of 8',
              'Point in b <i>, row 1 of 8, column 2 of 8','Point in a, row 5 of 8, column 5 of 8']
    assert all(s.startswith(o) for s,o in zip(said, starts)) and 'Best matches: b <i> ' in said[0]
    assert captions[0]=='a: the point' and captions[1].startswith('b <i>: best match ')
