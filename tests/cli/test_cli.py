"The command line, through the installed console script."
import json, subprocess, sys
from pathlib import Path
import pytest

script = Path(sys.executable).parent/'fastattn_demo'

def run(*args, **kw): return subprocess.run([str(script), *map(str, args)], capture_output=True, text=True, **kw)

def test_demo(tmp_path):
    r = run('--out', tmp_path/'out', '--epochs', 1, '--n', 160, '--seed', 3)
    assert r.returncode==0, r.stderr
    s = json.loads((tmp_path/'out'/'summary.json').read_text())
    assert {'accuracy','energy_inside','object_area','seconds'} <= set(s) and s['seed']==3 and s['epochs']==1
    assert sorted(p.name for p in (tmp_path/'out').iterdir())==[
        'activations.png','attention_by_epoch.png','masks.png','summary.json','top_losses.png']
    assert [p.name for p in tmp_path.iterdir()]==['out']
    assert run('--out', tmp_path/'out', '--epochs', 1, '--n', 160).returncode==0   # its own folder may be filled again

def test_refuses_a_foreign_folder(tmp_path):
    (tmp_path/'thesis.txt').write_text('mine')
    r = run('--out', tmp_path)
    assert r.returncode!=0 and 'was not made by fastattn_demo' in r.stderr and 'Traceback' not in r.stderr
    assert [p.name for p in tmp_path.iterdir()]==['thesis.txt']

@pytest.mark.parametrize('args,says', [(('--n', 3), ''), (('--epochs', 0), '--epochs must be at least 1')])
def test_bad_arguments(tmp_path, args, says):
    r = run('--out', tmp_path/'o', *args)
    assert r.returncode!=0 and says in r.stderr and 'Traceback' not in r.stderr and not (tmp_path/'o').exists()
