"""Killed between two edits, in `apply` and in `restore`: nothing is lost, nothing half moved"""
import os, random, signal, time
import pytest
from fastattn.data.corrected import Corrections, Entry, key_of
from fastattn.data.edits import Edits
from fastattn.data.moves import put_back, record_name
from fastattn.interpret.cleaner import HeatmapCleaner

def cleaner(root, base):
    "A cleaner without a network: what edits, applies and restores"
    c = HeatmapCleaner.__new__(HeatmapCleaner)
    files = sorted(f for f in root.rglob('*.png') if not f.name.startswith('.part-'))
    entries = [Entry(key_of(f, 0, False, root), f, [f.parent.name], False) for f in files]
    c.made,c.root,c._widget,c.several,c.edits = Corrections(entries, root),root,None,False,Edits(base/'edits.json')
    c._row = {e.key:i for i,e in enumerate(entries)}
    c._finish()
    return c

def edit_for_ever(root, base):
    "Edit, apply, restore, over and over, until the process is killed"
    while True:
        c = cleaner(root, base)
        if c.edits.about.get('applied'):
            c.restore()
            c = cleaner(root, base)
        for i,e in enumerate(c.made.entries):
            c.edits.set({e.key: [None,'<Delete>','b' if e.labels==['a'] else 'a'][i%3]})
        c.apply(base/f"run{len(list(base.glob('run*')))}")

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork')
def test_killed_anywhere(tmp_path):
    rng,(root,base) = random.Random(0),(tmp_path/'set',tmp_path/'base')
    base.mkdir()
    before = {f'{c}/{i}.png':f'{c} {i}' for c in 'ab' for i in range(12)}
    for name,text in before.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_text(text)
    stages = set()
    for _ in range(40):
        pid = os.fork()
        if not pid:
            try: edit_for_ever(root, base)
            finally: os._exit(1) # it only ends by an error
        time.sleep(rng.uniform(.02, .4))
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        there = {}
        for f in tmp_path.rglob('*.png'):
            if not f.name.startswith('.part-'): there.setdefault(f.read_text(), set()).add(f.stat().st_ino)
        assert set(there)==set(before.values()) # nothing is lost
        assert all(len(o)==1 for o in there.values()) # nor there twice, but for a second name of the same file
        e = Edits(base/'edits.json') if (base/'edits.json').exists() else None # never half written
        stages.add('none' if e is None else 'applying' if 'applying' in e.about else 'applied' if e.about.get('applied')
                   else 'editing')
    assert {'applying','editing'}<=stages
    c = cleaner(root, base) # completes what was stopped
    if c.edits.about.get('applied'): c.restore()
    assert {f.relative_to(root).as_posix():f.read_text() for f in root.rglob('*.png')}==before

def test_items_that_are_no_files(tmp_path):
    "Arrays with their labels: drawn and edited like files; what is applied is a table, since nothing can be moved"
    import numpy as np, pandas as pd
    from fastai.vision.all import CategoryBlock, DataBlock, ImageBlock, IndexSplitter, ItemGetter
    from fastattn.data.demo import demo_arch
    from fastattn.models.learners import attention_learner
    rng = np.random.default_rng(0)
    items = [(rng.integers(0, 255, (32,32,3), dtype=np.uint8),'ab'[i%2]) for i in range(24)]
    block = DataBlock((ImageBlock,CategoryBlock), getters=[ItemGetter(0),ItemGetter(1)],
                      splitter=IndexSplitter(range(16, 24)))
    dls = block.dataloaders(items, bs=8, num_workers=0, path=tmp_path)
    c = HeatmapCleaner(attention_learner(dls, demo_arch, pretrained=False))
    assert all(b[:2]==b'\xff\xd8' for kind in ('plain','pred') for b in c.pictures([0,20], kind))
    c.edit('train 3', 'a')
    c.edit(20, '<Delete>')
    assert 'train 3' in c.edits.now and '0 files were moved' in c.apply(tmp_path/'out')
    df = pd.read_csv(tmp_path/'out'/'labels.csv')
    assert len(df)==23 and df.label[df.name=='train 3'].item()=='a' and 'valid 4' not in set(df.name)
    assert '0 files' in c.restore() and len(c.edits)==2

@pytest.mark.skipif(hasattr(os, 'geteuid') and os.geteuid()==0, reason='root may write everywhere')
def test_read_only_folder(tmp_path):
    "Nothing moves, and the error names the folder"
    root,base = tmp_path/'set',tmp_path/'base'
    base.mkdir()
    for c in 'ab':
        (root/c).mkdir(parents=True)
        (root/c/'1.png').write_text(c)
    c = cleaner(root, base)
    c.edit(0, '<Delete>')
    (root/'a').chmod(0o555)
    try:
        with pytest.raises(PermissionError, match='nothing was moved'): c.apply(base/'out')
    finally: (root/'a').chmod(0o755)
    assert (root/'a'/'1.png').exists() and 'applying' not in c.edits.about
