"""Files made to do harm, each read by the function that reads such files, in a process of its own with little memory
and little time: is anything executed, does it hang, take memory, end in a traceback, or pass as what it is not?
(Linux)"""
import argparse, contextlib, io, json, os, pickle, random, resource, shutil, signal, socket, struct, sys, tempfile, time
import hashlib, traceback, warnings, zipfile, zlib
from collections import Counter
from pathlib import Path
import torch
from fastai.vision.all import Callback, Image, accuracy, set_seed
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from fastattn.callback.recorder import AttentionRecorder
from fastattn.cli.checkpoint import load_checkpoint, save_checkpoint
from fastattn.cli.resume import Phase, fit_resumable
from fastattn.cli.train import TrainConfig, run_train
from fastattn.cli.visualize import find_checkpoint, run_visualize, strip_notes
from fastattn.data.demo import demo_arch, demo_dls, demo_path
from fastattn.data.folders import folder_dls
from fastattn.features.retrieval import similar_images
from fastattn.image.files import claim_folder,sentence
from fastattn.models.learners import attention_learner

package = str(Path(sys.modules['fastattn.cli'].__path__[0]).parent)
secs,extra = 30,1_000_000_000 # what a file may cost: seconds, and bytes of memory

# -- what is whole: a model, a strip, a state, an index, a record, a folder of pictures --

def small_learner(seed=1, bs=8):
    "The same at every call"
    set_seed(seed)
    dls = demo_dls(80, bs=bs)
    return attention_learner(dls, demo_arch, pretrained=False, metrics=accuracy)

class Stopped(Exception): pass

class Stop(Callback):
    "Ends a training run after its first epoch, without tidying up"
    order = 100
    def after_epoch(self):
        if self.epoch==0: raise Stopped('after one epoch')

phases,about = [Phase(2, 1e-3)],dict(kind='crafted')

def fit(learn, fn, **kwargs):
    with learn.no_bar(), learn.no_logging(): return fit_resumable(learn, phases, fn, about, **kwargs)

def whole(root):
    "One of each kind, in `root`"
    root.mkdir(parents=True)
    dls = folder_dls(demo_path(160), size=64, bs=8, augment='none', num_workers=0)
    set_seed(1)
    save_checkpoint(attention_learner(dls, demo_arch, pretrained=False, activation='softmax', lin_ftrs=[16]),
        root/'model')
    (root/'in').mkdir(); shutil.copy(dls.valid_ds.items[3], root/'in'/'a.png')
    run_visualize(root/'in', root/'out', root/'model', device='cpu')
    learn = small_learner()
    learn.add_cb(Stop())
    try: fit(learn, root/'state')
    except Stopped: pass
    similar_images(small_learner(), 3, index=root/'index')
    learn = small_learner()
    rec = AttentionRecorder(watch=2)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=rec)
    rec.save(root/'record')
    for c in ('cat','dog'):
        (root/'data'/c).mkdir(parents=True)
        for i in range(4): Image.new('RGB', (24,24), (60*i,80,len(c)*20)).save(root/'data'/c/f'{i}.png')
    return root

# -- readers: what each kind is read by; each returns what must be the same as for the whole one --

def digest(ts): return hashlib.sha256(b''.join(t.detach().contiguous().numpy().tobytes() for t in ts)).hexdigest()[:16]

def read_strip(base, d):
    run_visualize(d/'in', d/'out', base/'model', device='cpu')
    notes = strip_notes(d/'out'/'a.png')
    with Image.open(d/'out'/'contact_sheet.png') as im: im.load(); size = im.size
    with Image.open(d/'out'/'a.png') as im: im.load()
    return [notes['overlay'], notes['label'], notes['file'], notes['model'], list(size)]

def read_model(base, d):
    learn = load_checkpoint(d, device='cpu')
    with learn.no_bar(): name,_,probs = learn.predict(base/'in'/'a.png')
    return [str(name), digest([probs]), learn.metadata['images']['classes']]

def read_state(base, d):
    learn = small_learner()
    fit(learn, d/'state', resume=True)
    return digest(learn.model.state_dict().values())

def read_index(base, d):
    near = similar_images(small_learner(), 3, index=d/'index')
    near.plot()
    return [near.idxs.tolist(), near.emb.labels, near.emb.predicted, near.emb.layer]

