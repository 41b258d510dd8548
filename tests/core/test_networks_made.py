"""A small version of `bench/networks_made.py`: in networks put together at random the map lies on the object, or an
error says why"""
import pytest

@pytest.fixture(scope='module')
def made(from_bench): return from_bench('networks_made')

@pytest.mark.parametrize('seed', range(0, 16))
def test_made(made, seed):
    kind,what,seen = made.verdict(seed)
    assert what!='wrong', (kind, seen)

def test_what_is_wrong_is_found_out(made, monkeypatch):
    "A map that is turned is told from a right one"
    explain = made.explain
    def turned(*args, **kwargs):
        h = explain(*args, **kwargs)
        return h.replace(h.flip(1).flip(2), raw=h.raw)
    monkeypatch.setattr(made, 'explain', turned)
    assert sum(made.verdict(s)[1]=='wrong' for s in (1,2,3,4))>=2
