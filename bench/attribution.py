"""Time of the attributions as ratios to captum called by hand with the same options and the classes given, in the same
run; and extra peak memory. ResNet-18, 128 px (captum's DeepLIFT gets a network whose ReLUs were taken apart)"""
import argparse, json, sys, warnings
import torch, torch.nn as nn, torchvision
from torchvision.models.resnet import BasicBlock
from fastattn.core.pipeline import explain
from common import in_child, pairs, peak_mb, write
warnings.filterwarnings('ignore')

class Apart(BasicBlock):
    def forward(self, x):
        y = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(y + (x if self.downsample is None else self.downsample(x)))

def net(apart):
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    if apart:
        for m in list(model.modules()):
            if isinstance(m, BasicBlock): m.__class__,m.relu1,m.relu2 = Apart,nn.ReLU(),nn.ReLU()
            if isinstance(m, nn.ReLU): m.inplace = False
    return model

opts = dict(smoothgrad=dict(samples=8), integrated_gradients=dict(steps=16), occlusion=dict(window=32, stride=16))

def by_hand(name, model, x, t):
    import captum.attr as ca
    leaf = x.clone().requires_grad_()
    if name=='saliency': return ca.Saliency(model).attribute(leaf, target=t).amax(1)
    if name=='input_x_gradient': return ca.InputXGradient(model).attribute(leaf, target=t).sum(1)
    if name=='guided_backprop': return ca.GuidedBackprop(model).attribute(leaf, target=t).abs().amax(1)
    if name=='smoothgrad':
        return ca.NoiseTunnel(ca.Saliency(model)).attribute(leaf, target=t, nt_samples=8, nt_samples_batch_size=1,
                                                            stdevs=.15, abs=False).abs().amax(1)
    if name=='integrated_gradients':
        return ca.IntegratedGradients(model).attribute(leaf, torch.zeros_like(x), target=t, n_steps=16,
                                                       internal_batch_size=2*len(x),
                                                       return_convergence_delta=True)[0].sum(1)
    if name=='deeplift':
        return ca.DeepLift(model).attribute(leaf, torch.zeros_like(x), target=t,
                                            return_convergence_delta=True)[0].sum(1)
    if name=='occlusion':
        return ca.Occlusion(model).attribute(x, (3,32,32), strides=(3,16,16), target=t,
                                             perturbations_per_eval=2).mean(1)

names = ['saliency','input_x_gradient','guided_backprop','smoothgrad','integrated_gradients','deeplift','occlusion']

def setup(name, who, **kw):
    x = torch.randn(8,3,128,128, generator=torch.Generator().manual_seed(0))
    model = net(who=='captum' and name in ('deeplift','guided_backprop'))
    t = model(x).argmax(1)
    return ((lambda: by_hand(name, model, x, t)) if who=='captum' else
            (lambda: explain(model, x, name, target=t.tolist(), **opts.get(name, {}), **kw)))

def memory(name, who):
    f = setup(name, who, max_bytes=2**28) # 20 images at a time; captum is told 16
    f()
    return peak_mb(f)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=9)
    p.add_argument('--memory', nargs=2, help='only this: print the memory of a method, by `fastattn` or `captum`')
    a = p.parse_args()
    if a.memory: print(json.dumps(memory(*a.memory))); sys.exit()
    time = {n:pairs(setup(n, 'fastattn'), setup(n, 'captum'), a.n) for n in names}
    mem = {n:{w:round(sorted(in_child(__file__, '--memory', n, w) for _ in range(3))[1]) for w in ('fastattn','captum')}
           for n in names}
    write('attribution', what='attributions of 8 images on resnet18, 128 px, as ratios to captum called by hand with '
                              'the classes given; extra peak memory in MB (median of 3 processes; here with '
                              'max_bytes=2**28, and as many images at a time for captum)', time=time, memory_mb=mem)