def read_record(base, d):
    rec = AttentionRecorder.load(d)
    rec.plot_snapshots(); rec.plot_stats()
    return [digest(rec.snapshots.values()), rec.labels, len(rec.stats), len(rec.pictures)]

def read_last(base, d):
    os.chdir(d)
    learn = load_checkpoint(find_checkpoint(), device='cpu')
    return learn.metadata['images']['classes']

def read_summary(base, d): return str(claim_folder(d, 'fastattn_demo'))

cfg = dict(arch='demo_arch', pretrained=False, img_size=24, epoch=1, batch_size=4, augment='none')

def read_data(base, d):
    os.chdir(d) # where the path of the model is left
    meta = run_train(d/'data', TrainConfig(**cfg), d/'model', device='cpu', num_workers=0)
    return [load_checkpoint(d/'model', device='cpu').metadata['images']['classes']==meta['images']['classes']]

def read_shown(base, d):
    res = run_visualize(d/'data', d/'out', base/'model', device='cpu')
    return [res['drawn'], sorted(res['bad'])]

def read_similar(base, d):
    near = similar_images(small_learner(), next((d/'data').iterdir()), k=1)
    return near.idxs.tolist()

readers = dict(strip=read_strip, model=read_model, state=read_state, index=read_index, record=read_record,
               last=read_last, summary=read_summary, data=read_data, shown=read_shown, similar=read_similar)

# -- how a file can be made to do harm --

class Bomb:
    "Unpickled, it leaves a mark"
    def __init__(self, mark): self.mark = str(mark)
    def __reduce__(self): return os.mkdir, (self.mark,)

huge = 300_000_000
deep = '['*10_000+']'*10_000

def bytes_for(rng, data, mark):
    "Bytes in place of a file's own, by name"
    n = len(data)
    cut,flip = rng.randrange(1, n),bytearray(data)
    for _ in range(40): flip[rng.randrange(n)] ^= 1<<rng.randrange(8)
    z = io.BytesIO()
    with zipfile.ZipFile(z, 'w', zipfile.ZIP_DEFLATED) as f: f.writestr('data.pkl', bytes(60_000_000))
    p = io.BytesIO(); torch.save(dict(x=Bomb(mark)), p)
    return dict(empty=b'', cut=data[:cut], flipped=bytes(flip), noise=rng.randbytes(2000),
        pickle=pickle.dumps(Bomb(mark)),
                torch_pickle=p.getvalue(), zip_bomb=z.getvalue(), zeros=bytes(4096), null=b'null', list=b'[]',
                number=b'3', text=b'"x"', deep=deep.encode(), nan=b'NaN', utf16='{}'.encode('utf-16'),
                    digits=b'9'*10_000)

def header_of(data): n = struct.unpack('<Q', data[:8])[0]; return json.loads(data[8:8+n]),data[8+n:]
def with_header(h, body, n=None):
    h = h if isinstance(h, bytes) else json.dumps(h).encode()
    return struct.pack('<Q', len(h) if n is None else n)+h+body

def tensors_for(data):
    "Safetensors that lie about their tensors, by name"
    h,body = header_of(data)
    k = next(o for o in h if o!='__metadata__')
    def other(**kw): return with_header({**h, k:{**h[k], **kw}}, body)
    a,b = h[k]['data_offsets']
    twice = json.dumps(h)[:-1]+', '+json.dumps({k:h[k]})[1:]
    return dict(header_of_2_63=with_header(h, body, 2**63), header_of_90_mb=with_header(h, body, 90_000_000),
                long_header=lambda: with_header(json.dumps(h).encode()+b' '*90_000_000, body),
                many_names=lambda: with_header(h|{f'n{i}':dict(dtype='F32', shape=[0],
                    data_offsets=[b,b]) for i in range(300_000)},
                                       body), shape_3e8=other(shape=[huge,huge]), shape_negative=other(shape=[-1]),
                shape_text=other(shape='x'), dtype_unknown=other(dtype='F7'), dtype_other=other(dtype='I32'),
                offsets_outside=other(data_offsets=[a,b+10**9]), offsets_back=other(data_offsets=[b,a]),
                twice=with_header(twice.encode(), body), no_tensors=with_header({}, b''),
                    header_deep=with_header(deep.encode(), body),
                no_metadata=with_header({o:v for o,v in h.items() if o!='__metadata__'}, body))

