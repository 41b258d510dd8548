"A small part of `bench/interrupts.py`: after Ctrl-C at a random moment nothing is left on the model or in PyTorch"
import random
import pytest

@pytest.fixture(scope='module')
def bench(from_bench): return from_bench('interrupts')

@pytest.fixture(scope='module')
def scenarios(bench): return bench.scenarios(0)[0]

@pytest.mark.parametrize('name', ['gradcam','deeplift','vit rollout','picture','AttentionTrace','detr','dream','recorder'])
def test_nothing_is_left(bench, scenarios, name):
    res = bench.trial(name, *scenarios[name], 8, random.Random(1))
    assert res['tried']==8 and not res['left'], res
    assert res['in_time']>0

def test_what_is_left_is_found(bench, scenarios):
    model,_,_ = scenarios['gradcam']
    def _leaves():
        for m in model.modules(): m.register_forward_hook(lambda *args: None)
        bench.time.sleep(.05)
    res = bench.trial('leaves', model, _leaves, True, 2, random.Random(1))
    assert 'hooks' in res['left']
    for m in model.modules(): m._forward_hooks.clear()
