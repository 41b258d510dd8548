"""DETRs of every kind: maps are the weights that the models themselves return, also of padded images and at both
strides, and looking leaves nothing behind."""
import copy, json, random, shutil, subprocess
import numpy as np, pytest, torch, torch.nn as nn, torch.nn.functional as F
from PIL import Image
from fastattn.all import *
from fastattn.detr.model import *
from fastattn.detr.viewer import *
from fastattn.core.hooks import rng_state
from fastattn.core.target import model_output
from fastattn.detr.model import sine_positions

def backbone(stride=32):
    "A ResNet of transformers at stride 32, or of timm with the last stride taken out"
    from transformers import ResNetConfig
    if stride==16:
        return dict(use_timm_backbone=True, use_pretrained_backbone=False, backbone='resnet10t', dilation=True)
    return dict(backbone_config=ResNetConfig(embedding_size=8, hidden_sizes=[8,8,16,16], depths=[1,1,1,1],
                                             layer_type='basic', out_features=['stage4']),
                use_timm_backbone=False, use_pretrained_backbone=False, backbone=None)

sizes = dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
             encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=9, num_labels=5)

def build(kind, stride, **kwargs):
    import transformers as T
    torch.manual_seed(0)
    kw = {**sizes, **kwargs}
    if kind=='DabDetr': kw['hidden_size'] = kw.pop('d_model')
    m = getattr(T, f'{kind}ForObjectDetection')(getattr(T, f'{kind}Config')(**kw, **backbone(stride))).eval()
    for n,p in m.named_parameters(): # random weights attend evenly; these do not
        if p.ndim==2 and ('q_' in n or 'k_' in n): nn.init.normal_(p, std=.3)
    return m

def padded(n=2):
    "A batch of images of different sizes, and the mask that says what is no padding"
    x,mask = torch.randn(n,3,160,224),torch.zeros(n,160,224, dtype=torch.long)
    mask[0,:160,:130] = 1; mask[1,:96,:224] = 1
    return dict(pixel_values=x*mask[:,None], pixel_mask=mask)

kinds = [('Detr',32),('Detr',16),('ConditionalDetr',32),('TableTransformer',32),('DabDetr',32)]

@pytest.mark.parametrize('kind,stride', kinds)
@pytest.mark.parametrize('kernel', ['eager','its own'])
def test_transformers(kind, stride, kernel):
    """Against what the model returns when it is run eagerly; of another kernel in double precision, since its rounding
    goes through the layers"""
    m,inputs = build(kind, stride),padded()
    was = m.config._attn_implementation
    double = kernel=='its own' and kind!='DabDetr' # which makes single precision itself
    if double: m,inputs['pixel_values'] = m.double(),inputs['pixel_values'].double()
    eager = copy.deepcopy(m)
    eager.set_attn_implementation('eager')
    asked = eager if kernel=='eager' else m
    for i in (0,1):
        d = DetrAttention(asked, inputs, threshold=0., image=i)
        h,w = d.grid
        assert d.stride==stride and d.input.inside==((0,0,130,160),(0,0,224,96))[i]
        # in single precision convolutions round otherwise for a batch of two
        one = {k:v[i:i+1] for k,v in inputs.items()}
        with torch.no_grad(): out = eager(**(inputs if double else one), output_attentions=True)
        j = i if double else 0
        assert len(out.encoder_attentions)==len(out.cross_attentions)==2
        def same(a, b): assert a.shape==b.shape and (a-b).abs().max()<1e-6
        for l in range(2):
            enc,dec = out.encoder_attentions[l][j],out.cross_attentions[l][j]
            same(d.weights('encoder', l, 'all'), enc.view(4,h,w,h,w))
            same(d.weights('encoder', l), enc.mean(0).view(h,w,h,w))
            same(d.weights('decoder', l, 'all'), dec.view(4,9,h,w))
            same(d.weights('decoder', l), dec.mean(0).view(9,h,w)); same(d.weights('decoder', l, 2), dec[2].view(9,h,w))
        same(d.decoder, dec.mean(0).view(9,h,w)); same(d.encoder, enc.mean(0).view(h,w,h,w))
        assert d.decoder.std()>1e-3 # not even, so that equality says something
        same(d.out['pred_boxes'], out.pred_boxes[j:j+1])
        empty = F.interpolate(inputs['pixel_mask'][i:i+1,None].float(), (h,w))[0,0]<.5
        assert empty.any() and d.decoder[:,empty].max()<1e-6 and d.encoder[...,empty].max()<1e-6
    assert m.config._attn_implementation==was