def put(d, name, data):
    (d/name).write_bytes(data) if isinstance(data, bytes) else (d/name).write_text(data, encoding='utf-8')

def special(d, name):
    "What is no regular file, by name: functions that make it as `d/name`"
    def _socket():
        s = socket.socket(socket.AF_UNIX); here = os.getcwd(); os.chdir(d)
        s.bind(name); os.chdir(here)
    return dict(fifo=lambda: os.mkfifo(d/name), zero=lambda: (d/name).symlink_to('/dev/zero'),
                tty=lambda: (d/name).symlink_to('/dev/tty'), loop=lambda: (d/name).symlink_to(name),
                dangling=lambda: (d/name).symlink_to('nowhere'), folder=lambda: (d/name).mkdir(), socket=_socket)

class Set:
    "The crafted files: each a folder, a reader, and what is expected: `refused`, or the `same` as the whole one"
    def __init__(self, root, base, seed, light=False): # light: without what takes long to make, which is a function
        self.root,self.base,self.rng,self.made,self.light = root,base,random.Random(seed),[],light
    def new(self, kind, name, expect='refused', copy=()):
        d = self.root/kind/f'{len(self.made):03}'
        d.mkdir(parents=True)
        for o in copy:
            f = self.base/o
            (shutil.copytree if f.is_dir() else shutil.copy2)(f, d/f.name)
        self.made.append((kind, name, d, expect))
        return d
    @property
    def mark(self): return self.root/'executed'

    def file(self, kind, part, names, make, copy=(), expect='refused'):
        "Variants of one file, `part`, in folders that hold `copy`"
        for n,data in make.items():
            if names is not None and n not in names or self.light and callable(data): continue
            d = self.new(kind, f'{Path(part).name} {n}', expect, copy)
            put(d, part, data() if callable(data) else data)

    def specials(self, kind, part, names=('fifo','zero','loop','socket','folder'), copy=(), expect='refused'):
        for n in names:
            d = self.new(kind, f'{Path(part).name} {n}', expect, copy)
            f = d/part
            shutil.rmtree(f) if f.is_dir() else f.unlink(missing_ok=True)
            special(f.parent, f.name)[n]()

def png_with(fn, chunks):
    "The PNG `fn` with its own text replaced by `chunks`, bytes after bytes"
    data,i,out = fn.read_bytes(),8,[fn.read_bytes()[:8]]
    while i<len(data):
        n, = struct.unpack('>I', data[i:i+4]); kind = data[i+4:i+8]
        if kind not in (b'iTXt',b'tEXt',b'zTXt'): out.append(data[i:i+12+n])
        if kind==b'IHDR': out += chunks
        i += 12+n
    return b''.join(out)

def chunk(kind, data): return struct.pack('>I', len(data))+kind+data+struct.pack('>I', zlib.crc32(kind+data))
def itxt(s, key=b'fastattn'): return chunk(b'iTXt', key+b'\0\0\0\0\0'+(s if isinstance(s, bytes) else s.encode()))
def ztxt(s, key=b'fastattn'): return chunk(b'zTXt', key+b'\0\0'+zlib.compress(s))

