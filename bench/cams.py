"""Time and extra peak memory of every activation map, as ratios to a plain forward pass and to each peer that has the
method, in the same run (`pip install fastattn[bench]`).

One pass and its kin: ResNet-50, 224 px, 4 images, last layer. A pass for each channel: ResNet-18, 112 px, 1 image, last
layer (512 channels), and fewer samples than usual, the same for all.
"""
import argparse, contextlib, io, json, sys, warnings
import torch, torchvision
from fastattn.core.pipeline import explain
import fastattn.all
from common import in_child, pairs, peak_mb, write
warnings.filterwarnings('ignore')

def grad_cam(name, **kw):
    def f(model, x, layer, classes=None):
        import pytorch_grad_cam as gc
        from pytorch_grad_cam.fullgrad_cam import FullGrad
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Target
        cls = FullGrad if name=='FullGrad' else getattr(gc, name)
        with contextlib.redirect_stderr(io.StringIO()), cls(
            model=model, target_layers=[] if name=='FullGrad' else [model.get_submodule(layer)], **kw) as c:
            return c(input_tensor=x, targets=[Target(c) for c in classes or [1]*len(x)])
    return f

def torchcam(name, **kw):
    def f(model, x, layer, classes=None):
        import torchcam.methods as tc
        cls = getattr(tc, name)
        with cls(model, layer, **kw) as c:
            if issubclass(cls, tc.ScoreCAM) or name=='CAM':
                with torch.inference_mode(): out = model(x)
            else: out = model(x)
            return c(classes or [1]*len(x), out)
    return f

def captum(name, **kw):
    def f(model, x, layer):
        import captum.attr as ca
        return getattr(ca, name)(model, model.get_submodule(layer)).attribute(
            x, torch.ones(len(x), dtype=torch.long), **kw)
    return f

# method -> our options, peers
quick = dict(
    auto=({}, {}), # whatever it takes
    gradcam=({}, dict(captum=captum('LayerGradCam', relu_attributions=True), torchcam=torchcam('GradCAM'),
                      grad_cam=grad_cam('GradCAM'))),
    gradcam_plus_plus=({}, dict(torchcam=torchcam('GradCAMpp'), grad_cam=grad_cam('GradCAMPlusPlus'))),
    smooth_gradcam_plus_plus=({}, dict(torchcam=torchcam('SmoothGradCAMpp'))),
    xgradcam=({}, dict(torchcam=torchcam('XGradCAM'), grad_cam=grad_cam('XGradCAM'))),
    layercam=({}, dict(torchcam=torchcam('LayerCAM'), grad_cam=grad_cam('LayerCAM'))),
    hirescam=({}, dict(captum=captum('LayerGradientXActivation'), grad_cam=grad_cam('HiResCAM'))),
    gradcam_elementwise=({}, dict(grad_cam=grad_cam('GradCAMElementWise'))),
    eigengradcam=({}, dict(grad_cam=grad_cam('EigenGradCAM'))),
    shapleycam=({}, dict(grad_cam=grad_cam('ShapleyCAM'))),
    fullgrad=({}, dict(grad_cam=grad_cam('FullGrad'))),
    cam=({}, dict(torchcam=torchcam('CAM'))),
    eigencam=({}, dict(grad_cam=grad_cam('EigenCAM'))),
    kpcacam=({}, dict(grad_cam=grad_cam('KPCA_CAM'))))
by_channel = dict(
    scorecam=({}, dict(torchcam=torchcam('ScoreCAM'), grad_cam=grad_cam('ScoreCAM'))),
    sscam=(dict(samples=2), dict(torchcam=torchcam('SSCAM', num_samples=2))),
    iscam=(dict(samples=2), dict(torchcam=torchcam('ISCAM', num_samples=2))),
    ablationcam=({}, dict(grad_cam=grad_cam('AblationCAM'))))
methods = {**quick, **by_channel}

def setup(name, n=None):
    torch.manual_seed(0)
    model = (torchvision.models.resnet18 if name in by_channel else torchvision.models.resnet50)().eval()
    return model, torch.randn(*((n or 1,3,112,112) if name in by_channel else (n or 4,3,224,224)))

def calls(name, model, x):
    "What is compared: a plain forward pass, ours, and the peers that are installed"
    opts,peers = methods[name]
    @torch.no_grad()
    def forward(): return model(x)
    where = {} if name in ('auto','fullgrad') else dict(layer='layer4')
    res = dict(forward=forward, fastattn=lambda: explain(model, x, name, target=1, **where, **opts))
    for k,f in peers.items():
        try: f(model, x[:1], 'layer4')
        except ImportError: continue
        res[k] = lambda f=f: f(model, x, 'layer4')
    return res

def memory(name, who):
    "Extra peak memory in MB, in this process"
    model,x = setup(name, 8 if name in quick else 1)
    f = calls(name, model, x)[who]
    f()
    return peak_mb(f)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=7); p.add_argument('--only', nargs='+', default=list(methods))
    p.add_argument('--memory', nargs=2, help='only this: print the memory of a method, by `fastattn` or a peer')
    a = p.parse_args()
    if a.memory: print(json.dumps(memory(*a.memory))); sys.exit()
    rows = {}
    for name in a.only:
        fs = calls(name, *setup(name))
        warm = 2 if name in quick else 1
        row = dict(forward=pairs(fs['fastattn'], fs['forward'], a.n, warm),
                   peers={k:pairs(fs['fastattn'], f, a.n, warm) for k,f in fs.items()
                          if k not in ('forward','fastattn')})
        if row['peers']: row['fastest_peer'] = max(row['peers'], key=lambda k: row['peers'][k]['median'])
        rows[name] = row
        print(name, json.dumps(row), flush=True)
    for name,row in rows.items(): # each in a process of its own, after all that is timed
        row['memory_mb'] = {k:round(in_child(__file__, '--memory', name, k))
                            for k in ('forward','fastattn',*filter(None, [row.get('fastest_peer')]))}
        print(name, row['memory_mb'], flush=True)
    write('cams', what='every activation map: time as ratio to a plain forward pass and to each peer (below 1: '
                       'fastattn is faster); extra peak memory in MB (8 images; those by channel 1), '
                       'and that of the quickest peer', time_and_memory=rows)
