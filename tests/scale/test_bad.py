"""What goes wrong with a table of maps, and the sentence that says so: nothing is lost, nothing is half written"""
import errno, json, multiprocessing, os, resource, signal, sys, tarfile, threading, time
from functools import partial
import numpy as np, pyarrow.parquet as pq, pytest, torch
from fastai.vision.all import Image, ImageDataLoaders, Learner, CrossEntropyLossFlat, Resize, nn
from fastattn.all import contrast, similar_to
from fastattn.scale.maps import open_maps
from fastattn.scale.saving import save_maps
from small import net, parts, pictures, plain, prep, same, shards

opts = dict(method='gradcam', prep=prep, rows=6, bs=4)

@pytest.fixture
def made(tmp_path):
    "A folder of twenty pictures and its table"
    root = pictures(tmp_path/'pics', 20)
    return root,save_maps(net(), root, tmp_path/'maps', **opts)

def state(path):
    "What is in a folder, to the byte"
    return {f.name:(f.read_bytes(),f.stat().st_mtime_ns) for f in path.iterdir() if f.is_file()}

def errors(maps): return dict(maps.errors.itertuples(index=False))

def test_twice_in_a_list(made, tmp_path):
    f = str(next(made[0].rglob('*.png')))
    with pytest.raises(ValueError, match=f'{os.path.basename(f)!r} is in the list twice'):
        save_maps(net(), [f,f], tmp_path/'new', **opts)
    assert not (tmp_path/'new').exists()

def test_the_folder_grows(made):
    root,maps = made
    before = state(maps.path)
    plain(root/'new', [(40,40)]*9)
    again = save_maps(net(), root, maps.path, **opts)
    after = state(maps.path)
    assert len(again)==29 and {k:after[k] for k in before}==before and len(after)>len(before)+1
    assert sorted(again)==sorted(f.relative_to(root).as_posix() for f in root.rglob('*.png'))
    assert len(save_maps(net(), root, maps.path, **opts))==29 and state(maps.path)==after

def test_the_folder_shrinks(made):
    "Maps of pictures that are gone stay; the table can be gone on with"
    root,maps = made
    keys = sorted(maps)
    for k in keys[:9]: (root/k).unlink()
    assert sorted(save_maps(net(), root, maps.path, **opts))==keys
    with pytest.warns(UserWarning, match='cannot be read'): assert maps[keys[0]].img is None

def test_full_disk(made, tmp_path, monkeypatch):
    "Nothing is half written at any of the writes, and the table is completed afterwards"
    root,maps = made
    real = pq.write_table
    for k in range(4):
        out,left = tmp_path/f'full{k}',[k]
        def _full(t, where, **kwargs):
            left[0] -= 1
            if left[0]>=0: return real(t, where, **kwargs)
            where.write_bytes(b'PAR1')
            raise OSError(errno.ENOSPC, 'No space left on device', str(where))
        monkeypatch.setattr(pq, 'write_table', _full)
        with pytest.raises(OSError, match='No space'): save_maps(net(), root, out, **opts)
        assert not parts(out) and len(list(out.glob('maps-*')))==k and open_maps(out).missing>0
        monkeypatch.setattr(pq, 'write_table', real)
        save_maps(net(), root, out, **opts)
        assert same(out, maps.path) and not parts(out)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='there is no fork')
def test_files_may_not_grow(made, tmp_path):
    "A real limit of the system, at several sizes: from maps.json on, every file meets it once"
    root,maps = made
    sizes = sorted(f.stat().st_size for f in maps.path.iterdir())
    failed = 0
    for i,limit in enumerate([10, *[s-1 for s in sizes]]):
        out = tmp_path/f'limit{i}'
        pid = os.fork()
        if not pid:
            try:
                torch.set_num_threads(1)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit,limit))
                save_maps(net(), root, out, **opts)
                os._exit(0)
            except OSError as e: os._exit(27 if e.errno==errno.EFBIG else 3)
            finally: os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        failed += status==27
        assert status in (0,27) and (not out.exists() or not parts(out)), (limit,status)
        assert same(save_maps(net(), root, out, **opts).path, maps.path)
    assert failed>3

def edit(f, **about):
    "Write a Parquet file again with other notes"
    t = pq.read_table(f)
    said = json.loads(t.schema.metadata[b'fastattn'])|about
    pq.write_table(t.replace_schema_metadata({b'fastattn':json.dumps(said).encode()}), f)