def strips(s):
    base = s.base/'out'/'a.png'
    notes = strip_notes(base)
    def other(**kw): return [itxt(json.dumps({**notes, **kw}))]
    boxes = dict(three=[0,0,5], five=[0,0,5,5,5], none=None, text='abcd', texts=['0','0','9','9'],
        negative=[-9,-9,50,50],
                 huge=[0,0,30000,30000], far=[10**6,10**6,10**6+50,10**6+50], reversed=[50,50,5,5], empty=[5,5,5,5],
                 floats=[0.5,1.5,1e300,3.], nested=[[0],[0],[9],[9]], dict={}, true=[True,True,True,True], whole=10**40)
    for n,b in boxes.items(): s.file('strip', 'out/a.png', None, {f'overlay {n}':png_with(base, other(overlay=b))},
                                     ('in','out'), 'refused or same')
    texts = dict(missing=[], list=[itxt('[]')], null=[itxt('null')], deep=[itxt(deep)], no_json=[itxt('{')],
                 of_50_mb=lambda: [itxt(json.dumps({**notes, 'x':'y'*50_000_000}))],
                     ztxt_bomb=lambda: [ztxt(bytes(400_000_000))],
                 bytes=[itxt(b'\xff\xfe')], number_label=other(label=5), list_file=other(file=['x']),
                 long_label=other(label='y'*3_000_000), text_mtime=other(mtime='x'), no_overlay=[itxt(json.dumps(
                     {k:v for k,v in notes.items() if k!='overlay'}))], twice=[*other(), *other(overlay=[0,0,3,3])],
                 other_file=other(file='b.png'), model_list=other(model=[1]), nan=[itxt(json.dumps({**notes,
                     'mtime':float('nan')}))])
    def _png(c): return (lambda: png_with(base, c())) if callable(c) else png_with(base, c)
    for n,c in texts.items(): s.file('strip', 'out/a.png', None, {f'notes {n}':_png(c)}, ('in','out'),
                                     'anything' if n=='twice' else 'refused or same')
    data = base.read_bytes()
    s.file('strip', 'out/a.png', ('empty','flipped','noise','pickle','zip_bomb'), bytes_for(s.rng, data, s.mark),
           ('in','out'), 'refused or same')
    s.file('strip', 'out/a.png', None, dict(cut_in_pixels=data[:-len(data)//3]), ('in','out'), 'refused or same')
    # a contact sheet that must be drawn again, or a foreign one
    for f in ('overlay','sheet'): s.file('strip', 'out/contact_sheet.png', None,
        {f'of {f}':png_with(base, [itxt(json.dumps({f:huge, 'of':[huge]}))])}, ('in','out'), 'refused or same')
    s.specials('strip', 'out/a.png', copy=('in','out'), expect='refused or same')
    s.specials('strip', 'out/contact_sheet.png', ('fifo','zero'), ('in','out'), 'refused or same')

def models(s):
    base = s.base/'model'
    meta,w = json.loads((base/'run.json').read_text()),(base/'model.safetensors').read_bytes()
    copy = ('model/run.json','model/model.safetensors')
    s.file('model', 'run.json', None, bytes_for(s.rng, (base/'run.json').read_bytes(), s.mark), copy)
    plain = {k:v for k,v in meta.items() if k!='weights_sha256'} # without the hash that gives the rest away
    def model(**kw): return json.dumps({**plain, 'model':{**meta['model'], **kw}})
    def images(**kw): return json.dumps({**plain, 'images':{**meta['images'], **kw}})
    many = [f'c{i}' for i in range(90_000)]
    entries = dict(n_out=model(n_out=huge), nf=model(nf=huge), lin_ftrs=model(lin_ftrs=[huge]), lin_ftrs_deep=model(
        lin_ftrs=[9000]*10), size=images(size=huge), size_9999=images(size=9999), unet_4096=model(unet=True, nf=4096,
            form='element'),
        unet_size=json.dumps({**plain, 'model':dict(arch='demo_arch', form='element', activation='softmax', unet=True,
                                                    nf=512, n_out=meta['model']['n_out']),
                              'images':{**meta['images'], 'size':2000}}),
        giant=model(arch='vit_giant_patch14_224'), hub=model(arch='hf-hub:timm/resnet18'),
            local=model(arch='local-dir:/x'),
        many_classes=json.dumps({**plain, 'model':{**meta['model'], 'n_out':len(many)},
                                 'images':{**meta['images'], 'classes':many}}),
        classes_twice=images(classes=['a']*8),
            classes_surrogate=images(classes=[*meta['images']['classes'][:-1],'\ud800']),
        std_zero=images(stats=[[0]*3,[0]*3]), std_tiny=images(stats=[[0]*3,[1e-300]*3]),
            mean_huge=images(stats=[[1e300]*3,[1]*3]),
        ps=model(ps=[.1]*12), extra=model(pretrained=True), arch_list=model(arch=['x']), format=json.dumps({**plain,
            'format':[]}),
        twice=json.dumps(meta)[:-1]+f', "model": {json.dumps({**meta["model"], "activation":"sigmoid"})}}}',
        nan_accuracy=json.dumps({**meta, 'accuracy':float('nan')}), sha_number=json.dumps({**meta, 'weights_sha256':5}),
        sha_null=json.dumps({**meta, 'weights_sha256':None}), of_100_mb=lambda: json.dumps({**meta,
            'note':'y'*100_000_000}))
    s.file('model', 'run.json', None, entries, copy)
    s.file('model', 'model.safetensors', ('empty','cut','flipped','noise','pickle','torch_pickle','zip_bomb','zeros'),
           bytes_for(s.rng, w, s.mark), copy)
    for n,data in tensors_for(w).items(): # with metadata that name no hash
        if callable(data):
            if s.light: continue
            data = data()
        d = s.new('model', f'weights {n}', 'refused or same' if n=='no_metadata' else 'refused', copy)
        put(d, 'run.json', json.dumps(plain)); put(d, 'model.safetensors', data)
    ts = load_file(base/'model.safetensors')
    k = next(k for k,v in ts.items() if v.ndim==4)
    for n,t in dict(nan=ts[k]*float('nan'), inf=ts[k]/0, flat=ts[k].flatten(), whole=(ts[k]*9).long(),
                    missing=None).items():
        d = s.new('model', f'weights {n}', copy=copy)
        put(d, 'run.json', json.dumps(plain))
        save_file({**ts, k:t} if t is not None else {a:b for a,b in ts.items() if a!=k}, d/'model.safetensors')
    s.specials('model', 'run.json', copy=copy); s.specials('model', 'model.safetensors', copy=copy)

def state_with(base, f, d):
    "The state, changed by `f(packed, tensors)`"
    with safe_open(base/'state',
        'pt') as o: packed,ts = json.loads(o.metadata()['state']),{k:o.get_tensor(k) for k in o.keys()}
    packed = f(dict(packed['dict']), ts)
    if isinstance(packed, dict): packed = {'dict':[[k,v] for k,v in packed.items()]}
    save_file(ts, d/'state', {'state':packed if isinstance(packed, str) else json.dumps(packed)})

def states(s):
    data = (s.base/'state').read_bytes()
    s.file('state', 'state', ('empty','cut','flipped','noise','pickle','torch_pickle','zip_bomb','zeros'),
           bytes_for(s.rng, data, s.mark), ('state',))
    s.file('state', 'state', None, {f'tensors {k}':v for k,v in tensors_for(data).items()}, ('state',))
    def put_in(k, v): return lambda p, ts: {**p, k:v}
    def _array(dtype): return {'array':{'tensor':'0'}, 'dtype':dtype}
    def rng(i, v):
        def f(p, ts): r = list(p['rng']); r[i] = v; return {**p, 'rng':r}
        return f
    def pos(p, ts):
        r = list(p['rng']); n = json.loads(json.dumps(r[1])); n['tuple'][2] = 10**9; r[1] = n
        return {**p, 'rng':r}
    def torch_rng(p, ts): ts[p['rng'][0]['tensor']].fill_(255); return p
    def weights(fill=None, name=None, shape=None):
        def f(p, ts):
            m = [list(o) for o in p['model']['dict']]
            i = next(i for i,(k,v) in enumerate(m) if ts[v['tensor']].ndim==4)
            if fill is not None: ts[m[i][1]['tensor']].fill_(fill)
            if shape: ts[m[i][1]['tensor']] = torch.zeros(shape)
            if name: m[i][0] = name
            return {**p, 'model':{'dict':m}}
        return f
    changes = dict(null=lambda p, ts: 'null', list=lambda p, ts: [], deep=lambda p, ts: deep, number=lambda p, ts: '3',
        nan_json=put_in('smooth', [1,float('nan')]), epoch_text=put_in('epoch', 'x'), epoch_huge=put_in('epoch', huge),
        epoch_negative=put_in('epoch', -5), epoch_part=put_in('epoch', .5), phase_huge=put_in('phase', huge),
            phase_text=put_in('phase', 'x'),
        phase_negative=put_in('phase', -1), rows_none=put_in('rows', None), rows_none_inside=put_in('rows', [None]),
        rows_huge=put_in('rows', [[0,1,1,1]]*2_000_000), rows_empty=put_in('rows', []), rows_text=put_in('rows',
            [['x']*5]),
        about_none=put_in('about', None), model_none=put_in('model', None), model_shape=weights(shape=(3,)),
        model_name=weights(name='x'), model_nan=weights(fill=float('nan')), opt_none=put_in('opt', None),
        opt_empty=put_in('opt', {'dict':[]}), hypers_none=put_in('opt', {'dict':[['hypers',None],['state',[]]]}),
        hypers_text=put_in('opt', {'dict':[['hypers',['x']],['state',['y']]]}), smooth=put_in('smooth', None),
        smooth_text=put_in('smooth', ['x','y']), scaler=put_in('scaler', 5), rng_none=put_in('rng', None),
            rng_empty=put_in('rng', []),
        rng_text=rng(0, 'x'), rng_numpy=rng(1, {'tuple':['MT19937',[1],0,0,0.]}), rng_python=rng(2,
            {'tuple':[3,[1],None]}),
        rng_position=pos, rng_torch=torch_rng, dtype_s3e8=put_in('x', _array('S300000000')), dtype_object=put_in('x',
            _array('O')),
        dtype_unknown=put_in('x', _array('x9')), tensor_missing=put_in('x', {'tensor':'none'}),
            unknown_kind=put_in('x', {'y':[[1,2]]}),
        key_list=put_in('x', {'dict':[[[1],2]]}), ints=put_in('x', {'ints':{'tensor':'1'}}), no_model=lambda p, ts: {
            k:v for k,v in p.items() if k!='model'})
    ignored = ('dtype_object','dtype_unknown','tensor_missing','unknown_kind','key_list','ints','dtype_s3e8')
    for n,f in changes.items():
        if s.light and n=='rows_huge': continue
        d = s.new('state', f'state {n}', 'refused or same' if n in ignored else 'refused')
        state_with(s.base, f, d)
    s.specials('state', 'state')

def index_with(base, d, x=None, said=None, **kw):
    with safe_open(base/'index', 'pt') as o: meta,old = o.metadata(),o.get_tensor('x')
    said = said if isinstance(said, str) else json.dumps({**json.loads(meta['said']), **(said or {})})
    save_file({'x':old if x is None else x(old)}, d/'index', {**meta, 'said':said, **kw})

def indexes(s):
    data = (s.base/'index').read_bytes()
    s.file('index', 'index', ('empty','cut','noise','pickle','torch_pickle','zip_bomb','zeros'),
           bytes_for(s.rng, data, s.mark), ('index',))
    s.file('index', 'index', None, {f'tensors {k}':v for k,v in tensors_for(data).items()}, ('index',))
    for n,x in dict(nan=lambda x: x*float('nan'), narrow=lambda x: x[:,:3].contiguous(),
        no_columns=lambda x: x[:,:0].contiguous(),
                    whole=lambda x: x.long(), cube=lambda x: x[...,None], short=lambda x: x[:3].clone(),
                        wide=lambda x: torch.zeros(len(x), 10**6)).items(): index_with(s.base, s.new('index',
                            f'x {n}'), x)
    for n,said in dict(deep=deep, null='null', list='[]', no_json='{', labels_short=dict(labels=['a']),
        labels_number=dict(labels=5),
                       labels_numbers=dict(labels=[1]*16), labels_text=dict(labels='x'*16), layer=dict(layer=5),
                       predicted_short=dict(predicted=[]), labels_nested=dict(labels=[['a']]*16)).items():
        index_with(s.base, s.new('index', f'said {n}'), said=said)
    s.specials('index', 'index', expect='refused or same')

def records(s):
    base = s.base/'record'
    rec = json.loads((base/'record.json').read_text())
    names = [f'record/{f.name}' for f in base.iterdir()]
    def other(**kw): return json.dumps({**rec, **kw})
    s.file('record', 'record.json', None, bytes_for(s.rng, (base/'record.json').read_bytes(), s.mark), names)
    s.file('record', 'record.json', None, dict(about_none=other(about=None), about_text=other(about={'x':{}}),
        stats_none=other(stats=None), stats_short=other(stats=[[1]]), every_huge=other(every='x'),
            labels=other(labels=5),
        names=other(names=None), epochs=other(epochs='x'), max_points=other(max_points=0), method=other(method=[]),
        missing=json.dumps({k:v for k,v in rec.items() if k!='labels'})), names)
    data = (base/'maps.safetensors').read_bytes()
    s.file('record', 'maps.safetensors', ('empty','cut','pickle','noise'), bytes_for(s.rng, data, s.mark), names)
    s.file('record', 'maps.safetensors', None, {f'maps {k}':v for k,v in tensors_for(data).items()}, names)
    s.file('record', '000.png', ('empty','cut','noise'), bytes_for(s.rng, (base/'000.png').read_bytes(), s.mark), names)
    s.new('record', 'picture missing', copy=[n for n in names if n!='record/000.png'])
    s.specials('record', 'record.json', ('fifo','zero','loop'), names); s.specials('record', '000.png',
        ('fifo','zero'), names)

def lasts(s):
    s.file('last', '.fastattn.json', ('empty','noise','pickle','null','list','deep','nan','digits'),
           bytes_for(s.rng, b'{"model": "x"}', s.mark))
    s.file('last', '.fastattn.json', None, dict(number='{"model": 5}', nested='{"model": ["x"]}',
        zero='{"model": "a\\u0000b"}',
        surrogate='{"model": "\\ud800"}', long=json.dumps(dict(model='y'*100_000)),
            of_100_mb=lambda: json.dumps(dict(model='x', y='y'*100_000_000)),
        blank='{"model": ""}', device='{"model": "/dev/zero"}'))
    s.specials('last', '.fastattn.json')

def summaries(s):
    s.file('summary', 'summary.json', None, bytes_for(s.rng, b'{"made_by": "fastattn_demo"}', s.mark))
    s.file('summary', 'summary.json', None, dict(made_by_list='{"made_by": []}',
        of_100_mb=lambda: json.dumps(dict(y='y'*100_000_000))))
    s.specials('summary', 'summary.json')

def folders(s):
    names = dict(newline='a\nb', escape='a\x1b[31mb', carriage='a\rb', dots='a..b', spaces='  ', csv='=1+1,"x";y',
        dollar='$x^{2', percent='%s%n',
                 long='n'*255, right_to_left='\u202egnp', quotes='\'"`', surrogate=os.fsdecode(b'caf\xe9'),
                     html='<script>alert(1)<', minus='-rf')
    for n,c in names.items():
        d = s.new('data', f'class {n}', 'same' if n!='surrogate' else 'refused', ('data',))
        (d/'data'/'cat').rename(d/'data'/c)
    for n in ('fifo','zero','loop','socket','tty'):
        d = s.new('data', f'picture {n}', copy=('data',)); special(d/'data'/'cat', 'x.png')[n]()
        d = s.new('shown', f'picture {n}', 'anything', copy=('data',)); special(d/'data'/'cat', 'x.png')[n]()
        d = s.new('similar', f'picture {n}'); (d/'data').mkdir(); special(d/'data', 'x.png')[n]()
    for n in ('longest','surrogate','newline'):
        name = dict(longest='n'*251+'.png', surrogate=os.fsdecode(b'\xe9\xff.png'), newline='a\nb.png')[n]
        d = s.new('shown', f'name {n}', 'anything', copy=('data',)); shutil.copy(d/'data'/'cat'/'1.png',
            d/'data'/'cat'/name)
    if s.light: return
    big = io.BytesIO(); Image.new('1', (30000,30000)).save(big, 'PNG')
    text = png_with(s.base/'in'/'a.png', [ztxt(bytes(400_000_000), b'c')])
    for n,data in (('bomb',big.getvalue()),('text_bomb',text),('cut',(s.base/'in'/'a.png').read_bytes()[:200])):
        d = s.new('shown', f'picture {n}', 'anything', copy=('data',)); put(d, 'data/cat/x.png', data)

kinds = (strips, models, states, indexes, records, lasts, summaries, folders)

# -- reading them --

def raised_here(e):
    "Was it raised on purpose, by a `raise` of this package?"
    last = traceback.extract_tb(e.__traceback__)[-1]
    return last.filename.startswith(package) and 'raise ' in (last.line or '')

def outcome(kind, base, d, whole):
    "What reading the folder `d` comes to, as a dict"
    try:
        got = readers[kind](base, d)
        return dict(result='same' if got==whole else 'other', says=str(got)[:200])
    except BaseException as e:
        says = sentence(e) if isinstance(e, Exception) else None
        # as a command ends: in one sentence, or in a traceback
        clear = says is not None and '\n' not in says and says.endswith('.') and len(says)<700
        clear &= raised_here(e) or isinstance(e, OSError)
        return dict(result='sentence' if clear else 'traceback', says=f'{type(e).__name__}: {e}'[:300])

def vm(k): return int(next(l for l in open('/proc/self/status') if l.startswith(k)).split()[1])*1024

def in_child(f, *args):
    "A dict that `f` returns in a forked process, with its seconds and the memory it added; None where it hung or died"
    r,w = os.pipe()
    start = time.time()
    if (pid := os.fork())==0:
        os.close(r)
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0,1,2): os.dup2(null, fd)
            open('/proc/self/clear_refs','w').write('5') # forget the peak so far
            before = vm('VmHWM')
            resource.setrlimit(resource.RLIMIT_AS, (vm('VmSize')+3*extra,)*2)
            warnings.simplefilter('ignore')
            res = f(*args)
            res['mb'] = round((vm('VmHWM')-before)/1e6)
            os.write(w, json.dumps(res).encode())
        finally: os._exit(0)
    os.close(w)
    data = b''
    signal.signal(signal.SIGALRM, lambda *a: os.kill(pid, signal.SIGKILL))
    signal.alarm(secs)
    with open(r, 'rb') as p: data = p.read()
    _,status = os.waitpid(pid, 0)
    signal.alarm(0)
    res = json.loads(data) if data else dict(result='hang' if time.time()-start>=secs-1 else 'died',
        says=f'status {status}')
    return dict(res, secs=round(time.time()-start,2))

def verdict(expect, res, marked):
    "One word for what happened"
    if marked: return 'executed'
    if res.get('mb',0)>extra/1e6: return 'memory'
    if res['result'] in ('hang','died','traceback'): return res['result']
    if res['result']=='sentence': return 'clear' if expect!='same' else 'refused what is fine'
    ok = expect=='anything' or res['result']=='same' and 'same' in expect
    return 'read' if ok else 'silently wrong'

def craft(root, seed=0, only=None, light=False):
    "All crafted files, in a new folder `root`, or only those of some `kinds`: a `Set`"
    s = Set(root/'crafted', whole(root/'base'), seed, light)
    for f in kinds:
        if only is None or f.__name__ in only: f(s)
    return s

def references(s):
    "What the whole ones are read as, by kind"
    res = {}
    for k,copy in dict(strip=('in','out'), model=('model/run.json','model/model.safetensors'), state=('state',),
        index=('index',),
                       record=[f'record/{f.name}' for f in (s.base/'record').iterdir()], data=('data',)).items():
        if not any(o[0]==k for o in s.made): continue
        d = s.root/'whole'/k
        d.mkdir(parents=True)
        for o in copy: (shutil.copytree if (s.base/o).is_dir() else shutil.copy2)(s.base/o, d/Path(o).name)
        res[k] = read_whole(k, s.base, d)
    return res

def read_whole(kind, base, d):
    def f(): return dict(result='read', got=readers[kind](base, d))
    res = in_child(f)
    assert res['result']=='read', (kind, res)
    return res['got']

def trial(s, made=None):
    "Read the crafted files: rows of kind, name, verdict and what was said"
    refs = references(s)
    for kind,name,d,expect in (s.made if made is None else made):
        res = in_child(outcome, kind, s.base, d, refs.get(kind))
        marked = s.mark.exists()
        if marked: s.mark.rmdir()
        yield dict(kind=kind, name=name, verdict=verdict(expect, res, marked), **res)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0); p.add_argument('--only', nargs='*'); p.add_argument('--keep')
    p.add_argument('--name', default='crafted_files')
    a = p.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as t, contextlib.redirect_stdout(sys.stderr):
        s = craft(Path(t), a.seed, a.only)
        rows = []
        for r in trial(s):
            rows.append(r)
            if r['verdict'] not in ('clear','read'): print(json.dumps(r), flush=True)
        says = lambda r: r['says'].replace(str(t), '')
        res = dict(files=len(rows), seed=a.seed, verdicts=dict(Counter(r['verdict'] for r in rows)),
                   by_kind={k:dict(Counter(r['verdict'] for r in rows if r['kind']==k)) for k in readers},
                   most_mb=max(r.get('mb',0) for r in rows), most_seconds=max(r['secs'] for r in rows),
                   failed=[dict(kind=r['kind'], name=r['name'], verdict=r['verdict'], says=says(r)) for r in rows
                           if r['verdict'] not in ('clear','read')])
    if a.keep: Path(a.keep).write_text(json.dumps(rows, indent=1))
    from common import write
    write(a.name, what='Crafted files, each read in a process of its own', **res)
