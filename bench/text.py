"""Text targets against the code of others: open_clip's models, LeGrad's package, Chefer et al.'s loop, captum, and
MaskCLIP's formula, on models with random weights: the largest differences, and what a map costs in forward passes.
open_clip (3.3) and legrad (1.1) are not among this library's dependencies: put them on PYTHONPATH. legrad was written
for an older open_clip, whose tokens came before the batch, and imports OpenCV and einops for little: see `package`."""
import argparse, copy, sys, types, warnings
import torch, torch.nn as nn, torch.nn.functional as F
from fastattn.all import explain
from fastattn.core.hooks import unwrap
from fastattn.core.text import TextTarget, text_target
from common import pairs, write

vision = dict(layers=4, width=64, head_width=16, patch_size=8, image_size=48)
text = dict(context_length=16, vocab_size=49408, width=32, heads=2, layers=2)

def spread(m):
    "Random weights that make attention uneven"
    for p in m.parameters():
        if p.ndim>1: nn.init.normal_(p, std=.15)
    return m.eval()

def towers():
    "open_clip's kinds of models"
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.coca_model import CoCa
    words = dict(text, embed_cls=True, output_tokens=True)
    pooled = dict(vision, attentional_pool=True, attn_pooler_heads=2, output_tokens=True)
    return {'CLIP':lambda: CLIP(32, vision, text),
            'CustomTextCLIP, bias':lambda: CustomTextCLIP(32, vision, text, init_logit_bias=-10.),
            'CLIP, ResNet':lambda: CLIP(32, dict(layers=[1,1,1,1], width=16, image_size=48), text),
            'CoCa':lambda: CoCa(32, text, words, pooled)}

def logits(x):
    "The largest difference between the target's score and the model's own logits"
    import open_clip
    tok,res = open_clip.SimpleTokenizer(),{}
    for n,make in towers().items():
        m = spread(make())
        h = explain(m, x, 'gradcam', target=text_target(m, ['a dog','a cat'], tok))
        with torch.no_grad():
            ids = tok(['a dog','a cat'], m.context_length)
            e,w = m.encode_image(x, normalize=True),m.encode_text(ids, normalize=True)
            s = m.logit_scale.exp()*e@w.T + (0 if m.logit_bias is None else m.logit_bias)
        res[n] = float((s.amax(1)-h.notes['score']).abs().max())
    return res

def package():
    "The package legrad, with stand-ins for two imports"
    def rearrange(t, pattern, b=None, w=None, h=None):
        return t.unflatten(0, (b,-1)) if b else t.unflatten(1, (w,h))[None]
    sys.modules.setdefault('cv2', types.ModuleType('cv2'))
    sys.modules.setdefault('einops', types.ModuleType('einops')).rearrange = rearrange
    import legrad
    return legrad

def legrad_difference(x):
    "LeGrad's package scores a layer by the mean of all its tokens, so the model is made to pool like that"
    from open_clip.model import CLIP
    m = spread(CLIP(32, vision, text))
    m.visual.final_ln_after_pool = True
    m.visual._global_pool = lambda t: (t.mean(1),t)
    t = TextTarget(['a text'], F.normalize(torch.randn(1,32), dim=1), source=m)
    theirs = copy.deepcopy(m)
    for b in theirs.visual.transformer.resblocks: b.attn.batch_first = False # its hooks take (tokens,bs,c)
    theirs = package().LeWrapper(theirs, layer_index=0)
    want = theirs.compute_legrad(t.features, image=x[:1])[0,0].detach()
    m.visual._global_pool = lambda t: (t.mean(1),t)
    got = F.interpolate(explain(m, x[:1], 'legrad', target=t).raw[None], scale_factor=8, mode='bilinear')[0,0]
    got = (got-got.min())/(got.max()-got.min())
    return float((got-want).abs().max())

