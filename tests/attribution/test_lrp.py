"LRP and AttnLRP against their formulas, written out with loops or as the papers have them; and what is left in biases"
import copy, math
import pytest, torch, torch.nn as nn, torch.nn.functional as F
import fastattn.attribution.layerwise # registers the methods
from fastattn.attribution.propagation import relevance
from fastattn.core.pipeline import explain

@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)

def stable(z, eps=1e-6): return z+(eps if z>=0 else -eps)

def by_loops(conv, x, r, rule, gamma=.25, low=-1., high=1.):
    "Relevance of the input of a convolution 3x3 with padding 1, from the relevance `r` of its output; one image"
    w,b,res = conv.weight.detach(),conv.bias.detach(),torch.zeros_like(x)
    c,h,wd = x.shape
    for k in range(len(w)):
        for i in range(h):
            for j in range(wd):
                at = [(a,i+u-1,j+v-1,w[k,a,u,v].item()) for a in range(c) for u in range(3) for v in range(3)
                      if 0<=i+u-1<h and 0<=j+v-1<wd]
                parts = [x[a,y,z].item()*q for a,y,z,q in at]
                z = sum(parts)+b[k].item()
                if rule=='epsilon': share,bias = parts,b[k].item()
                elif rule=='plus': share,bias = [max(o,0) for o in parts],max(b[k].item(), 0)
                elif rule=='gamma': # contributions with the sign of the output count more
                    s = 1 if z>0 else -1
                    share = [o+gamma*max(o*s,0)*s for o in parts]
                    bias = b[k].item()+gamma*max(b[k].item()*s, 0)*s
                elif rule=='box': share,bias = [o-low*max(q,0)-high*min(q,0) for o,(*_,q) in zip(parts, at)],0
                elif rule=='flat': share,bias = [1.]*len(at),0
                total = stable(sum(share)+bias)
                for (a,y,zz,_),s in zip(at, share): res[a,y,zz] += s/total*r[k,i,j]
    return res

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.a,self.b,self.f = nn.Conv2d(2,4,3,padding=1),nn.Conv2d(4,3,3,padding=1),nn.Linear(3,2)
    def forward(self, x): return self.f(F.relu(self.b(F.relu(self.a(x)))).mean((2,3)))

@pytest.mark.parametrize('rule,kwargs', [('epsilon',{}), ('plus',dict(gamma=math.inf)), ('gamma',dict(gamma=.25)),
                                         ('box',dict(gamma=.25, first='box', box=(-3.,3.))),
                                         ('flat',dict(first='flat'))])
def test_convolutions(rule, kwargs):
    m,x = Small().double(),torch.randn(2,2,5,4).double()
    got,_ = relevance(m, lambda z, i: m(z)[:,1], x, **kwargs)
    for xi,gi in zip(x, got):
        with torch.no_grad():
            h1 = F.relu(m.a(xi[None]))[0]
            h2 = F.relu(m.b(h1[None]))[0]
            pooled = h2.mean((1,2))
            z = m.f(pooled)[1]
            r = pooled*m.f.weight[1]/(z+1e-6*z.sign())*z # the classifier, by the epsilon rule
            r = h2/h2.sum((1,2), keepdim=True).clamp(min=1e-30)*r[:,None,None] # the mean, in proportion
        second = rule if rule in ('epsilon','plus','gamma') else 'epsilon' if rule=='flat' else 'gamma'
        want = by_loops(m.a, xi, by_loops(m.b, h1, r, second), rule, low=-3., high=3.)
        assert torch.allclose(gi, want, atol=1e-9), (gi-want).abs().max()

def test_biases_are_those_of_the_gradient():
    "Of a network of ReLUs without epsilon the biases keep their gradient times their value (Srinivas and Fleuret 2019)"
    m,x = Small().double(),torch.randn(3,2,5,4).double()
    r,rest = relevance(m, lambda z, i: m(z)[:,0], x, epsilon=0.)
    for i in range(3):
        leaf = x[i:i+1].clone().requires_grad_()
        bs = [m.a.bias,m.b.bias,m.f.bias]
        gx,*gs = torch.autograd.grad(m(leaf)[0,0], [leaf,*bs])
        assert torch.allclose(r[i], (gx*leaf)[0].detach(), atol=1e-12)
        assert torch.allclose(rest['biases'][i], sum((g*b).sum() for g,b in zip(gs, bs)).detach(), atol=1e-12)

class Head(nn.Module):
    "One attention head over pixels, and the mean of its output"
    def __init__(self, fused):
        super().__init__()
        self.fused,self.qkv,self.f = fused,nn.Linear(4,12,bias=False),nn.Linear(4,2,bias=False)
    def forward(self, x):
        q,k,v = self.qkv(x.flatten(2).mT).chunk(3, -1)
        if self.fused: return self.f(F.scaled_dot_product_attention(q, k, v).mean(1))
        return self.f(((q@k.mT)*q.shape[-1]**-.5).softmax(-1).matmul(v).mean(1))

