"A small part of `bench/writers.py`: writers that are killed, two at a time, and on a full disk"
import random, sys
import pytest
if sys.platform!='linux': pytest.skip('needs fork', allow_module_level=True)

@pytest.fixture(scope='module')
def bench(from_bench): return from_bench('writers')

@pytest.fixture(scope='module')
def w(bench): return bench.Writers()

@pytest.mark.parametrize('kind', ['record','gif','checkpoint','strip'])
def test_killed(bench, w, kind):
    res = bench.kills(w, kind, 4, random.Random(1))
    assert res==dict(kills=4, bad={})

@pytest.mark.parametrize('kind', ['record','gif'])
def test_two(bench, w, kind):
    res = bench.two(w, kind, 1.5)
    assert res['died']==0 and res['read_whole']>0
    assert set(res['bad']) <= {'refused, since it changed while it was read'}, res

def test_what_is_broken_is_found(bench, w):
    "A writer that writes under the final name"
    class Bad:
        def write_gif(self, path, i):
            for k in range(200): path.write_bytes(b'GIF89a'+b'x'*k)
        read_gif = w.read_gif
    assert bench.kills(Bad(), 'gif', 2, random.Random(1))['bad']
