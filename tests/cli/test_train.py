"Training and looking from the command line: end to end, killed, with a full disk."
import json, sys, time
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from fastattn.data.demo import demo_path
from fastattn.image.files import part_prefix
from fastattn.image.pictures import Photo
from fastattn.cli.visualize import strip_notes
sys.path.insert(0, str(Path(__file__).parent))
from commands import call, run, script, start
from photos import photo_set

small = ('--arch','demo_arch','--no-pretrained','--img-size',64)

def shown(d): return sorted(p for p in d.rglob('*.png') if not p.name.startswith('.'))

def wait_for(ok, proc, secs=120):
    "Until `ok()`; the process must still be running then"
    end = time.time()+secs
    while not ok():
        assert proc.is_alive(), 'it ended before it could be killed'
        assert time.time()<end, 'nothing happened'
        time.sleep(.005)

def test_demo_set(tmp_path):
    path = demo_path(240)
    r = run('fastattn_train', path, '--num-classes', 8, *small, '--epochs', 1, '--batch-size', 16,
            '--form', 'element', '--augment', 'cutmix', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    page = json.loads((tmp_path/'output/model/run.json').read_text())
    assert page['data']['train']==192 and page['model']['form']=='element' and len(page['epochs'])==1
    assert sorted(p.name for p in (tmp_path/'output/model').iterdir())==[
        'before_after.png','confusion.png','model.safetensors','run.json','top_losses.png','training.png']
    # takes the model that was saved last
    r = script('fastattn_visualize', path/'valid'/'cat', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert len(list((tmp_path/'output').glob('*.png')))==len(list((path/'valid'/'cat').iterdir()))+1

def test_photographs(tmp_path):
    path = photo_set(tmp_path/'photos')
    r = run('fastattn_train', path, *small, '--epochs', 10, '--lr', .01, '--augment', 'none',
            '--batch-size', 16, '--out', tmp_path/'my model', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    page = json.loads((tmp_path/'my model'/'run.json').read_text(encoding='utf-8'))
    assert page['accuracy']>=.7 and set(page['images']['classes'])=={p.name for p in (path/'train').iterdir()}
    (path/'test'/'broken.jpg').write_text('no picture')
    r = run('fastattn_visualize', path/'test', '--out', tmp_path/'looked at', '--method', 'gradcam',
            cwd=tmp_path)
    # one is left out, and the status says so
    assert r.returncode==1 and 'broken.jpg' in r.stdout and 'Traceback' not in r.stderr
    strips = [p for p in shown(tmp_path/'looked at') if p.name!='contact_sheet.png']
    assert {p.relative_to(tmp_path/'looked at').as_posix() for p in strips}=={
        p.relative_to(path/'test').with_suffix('.png').as_posix() for p in (path/'test').rglob('*')
        if p.is_file() and p.name!='broken.jpg'}
    right = [strip_notes(p)['label'].rpartition(' ')[0]==p.parent.name for p in strips]
    # pictures from disk are seen as they were in training
    assert abs(sum(right)/len(right)-page['accuracy'])<1e-3
    # lies on its side in the file, and stands in the strip
    strip = tmp_path/'looked at'/'grace_hopper'/'2.png'
    box = strip_notes(strip)['overlay']
    # five panels; the picture is the first
    left = box[0]-4*((Image.open(strip).size[0]-8)//5)
    panel = Image.open(strip).convert('RGB').crop((left, box[1], left+box[2]-box[0], box[3])).convert('L')
    def alike(im):
        return np.corrcoef(np.asarray(im.convert('L').resize(panel.size)).ravel(), np.asarray(panel).ravel())[0,1]
    assert (alike(Photo.create(path/'test'/'grace_hopper'/'2.jpg'))>.95 >
            alike(Image.open(path/'test'/'grace_hopper'/'2.jpg')))

def test_killed_training(tmp_path):
    args = (demo_path(240), *small, '--epochs', 3, '--batch-size', 16, '--augment', 'rand',
            '--num-workers', 0, '--seed', 3)
    whole,broken = tmp_path/'whole',tmp_path/'broken'
    assert run('fastattn_train', *args, '--out', whole, cwd=tmp_path).returncode==0
    p = start('fastattn_train', *args, '--out', broken, cwd=tmp_path)
    wait_for(lambda: (broken/'unfinished.safetensors').exists(), p)
    # into the next epoch
    time.sleep(.15)
    p.kill(); p.join()
    assert not (broken/'run.json').exists()
    r = run('fastattn_train', *args, '--out', broken, cwd=tmp_path)
    assert r.returncode!=0 and '--resume' in r.stderr and 'Traceback' not in r.stderr
    r = run('fastattn_train', *args[:-1], 4, '--out', broken, '--resume', cwd=tmp_path)
    assert r.returncode!=0 and 'seed=3' in r.stderr and 'Traceback' not in r.stderr
    # the script itself: an interpreter that shares nothing with the first, not even the order of its sets
    r = script('fastattn_train', *args, '--out', broken, '--resume', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert (whole/'model.safetensors').read_bytes()==(broken/'model.safetensors').read_bytes()
    a,b = (json.loads((d/'run.json').read_text()) for d in (whole,broken))
    assert a['epochs']==b['epochs'] and a['accuracy']==b['accuracy'] and not (broken/'unfinished.safetensors').exists()

@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "An untrained model, saved"
    from fastattn.data.folders import folder_dls
    from fastattn.models.learners import attention_learner
    from fastattn.data.demo import demo_arch
    from fastattn.cli.checkpoint import save_checkpoint
    d = tmp_path_factory.mktemp('model')
    save_checkpoint(attention_learner(folder_dls(demo_path(240), size=64, num_workers=0), demo_arch, pretrained=False,
                                      activation='softmax'), d)
    return d

def test_killed_visualize(tmp_path, model):
    args = (demo_path(240)/'valid', '--checkpoint', model, '--out', tmp_path/'out', '--batch-size', 4)
    p = start('fastattn_visualize', *args, cwd=tmp_path)
    wait_for(lambda: len(shown(tmp_path/'out'))>=8, p)
    p.kill(); p.join()
    done = {f:f.stat().st_mtime_ns for f in shown(tmp_path/'out')}
    assert 8<=len(done)<48
    # none is half-written
    for f in done: Image.open(f).load(); assert strip_notes(f)
    r = run('fastattn_visualize', *args, cwd=tmp_path)
    assert r.returncode==0 and f'{len(done)} there already' in r.stdout, r.stderr
    assert len(shown(tmp_path/'out'))==49 and all(f.stat().st_mtime_ns==t for f,t in done.items())
    assert not list((tmp_path/'out').rglob(f'{part_prefix}*'))

def test_disk_full(tmp_path, model):
    "A limit on the size of files stands for a full disk: a write fails in the middle"
    (tmp_path/'in').mkdir()
    for i in range(2): Image.new('RGB', (64,64), (40*i,80,90)).save(tmp_path/'in'/f'{i}.png')
    r = run('fastattn_visualize', tmp_path/'in', '--checkpoint', model, '--out', tmp_path/'out',
            cwd=tmp_path, max_bytes=4096)
    assert r.returncode!=0 and 'grew larger' in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not list((tmp_path/'out').rglob('*'))

@pytest.mark.parametrize('args,says', [
    (('fastattn_train','nowhere','--no-pretrained'), "There is no folder 'nowhere'"),
    (('fastattn_visualize','.'), 'There are no pictures in'), (('fastattn_train',), '--data-folder')])
def test_bad_input(tmp_path, args, says):
    r = run(*args, cwd=tmp_path)
    assert r.returncode!=0 and says in r.stderr and 'Traceback' not in r.stderr and not list(tmp_path.iterdir())

def known():
    import fastattn.cli.commands
    from fastattn.core.registry import explainers
    before = set(explainers)
    import fastattn.all
    print(len(before), sorted(set(explainers)-before))

def test_every_method_is_offered():
    "The commands know what `explain` knows"
    r = call(known)
    n,_,more = r.stdout.strip().partition(' ')
    assert r.returncode==0 and int(n)>20 and more=='[]', r.stderr