@pytest.mark.parametrize('kind', ['Detr','ConditionalDetr'])
def test_processor(kind):
    "Boxes, labels and scores are those that the processor gives; a query that it lists twice is kept once"
    import transformers as T
    m = build(kind, 32)
    (nn.init.normal_(m.class_labels_classifier.weight, std=1.) if hasattr(m, 'class_labels_classifier') else
     nn.init.normal_(m.class_embed.weight, std=1.))
    proc = getattr(T, f'{kind}ImageProcessor')(size=dict(shortest_edge=96, longest_edge=200))
    rng = np.random.RandomState(0)
    pics = [Image.fromarray(rng.randint(0,255,(h,w,3),dtype=np.uint8)) for w,h in ((310,150),(130,200))]
    inputs = proc(images=pics, return_tensors='pt')
    with torch.no_grad(): out = m(**inputs)
    want = proc.post_process_object_detection(out, threshold=.3, target_sizes=[p.size[::-1] for p in pics])
    for i,p in enumerate(pics):
        d,w = DetrAttention(m, inputs, threshold=.3, image=i),want[i]
        names = [m.config.id2label[int(l)] for l in w['labels']]
        if kind=='Detr': # in the order of the queries
            assert (0<len(d)==len(names) and list(d.labels)==names and
                    torch.allclose(d.scores, w['scores'], atol=1e-5) and
                    torch.allclose(d.boxes_on(p.size), w['boxes'], atol=1e-2))
        else: # sorted, and a query once for each class that it is sure of
            mine = sorted(zip(d.scores.tolist(), d.labels, d.boxes_on(p.size).tolist()), reverse=True)
            theirs = [(s,n,b) for s,n,b in zip(w['scores'].tolist(), names, w['boxes'].tolist())]
            assert len(mine)>0 and all(any(abs(s-s2)<1e-5 and l==l2 and np.allclose(b, b2, atol=1e-2)
                                           for s2,l2,b2 in theirs) for s,l,b in mine)
            assert len(mine)==(out.logits[i].sigmoid().amax(1)>.3).sum()
        alone = DetrAttention(m, p, .3, prep=proc) # not padded
        assert torch.allclose(alone.boxes_on(p.size), alone.found.boxes*torch.tensor([*p.size]*2), atol=1.)
        assert d.query_maps(img=p).shape==(len(d),p.height,p.width)

# the original, as its repository and its notebook write it

class Layer(nn.Module):
    def __init__(self, d, cross):
        super().__init__()
        self.self_attn,self.norm = nn.MultiheadAttention(d, 4),nn.LayerNorm(d)
        if cross: self.multihead_attn = nn.MultiheadAttention(d, 4)
    def forward(self, x, pos, mask, mem=None, mpos=None):
        k = x+pos
        if mem is None: return self.norm(x+self.self_attn(k, k, value=x, key_padding_mask=mask)[0])
        x = x+self.self_attn(k, k, value=x)[0]
        return self.norm(x+self.multihead_attn(x+pos, mem+mpos, value=mem, key_padding_mask=mask)[0])

class Stack(nn.Module):
    def __init__(self, d, cross): super().__init__(); self.layers = nn.ModuleList([Layer(d, cross) for _ in range(2)])
    def forward(self, x, *args):
        for l in self.layers: x = l(x, *args)
        return x

class Both(nn.Module):
    def __init__(self, d): super().__init__(); self.encoder,self.decoder = Stack(d, False),Stack(d, True)

class Nested:
    def __init__(self, tensors, mask): self.tensors,self.mask = tensors,mask