@pytest.mark.parametrize('fused', [False,True])
def test_attention(fused):
    "Achtibat et al. 2024: eq. 15 for both products (an equal share for each factor), eq. 13 for the softmax"
    m,x = Head(fused).double(),torch.randn(2,4,3,2).double()
    got,rest = relevance(m, lambda z, i: m(z)[:,1], x, epsilon=0.)
    with torch.no_grad():
        t = x.flatten(2).mT
        q,k,v = m.qkv(t).chunk(3, -1)
        s = q@k.mT/2
        a = s.softmax(-1)
        o = a@v
        r_o = o*m.f.weight[1]/o.shape[1]
        ratio = r_o/(2*o) # (bs,q,d)
        r_a,r_v = a*torch.einsum('bqd,bkd->bqk', ratio, v),v*torch.einsum('bqd,bqk->bkd', ratio, a)
        r_s = s*(r_a-a*r_a.sum(-1, keepdim=True))
        ratio = r_s/(2*s)/2
        r_q,r_k = q*(ratio@k),k*(ratio.mT@q)
        z = torch.cat([q,k,v], -1)
        r_t = t*((torch.cat([r_q,r_k,r_v], -1)/z)@m.qkv.weight)
    assert torch.allclose(got.flatten(2).mT, r_t, atol=1e-12)
    assert torch.allclose(rest['softmax'], (r_a-r_s).sum((1,2)), atol=1e-12)

def test_normalisation_hands_on_all():
    "Section 3.3.3: the standard deviation is a constant"
    ln = nn.LayerNorm(6).double()
    nn.init.normal_(ln.bias); nn.init.normal_(ln.weight)
    w,x = torch.randn(6).double(),torch.randn(3,6).double()
    got,rest = relevance(ln, lambda z, i: ln(z)@w, x)
    sd = (x.var(1, correction=0, keepdim=True)+ln.eps).sqrt()
    g = w*ln.weight/sd
    assert torch.allclose(got, (x*(g-g.mean(1, keepdim=True))).detach())
    assert torch.allclose(rest['biases'], (ln.bias@w).detach().expand(3))

class Encoder(nn.Module):
    "Tokens may come first; seven of them are as many as images, so that the axis of the batch is not known"
    def __init__(self, first):
        super().__init__()
        self.first,self.embed,self.head = first,nn.Conv2d(3,8,8,8),nn.Linear(8,4)
        self.t = nn.TransformerEncoderLayer(8, 2, 16, batch_first=first, norm_first=True)
    def forward(self, x):
        t = self.embed(x).flatten(2)
        return self.head(self.t(t.mT if self.first else t.permute(2,0,1)).mean(1 if self.first else 0))

@pytest.mark.parametrize('method', ['lrp','attnlrp','deeplift'])
def test_order_of_tokens(method):
    a,b = Encoder(True).double().eval(),Encoder(False).double().eval()
    for p in a.parameters(): nn.init.normal_(p, std=.3)
    b.load_state_dict(a.state_dict())
    x = torch.randn(7,3,8,56).double()
    h,other = explain(a, x, method, target=1),explain(b, x, method, target=1)
    one = explain(a, x[3:4], method, target=1)
    assert torch.allclose(h.raw, other.raw, atol=1e-6) and torch.allclose(h.raw[3:4], one.raw, atol=1e-6)
    for k in h.notes:
        assert torch.allclose(h.notes[k], other.notes[k], atol=1e-6), k
        assert torch.allclose(h.notes[k][3:4], one.notes[k], atol=1e-6), k
    assert h.notes['delta'].abs().max()<1e-5

class Net(nn.Module):
    "Batch norm, gates, in-place functions, a shortcut"
    def __init__(self):
        super().__init__()
        self.c,self.b,self.g,self.d,self.f = (nn.Conv2d(3,8,3),nn.BatchNorm2d(8),nn.Conv2d(8,8,1),
                                              nn.Conv2d(8,8,3,padding=1),nn.Linear(8,4))
    def forward(self, x):
        y = F.silu(self.b(self.c(x)), inplace=True)
        y = y*self.g(y.mean((2,3), keepdim=True)).sigmoid()
        z = F.relu_(self.d(y))
        z += y
        return self.f(F.adaptive_max_pool2d(z, 3).flatten(2).mean(-1))

@pytest.mark.parametrize('kwargs', [{}, dict(gamma=0.), dict(gamma=math.inf), dict(epsilon=.1, gamma_linear=.2),
                                    dict(first='flat'), dict(first='box', box=(-4,4))])
def test_adds_up(kwargs):
    m,x = Net().train(),torch.randn(3,3,14,18)
    m(torch.randn(16,3,14,18))
    h = explain(m.eval(), x, 'lrp', target=1, **kwargs)
    parts = sum(h.notes[k] for k in ('biases','softmax','activations','epsilon'))
    assert torch.allclose(h.raw.sum((1,2))+parts, m(x)[:,1].detach(), atol=1e-5)
    assert torch.allclose(h.notes['score'], m(x)[:,1].detach(), atol=1e-6)

def test_half_precision():
    m,x = Net().eval(),torch.randn(2,3,14,18)
    h = explain(m, x, 'lrp', target=1)
    assert (explain(copy.deepcopy(m).bfloat16(), x, 'lrp', target=1)-h).abs().mean()<.1
    with torch.autocast('cpu', torch.bfloat16): assert torch.allclose(explain(m, x, 'lrp', target=1), h, atol=1e-5)
    with torch.inference_mode(): assert torch.allclose(explain(m, x.clone(), 'attnlrp', target=1, gamma_linear=0.),
        h, atol=1e-5)

def test_bad_options():
    m,x = Net().eval(),torch.randn(1,3,14,18)
    for kwargs,text in ((dict(gamma=-1), '`gamma` is a number from 0 on'), (dict(epsilon=-1), '`epsilon` must be'),
                        (dict(gamma_linear='x'), '`gamma_linear` is a number'), (dict(first='last'),
                        "`first` is None, 'box' or 'flat'"),
                        (dict(first='box'), "needs `box`")):
        with pytest.raises(ValueError, match=text): explain(m, x, 'lrp', **kwargs)
    inside = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3,4,3), nn.Flatten(), nn.Linear(140,2))
    with pytest.raises(ValueError, match='whose first layer takes the image itself'):
        explain(inside, x, 'lrp', first='flat')
