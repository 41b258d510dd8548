"DeepLIFT: multipliers of products, softmax and norms, written out; in-place functions; models without rules"
import warnings
import pytest, torch, torch.nn as nn, torch.nn.functional as F
from fastattn.attribution.rules import multipliers
from fastattn.core.pipeline import explain

@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def of(f, x, x0):
    "Multipliers of the sum of a function"
    return multipliers(nn.Identity(), lambda z: f(z).flatten(1).sum(1), x, x0)[0]

def test_product():
    x,x0 = torch.randn(2,3,4).double()
    m = of(lambda z: z[:,:2]*z[:,2:], x, x0)
    mean = (x+x0)/2
    assert torch.allclose(m, torch.cat([mean[:,2:],mean[:,:2]], 1))

def test_quotient():
    "a/b: by the product rule for a = q*b"
    x,x0 = torch.rand(2,3,4).double()+.5
    (a,b),(a0,b0) = (o.chunk(2, 1) for o in (x,x0))
    m = of(lambda z: z[:,:2]/z[:,2:], x, x0)
    q,mean = (a/b+a0/b0)/2,(b+b0)/2
    assert torch.allclose(m, torch.cat([1/mean,-q/mean], 1))

def test_softmax():
    "By its parts: the exponentials by the rescale rule, their sum, and a quotient, agree in what they add up to"
    x,x0,w = *torch.randn(2,3,5).double(),torch.randn(5).double()
    m = of(lambda z: z.softmax(1)*w, x, x0)
    parts = of(lambda z: z.exp()/z.exp().sum(1, keepdim=True)*w, x, x0)
    change = ((x.softmax(1)-x0.softmax(1))*w).sum(1)
    assert torch.allclose((m*(x-x0)).sum(1), change) and torch.allclose((parts*(x-x0)).sum(1), change)
    assert torch.allclose(m.sum(1), torch.zeros(3).double(), atol=1e-12) # a constant added to all changes nothing
    assert torch.allclose(of(lambda z: z.softmax(1)*w, x, x), w*x.softmax(1)-x.softmax(1)*(w*x.softmax(1)).sum(1,
        keepdim=True))

def test_empty_baseline_and_layer_norm():
    "The standard deviation of an empty baseline is almost zero: multipliers stay of the size of the image's"
    x = torch.randn(4,16)
    m = of(lambda z: F.layer_norm(z, (16,))[:,:8], x, torch.zeros_like(x))
    assert m.abs().max()<5

class Changed(nn.Module):
    "Changes what earlier calls have read and returned"
    def __init__(self): super().__init__(); self.c,self.f = nn.Conv2d(3,6,3),nn.Linear(6,3)
    def forward(self, x):
        y = self.c(x)
        z = y.sigmoid()*y
        y.add_(1).mul_(z)
        z.clamp_(min=0)
        y[:,:2] = y[:,2:4].tanh()
        return self.f((y+z).mean((2,3)))

def test_in_place():
    m,x,x0 = Changed().double(),*torch.randn(2,3,3,8,9).double()
    h = explain(m, x, 'deeplift', target=2, baseline=x0)
    want = (m(x)-m(x0))[:,2].detach()
    assert torch.allclose(h.raw.sum((1,2)).double(), want, atol=1e-6) and h.notes['delta'].abs().max()<1e-6

class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x**2
    @staticmethod
    def backward(ctx, g): return g

class Hidden(nn.Module):
    "Its function of its own cannot be seen"
    def __init__(self): super().__init__(); self.c,self.f = nn.Conv2d(3,6,3),nn.Linear(6,3)
    def forward(self, x): return self.f(10*Own.apply(self.c(x)).mean((2,3)))

@pytest.mark.parametrize('method', ['deeplift'])
def test_what_is_missing_is_said(method):
    m,x = Hidden(),torch.randn(2,3,8,8)
    with pytest.warns(UserWarning, match='does not add up'): explain(m, x, method)
    class Sorted(Hidden):
        def forward(self, z): return self.f(self.c(z).flatten(2).sort(-1)[0][...,:5].mean(-1))
    with pytest.warns(UserWarning, match=r"no rule for sort \(in ''\)"): explain(Sorted(), x, method)

def test_cost_and_passes():
    "The model runs on the images and on the baselines, once each"
    m,sizes = Changed().eval(),[]
    hook = m.register_forward_pre_hook(lambda m, a: sizes.append(len(a[0])))
    x = torch.randn(4,3,8,9)
    explain(m, x, 'deeplift', target=0)
    seen = len(sizes)
    sizes.clear()
    explain(m, x, 'deeplift', target=0)
    hook.remove()
    assert sizes==[4,4], (sizes,seen)
