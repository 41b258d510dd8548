"""`bench/public.py` and `bench/folders.py`: tiny folders in the layouts of ImageNet-S, Pascal VOC and COCO are read
exactly, and the measures run on what they hold."""
import json
from types import SimpleNamespace
import numpy as np, pytest, torch
from PIL import Image

@pytest.fixture(scope='module')
def folders(from_bench): return from_bench('folders')
@pytest.fixture(scope='module')
def public(from_bench): return from_bench('public')

names = 'astronaut', 'chelsea', 'coffee', 'rocket'
size = 96,64 # width, height
boxes = [(8,4,40,36), (20,10,70,50), (0,0,33,64), (50,20,96,60)]

@pytest.fixture(scope='module')
def photos():
    import skimage.data
    return [Image.fromarray(getattr(skimage.data, n)()).convert('RGB').resize(size) for n in names]

def rectangle(box):
    x0,y0,x1,y1 = box
    res = np.zeros(size[::-1], bool)
    res[y0:y1,x0:x1] = True
    return res

wnids = [f'n{i:08d}' for i in range(1, 301)] # numbers above 255 need the second channel

@pytest.fixture
def imagenet_s(tmp_path, photos):
    for k,(im,box) in enumerate(zip(photos, boxes)):
        n = (3,300)[k%2]
        ids = np.where(rectangle(box), n, 0)
        ids[-2:] = 1000
        for part,name,o in (('validation','JPEG',im),
                            ('validation-segmentation','png',Image.fromarray(np.stack([ids%256,ids//256,0*ids], 2)
                                                                            .astype(np.uint8)))):
            f = tmp_path/part/wnids[n-1]/f'{names[k]}.{name}'
            f.parent.mkdir(parents=True, exist_ok=True)
            o.save(f)
    return tmp_path

_xml = ('<annotation><object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>'
        '<ymax>{y1}</ymax></bndbox></object></annotation>')
voc_classes = 'person', 'cat', 'bottle', 'aeroplane'

@pytest.fixture
def voc(tmp_path, photos, folders):
    for d in ('JPEGImages','Annotations','SegmentationClass','ImageSets/Segmentation','ImageSets/Main'):
        (tmp_path/d).mkdir(parents=True)
    for n,im,(x0,y0,x1,y1),c in zip(names, photos, boxes, voc_classes):
        im.save(tmp_path/f'JPEGImages/{n}.jpg')
        (tmp_path/f'Annotations/{n}.xml').write_text(_xml.format(name=c, x0=x0+1, y0=y0+1, x1=x1, y1=y1))
        a = np.where(rectangle((x0,y0,x1,y1)), folders.voc_names.index(c)+1, 0).astype(np.uint8)
        a[:,-1] = 255
        m = Image.fromarray(a, mode='P')
        m.putpalette([v for i in range(256) for v in (i,255-i,0)])
        m.save(tmp_path/f'SegmentationClass/{n}.png')
    for k in ('Segmentation','Main'): (tmp_path/f'ImageSets/{k}/val.txt').write_text('\n'.join(names)+'\n')
    return tmp_path

@pytest.fixture
def coco(tmp_path, photos):
    pytest.importorskip('pycocotools')
    (tmp_path/'val2017').mkdir()
    (tmp_path/'annotations').mkdir()
    images,anns = [],[]
    def _add(i, category, box, segmentation, iscrowd=0):
        x0,y0,x1,y1 = box
        anns.append(dict(id=len(anns)+1, image_id=i, category_id=category, bbox=[x0,y0,x1-x0,y1-y0], iscrowd=iscrowd,
                         segmentation=segmentation))
    def _runs(box):
        flat = rectangle(box).flatten('F').astype(int)
        ends = np.flatnonzero(np.diff(flat))+1
        counts = np.diff([0,*ends,len(flat)]).tolist()
        return dict(size=list(size[::-1]), counts=[0,*counts] if flat[0] else counts)
    for i,(n,im,box) in enumerate(zip(names, photos, boxes)):
        im.save(tmp_path/f'val2017/{n}.jpg')
        images.append(dict(id=i, file_name=f'{n}.jpg', width=size[0], height=size[1]))
        x0,y0,x1,y1 = box
        polygon = [[x0,y0, x1-1,y0, x1-1,y1-1, x0,y1-1]] # Pillow draws the pixels of the corners, too
        _add(i, (17,90)[i%2], box, polygon if i<2 else _runs(box))
    _add(0, 17, (60,40,90,60), _runs((60,40,90,60)), iscrowd=1)
    _add(1, 90, (0,0,10,5), [[0,0, 9,0, 9,4, 0,4]])
    cats = [dict(id=17, name='cat'),dict(id=90, name='toothbrush')]
    (tmp_path/'annotations/instances_val2017.json').write_text(
        json.dumps(dict(images=images, annotations=anns, categories=cats)))
    return tmp_path

def test_imagenet_s(imagenet_s, folders):
    layout,items = folders.pictures_in(imagenet_s, wnids[::-1]) # any order: they are sorted
    assert layout=='ImageNet-S' and [o.name for o in items]==[wnids[2]]*2+[wnids[299]]*2
    for o in items:
        on,void = o.read()
        box = boxes[names.index(o.path.stem)]
        unknown = np.zeros_like(on); unknown[-2:] = True
        assert (on==(rectangle(box)&~unknown)).all() and (void==unknown).all()

def test_voc(voc, folders):
    for k in ('Segmentation','Main'):
        layout,items = folders.pictures_in(voc)
        assert layout=='Pascal VOC' and [(o.path.stem,o.name) for o in items]==list(zip(names, voc_classes))
        for o,box in zip(items, boxes):
            on,void = o.read()
            assert o.boxes==[box]
            unknown = np.zeros_like(on)
            if k=='Segmentation': unknown[:,-1] = True
            assert (on==(rectangle(box)&~unknown)).all() and (void==unknown).all()
        (voc/'ImageSets/Segmentation/val.txt').unlink(missing_ok=True) # the second time by boxes

def test_coco(coco, folders):
    layout,items = folders.pictures_in(coco)
    assert layout=='COCO' and [(o.path.stem,o.name) for o in items]==list(zip(names, ['cat','toothbrush']*2))
    for i,(o,box) in enumerate(zip(items, boxes)):
        on,void = o.read()
        expected = rectangle(box)|rectangle((0,0,10,5)) if i==1 else rectangle(box)
        assert (on==expected).all() and o.boxes==([box,(0,0,10,5)] if i==1 else [box])
        assert (void==(rectangle((60,40,90,60)) if i==0 else np.zeros_like(on))).all()

def test_a_folder_of_another_layout(tmp_path, folders, photos):
    with pytest.raises(ValueError, match='is no folder of ImageNet-S .* of Pascal VOC .* of COCO'):
        folders.pictures_in(tmp_path)
    with pytest.raises(ValueError, match='There is no folder'): folders.pictures_in(tmp_path/'nowhere')
    (tmp_path/'JPEGImages').mkdir()
    with pytest.raises(ValueError, match='There is no list of validation pictures at'): folders.pictures_in(tmp_path)

def test_a_layout_that_lacks_a_part(imagenet_s, folders):
    with pytest.raises(ValueError, match='has 2 classes, not 50, 300 or 919, .* give --classes'):
        folders.pictures_in(imagenet_s)
    with pytest.raises(ValueError, match=f"The class '{wnids[299]}' .* is not among the 50 WordNet ids"):
        folders.pictures_in(imagenet_s, wnids[:50])
    next(imagenet_s.glob('validation-segmentation/*/coffee.png')).unlink()
    with pytest.raises(ValueError, match=r"There is no mask of 'coffee\.JPEG' at"):
        folders.pictures_in(imagenet_s, wnids)

def test_masks_that_are_none(voc, folders):
    Image.new('RGB', size).save(voc/'SegmentationClass/chelsea.png')
    with pytest.raises(ValueError, match=r"chelsea\.png' is a picture of colours"): folders.pictures_in(voc)

def test_coco_without_categories(coco, folders):
    (coco/'annotations/instances_val2017.json').write_text('{"images": [], "annotations": []}')
    with pytest.raises(ValueError, match="has no 'categories'"): folders.pictures_in(coco)

def test_fitted(folders):
    im = Image.fromarray(np.arange(64*96, dtype=np.int32).reshape(64,96)//48%2*255).convert('L')
    assert folders.fitted(im, (64,64)).tobytes()==im.crop((16,0,80,64)).tobytes()
    on = rectangle((20,10,70,50))
    assert (folders.fitted(on, (64,64), mask=True).numpy()==on[:,16:80]).all()
    assert (folders.fitted(on, (32,32), share=.5, mask=True).numpy()==on[16:48,32:64]).all()

@pytest.fixture(scope='module')
def tiny():
    from fastattn.all import demo_arch
    torch.manual_seed(0)
    return demo_arch(n_out=4).eval()

def test_unknown_places_count_for_nothing(public):
    maps,on,void = torch.zeros(1,56,56),torch.zeros(1,56,56).bool(),torch.zeros(1,56,56).bool()
    maps[0,:8,:8],maps[0,20:30,20:30] = 1.,.5
    on[0,20:30,20:30],void[0,:8,:8] = True,True
    r = public.located(maps, on, void)
    assert {k:round(v.item(), 4) for k,v in r.items()}==dict(pointing=1, iou_at_equal_area=1, average_precision=1,
                                                               energy_inside=1)
    without = public.located(maps, on)
    assert without['pointing']==0 and abs(without['energy_inside']-50/114)<1e-6

def test_measures_on_a_folder(voc, public, folders, tiny):
    _,items = folders.pictures_in(voc)
    prep = folders.normalised([.5]*3, [.5]*3)
    d = public.Asked(*folders.questions(tiny, items, list(voc_classes), (64,64), prep, n=4))
    assert d.x.shape==(4,3,64,64) and sorted(d.classes)==[0,1,2,3]
    for x,on,c in zip(d.x, d.on, d.classes):
        shown = folders.fitted(Image.open(voc/f'JPEGImages/{names[c]}.jpg').convert('RGB'), (64,64))
        assert torch.equal(x, prep(shown)) and (on.numpy()==rectangle(boxes[c])[:,16:80]).all()
    t = public.table(tiny, d, ['gradcam','layercam','rollout'], steps=2, percentiles=(50,), few=2, n_mosaics=1)
    assert set(t['rows'])=={'gradcam','layercam'} and set(t['left_out'])=={'rollout'} and t['images']==4
    for r in t['rows'].values():
        assert {'pointing','iou_at_equal_area','average_precision','energy_inside','insertion_blur','deletion_infill',
                'road','forward_passes'}<=set(r)
        assert all(0<=r[k][0]<=1 for k in ('pointing','iou_at_equal_area','insertion_blur','deletion_infill'))
    lines = public.markdown(t['rows']).splitlines()
    assert len(lines)==4 and len({l.count('|') for l in lines})==1
    with pytest.raises(ValueError, match='None of the classes of the folder .* give a network that knows them'):
        folders.questions(tiny, items, ['spoon'], (64,64), prep)

def test_a_users_network(tmp_path, folders):
    import timm
    with pytest.raises(ValueError, match="'test_vit' is no folder and no file; .* give --weights"):
        folders.users_model('test_vit')
    m = timm.create_model('test_vit', num_classes=2)
    torch.save(m.state_dict(), tmp_path/'w.pth')
    got,named,side,_,share = folders.users_model('test_vit', tmp_path/'w.pth', ['cat','dog'])
    assert named==['cat','dog'] and side==(160,160) and 0<share<=1 and not got.training
    assert all(torch.equal(a, b) for a,b in zip(m.state_dict().values(), got.state_dict().values()))

def test_a_table_of_a_folder(imagenet_s, tmp_path, public):
    "From the options of the command to the table, with a model of timm"
    import timm
    m = timm.create_model('test_vit', num_classes=300)
    torch.save(m.state_dict(), tmp_path/'w.pth')
    for f in ('names','all'): (tmp_path/f).write_text('\n'.join(wnids))
    a = SimpleNamespace(folder=str(imagenet_s), classes=tmp_path/'all', names=tmp_path/'names', model='test_vit',
                        weights=tmp_path/'w.pth', size=None, n=4, seed=0, methods=['Relevance'], slow=False, steps=1,
                        percentiles=(50,), few=1, mosaics=0)
    t = public.on_folder(a)
    assert t['layout']=='ImageNet-S' and t['images']==4 and t['mosaics']==0 and set(t['rows'])=={'relevance'}

def test_an_exported_learner(voc, tmp_path, folders):
    from fastai.vision.all import CrossEntropyLossFlat, Learner
    from fastattn.all import demo_arch, demo_dls
    Learner(demo_dls(n=16), demo_arch(), loss_func=CrossEntropyLossFlat()).export(tmp_path/'l.pkl')
    with pytest.raises(ValueError, match=r"l\.pkl' resizes no pictures; give --size"):
        folders.users_model(tmp_path/'l.pkl')
    learn,vocab,side,prep,share = folders.users_model(tmp_path/'l.pkl', side=64)
    assert side==(64,64) and 'cat' in vocab and prep is None and share==1
    x,on,void,classes = folders.questions(learn, folders.pictures_in(voc)[1], vocab, side, prep, share)
    assert classes==[vocab.index('cat')] and (on[0].numpy()==rectangle(boxes[1])[:,16:80]).all() # the one name of both
    im = folders.fitted(Image.open(voc/'JPEGImages/chelsea.jpg'), side)
    usual = [.485,.456,.406],[.229,.224,.225]
    assert (x[0]-folders.normalised(*usual)(im)).abs().max()<1e-5

def test_intervals(public):
    v = torch.tensor([.1]*50+[.3]*50+[float('nan')])
    r = public.interval(v)
    assert r['mean']==.2 and .17<r['low']<.2<r['high']<.23 and r==public.interval(v)
