"Models that run a part of themselves without gradients, as some fine-tuning code does."
import pytest, torch, torch.nn as nn
from fastattn.all import *
from fastattn.core.registry import explainers
from test_contracts import case, close, hooks

anywhere = sorted(n for n,e in explainers.items() if e.demo is None) # the others are made for models of their own

@pytest.mark.filterwarnings('ignore:.*maps of .* are empty')
@pytest.mark.parametrize('name', anywhere)
def test_no_grad_inside(name):
    "A model that runs its beginning without gradients gets the same map, or a sentence"
    m,x = case(name)
    class Half(nn.Module):
        def __init__(self): super().__init__(); self.body,self.head = m[:6],m[6:]
        def forward(self, x):
            with torch.no_grad(): x = self.body(x)
            return self.head(x)
    half = Half()
    try: h = explain(half, x, name, layer=None if explainers[name].pixels or name=='fullgrad' else 'body')
    except RuntimeError as e: assert 'o gradient reaches' in str(e) and (explainers[name].pixels or name=='fullgrad')
    else: close(h.raw, explain(m, x, name, layer=None if explainers[name].pixels or name=='fullgrad' else '5').raw)
    assert hooks(half)==0 and torch.is_grad_enabled()