@pytest.mark.parametrize('about,says', [(dict(format=7), 'was written by another version of fastattn .format 7'),
                                        (dict(table='0'*16), 'belongs to another table')])
def test_a_shard_of_another(made, about, says):
    "One that another version wrote, or of another table: refused by name; removed, it is made again"
    root,maps = made
    whole = shards(maps.path)
    f = maps.path/'maps-000-00001.parquet'
    edit(f, **about)
    for ask in (len, list, lambda m: m.to_pandas(), lambda m: m.mean_map()):
        with pytest.raises(ValueError, match=f'maps-000-00001.parquet.*{says}'): ask(open_maps(maps.path))
    f.unlink()
    save_maps(net(), root, maps.path, **opts)
    assert shards(maps.path)==whole

def test_a_row_of_another(made):
    "A single map too is not taken from a shard of another table"
    root,maps = made
    f = maps.path/'maps-000-00001.parquet'
    k = pq.read_table(f)['key'][0].as_py()
    edit(f, table='0'*16)
    with pytest.raises(ValueError, match='another table'): open_maps(maps.path)[k]

def test_a_list_of_another_version(made):
    root,maps = made
    edit(maps.path/'list-000.parquet', format=7)
    for f in (lambda: save_maps(net(), root, maps.path, **opts), lambda: len(open_maps(maps.path).pieces.names())):
        with pytest.raises(ValueError, match='list-000.parquet.*another version'): f()

@pytest.mark.parametrize('text,says', [('{"made_by": "x"}', 'was not written by fastattn'), ('{', 'maps.json'),
                                       ('[]', 'was not written by fastattn')])
def test_damaged_notes(made, text, says):
    root,maps = made
    (maps.path/'maps.json').write_text(text)
    for f in (lambda: open_maps(maps.path), lambda: save_maps(net(), root, maps.path, **opts)):
        with pytest.raises(ValueError, match=says): f()

def test_notes_of_another_version(made):
    root,maps = made
    fn = maps.path/'maps.json'
    fn.write_text(fn.read_text().replace('"format": 1', '"format": 7'))
    with pytest.raises(ValueError, match='another version of fastattn .format 7'): open_maps(maps.path)

@pytest.mark.parametrize('size', [0,3,500,-5])
def test_truncated_shard(made, size):
    "Named; removed, it is made again"
    root,maps = made
    whole = shards(maps.path)
    f = maps.path/'maps-000-00001.parquet'
    b = f.read_bytes()
    f.write_bytes(b[:size])
    with pytest.raises(ValueError, match='maps-000-00001.parquet.*damaged.*remove it'): len(open_maps(maps.path))
    f.unlink()
    save_maps(net(), root, maps.path, **opts)
    assert shards(maps.path)==whole

def tar_of(fn, files, mode='w'):
    with tarfile.open(fn, mode) as t:
        for f in files: t.add(f, f.name)
    return fn

def test_broken_tar(made, tmp_path):
    "Rows for what comes before the cut, and one with the reason"
    fs = sorted(made[0].rglob('*.png'))
    b = tar_of(tmp_path/'whole.tar', fs).read_bytes()
    whole = save_maps(net(), tmp_path/'whole.tar', tmp_path/'t', **opts)
    with tarfile.open(tmp_path/'whole.tar') as t: ends = [(m.offset,m.offset_data,m.offset_data+m.size) for m in t]
    start,data,end = ends[7]
    for i,cut in enumerate((start, start+100, data, data+50, end-1)):
        (tmp_path/'cut.tar').write_bytes(b[:cut])
        maps = save_maps(net(), tmp_path/'cut.tar', tmp_path/f'cut{i}', **opts)
        bad = errors(maps)
        assert list(bad)==['cut.tar'] and 'is broken' in bad['cut.tar'] and 'lost' in bad['cut.tar']
        assert sorted(maps.filter(error=False))==[f'cut.tar/{f.name}' for f in fs[:7]]
        for f in fs[:7]: assert (maps[f'cut.tar/{f.name}']-whole[f'whole.tar/{f.name}']).abs().max()<1e-3

@pytest.mark.parametrize('mode,name', [('w:gz','a.tar.gz'), ('w:gz','a.tar'), ('w:xz','b.tar')])
def test_compressed_tar(made, tmp_path, mode, name):
    fs = sorted(made[0].rglob('*.png'))
    with pytest.raises(ValueError, match='no tar file without compression.*unpack it'):
        save_maps(net(), tar_of(tmp_path/name, fs, mode), tmp_path/'new', **opts)
    assert not (tmp_path/'new').exists()

