"`AttentionTrace` against every family's own unfused attention, and the explainers of attention on them."
import copy, warnings, pytest, timm, torch, torch.nn as nn, torchvision
import torch.nn.functional as F
from fastattn.all import *
from fastattn.core.hooks import Trace

class Own(nn.Module):
    "Stands in for an attention dropout, and keeps what arrives"
    def __init__(self): super().__init__(); self.seen = []
    def forward(self, a): self.seen.append(a.detach()); return a

def own_timm(m, x):
    "What reaches the attention dropouts when timm multiplies the matrices itself"
    m,owns = copy.deepcopy(m),{}
    for n,o in m.named_modules():
        if hasattr(o, 'attn_drop') and isinstance(o.attn_drop, nn.Dropout): o.attn_drop = owns[n] = Own()
        if hasattr(o, 'fused_attn'): o.fused_attn = False
    with torch.no_grad(): m(x)
    return {n:o.seen[0] for n,o in owns.items() if o.seen}

def timm_model(name, size=64, **kw): return lambda: timm.create_model(name, img_size=size, num_classes=5, **kw)

timms = dict(vit=timm_model('vit_tiny_patch16_224', depth=2),
             deit=timm_model('deit_tiny_distilled_patch16_224', depth=2),
             eva=timm_model('eva02_tiny_patch14_224', 56, depth=2),
             beit=timm_model('beit_base_patch16_224', embed_dim=48, depth=2, num_heads=3),
             cait=timm_model('cait_xxs24_224', depth=2, embed_dim=48, num_heads=3),
             dinov2=timm_model('vit_small_patch14_reg4_dinov2', 56, depth=2),
             siglip=timm_model('vit_base_patch16_siglip_224', embed_dim=48, depth=2, num_heads=3),
             convit=timm_model('convit_tiny', embed_dim=48, depth=2, num_heads=4, local_up_to_layer=1))

def lively(m):
    "Random weights large enough that attention is not uniform"
    torch.manual_seed(0)
    for n,p in m.named_parameters():
        if p.ndim==2 and any(o in n for o in ('qkv','q_proj','k_proj','query','key','.q.','.k.','in_proj')):
            nn.init.normal_(p, std=.1)
        if p.ndim==2 and 'head' in n: nn.init.normal_(p, std=.1) # some start at zero, where nothing speaks for anything
    return m.eval()

def same(a, b): torch.testing.assert_close(a, b, atol=1e-6, rtol=0)

@pytest.mark.parametrize('name', timms)
def test_timm(name):
    m = lively(timms[name]())
    x = torch.randn(2,3,56,56) if name in ('eva','dinov2') else torch.randn(2,3,64,64)
    with torch.no_grad(): plain = m(x)
    with torch.no_grad(), AttentionTrace(m) as t: assert torch.equal(m(x), plain)
    want = own_timm(m, x)
    assert set(want)==set(t)-{'attn_pool'} and len(t)>=2 # SigLIP's pooling attention has no dropout
    for n in want: same(t[n], want[n])
    assert max(a.std() for a in want.values())>.01

@pytest.mark.parametrize('size', [64,48])
def test_timm_swin(size):
    from timm.models.swin_transformer import window_partition
    m = lively(timm.create_model('swin_tiny_patch4_window7_224', img_size=size, window_size=4, depths=(2,2),
                                 embed_dim=24, num_heads=(2,4), num_classes=5))
    x = torch.randn(2,3,size,size)
    with torch.no_grad(): plain = m(x)
    with torch.no_grad(), AttentionTrace(m) as t: assert torch.equal(m(x), plain)
    want = own_timm(m, x)
    assert set(want)==set(t) and len(t)==4
    for n,a in want.items():
        blk = m.get_submodule(n.rsplit('.',1)[0])
        h,w = blk.input_resolution
        ids = torch.arange(h*w).view(1,h,w,1)
        pad = ((0,0,0,-w%blk.window_size[1],0,-h%blk.window_size[0]))
        # timm shifts, then pads
        ids = F.pad(torch.roll(ids, (-blk.shift_size[0],-blk.shift_size[1]), (1,2)), pad, value=-1)
        ids = window_partition(ids, blk.window_size).flatten(1)
        full,a = t[n],a.unflatten(0, (2,-1))
        seen = torch.zeros_like(full)
        for i,win in enumerate(ids):
            ok = win>=0
            got = full[:,:,win[ok]][...,win[ok]]
            same(got, a[:,i][:,:,ok][...,ok])
            seen[:,:,win[ok][:,None],win[ok]] = 1
        assert full[seen==0].abs().max()==0        # and nothing outside the windows

