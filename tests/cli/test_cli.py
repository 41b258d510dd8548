"The demo from the command line."
import json, sys
from pathlib import Path
import pytest
sys.path.insert(0, str(Path(__file__).parent))
from commands import run, script

def test_demo(tmp_path):
    r = script('fastattn_demo', '--out', tmp_path/'out', '--epochs', 1, '--n', 160, '--seed', 3)
    assert r.returncode==0, r.stderr
    s = json.loads((tmp_path/'out'/'summary.json').read_text())
    assert {'accuracy','energy_inside','object_area','seconds'} <= set(s) and s['seed']==3 and s['epochs']==1
    assert sorted(p.name for p in (tmp_path/'out').iterdir())==[
        'activations.png','attention_by_epoch.png','masks.png','summary.json','top_losses.png']
    assert [p.name for p in tmp_path.iterdir()]==['out']
    # its own folder may be filled again
    assert run('fastattn_demo', '--out', tmp_path/'out', '--epochs', 1, '--n', 160).returncode==0

def test_refuses_a_foreign_folder(tmp_path):
    (tmp_path/'thesis.txt').write_text('mine')
    r = run('fastattn_demo', '--out', tmp_path)
    assert r.returncode!=0 and 'was not made by fastattn_demo' in r.stderr and 'Traceback' not in r.stderr
    assert [p.name for p in tmp_path.iterdir()]==['thesis.txt']

@pytest.mark.parametrize('args,says', [(('--n', 3), ''), (('--epochs', 0), '--epochs must be at least 1')])
def test_bad_arguments(tmp_path, args, says):
    r = run('fastattn_demo', '--out', tmp_path/'o', *args)
    assert r.returncode!=0 and says in r.stderr and 'Traceback' not in r.stderr and not (tmp_path/'o').exists()