def test_models_without_a_hash(made, tmp_path):
    lazy = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))
    with torch.device('meta'): meta = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for m in (lazy, meta):
        with pytest.raises(ValueError, match='cannot be hashed'): save_maps(m, made[0], tmp_path/'new', **opts)
    assert not (tmp_path/'new').exists()

def test_tables_without_files(made, tmp_path):
    (tmp_path/'t.csv').write_text('label,file\na,a/000.png\nb,\n')
    (tmp_path/'e.csv').write_text('')
    for fn,column,says in (('t.csv','path',"no column 'path'; its columns are 'label', 'file'"),
                           ('t.csv',5,'no column 5'), ('t.csv',1,"names no file in row 2, in the column 'file'"),
                           ('e.csv',0,'cannot be read as a table')):
        with pytest.raises(ValueError, match=says): save_maps(net(), tmp_path/fn, tmp_path/'new', column=column, **opts)
    with pytest.raises(FileNotFoundError, match='none.csv'):
        save_maps(net(), tmp_path/'none.csv', tmp_path/'new', **opts)
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='no pictures in'): save_maps(net(), tmp_path/'empty', tmp_path/'new', **opts)
    with pytest.raises(ValueError, match='is empty'): save_maps(net(), [], tmp_path/'new', **opts)
    assert not (tmp_path/'new').exists()

def other_prep(im): return prep(im)*.8
def large_prep(im): return nn.functional.interpolate(prep(im)[None], (64,64))[0]

@pytest.mark.parametrize('other,says', [
    (dict(learn=1), 'another model'), (dict(method='layercam'), 'another method'), (dict(target=2), 'another target'),
    (dict(layer='0.0'), 'another layer|other options'), (dict(prep=other_prep), 'pictures prepared in another way'),
    (dict(prep=large_prep), 'another grid|another size'), (dict(embeddings=True), 'other embeddings'),
    (dict(keep='picture'), 'another `keep`'), (dict(precision='bf16'), 'another precision'),
    (dict(smooth=2), 'other options')])
def test_other_settings(made, other, says):
    "Refused; the table is left as it is, and still goes on with its own"
    root,maps = made
    before = state(maps.path)
    plain(root/'new', [(40,40)]*3)
    model = net(seed=other.pop('learn', 0))
    with pytest.raises(FileExistsError, match=f'holds maps made with ({says}).*another folder'):
        save_maps(model, root, maps.path, **opts|other)
    assert state(maps.path)==before
    assert len(save_maps(net(), root, maps.path, **opts|dict(bs=7, rows=2)))==23

def _class(out, idx, c): return out[:,c]

def test_other_target_objects(made, tmp_path):
    "A table has one target: a second one of the same kind is another"
    root,_ = made
    model,(a,b) = net(),[prep(Image.open(f))[None] for f in sorted(root.rglob('*.png'))[:2]]
    for i,(one,other) in enumerate(((lambda: contrast(0, 1), lambda: contrast(0, 2)),
                                    (lambda: similar_to(model, a), lambda: similar_to(model, b)),
                                    (lambda: partial(_class, c=0), lambda: partial(_class, c=1)))):
        table = partial(save_maps, model, root, tmp_path/f'{i}', **opts)
        table(target=one())
        assert len(table(target=one()))==20, i # the same again
        with pytest.raises(FileExistsError, match='another target'): table(target=other())

def test_other_transforms_of_a_learner(made, tmp_path):
    root,_ = made
    def _learn(tfm):
        dls = ImageDataLoaders.from_folder(root, valid_pct=.2, item_tfms=tfm, num_workers=0, bs=4)
        return Learner(dls, net(2), loss_func=CrossEntropyLossFlat())
    save_maps(_learn(Resize(32)), root, tmp_path/'learn', 'gradcam')
    with pytest.raises(FileExistsError, match='prepared in another way'):
        save_maps(_learn(Resize(32, 'squish')), root, tmp_path/'learn', 'gradcam')
    assert len(save_maps(_learn(Resize(32)), root, tmp_path/'learn', 'gradcam'))==20

