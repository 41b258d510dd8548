"""Killed at any moment, with one process and with two: the table is in the end what an unbroken run writes"""
import os, random, signal, time
from pathlib import Path
import pyarrow.parquet as pq, pytest, torch
from fastattn.scale import saving
from fastattn.scale.maps import open_maps
from fastattn.scale.saving import save_maps
from small import net, parts, pictures, prep, same

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork')

pause = .002

def slow_prep(im):
    "As `prep`; a picture takes two milliseconds, so that a run takes long enough to be killed in the midst of it"
    time.sleep(pause)
    return prep(im)

def in_slow_motion(longer):
    "From now on in this process a file that is opened, renamed or removed stays as it is for a millisecond"
    global pause
    pause = longer
    def _slow(f):
        def _f(*args, **kwargs):
            res = f(*args, **kwargs)
            time.sleep(.001)
            return res
        return _f
    for k in ('open','replace','link','unlink'): setattr(os, k, _slow(getattr(os, k)))

def note_shards(log):
    "From now on each shard that this process writes is a line in the file `log`, with the number of the process"
    write = saving.write_rows
    def _write(rows, schema, fn):
        write(rows, schema, fn)
        with open(log, 'a') as o: o.write(f'{os.getpid()} {fn.name}\n')
    saving.write_rows = _write

def save(root, out): return save_maps(net(), root, out, method='gradcam', prep=slow_prep, rows=6, bs=4)

def forked(root, out, rank, n, slow=None, log=None):
    "The number of a process that works on a table, the `rank`-th of `n`, and notes finished shards in `log`"
    pid = os.fork()
    if pid: return pid
    try:
        os.setpgid(0, 0)
        torch.set_num_threads(1)
        null = os.open(os.devnull, os.O_WRONLY)
        for fd in (1,2): os.dup2(null, fd)
        if slow: in_slow_motion(slow)
        if log: note_shards(log)
        if n>1: os.environ.update(RANK=str(rank), WORLD_SIZE=str(n))
        save(root, out)
        os._exit(0)
    finally: os._exit(1)

