"Files made to do harm: a part of `bench/crafted_files.py`, which has nearly four hundred."
import contextlib, io, random, sys
import pytest
if sys.platform!='linux': pytest.skip('needs fork and limits of memory', allow_module_level=True)

@pytest.fixture
def bench(from_bench): return from_bench('crafted_files')

kinds = ('strips','models','states','indexes','lasts','folders')

def test_crafted(bench, tmp_path):
    "Thirty of them, those that hung or took gigabytes among them: one sentence, or the result of the whole file"
    with contextlib.redirect_stdout(io.StringIO()): s = bench.craft(tmp_path, only=kinds, light=True)
    worst = ('fifo','zero','deep','pickle','giant','huge','rng_position','s3e8','many_classes')
    made = [o for o in s.made if o[0] not in ('data','state','shown')] # these take longest
    rng = random.Random(1)
    some = [o for w in worst for o in [m for m in made if w in m[1]][:2]]
    some += rng.sample([o for o in made if o not in some], 28-len(some))
    some += rng.sample([o for o in s.made if o[0]=='state' and 'state ' in o[1]], 2)
    rows = list(bench.trial(s, some))
    assert len(rows)==30
    bad = [r for r in rows if r['verdict'] not in ('clear','read')]
    assert not bad, bad