# -- transformers
def hf(name):
    tf = pytest.importorskip('transformers', reason='pip install transformers')
    kw = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=64, image_size=64,
              patch_size=16, num_labels=5)
    if name=='vit': return tf.ViTForImageClassification(tf.ViTConfig(**kw))
    if name=='deit': return tf.DeiTForImageClassificationWithTeacher(tf.DeiTConfig(**kw))
    if name=='dinov2': return tf.Dinov2ForImageClassification(tf.Dinov2Config(**kw))
    if name=='swin':
        return tf.SwinForImageClassification(tf.SwinConfig(image_size=64, embed_dim=24, depths=[2,2], num_heads=[2,4],
                                                           window_size=4, num_labels=5))

@pytest.mark.parametrize('name', ['vit','deit','dinov2','swin'])
def test_transformers(name):
    m = lively(hf(name))
    x = torch.randn(2,3,64,64)
    assert m.config._attn_implementation=='sdpa'
    with torch.no_grad(): plain = m(pixel_values=x).logits
    with torch.no_grad(), AttentionTrace(m) as t: assert torch.equal(m(pixel_values=x).logits, plain)
    m.set_attn_implementation('eager')
    with torch.no_grad(): want = m(pixel_values=x, output_attentions=True).attentions
    calls = t.calls if name!='swin' else t.calls[1::2] # of Swin it hands out the last block of each stage
    assert len(calls)==len(want)>=2
    for c,w in zip(calls, want):
        if c.windows is None: same(t[c.name], w)
        else:
            full,w = t[c.name],w.unflatten(0, (2,-1))
            for i,ids in enumerate(c.windows): same(full[:,:,ids][...,ids], w[:,i])
    with torch.no_grad(), AttentionTrace(m) as e: m(pixel_values=x)  # and its own eager attention is seen too
    for c in calls: same(e[c.name], t[c.name])

def test_torchvision():
    m = lively(torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=5))
    x = torch.randn(2,3,64,64)
    with torch.no_grad(): plain = m(x)
    with torch.no_grad(), AttentionTrace(m) as t: assert torch.equal(m(x), plain)
    ins = {}
    for i in range(2):
        m.get_submodule(f'encoder.layers.encoder_layer_{i}.ln_1').register_forward_hook(
            lambda mod, a, o, i=i: ins.update({i:o}))
    with torch.no_grad():
        m(x)
        for i in range(2):
            name = f'encoder.layers.encoder_layer_{i}.self_attention'
            same(t[name], m.get_submodule(name)(ins[i], ins[i], ins[i], average_attn_weights=False)[1])

def test_torchvision_swin():
    m = lively(torchvision.models.SwinTransformer([4,4], 24, [2,2], [2,4], [4,4], num_classes=5))
    x = torch.randn(2,3,64,64)
    with torch.no_grad(): plain = m(x)
    with torch.no_grad(), AttentionTrace(m) as t: assert torch.equal(m(x), plain)
    assert [tuple(c.shape) for c in t.calls]==[(2,2,256,256)]*2+[(2,4,64,64)]*2
    for a in t.values(): same(a.sum(-1), torch.ones(a.shape[:3]))
    # rows and columns beside the shift: token 0 shares its window with token 17 before the shift,
    # and not with token 200
    assert (t[t.calls[0].name][0,:,0,17]>0).all() and (t[t.calls[0].name][0,:,0,200]==0).all()

def test_windows_of_other_families():
    m = timm.create_model('swinv2_tiny_window8_256', img_size=64, window_size=4, depths=(2,2), embed_dim=24,
                          num_heads=(2,4), num_classes=5).eval()
    with torch.no_grad(), AttentionTrace(m) as t: m(torch.randn(2,3,64,64))
    assert [tuple(c.shape) for c in t.calls]==[(2,2,256,256)]*2+[(2,4,64,64)]*2
    plain,shifted = (c.windows[0].tolist() for c in t.calls[:2])
    assert (plain==[r*16+c for r in range(4) for c in range(4)] and
            shifted==[r*16+c for r in range(2,6) for c in range(2,6)])
    m = timm.create_model('maxvit_rmlp_pico_rw_256', img_size=64, num_classes=5).eval()
    with torch.no_grad(), AttentionTrace(m) as t: m(torch.randn(1,3,64,64))
    window,grid = (c.windows[0].tolist() for c in t.calls[:2])
    assert window==[0,1,16,17] and grid==[0,8,128,136]

