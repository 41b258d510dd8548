"Models that one method or another did not take: tokens first, detectors of several levels, recurrent layers, no graph."
import pytest, torch, torch.nn.functional as F, torchvision
from torch import nn
from fastattn.all import *
from fastattn.core.hooks import asking

class Encoder(nn.Module):
    "PyTorch's own encoder, whose tokens are `(bs,tokens,c)` or `(tokens,bs,c)`"
    def __init__(self, batch_first):
        super().__init__()
        self.first,self.embed,self.head = batch_first,nn.Conv2d(3,16,8,8),nn.Linear(16,3)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.t = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    def forward(self, x):
        t = self.embed(x).flatten(2)
        t = self.t(t.transpose(1,2) if self.first else t.permute(2,0,1))
        return self.head(t.mean(1 if self.first else 0))

@pytest.mark.parametrize('method', ['legrad','relevance','attention','rollout','gradcam'])
def test_tokens_first(method):
    "The same weights, the same maps"
    torch.manual_seed(0)
    a,b = Encoder(True).eval(),Encoder(False).eval()
    b.load_state_dict(a.state_dict())
    x = torch.randn(2,3,32,48)
    assert torch.allclose(explain(a, x, method).raw, explain(b, x, method).raw, atol=1e-6)

class Lines(nn.Module):
    "Pools along one axis"
    def __init__(self, pool):
        super().__init__()
        self.conv,self.pool,self.head = nn.Conv2d(3,8,4,4),pool,nn.Linear(8,3,bias=False)
    def forward(self, x): return self.head(self.pool(self.conv(x).relu().flatten(2)).mean(2))

pools = dict(module=nn.MaxPool1d(2, padding=1), function=lambda z: F.max_pool1d(z, 3, 2),
             adaptive=nn.AdaptiveMaxPool1d(4))
@pytest.mark.parametrize('pool', pools)
def test_deeplift_on_lines(pool):
    "What DeepLIFT gives adds up to the change of the score"
    torch.manual_seed(0)
    m,x = Lines(pools[pool]).eval(),torch.randn(2,3,32,32)
    change = (m(x)-m(torch.zeros_like(x)))[:,1].detach()
    assert torch.allclose(explain(m, x, 'deeplift', target=1).raw.sum((1,2)), change, atol=1e-5)

def test_detector_of_several_levels():
    "The layer that all heads of an SSD are computed from; of a detector with a feature pyramid the last one"
    torch.manual_seed(1)
    kwargs = dict(weights=None, weights_backbone=None, num_classes=4)
    d = torchvision.models.detection
    m,x = d.ssdlite320_mobilenet_v3_large(**kwargs).eval(),torch.rand(1,3,320,320)
    c = candidates(m, x).auto()
    assert c.name.startswith('backbone.features.0') and (c.grid.h,c.grid.w)==(20,20)
    assert explain(m, x, 'gradcam', target=detection(0)).raw.abs().max()>0
    m = d.fasterrcnn_mobilenet_v3_large_320_fpn(**kwargs, min_size=96, max_size=96).eval()
    assert candidates(m, x[:,:,:96,:96]).auto().name.startswith('backbone.body')

class Recurrent(nn.Module):
    def __init__(self): super().__init__(); self.conv,self.rnn = nn.Conv2d(3,8,4,4),nn.GRU(8,4,batch_first=True)
    def forward(self, x): return self.rnn(self.conv(x).relu().mean(2).transpose(1,2))[0][:,-1]

def test_recurrent_layers_do_without_cudnn():
    "Which gives no gradients in evaluation mode; afterwards it is on again"
    m,seen,before = Recurrent(),[],torch.backends.cudnn.enabled
    m.rnn.register_forward_hook(lambda m,a,o: seen.append(torch.backends.cudnn.enabled))
    explain(m, torch.randn(1,3,16,32), 'gradcam')
    assert seen and not any(seen) and torch.backends.cudnn.enabled==before
    with asking(nn.Sequential(nn.Linear(1,1))): assert torch.backends.cudnn.enabled==before

def test_attention_without_a_graph():
    m = Encoder(True).eval()
    with AttentionTrace(m, grad=True) as t: out = m(torch.randn(1,3,32,48)).detach()
    words = 'No gradient reaches any attention: the score has no graph'
    with pytest.raises(RuntimeError, match=words): t.grads(out.sum())
