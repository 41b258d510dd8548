"""Volumes and signals: a network is trained on the spot on planted things whose position is known, and the maps of
every method are asked whether their peak lies on the thing. Grad-CAM and its relatives are compared with torchcam and,
where it is installed, with MONAI"""
import argparse, time, warnings
import torch, torch.nn as nn
from fastai.basics import *
from fastai.callback.schedule import *
from fastattn.core.pipeline import *
from common import mean_and_error, write

def volumes(n, side=24, seed=0, noise=.5):
    """Noise with nothing in it, or a ball with fine or coarse stripes: `(n,1,side,side,side)`, the class 0, 1 or 2, and
    where the ball is, `(n,side,side,side)`"""
    g = torch.Generator().manual_seed(seed)
    def _rand(*s): return torch.rand(*s, generator=g).view(*s, *[1]*(4-len(s)))
    y,r,at = torch.randint(3, (n,), generator=g),3.5+1.5*_rand(n),5+(side-10)*torch.rand(n,3,1,1,1, generator=g)
    d = torch.stack(torch.meshgrid(*[torch.arange(side)+.5]*3, indexing='ij'))-at
    kind,along = y.view(-1,1,1,1),d[range(n),torch.randint(3, (n,), generator=g)]
    where = (d.square().sum(1)<r**2)&(kind>0)
    stripes = (along*2*math.pi/torch.where(kind==1, 3., 6.)+6*_rand(n)).sin()*1.5
    x = noise*torch.randn(n,side,side,side, generator=g)+where*stripes
    return x[:,None],y,where

def signals(n, length=256, seed=0, noise=.5):
    """Noise with nothing, or a slow or a fast wave packet in the first of two channels, and a packet that says nothing
    in the second: `(n,2,length)`, the class 0, 1 or 2, and where the packet is, `(n,length)`"""
    g = torch.Generator().manual_seed(seed)
    at,other = (24+(length-48)*torch.rand(n,1, generator=g) for _ in range(2))
    y = torch.randint(3, (n,), generator=g)
    t = torch.arange(length)+.5
    def _packet(at, freq): return (-(t-at)**2/(2*8**2)).exp()*((t-at)*freq+6*torch.rand(n,1, generator=g)).sin()
    freq = torch.where(y==1, .5, .9)[:,None]
    x = torch.stack([_packet(at, freq)*(y>0)[:,None],_packet(other, .7)], 1)*1.5
    return x+noise*torch.randn(n,2,length, generator=g), y, ((t-at).abs()<16)&(y>0)[:,None]