def hf():
    "transformers' CLIP, with attention that keeps its weights"
    import transformers as tf
    size = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4)
    cfg = tf.CLIPConfig(text_config=size, vision_config=dict(size, image_size=48, patch_size=8), projection_dim=32)
    m = spread(tf.CLIPModel(cfg))
    m.set_attn_implementation('eager')
    return m,TextTarget(['a text'], F.normalize(torch.randn(1,32), dim=1), 10., source=m)

def relevance_difference(x):
    "The loop of Chefer et al.'s CLIP notebook"
    m,t = hf()
    out = m.vision_model(x, output_attentions=True)
    s = (10*F.normalize(m.visual_projection(out.pooler_output), dim=-1)@t.features[0]).sum()
    R = torch.eye(37).expand(len(x),-1,-1)
    for cam in out.attentions:
        grad, = torch.autograd.grad(s, cam, retain_graph=True)
        R = R + torch.bmm((grad*cam).clamp(min=0).mean(1).detach(), R)
    return float((explain(m, x, 'relevance', target=t).raw.flatten(1)-R[:,0,1:]).abs().max())

def maskclip_difference(x):
    "In the last layer each token gets its own value (section 3.2)"
    m,t = hf()
    layer,v,z = m.vision_model.encoder.layers[-1],m.vision_model,[]
    hook = layer.register_forward_pre_hook(lambda m, args, kw: z.append([*args,*kw.values()][0]), with_kwargs=True)
    with torch.no_grad():
        unwrap(m)(x); hook.remove()
        y = z[0] + layer.self_attn.out_proj(layer.self_attn.v_proj(layer.layer_norm1(z[0])))
        y = y + layer.mlp(layer.layer_norm2(y))
        s = 10*F.normalize(m.visual_projection(v.post_layernorm(y[:,1:])), dim=-1)@t.features[0]
    return float((explain(m, x, 'maskclip', target=t, centre=False).raw.flatten(1)-s).abs().max())

def gradcam_difference(x):
    "captum's LayerGradCam on the patch embedding, and on a stage of open_clip's ResNet"
    from captum.attr import LayerGradCam
    m,t = hf()
    r = spread(towers()['CLIP, ResNet']())
    res = {}
    for n,m,layer in (('ViT, patch embedding',m,'vision_model.embeddings.patch_embedding'),
                      ('ResNet, layer3',r,'visual.layer3')):
        tower = unwrap(m)
        net = lambda x: 10*F.normalize(tower(x), dim=-1)@t.features.T
        want = LayerGradCam(net, tower.get_submodule(layer)).attribute(x, target=0).relu()[:,0].detach()
        got = explain(m, x, 'gradcam', target=TextTarget(['a'], t.features, 10., source=m), layer=layer).raw.relu()
        res[n] = float((got-want).abs().max())
    return res

def cost(n):
    "Time of one map as a ratio to one pass of the image tower: ViT-B/32, one image of 224 pixels"
    import transformers as tf
    m = tf.CLIPModel(tf.CLIPConfig()).eval()
    t,x,tower = TextTarget(['a'], F.normalize(torch.randn(1,512), dim=1), source=m),torch.randn(1,3,224,224),unwrap(m)
    def plain():
        with torch.no_grad(): tower(x)
    return {k:pairs(lambda: explain(m, x, k, target=t), plain, n) for k in ('relevance','legrad','gradcam','maskclip')}

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0); p.add_argument('--n', type=int, default=9)
    a = p.parse_args()
    warnings.filterwarnings('ignore', message='.*are empty|The model sees almost nothing')
    torch.manual_seed(a.seed)
    x = torch.randn(2,3,48,48)
    write('text', what='largest differences, random weights; cost as ratios to one pass of the image tower',
          seed=a.seed, logits=logits(x), legrad=legrad_difference(x), relevance=relevance_difference(x),
          maskclip=maskclip_difference(x), gradcam=gradcam_difference(x), cost=cost(a.n))
