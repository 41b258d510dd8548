"Time and extra peak memory of Grad-CAM on a ResNet-50, as ratios to a plain inference forward in the same run; peers where they are installed (`pip install fastattn[bench]`)"
import argparse, json, sys
import torch, torchvision
from fastattn.core import explain
import fastattn.cams
from common import in_child, pairs, peak_mb, write

@torch.no_grad()
def forward(model, x): return model(x)
def fastattn_auto(model, x): return explain(model, x, 'gradcam')
def fastattn(model, x): return explain(model, x, 'gradcam', layer='layer4')
def captum(model, x):
    from captum.attr import LayerGradCam
    return LayerGradCam(model, model.layer4).attribute(x, torch.ones(len(x), dtype=torch.long), relu_attributions=True)
def torchcam(model, x):
    from torchcam.methods import GradCAM
    with GradCAM(model, target_layer=model.layer4) as c: return c([1]*len(x), model(x))
def grad_cam(model, x):
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget as Target
    with GradCAM(model=model, target_layers=[model.layer4]) as c: return c(input_tensor=x, targets=[Target(1)]*len(x))

methods = {f.__name__:f for f in (fastattn, fastattn_auto, captum, torchcam, grad_cam)}

def setup(bs, seed):
    torch.manual_seed(seed)
    return torchvision.models.resnet50().eval(), torch.randn(bs,3,224,224)

def memory(name, seed):
    "Extra peak memory of one method at batch 16, in this process"
    model,x = setup(16, seed)
    f = forward if name=='forward' else methods[name]
    f(model, x[:1])             # libraries load, the layer is found
    return peak_mb(lambda: f(model, x))

def works(f, model, x):
    try: f(model, x); return True
    except ImportError: return False

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0); p.add_argument('--n', type=int, default=9); p.add_argument('--memory', help='only this: print the memory of one method')
    a = p.parse_args()
    if a.memory: print(json.dumps(memory(a.memory, a.seed))); sys.exit()
    model,x = setup(8, a.seed)
    there = {n:f for n,f in methods.items() if works(f, model, x[:1])}
    time = {n:pairs(lambda: f(model, x), lambda: forward(model, x), a.n) for n,f in there.items()}
    base = sorted(in_child(__file__, '--memory', 'forward') for _ in range(3))[1]
    mem = {n:round(sorted(in_child(__file__, '--memory', n) for _ in range(3))[1]/base, 2) for n in there}
    write('cost', what='gradcam on resnet50, 224 px, ratio to a plain forward under no_grad: time at batch 8, extra peak memory at batch 16 (median of 3 processes)',
          seed=a.seed, time=time, forward_mb=round(base), memory=mem)