def network(dims, c_in, n_out, width=8):
    "Four convolutions, pooling (the maximum for volumes, the mean for signals) and a linear layer"
    C,B,P = {1:(nn.Conv1d,nn.BatchNorm1d,nn.AdaptiveAvgPool1d), 3:(nn.Conv3d,nn.BatchNorm3d,nn.AdaptiveMaxPool3d)}[dims]
    def block(i, o, k, s): return nn.Sequential(C(i, o, k, s, k//2, bias=False), B(o), nn.ReLU())
    w,k = width,9 if dims==1 else 3
    return nn.Sequential(block(c_in,w,k,1), block(w,2*w,3,2), block(2*w,2*w,3,1), block(2*w,3*w,3,2), P(1),
                         nn.Flatten(), nn.Linear(3*w, n_out))

def trained(model, train, valid, epochs, lr, bs=32):
    "A learner of such data, its accuracy, and the seconds of its training"
    dls = DataLoaders.from_dsets(*[torch.utils.data.TensorDataset(*o[:2]) for o in (train,valid)], bs=bs, num_workers=0)
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    start = time.time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return learn,round(float(learn.validate()[1]), 3),round(time.time()-start)

def hits(maps, where):
    "Does the largest value of each map lie on the thing?"
    return where.flatten(1).gather(1, maps.as_subclass(Tensor).flatten(1).argmax(1)[:,None])[:,0].float()

def pointing(learn, x, where, methods, **kwargs):
    "The share of maps whose peak is on the thing, with its standard error"
    res = {}
    for m in methods:
        start = time.time()
        h = torch.cat([explain(learn, o, m, **kwargs).as_subclass(Tensor) for o in x.split(16)])
        res[m] = dict(pointing=mean_and_error(hits(h, where)), ms_each=round(1000*(time.time()-start)/len(x), 1))
        print(m, res[m], flush=True)
    return res

def setting(dims, n=1500, n_valid=200, epochs=4, methods=('auto','gradcam')):
    "Train on volumes (3) or signals (1), and measure"
    make,c_in = (volumes,1) if dims==3 else (signals,2)
    set_seed(0, reproducible=True)
    train,valid = make(n, seed=1),make(n_valid, seed=2)
    learn,acc,seconds = trained(network(dims, c_in, 3), train, valid, epochs, 5e-3 if dims==3 else 3e-3)
    x,y,where = [o[valid[1]>0] for o in valid]
    res = dict(accuracy=acc, train_seconds=seconds, n=len(x), share_of_thing=round(float(where.float().mean()), 4),
               methods=pointing(learn, x, where, methods), even=pointing(learn, x, where, ['gradcam'], place='even'))
    return learn,res

def _largest_difference(a, b): return float((a-b).abs().max()/b.abs().max().clamp(min=1e-12))

def torchcam_parity(seed=0):
    "The largest difference from torchcam, relative to the largest value: of a 3-D CNN, a 1-D CNN, and a video network"
    from torchcam import methods as tc
    import torchvision
    torch.manual_seed(seed)
    nets = dict(volume=(network(3,1,3),'3',torch.randn(1,1,16,16,16)), signal=(network(1,2,3),'3',torch.randn(1,2,64)),
                r3d_18=(torchvision.models.video.r3d_18(),'layer4',torch.randn(1,3,16,64,64)))
    names = dict(gradcam='GradCAM', xgradcam='XGradCAM', layercam='LayerCAM')
    res = defaultdict(dict)
    for net,(m,layer,x) in nets.items():
        m.eval()
        for ours,theirs in names.items():
            with getattr(tc, theirs)(m, layer, input_shape=tuple(x.shape[1:])) as cam:
                ref = cam(1, m(x), normalized=False)[0]
            res[net][ours] = _largest_difference(explain(m, x, ours, target=1, layer=layer).raw, ref)
    return res

def monai_parity(seed=0):
    "The largest difference from MONAI's Grad-CAM, of a 3-D DenseNet-121; None where MONAI is not installed"
    try:
        from monai.networks.nets import DenseNet121
        from monai.visualize import GradCAM
    except ImportError: return None
    torch.manual_seed(seed)
    m,x = DenseNet121(spatial_dims=3, in_channels=1, out_channels=3).eval(),torch.randn(1,1,64,64,64)
    cam = GradCAM(nn_module=m, target_layers='class_layers.relu')
    ref = cam.compute_map(x, class_idx=1)[:,0]
    return dict(densenet121=_largest_difference(explain(m, x, 'gradcam', target=1, layer='class_layers.relu').raw, ref),
                default_layer=candidates(m, x).auto().name)

every = ('auto','gradcam','gradcam_plus_plus','xgradcam','layercam','hirescam','eigencam','fullgrad','ablationcam',
         'scorecam','saliency','input_x_gradient','integrated_gradients')

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=1500)
    p.add_argument('--epochs', type=int, default=4)
    a = p.parse_args()
    warnings.simplefilter('ignore')
    def _found(dims): return setting(dims, a.n, epochs=a.epochs+2*(dims==1), methods=every)[1]
    write('volumes', what='share of maps whose peak lies on the planted thing, on held-out volumes and signals that '
                          'hold one; largest relative differences from other libraries', seed=0, volumes=_found(3),
          signals=_found(1), torchcam=torchcam_parity(), monai=monai_parity())