class Original(nn.Module):
    def __init__(self, d=32, stride=32):
        super().__init__()
        s = [(3,8,4),(8,16,4),(16,16,stride//16)]
        self.backbone = nn.Sequential(*[nn.Sequential(nn.Conv2d(a, b, 3, r, 1), nn.ReLU()) for a,b,r in s])
        self.input_proj,self.transformer,self.query_embed = nn.Conv2d(16, d, 1),Both(d),nn.Embedding(7, d)
        self.class_embed,self.bbox_embed = nn.Linear(d, 6),nn.Linear(d, 4)
        for m in self.modules():
            if isinstance(m, nn.MultiheadAttention): nn.init.normal_(m.in_proj_weight, std=.4)
    def forward(self, samples):
        f = self.input_proj(self.backbone(samples.tensors))
        mask = F.interpolate(samples.mask[:,None].float(), f.shape[2:])[:,0].bool().flatten(1)
        pos = sine_positions(*f.shape[2:], f.shape[1])[:,None]
        mem = self.transformer.encoder(f.flatten(2).permute(2,0,1), pos, mask)
        q = self.query_embed.weight[:,None].expand(-1,len(f),-1)
        x = self.transformer.decoder(torch.zeros_like(q), q, mask, mem, pos).transpose(0,1)
        return dict(pred_logits=self.class_embed(x), pred_boxes=self.bbox_embed(x).sigmoid())

@pytest.mark.parametrize('stride', [32,16])
def test_original(stride):
    "Against what hooks on the modules see, as the original notebook sets them; modules average over heads, so do we"
    torch.manual_seed(0)
    m,b = Original(stride=stride).eval(),padded()
    inputs = Nested(b['pixel_values'], b['pixel_mask']<1)
    seen = {}
    hs = [m.transformer.encoder.layers[-1].self_attn.register_forward_hook(lambda s, i, o: seen.update(enc=o[1])),
          m.transformer.decoder.layers[-1].multihead_attn.register_forward_hook(lambda s, i, o: seen.update(dec=o[1]))]
    with torch.no_grad(): m(inputs)
    for h in hs: h.remove()
    for i in (0,1):
        d = DetrAttention(m, inputs, image=i)
        h,w = d.grid
        assert d.stride==stride and torch.equal(d.features, m.backbone(inputs.tensors[i:i+1])[0])
        assert (torch.allclose(d.encoder, seen['enc'][i].view(h,w,h,w), atol=1e-6, rtol=0) and
                torch.allclose(d.decoder, seen['dec'][i].view(7,h,w), atol=1e-6, rtol=0))
        assert (torch.allclose(d.weights(head='all').mean(0), d.decoder, atol=1e-6) and
                d.weights(head='all').shape==(4,7,h,w) and d.decoder.std()>1e-3)
        assert len(d)==int((m(inputs)['pred_logits'].softmax(-1)[i,:,:-1].amax(-1)>.9).sum())

def test_notebook():
    "The demo of the paper's notebook: `nn.Transformer`, whose layers ask for no weights"
    class Demo(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone,self.conv = (nn.Sequential(nn.Conv2d(3,8,8,8), nn.ReLU(), nn.Conv2d(8,16,2,2)),
                                       nn.Conv2d(16,32,1))
            self.transformer = nn.Transformer(32, 4, 2, 2, 64)
            self.linear_class,self.linear_bbox,self.query_pos = (nn.Linear(32,6),nn.Linear(32,4),
                                                                 nn.Parameter(torch.rand(7,32)))
        def forward(self, x):
            h = self.conv(self.backbone(x))
            pos = sine_positions(*h.shape[-2:], 32)[:,None]
            h = self.transformer(pos+h.flatten(2).permute(2,0,1), self.query_pos[:,None]).transpose(0,1)
            return {'pred_logits':self.linear_class(h), 'pred_boxes':self.linear_bbox(h).sigmoid()}
    torch.manual_seed(0)
    m,x,seen = Demo().eval(),torch.randn(1,3,96,128),{}
    def ask(mod, args, kwargs): return args,dict(kwargs, need_weights=True, average_attn_weights=False)
    on = m.transformer.encoder.layers[-1].self_attn,m.transformer.decoder.layers[-1].multihead_attn
    hs = ([o.register_forward_pre_hook(ask, with_kwargs=True) for o in on]+
          [o.register_forward_hook(lambda s, i, o, k=k: seen.update({k:o[1]})) for k,o in zip(('enc','dec'), on)])
    m(x) # with a graph: without one the encoder takes its fast path, which calls no module
    for h in hs: h.remove()
    d = DetrAttention(m, x)
    assert d.grid==(6,8) and d.stride==16
    assert (torch.allclose(d.weights('encoder', head='all'), seen['enc'][0].view(4,6,8,6,8), atol=1e-6, rtol=0) and
            torch.allclose(d.weights(head='all'), seen['dec'][0].view(4,7,6,8), atol=1e-6, rtol=0))
    assert d.relevance([0,3]).raw.shape==(2,6,8) and d.relevance(2).raw.max()>0

@pytest.mark.parametrize('mode', ['plain','training','inference','bf16','compiled','parallel'])
def test_leaves_nothing(mode):
    m,inputs = build('Detr', 32),padded()
    m.requires_grad_(False); next(m.parameters()).grad = torch.ones_like(next(m.parameters()))
    ref = DetrAttention(m, inputs, image=0)
    if mode=='training': m.train(); m.model.encoder.eval()
    if mode=='bf16': m.bfloat16()
    asked = torch.compile(m, backend='eager') if mode=='compiled' else nn.DataParallel(m) if mode=='parallel' else m
    def state():
        return ([len(o._forward_hooks)+len(o._forward_pre_hooks) for o in m.modules()],
                [o.training for o in m.modules()], [p.requires_grad for p in m.parameters()],
                m.config._attn_implementation,
                torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled(), torch.get_rng_state().tolist(),
                random.getstate(), np.random.get_state()[1].tolist())
    before = state()
    with torch.inference_mode(mode=='inference'):
        if mode=='inference': inputs = {k:v.clone() for k,v in inputs.items()}
        d = DetrAttention(asked, inputs, image=0)
        d.encoder; r = d.relevance([0,1]); d.plot_queries(queries=[0]); d.plot_points()
    assert state()==before and next(m.parameters()).grad.eq(1).all()
    assert d.decoder.dtype==torch.float32 and torch.isfinite(r).all() and not r.requires_grad
    assert (d.decoder-ref.decoder).abs().max()<(.02 if mode=='bf16' else 1e-6)
    # another number of channels
    with pytest.raises(ValueError, match="channel"): DetrAttention(m, dict(pixel_values=torch.zeros(1,4,64,64)))
    assert state()==before

def test_many_and_none():
    "A hundred kept queries make one figure; none make one, too"
    m = build('Detr', 32)
    d = DetrAttention(m, padded(), threshold=0., image=0)
    assert len(d.plot_queries().axes)>=2*len(d)==18
    assert len(DetrAttention(m, padded(), threshold=1., image=0).plot_queries().axes)==1

@pytest.mark.skipif(shutil.which('node') is None, reason='the page is run by node where there is one')
def test_click_through():
    "The page finds the same places and boxes as Python does, also where the input is padded or crops the picture"
    m = build('Detr', 32)
    d = DetrAttention(m, padded(), threshold=0., image=1)
    page = d.explore()
    script = page.html.split('<script>')[1].split('</script>')[0]
    W,H = d.input.pic.size
    points = [(0,0),(W-1,H-1),(100,50),(223,3)]
    js = script + ('\nconsole.log(JSON.stringify({cells:%s.map(p=>cellAt(...p)),box:boxAt(...%s),'
                   'first:Array.from(row(bytes(D.from),3,%d))}))') % (
        json.dumps([((x+.5)/W,(y+.5)/H) for x,y in points]),
        json.dumps([float(v) for v in (d.found.boxes[2,:2]+d.found.boxes[2,2:])/2]), d.grid[0]*d.grid[1])
    out = json.loads(subprocess.run(['node','-e',js], capture_output=True, text=True, check=True).stdout)
    assert out['cells']==[y*d.grid[1]+x for y,x in d.cells(points)]
    b = torch.tensor(page.data['boxes']); c = (b[2,:2]+b[2,2:])/2
    inside = [i for i in range(len(b)) if (b[i,:2]<=c).all() and (c<=b[i,2:]).all()]
    assert out['box']==min(inside, key=lambda i: float((b[i,2:]-b[i,:2]).prod()))
    assert out['first']==as_bytes(d.encoder.flatten(2).flatten(0,1))[3].tolist()

def relevance_as_written(m, inputs, query, label):
    "Equations 5 to 10 with all matrices, in double precision"
    from fastattn.detr.cross_attention import DetrTrace
    with torch.no_grad(), DetrTrace(m, grad=True) as t: out = m(**inputs)
    t.grads(model_output(out)[0,query,label])
    A = [((c.rows()*c.rows(grads=True)).relu().mean(1)[0].double(), crosses) for c,crosses in t.decoder]
    n,q = A[-1][0].shape[1],A[-1][0].shape[0]
    I = lambda k: torch.eye(k, dtype=torch.float64)
    ii = I(n)
    for c in t.encoder: a = (c.rows()*c.rows(grads=True)).relu().mean(1)[0].double(); ii = ii + a@ii
    norm = lambda r: ((r-I(len(r)))/(r-I(len(r))).sum(1, keepdim=True)).nan_to_num(0) + I(len(r))
    qq,qi = I(q),torch.zeros(q,n).double()
    for a,crosses in A:
        if crosses: qi = qi + norm(qq).T@a@norm(ii)
        else: qq,qi = qq+a@qq, qi+a@qi
    return qi[query].view(t.grid)

@pytest.mark.parametrize('kind', ['Detr','ConditionalDetr','TableTransformer','DabDetr'])
@pytest.mark.parametrize('queries', [9,35]) # as many as places
def test_relevance(kind, queries):
    "Against the equations, also where there are as many queries as places; and `explain` says the same"
    m = build(kind, 32, num_queries=queries)
    x = torch.randn(1,3,160,224)
    double = kind!='DabDetr'
    if double: m,x = m.double(),x.double()
    d = DetrAttention(m, x, 0.)
    assert len(d.trace.encoder)==len(d.trace.own)==len(d.trace.cross)==2 and d.decoder.shape==(queries,5,7)
    want = relevance_as_written(m, dict(pixel_values=x), 4, 2)
    got = d.relevance(4, 2).raw[0].double()
    # an identity of single precision swallows small relevance
    assert (got/want.max()-want/want.max()).abs().max()<(1e-6 if double else 1e-2)
    h = explain(m, x, 'bimodal_relevance', query=4, target=2)
    assert torch.allclose(h.raw[0], d.relevance(4, 2).raw[0].float(), rtol=1e-4, atol=0)
    assert (explain(m, x).method=='cross_attention' and
            torch.allclose(explain(m, x, query=3).raw[0], d.decoder[3].float(), atol=1e-6))

def test_faint_relevance():
    "Of a large grid in single precision the map is the same as in double"
    m = build('Detr', 16)
    m.class_labels_classifier.weight.data *= 1e-3
    x = torch.randn(1,3,320,416)
    a = DetrAttention(m, x, 0.).relevance(0, 1).raw[0].double()
    b = DetrAttention(copy.deepcopy(m).double(), x.double(), 0.).relevance(0, 1).raw[0].double()
    assert a.max()>0 and (a/a.max()-b/b.max()).abs().max()<1e-3

def test_names():
    "Names of a bare model count, in a container too, and other names change no score"
    m,x = build('ConditionalDetr', 32),torch.randn(1,3,160,224)
    m.config.id2label = {i:f'thing {i}' for i in range(5)}
    d,w = DetrAttention(m, x, 0.),DetrAttention(nn.Sequential(m), x, 0.)
    assert torch.equal(d.scores, w.scores) and list(d.labels)==list(w.labels) and d.labels[0].startswith('thing')
    assert (explain(m, x, target='thing 3').target==['thing 3'] and
            DetrAttention(m, x, 0., vocab=list('abcde')).scores.equal(d.scores))
    q = int(d.out['logits'].sigmoid()[0,:,3].argmax())
    assert torch.equal(explain(m, x, target='thing 3').raw[0], explain(m, x, query=q).raw[0])

def test_strides():
    for px in ((160,224),(161,200),(300,33)):
        assert DetrAttention(build('Detr', 32), torch.randn(1,3,*px)).stride==32

def test_queries_are_no_places():
    assert all('decoder' not in c.name for c in candidates(demo_detr(5), torch.randn(1,3,64,64)))
    for kind in ('ConditionalDetr','DabDetr'):
        assert (candidates(build(kind, 32), torch.randn(1,3,160,224)).auto().name.startswith('model.backbone.') and
                'position' not in candidates(build(kind, 32), torch.randn(1,3,160,224)).auto().name)

class Yolo(nn.Module):
    "Boxes from tokens among the patches, and no decoder"
    def __init__(self):
        super().__init__()
        self.conv,self.attn,self.q,self.head = (nn.Conv2d(3,16,16,16),nn.MultiheadAttention(16, 2, batch_first=True),
                                                nn.Parameter(torch.randn(1,4,16)),nn.Linear(16,9))
    def forward(self, x):
        t = torch.cat([self.conv(x).flatten(2).transpose(1,2), self.q.expand(len(x),-1,-1)], 1)
        o = self.head(self.attn(t, t, t)[0][:,-4:])
        return dict(pred_logits=o[...,:5], pred_boxes=o[...,5:].sigmoid())

def test_refusals():
    "One sentence, with a mend that mends"
    with pytest.raises(ValueError, match='do not attend to all positions of the image in a decoder'):
        DetrAttention(Yolo(), torch.randn(1,3,64,64))
    d = DetrAttention(build('Detr', 32), torch.randn(1,3,160,224), 0.)
    for f,say in ((lambda: d.plot_points((3,4)), '`points='), (lambda: d.plot_queries(1), '`queries='),
                  (lambda: d.query_maps([9]), 'There is no query 9'),
                  (lambda: d.query_maps(float('nan')), 'There is no query'),
                  (lambda: d.query_maps(layer=1.5), '`layer` is a number'), (lambda: d.explore(width=0), '`width`'),
                  (lambda: d.plot_queries(ncols=-1), '`ncols`'), (lambda: d.relevance(0, 'nope'), "no class 'nope'")):
        with pytest.raises((ValueError,TypeError), match=say): f()
    assert (d.query_maps(np.int64(2), layer=np.int64(0), head=np.int64(1)).shape==
            d.query_maps([2], layer=0, head=1).shape)

def test_deformable_without_encoder():
    "LW-DETR has a decoder only, and samples: its points are the model's own"
    from transformers import LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig
    torch.manual_seed(0)
    vit = LwDetrViTConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, window_block_indices=[0,2],
                          image_size=256, num_windows=4, intermediate_size=64, out_features=['stage2','stage3'])
    m = LwDetrForObjectDetection(LwDetrConfig(
        backbone_config=vit, projector_scale_factors=[1.], projector_in_channels=[32,32], projector_out_channels=32,
        d_model=32, num_queries=10, decoder_layers=2, decoder_ffn_dim=32, decoder_self_attention_heads=4,
        decoder_cross_attention_heads=4, num_labels=4, group_detr=1)).eval()
    d = DetrAttention(m, torch.randn(1,3,256,256), 0.)
    assert (d.sampled[0].shape==(10,16,2) and torch.allclose(d.sampled[1].sum(1), torch.ones(10), atol=1e-5) and
            len(d.plot_queries(queries=[0,1]).axes)==4)
    with pytest.raises(ValueError, match='no dense map'): d.query_maps()
