"The demo from the command line."
import importlib.util, json, subprocess, sys, tempfile
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

names = 'fastattn_demo','fastattn_train','fastattn_visualize','fastattn_audit','fastattn_report','fastattn_maps'

@pytest.mark.parametrize('name', names)
def test_help_loads_nothing_heavy(name):
    "What `--help` and a mistyped flag need is neither torch nor fastai, which take seconds to load"
    code = f"""import sys
sys.argv = [{name!r}, '--help']
from fastattn.cli.{'maps' if name=='fastattn_maps' else 'commands'} import {name} as f
try: f()
except SystemExit as e: assert e.code==0
print([m for m in ('torch','fastai','timm','matplotlib','numpy') if m in sys.modules])"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert r.stdout.endswith('\n[]\n') and 'usage: '+name in r.stdout and not r.stderr, r.stderr

@pytest.mark.parametrize('env', [dict(TERM='dumb', COLUMNS='1'), dict(TERM='', COLUMNS='x'),
                                 dict(COLUMNS='0', NO_COLOR='1')])
def test_odd_terminals(env):
    r = script('fastattn_train', '--help', env=env)
    assert r.returncode==0 and 'Train a classifier' in ' '.join(r.stdout.split()) and not r.stderr, r.stderr
    assert script('fastattn_train', '--version', env=env).stdout.split()[0]=='fastattn'

def test_pipe_closed_early(tmp_path):
    "Who reads what is printed goes away: no stack trace"
    exe = Path(sys.executable).parent/'fastattn_demo'
    r = subprocess.run(f"'{exe}' --out o --epochs 1 --n 160 | true", shell=True, capture_output=True, text=True,
                       cwd=tmp_path)
    assert 'Traceback' not in r.stderr and 'BrokenPipe' not in r.stderr, r.stderr

@pytest.mark.skipif(importlib.util.find_spec('argcomplete') is None, reason='argcomplete is not installed')
def test_completion():
    "The shell's Tab key"
    env = dict(_ARGCOMPLETE='1', _ARGCOMPLETE_STDOUT_FILENAME='out', COMP_LINE='fastattn_train --ep', COMP_POINT='19',
               _ARGCOMPLETE_IFS=' ', COMP_TYPE='9')
    with tempfile.TemporaryDirectory() as d:
        script('fastattn_train', cwd=d, env={**env, '_ARGCOMPLETE_STDOUT_FILENAME':f'{d}/out'})
        assert (Path(d)/'out').read_text().split()==['--epochs']
