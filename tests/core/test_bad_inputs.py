"""A small part of `bench/bad_inputs.py`: what is wrong is refused in a sentence, before anything hangs, crashes or is
drawn"""
import pytest

@pytest.fixture(scope='module')
def bad(from_bench): return from_bench('bad_inputs')

@pytest.fixture(scope='module')
def world(bad, tmp_path_factory): return bad.World(tmp_path_factory.mktemp('world'))

@pytest.mark.parametrize('i', range(60))
def test_refused_in_a_sentence(bad, world, i):
    name,make,arg,v = bad.some(60, seed=5)[i]
    f,kwargs = make(world)
    f(**kwargs) # what is right is taken
    res = bad.tried(world, (name,make,arg,v))
    assert res['verdict'] in ('sentence','python'), res

@pytest.mark.parametrize('f,verdict', [(lambda k: k, 'silent'), (lambda k: [][k], 'traceback'), (lambda k: k.nosuch,
     'traceback'),
                                       (lambda: 1, 'python'), (lambda k: exec('while True: pass'), 'hang')])
def test_what_is_wrong_is_found_out(bad, world, f, verdict):
    assert bad.tried(world, ('f', lambda w: (f, {}), 'k', 1), limit=1)['verdict']==verdict

def test_equal_embeddings_are_refused(bad, world):
    "scikit-learn's t-SNE ends the process on them"
    cases = [c for c in bad.bad_inputs() if c[0]=="plot_tsne('tsne')" and bad.label(c[3])=='equal']
    assert len(cases)==1 and bad.tried(world, cases[0])['verdict']=='sentence'