def test_folder_of_something_else(made, tmp_path):
    (tmp_path/'other').mkdir()
    (tmp_path/'other'/'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='holds something else'):
        save_maps(net(), made[0], tmp_path/'other', **opts)
    with pytest.raises(FileExistsError, match='is a file'):
        save_maps(net(), made[0], tmp_path/'other'/'notes.txt', **opts)
    with pytest.raises(FileNotFoundError, match='no table of maps'): open_maps(tmp_path/'other')
    assert os.listdir(tmp_path/'other')==['notes.txt']

def test_unreadable_pictures(made, tmp_path):
    "A row with the reason; the others of the batch have the maps that they have without it"
    root,maps = made
    good = columns(maps)
    fs = sorted(root.rglob('*.png'))
    (root/'a'/'000-half.png').write_bytes(fs[0].read_bytes()[:200])
    (root/'a'/'000-empty.jpg').touch()
    (root/'a'/'000-text.png').write_text('no picture')
    os.mkfifo(root/'a'/'000-pipe.png')
    (root/'b'/'gone.png').symlink_to('nowhere.png')
    new = save_maps(net(), root, tmp_path/'new', **opts)
    bad = errors(new)
    assert {'a/000-half.png','a/000-empty.jpg','a/000-text.png'}<=set(bad)<={
        'a/000-half.png','a/000-empty.jpg','a/000-text.png','a/000-pipe.png','b/gone.png'} and all(bad.values())
    assert sorted(new.filter(error=False))==sorted(good)
    for k,v in columns(new.filter(error=False)).items():
        assert np.allclose(v['map'], good[k]['map'], atol=1e-3) and v['prediction']==good[k]['prediction']
    with pytest.raises(ValueError, match='has no map, since it could not be read'): new['a/000-half.png']
    assert new.missing==0 and new.row('a/000-half.png')['prediction'] is None

def columns(maps): return {r['key']:r for b in maps.batches() for r in b.to_pylist()}

def test_all_unreadable(tmp_path):
    (tmp_path/'pics').mkdir()
    for i in range(20): (tmp_path/'pics'/f'{i}.png').write_text('no picture')
    with pytest.raises(ValueError, match='None of the pictures can be read: .*0.png'):
        save_maps(net(), tmp_path/'pics', tmp_path/'new', **opts)
    assert not (tmp_path/'new').exists()

def test_many_unreadable_first(tmp_path):
    "The first picture that can be read comes late"
    root = plain(tmp_path/'pics', [(40,40)])
    (root/'00.png').rename(root/'z.png')
    for i in range(40): (root/f'{i:02d}.png').write_text('no picture')
    maps = save_maps(net(), root, tmp_path/'new', **opts)
    assert list(maps.filter(error=False))==['z.png'] and len(maps.errors)==40

def test_unknown_key(made):
    root,maps = made
    with pytest.raises(KeyError, match="no picture 'c/1.png'.*keys are such as '[ab]/0"): maps['c/1.png']
    with pytest.raises(TypeError, match='a string'): maps[3]
    k = next(iter(maps))
    maps.pieces.file(maps.pieces.homes(k)[0]).unlink()
    with pytest.raises(KeyError, match='has no map yet'): open_maps(maps.path)[k]

class Greedy(nn.Module):
    "A model that fits at most two pictures"
    def __init__(self):
        super().__init__()
        self.net,self.sizes = net(),[]
    def forward(self, x):
        self.sizes.append(len(x))
        if len(x)>2: raise torch.OutOfMemoryError('CUDA out of memory')
        return self.net(x)

@pytest.mark.filterwarnings('ignore:Out of memory')
def test_out_of_memory(made, tmp_path):
    "Batches are halved, and stay small; the maps are the same"
    root,maps = made
    model = Greedy().eval()
    got = columns(save_maps(model, root, tmp_path/'new', **opts|dict(bs=8, rows=20)))
    assert got.keys()==columns(maps).keys()
    for k,v in columns(maps).items(): assert np.allclose(got[k]['map'], v['map'], atol=1e-3) and not got[k]['error']
    assert max(model.sizes)>2 and max(model.sizes[len(model.sizes)//2:])<=2

@pytest.mark.filterwarnings('ignore:Out of memory')
def test_out_of_memory_for_one(made, tmp_path):
    "A single picture that does not fit is no error of the picture"
    class Greedier(Greedy):
        def forward(self, x): raise torch.OutOfMemoryError('CUDA out of memory')
    with pytest.raises(RuntimeError, match='too little memory'): save_maps(Greedier(), made[0], tmp_path/'new', **opts)

def test_a_reading_process_is_killed(made, tmp_path):
    "The call says so, and the next one goes on"
    root,maps = made
    def _slow(im):
        time.sleep(.03)
        return prep(im)
    def _kill():
        while not (there := multiprocessing.active_children()): time.sleep(.01)
        time.sleep(.1)
        os.kill(there[0].pid, signal.SIGKILL)
    killer = threading.Thread(target=_kill, daemon=True)
    killer.start()
    with pytest.raises(RuntimeError, match='exited unexpectedly'):
        save_maps(net(), root, tmp_path/'new', **opts|dict(prep=_slow, num_workers=2))
    killer.join()
    assert not parts(tmp_path/'new')
    assert same(save_maps(net(), root, tmp_path/'new', **opts).path, maps.path)

def test_bare_model_without_prep(made, tmp_path):
    with pytest.raises(ValueError, match='pass `prep=`'): save_maps(net(), made[0], tmp_path/'new')
    with pytest.raises(TypeError): save_maps('model', made[0], tmp_path/'new', prep=prep)
    assert not (tmp_path/'new').exists()

def test_without_pyarrow(made, tmp_path, monkeypatch):
    root,maps = made
    for k in [k for k in sys.modules if k.split('.')[0]=='pyarrow']: monkeypatch.setitem(sys.modules, k, None)
    for f in (lambda: save_maps(net(), root, tmp_path/'new', **opts), lambda: open_maps(maps.path)):
        with pytest.raises(ImportError, match='pyarrow is not installed: pip install'): f()

@pytest.mark.parametrize('where', ['first','last','all'])
def test_nan(made, tmp_path, where):
    "A picture whose values are not finite has a row with the error, wherever it is"
    root,maps = made
    Image.new('RGB', (50,40)).save(root/dict(first='a/000-.png', last='b/zzz.png', all='a/0.png')[where])
    def _prep(im): return prep(im)*(float('nan') if im.size==(50,40) or where=='all' else 1)
    if where=='all':
        with pytest.raises(ValueError, match='not finite'):
            save_maps(net(), root, tmp_path/'new', **opts|dict(prep=_prep))
        return
    new = save_maps(net(), root, tmp_path/'new', **opts|dict(prep=_prep))
    assert len(new.errors)==1 and 'finite' in new.errors.error[0] and len(new)==21
    assert sorted(new.filter(error=False))==sorted(maps)

def test_a_wrong_setting_is_said_at_once(made, tmp_path):
    "It is no error of the pictures, and is not tried on all of them"
    asked = []
    def _prep(im):
        asked.append(im)
        return prep(im)
    root = plain(tmp_path/'many', [(30,30)]*200)
    for bad,says in ((dict(layer='nothere'),'nothere'), (dict(target=77),'77'), (dict(method='gradcan'),'gradcam'),
                     (dict(nothing=1),'nothing'), (dict(top=0),'top'), (dict(bs=0),'bs'), (dict(rows=0),'rows'),
                     (dict(keep='all'),'keep'), (dict(precision='fp8'),'precision'),
                     (dict(target=[1,2]),'one for all')):
        asked.clear()
        with pytest.raises((ValueError,TypeError), match=says):
            save_maps(net(), root, tmp_path/'new', **opts|dict(prep=_prep)|bad)
        assert len(asked)<100 and not (tmp_path/'new').exists(), bad

@pytest.mark.skipif(sys.platform!='linux', reason='file names are bytes on Linux only')
def test_names_that_are_no_utf8(tmp_path, monkeypatch):
    "Found, read, and opened again, alone in their folder; also by the second process of a launch, which lists nothing"
    root = tmp_path/'pics'
    root.mkdir()
    for b in (b'\xff.png', b'a\xe9.png'): Image.new('RGB', (40,30), (200,0,0)).save(root/os.fsdecode(b))
    maps = save_maps(net(), root, tmp_path/'maps', **opts)
    assert sorted(maps)==['\\xff.png','a\\xe9.png'] and not len(maps.errors)
    for k in maps: assert maps[k].img.size==(40,30)
    assert len(save_maps(net(), root, tmp_path/'maps', **opts))==2
    listed = save_maps(net(), list(root.iterdir()), tmp_path/'list', **opts)
    assert sorted(listed)==sorted(maps) and listed['\\xff.png'].img.size==(40,30)
    for k,v in dict(WORLD_SIZE='2', MASTER_PORT='1').items(): monkeypatch.setenv(k, v)
    for rank in '01': # the first one lists the pictures, for which the second one would wait
        monkeypatch.setenv('RANK', rank)
        assert len(save_maps(net(), root, tmp_path/'maps', **opts))==2
