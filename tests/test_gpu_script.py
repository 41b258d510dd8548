"What checks a GPU is itself checked on a CPU: each line says what was found, and nothing is written without a GPU"
import pytest, torch


@pytest.fixture(scope='module')
def gpu(from_bench): return from_bench('gpu')

@pytest.fixture(autouse=True)
def nothing_is_written(gpu, monkeypatch):
    def _write(*args, **kwargs): raise AssertionError('results of a CPU are written')
    monkeypatch.setattr(gpu, 'write', _write)

def lines(gpu, capsys, *args):
    "The exit status and what is printed, without progress bars"
    rc = gpu.main(list(args))
    return rc,[l.rpartition('\r')[2] for l in capsys.readouterr().out.splitlines() if ': ' in l]

def test_on_a_cpu(gpu, capsys):
    names = ['traces','recurrent','data_parallel','second_gpu','detr_attention']
    rc,out = lines(gpu, capsys, '--device', 'cpu', '--only', *names)
    found = dict(l.split(': ', 1) for l in out)
    assert rc==0 and found.pop('second_gpu')=='skipped: there is no second GPU'
    assert len(found)==4 and all(v.startswith('ok: ') for v in found.values()), found

def test_without_a_gpu(gpu, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: False)
    assert lines(gpu, capsys)==(0,[f'{n}: skipped: no GPU' for n in gpu.checks]) and len(gpu.checks)>20

def test_failures_are_told(gpu, capsys, monkeypatch):
    "A recorder that moves a random number, a map on another device, and one that does not exist"
    class Draws(gpu.AttentionRecorder):
        def after_epoch(self): super().after_epoch(); torch.rand(1)
    monkeypatch.setattr(gpu, 'AttentionRecorder', Draws)
    explain = gpu.explain
    monkeypatch.setattr(gpu, 'explain', lambda *a, **kw: explain(*a, **kw).to('meta'))
    rc,out = lines(gpu, capsys, '--device', 'cpu', '--only', 'recorder_fp32', 'recurrent')
    assert rc==1 and len(out)==2
    assert 'recurrent: failed: AssertionError: a result is on meta, and the model on cpu' in out
    assert any(l.startswith('recorder_fp32: failed: AssertionError: other ') for l in out), out
    with pytest.raises(SystemExit, match='No check is called nothing'): gpu.main(['--only', 'nothing'])
