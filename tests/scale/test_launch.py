"""`fastattn_maps` by torchrun, by accelerate and by hand: two processes make the table of one, also if one is killed"""
import os, signal, socket, subprocess, sys, time
from pathlib import Path
import pytest, torch
from fastattn.all import attention_learner, folder_dls, save_checkpoint
from fastattn.data.demo import demo_arch, demo_path
from fastattn.cli.maps import fastattn_maps, run_maps
from fastattn.image.files import has_ended
from small import parts, pictures, same

pytestmark = pytest.mark.skipif(not Path('/proc').is_dir(), reason='the processes are found in /proc')

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])

def torchrun():
    return ['torch.distributed.run', '--nproc-per-node', '2', '--master-port', free_port(), '-m']

def accelerate():
    return ['accelerate.commands.launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1',
            '--mixed_precision', 'no', '--dynamo_backend', 'no', '--main_process_port', free_port(), '-m']

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "Arguments of the command, and the table that one process makes"
    base = tmp_path_factory.mktemp('launch')
    root = pictures(base/'pics', 48)
    for k in range(5):
        for f in sorted((root/'a').glob('???.png')): os.link(f, f.with_name(f'{f.stem}-{k}.png'))
    dls = folder_dls(demo_path(n=64), size=64, bs=8, num_workers=0)
    save_checkpoint(attention_learner(dls, demo_arch, pretrained=False), base/'model')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run_maps(root, base/'one', base/'model', 'cpu', bs=4, rows=8, embeddings=True)
    torch.set_num_threads(threads)
    args = [root, '--checkpoint', base/'model', '--device', 'cpu', '--batch-size', 4, '--rows', 8, '--embeddings']
    return list(map(str, args)),base/'one'

def test_command(made, tmp_path, monkeypatch, capsys):
    "What it prints and its exit status: all is well; a picture is left out; other settings; nothing to read"
    args,one = made
    def _call(*more):
        monkeypatch.setattr(sys, 'argv', ['fastattn_maps', str(tmp_path/'pics'), *args[1:], *map(str, more)])
        try: status = fastattn_maps()
        except SystemExit as e: status = e.code
        return status or 0,*capsys.readouterr()
    pictures(tmp_path/'pics', 16)
    status,out,err = _call('--out', tmp_path/'maps')
    assert status==0 and 'Maps of 16 pictures' in out and 'open_maps(' in out and 'Left out' not in out
    (tmp_path/'pics'/'a'/'bad.png').write_text('no picture')
    status,out,err = _call('--out', tmp_path/'maps')
    assert status==1 and 'Left out: a/bad.png: ' in out and 'Maps of 17 pictures' in out
    for more,says in ((['--out',tmp_path/'maps','--method','layercam'], 'another method'),
                      (['--out',tmp_path/'pics'], 'holds something else'),
                      (['--out',tmp_path/'new','--method','gradcan'], 'gradcam'),
                      (['--out',tmp_path/'new','--batch-size','0'], '0'),
                      (['--out',tmp_path/'new','--target','cta'], 'cat'),
                      (['--out',tmp_path/'new','--checkpoint',tmp_path/'none'], 'none')):
        status,out,err = _call(*more)
        assert status>0 and says in err and 'Traceback' not in err and err.startswith('fastattn_maps: '), err
    assert not (tmp_path/'new').exists()

def start(args, out, launcher=[], **env):
    "A process, or what starts two"
    env = {k:v for k,v in os.environ.items() if k not in ('RANK','WORLD_SIZE')}|dict(OMP_NUM_THREADS='1')|env
    cmd = [sys.executable, '-m', *launcher, 'fastattn.cli.maps', *args, '--out', str(out)]
    return subprocess.Popen(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=out.parent)

def said(p, wait=120):
    "What a process printed until its end; the test fails if that does not come"
    try: return p.communicate(timeout=wait)[0]
    except subprocess.TimeoutExpired:
        p.terminate()
        pytest.fail(f'it does not end:\n{p.communicate(timeout=30)[0][-3000:]}')

def parent(pid): return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])

def working(out, p, n, wait=90):
    "`{number: name}` of `n` processes, as their claims say, once each of them has begun"
    found,end = {},time.monotonic()+wait
    while len(found)<n:
        for f in out.glob('.part-claim-*'):
            try: who = f.read_text()
            except OSError: continue # it was given up meanwhile
            found[int(who.split('-')[1])] = who
        assert time.monotonic()<end and p.poll() is None, f'only {list(found)} have begun:\n{said(p)[-3000:]}'
        time.sleep(.005)
    return found

def check_killed(made, out, launcher):
    "Kill one of the processes that work: it is started again, and the table is that of one process"
    args,one = made
    p = start(args, out, launcher)
    pids = working(out, p, 2)
    os.kill(max(pids), signal.SIGKILL)
    log = said(p)
    assert p.returncode==0 and log.count('was ended by signal 9; it is started again')==1, log[-3000:]
    assert log.count('2 processes.')>0 and same(out, one)
    assert not parts(out)

def test_torchrun_and_one_is_killed(made, tmp_path): check_killed(made, tmp_path/'maps', torchrun())

def test_accelerate_and_one_is_killed(made, tmp_path, request):
    if not request.config.getoption('slow'): pytest.skip('slow: run with --slow')
    check_killed(made, tmp_path/'maps', accelerate())

def test_by_hand_and_one_is_killed(made, tmp_path):
    "The other finishes the table, without being started again"
    args,one = made
    ps = [start(args, tmp_path/'maps', RANK=str(i), WORLD_SIZE='2') for i in range(2)]
    owners = {parent(pid):who for pid,who in working(tmp_path/'maps', ps[0], 2).items()}
    assert set(owners)=={p.pid for p in ps} # both have claimed shards
    ps[1].kill()
    log = said(ps[0])
    assert ps[1].wait()==-signal.SIGKILL and ps[0].returncode==0, log
    assert f'Maps of {24*7} pictures' in log and same(tmp_path/'maps', one) and not parts(tmp_path/'maps')
    assert has_ended(owners[ps[1].pid]) # with the one that started it

def test_the_parent_of_one_is_killed(made, tmp_path, request):
    "The launcher ends the others, and says so; a run by one process completes the table"
    if not request.config.getoption('slow'): pytest.skip('slow: run with --slow')
    args,one = made
    p = start(args, tmp_path/'maps', torchrun())
    pids = working(tmp_path/'maps', p, 2)
    os.kill(parent(min(pids)), signal.SIGKILL)
    assert 'Signal 9' in said(p) and p.returncode!=0
    assert not same(tmp_path/'maps', one)
    p = start(args, tmp_path/'maps')
    log = said(p)
    assert p.returncode==0 and same(tmp_path/'maps', one) and not parts(tmp_path/'maps'), log