def test_layout_follows_the_shape_of_the_image():
    "transformers' Swin gets its tokens flattened: the same number of them may lie otherwise"
    m = lively(hf('swin'))
    for size in ((64,32),(32,64)):
        x = torch.randn(1,3,*size)
        with torch.no_grad(), AttentionTrace(m) as t: m(pixel_values=x)
        w = size[1]//4
        assert t.calls[0].windows[0].tolist()==[r*w+c for r in range(4) for c in range(4)]

@pytest.mark.parametrize('size,prefix', [((64,64),4),((64,160),4)])
def test_registers_without_a_layer_of_patches(size, prefix):
    m = lively(timm.create_model('naflexvit_base_patch16_gap', num_classes=5, depth=3, embed_dim=48, num_heads=3))
    assert m.num_prefix_tokens==prefix
    assert explain(m, torch.randn(1,3,*size), 'attention').raw.shape==(1,size[0]//16,size[1]//16)

@pytest.mark.parametrize('batch_first', [True,False])
@pytest.mark.parametrize('norm_first', [True,False])
def test_transformer_encoder(batch_first, norm_first):
    m = lively(nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 3, 64, batch_first=batch_first,
                                                                norm_first=norm_first), 2, enable_nested_tensor=False))
    x = torch.randn(2,17,48)
    xi = x if batch_first else x.transpose(0,1)
    with torch.no_grad(): plain = m(xi)
    # the fast path that PyTorch takes under no_grad is closed meanwhile, so agreement is within rounding;
    # with it closed beforehand, to the bit
    with torch.no_grad(), AttentionTrace(m) as t: torch.testing.assert_close(m(xi), plain, atol=1e-5, rtol=0)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(): plain = m(xi)
        with torch.no_grad(), AttentionTrace(m) as t: assert torch.equal(m(xi), plain)
    finally: torch.backends.mha.set_fastpath_enabled(True)
    h = x
    for i,l in enumerate(m.layers):
        with torch.no_grad():
            q = l.norm1(h) if norm_first else h
            q = q if batch_first else q.transpose(0,1)
            same(t[f'layers.{i}.self_attn'], l.self_attn(q, q, q, average_attn_weights=False)[1])
            h = l(h if batch_first else h.transpose(0,1))
            h = h if batch_first else h.transpose(0,1)

def test_nothing_stays_behind():
    m = lively(timms['vit']())
    x = torch.randn(2,3,64,64)
    class Stop(Exception): pass
    def boom(*_): raise Stop
    h = m.blocks[1].mlp.register_forward_hook(boom)
    before = torch.is_grad_enabled(),torch.backends.mha.get_fastpath_enabled()
    for grad in (True,False):
        with pytest.raises(Stop):
            with AttentionTrace(m, grad=grad): m(x)
    h.remove()
    assert (torch.is_grad_enabled(),torch.backends.mha.get_fastpath_enabled())==before
    assert sum(len(o._forward_hooks)+len(o._forward_pre_hooks) for o in m.modules())==0
    with AttentionTrace(m) as t: m(x)       # training code: the record is cut from the graph
    assert not t['blocks.0.attn'].requires_grad
    with AttentionTrace(m, grad=True) as t: m(x)
    assert t['blocks.0.attn'].requires_grad # a loss on attention can be differentiated

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    m = lively(timms['vit']()).to(dtype)
    x = torch.randn(2,3,64,64, dtype=dtype)
    with torch.no_grad(), AttentionTrace(m) as t: m(x)
    a = t['blocks.1.attn']
    assert a.dtype==torch.float32
    same(a.sum(-1), torch.ones(a.shape[:3]))

def test_compiled():
    m = lively(timms['vit']())
    x = torch.randn(2,3,64,64)
    with torch.no_grad(), AttentionTrace(m) as t: m(x)
    c = torch.compile(m, backend='eager')
    with torch.no_grad(): c(x)
    with torch.no_grad(), AttentionTrace(c) as u: c(x)
    same(t['blocks.1.attn'], u['blocks.1.attn'])