def dying(root, out, k):
    "The number of a process that kills itself at its `k`-th change of a file, or ends without that"
    pid = os.fork()
    if pid: return pid
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        left,opens,table,text = [k],os.open,pq.write_table,Path.write_text
        def _count(n=1):
            left[0] -= n
            if left[0]<=0: os.kill(os.getpid(), signal.SIGKILL)
        def _counted(f):
            def _f(*args, **kwargs):
                res = f(*args, **kwargs)
                _count(f is not opens or bool(args[1]&os.O_CREAT))
                return res
            return _f
        def _table(t, where, **kwargs):
            where.write_bytes(b'PAR1') # half written
            _count()
            table(t, where, **kwargs)
        def _text(self, s, **kwargs):
            text(self, s[:len(s)//2], **kwargs)
            _count()
            text(self, s, **kwargs)
        for o in ('open','replace','link','unlink','mkdir','utime','chmod'): setattr(os, o, _counted(getattr(os, o)))
        pq.write_table,Path.write_text = _table,_text
        save_maps(net(), root, out, method='gradcam', prep=prep, rows=6, bs=4)
        os._exit(0)
    finally: os._exit(1)

def ended(pid, wait=60):
    "The status of a process once it has ended; it is killed, and the test fails, if that takes too long"
    end = time.monotonic()+wait
    while time.monotonic()<end:
        got,status = os.waitpid(pid, os.WNOHANG)
        if got: return os.waitstatus_to_exitcode(status)
        time.sleep(.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    pytest.fail('a process did not end')

def kill(pid):
    os.kill(pid, signal.SIGKILL)
    return ended(pid)

def stage(out):
    "How far a table has got"
    files = os.listdir(out) if out.exists() else []
    for k,begins in dict(shard='maps-', list='list-', about='maps.json').items():
        if any(f.startswith(begins) for f in files): return k
    return 'none'

@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
    "A folder of pictures, the table of it by a run that nobody kills, and the time that took"
    base = tmp_path_factory.mktemp('unbroken')
    root = pictures(base/'pics', 30)
    threads = torch.get_num_threads()
    torch.set_num_threads(1) # as in the processes that are forked
    save(root, base/'warm')
    start = time.perf_counter()
    save(root, base/'maps')
    yield root,base/'maps',time.perf_counter()-start
    torch.set_num_threads(threads)

def test_two_runs_are_the_same(unbroken, tmp_path):
    root,maps,_ = unbroken
    assert len(save(root, tmp_path/'maps'))==30 and same(tmp_path/'maps', maps) and not parts(maps)

@pytest.mark.parametrize('n', [2,3])
def test_processes_share_the_work(unbroken, tmp_path, n):
    "More than one writes shards, and none is written twice"
    root,maps,_ = unbroken
    pids = [forked(root, tmp_path/'maps', i, n, .01, tmp_path/'log') for i in range(n)]
    assert [ended(p) for p in pids]==[0]*n
    done = [l.split() for l in (tmp_path/'log').read_text().splitlines()]
    assert sorted(f for _,f in done)==sorted(f.name for f in maps.glob('maps-*'))
    assert len({p for p,_ in done})>1 # under load one may come too late
    assert same(tmp_path/'maps', maps) and not parts(tmp_path/'maps')

def test_killed_anywhere(unbroken, tmp_path):
    "Forty kills while five tables are made, by one process and by two"
    root,maps,takes = unbroken
    rng,seen,kills,tables = random.Random(0),set(),0,0
    while kills<40:
        out,tables = tmp_path/f'{tables}',tables+1
        for k in range(8):
            n = rng.choice([1,2])
            pids = [forked(root, out, i, n, pause) for i in range(n)]
            # early in the first runs of a table: before and while it is listed
            time.sleep(rng.uniform(.01, {0:.05, 1:.2}.get(k, 1.2*takes)))
            for pid in rng.sample(pids, n):
                seen.add(stage(out))
                kills += kill(pid)==-signal.SIGKILL
                time.sleep(rng.choice([0,.02]))
        assert set(open_maps(out).pieces.names() if stage(out)!='none' else [])<=set(open_maps(maps).pieces.names())
        pids = [forked(root, out, i, tables%2+1) for i in range(tables%2+1)]
        assert [ended(p) for p in pids]==[0]*len(pids)
        assert same(out, maps)
        keys = list(save(root, out)) # nothing is left to do
        assert len(keys)==len(set(keys))==30 and open_maps(out).missing==0
        assert not parts(out)
    assert seen>={'none','shard'}

def test_the_living_finish_alone(unbroken, tmp_path):
    "Two processes, each of which has claimed a shard, and one of them is killed: the other needs no further run"
    root,maps,_ = unbroken
    for i in range(2):
        out = tmp_path/f'{i}'
        pids,seen,end = [forked(root, out, j, 2, .01) for j in range(2)],set(),time.monotonic()+30
        while not seen>=set(pids):
            for f in out.glob('.part-claim-*'):
                try: seen.add(int(f.read_text().split('-')[1]))
                except OSError: pass # it was dropped meanwhile
            assert time.monotonic()<end
        assert kill(pids[i])==-signal.SIGKILL and ended(pids[1-i])==0
        assert same(out, maps) and not parts(out)

def test_killed_at_each_change_of_a_file(tmp_path):
    "A process that ends at its first change, its second, and so on: the next one completes the table and cleans up"
    root,k,stages = pictures(tmp_path/'pics', 8),1,[]
    save_maps(net(), root, tmp_path/'whole', method='gradcam', prep=prep, rows=6, bs=4)
    while (status := ended(dying(root, out := tmp_path/f'{k}', k)))==-signal.SIGKILL:
        stages.append(stage(out))
        assert ended(forked(root, out, 0, 1))==0, k
        assert same(out, tmp_path/'whole') and not parts(out), (k,parts(out))
        k += 1
    assert status==0 and k>20, (status,k)
    assert stages==sorted(stages, key=['none','about','list','shard'].index)
    assert set(stages)=={'none','about','list','shard'}