@pytest.mark.parametrize('method', ['attention','rollout','grad_rollout','relevance','legrad','gradcam'])
@pytest.mark.parametrize('name', ['timm','deit','eva','beit','dinov2','hf_vit','hf_dinov2','torchvision'])
def test_every_method_on_every_family(name, method):
    m = lively(hf(name[3:]) if name.startswith('hf_')
               else torchvision.models.VisionTransformer(64, 16, 2, 3, 48, 96, num_classes=5) if name=='torchvision'
               else timms['vit' if name=='timm' else name]())
    size = 56 if name in ('eva','dinov2') else 64
    h = explain(m, torch.randn(2,3,size,size), method, target=1)
    assert h.shape==(2,size,size) and h.raw.shape==(2,4,4) and h.raw.amax()>0

@pytest.mark.parametrize('method', ['attention','gradcam'])
def test_swin_explained(method):
    m = lively(timm.create_model('swin_tiny_patch4_window7_224', img_size=64, window_size=4, depths=(2,2), embed_dim=24,
                                 num_heads=(2,4), num_classes=5))
    assert explain(m, torch.randn(2,3,64,64), method, target=1).raw.shape==(2,8,8)
    assert explain(lively(hf('swin')), torch.randn(2,3,64,64), method, target=1).raw.shape==(2,8,8)

def test_bare_model_with_a_processor(tmp_path):
    tf = pytest.importorskip('transformers', reason='pip install transformers')
    from PIL import Image
    import numpy as np
    m = lively(tf.ViTModel(tf.ViTConfig(hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
                                        intermediate_size=64, image_size=64, patch_size=16)))
    prep = tf.ViTImageProcessor(size=dict(height=64, width=64))
    pic = Image.fromarray(np.random.RandomState(0).randint(0,255,(120,200,3),dtype=np.uint8))
    for method in ('attention','rollout'):
        h = explain(m, pic, method, prep=prep)
        assert h.shape==(1,120,200) and h.raw.shape==(1,4,4)
    assert list(explain(m, pic, 'relevance', prep=prep).target)==['size of the embedding'] # it has no classes
    h = explain(m, pic, 'relevance', prep=prep, target=lambda o, idx: o.pooler_output[:,0])
    assert h.raw.amax()>0

def test_says_what_is_wrong():
    x = torch.randn(1,3,64,64)
    vit = lively(timms['vit']())
    with pytest.raises(ValueError, match="'rollout' does not suit this model.*Methods that do: .*gradcam"):
        explain(torchvision.models.resnet18(), x, 'rollout')
    with pytest.raises(ValueError, match='Layer 7 is out of range: this model has 2 attention layers, 0 to 1'):
        explain(vit, x, 'rollout', layer=7)
    with pytest.raises(ValueError, match=r"25 cells, but 'blocks\.\d\.attn' has 17 tokens"):
        explain(vit, x, 'rollout', grid=(5,5))
    with pytest.raises(RuntimeError, match='inference mode'):
        with torch.inference_mode(), AttentionTrace(vit, grad=True): vit(x)
    # `explain` leaves it by itself
    with torch.inference_mode(): assert explain(vit, x, 'relevance', target=1).raw.amax()>0
    vit.set_grad_checkpointing()
    assert explain(vit, x, 'rollout').raw.amax()>0
    with pytest.raises(ValueError, match='shows no attention'):
        with AttentionTrace(torchvision.models.resnet18()) as t: t.model(torch.randn(2,3,64,64))

def test_outlier_tokens(request, from_bench):
    "On a real DINOv2, full rollout points at a few outlier tokens; `start_layer` mends it"
    if not request.config.getoption('--slow'): pytest.skip('slow: downloads 90 MB of weights; run with --slow')
    pytest.importorskip('onnx'); pytest.importorskip('skimage')
    dinov2 = from_bench('dinov2')
    rows,_ = dinov2.evaluate(dinov2.dinov2(), *dinov2.cases((224,448)),
                             {n:dinov2.options[n]
                              for n in ('rollout','rollout, start_layer=9','attention, last 4 layers')})
    assert rows['rollout']['pointing']<.7<=.8<rows['rollout, start_layer=9']['pointing']
    assert rows['attention, last 4 layers']['pointing']>.8
