"Text targets: the models' own logits, every family of two towers, nothing changed, and formulas written out."
import copy, inspect, warnings
import numpy as np, pytest, torch, torch.nn as nn, torch.nn.functional as F, transformers as tf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from fastai.vision.all import DataLoaders, Learner
from fastattn.all import Heatmap, candidates, contrast, explain, explainers
from fastattn.core.hooks import ImageTower, rng_state, unwrap
from fastattn.core.text import text_embeddings, text_target
from fastattn.core.towers import find_tower

pytestmark = pytest.mark.filterwarnings('ignore:.*maps of .* are empty', 'ignore:The model sees almost nothing')
dims = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2)
vision = dict(**dims, image_size=32, patch_size=8)
text = dict(**dims, vocab_size=12, max_position_embeddings=16, eos_token_id=3, bos_token_id=2, pad_token_id=0)

def word_tokenizer(pad='<pad>'):
    vocab = {w:i for i,w in enumerate(['<pad>','<unk>','<start>','<end>','a','photo','of','dog','cat'])}
    t = Tokenizer(models.WordLevel(vocab, unk_token='<unk>'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.post_processor = processors.TemplateProcessing('<start> $A <end>', special_tokens=[('<start>',2),('<end>',3)])
    return tf.PreTrainedTokenizerFast(tokenizer_object=t, pad_token=pad, unk_token='<unk>', bos_token='<start>',
                                      eos_token='<end>', model_max_length=12)

def dual():
    return tf.VisionTextDualEncoderModel(vision_model=tf.ViTModel(tf.ViTConfig(**vision)),
                                         text_model=tf.BertModel(tf.BertConfig(**text)))

def family(name):
    kw = dict(text_config=text, vision_config=vision)
    make = dict(clip=lambda: tf.CLIPModel(tf.CLIPConfig(**kw, projection_dim=8)),
                siglip=lambda: tf.SiglipModel(tf.SiglipConfig(**kw)),
                chinese=lambda: tf.ChineseCLIPModel(tf.ChineseCLIPConfig(**kw, projection_dim=8)),
                blip=lambda: tf.BlipModel(tf.BlipConfig(**kw, projection_dim=8)),
                alt=lambda: tf.AltCLIPModel(tf.AltCLIPConfig(text_config=dict(**{**text, 'pad_token_id':1},
                    project_dim=8), vision_config=vision, projection_dim=8)), dual=dual)[name]
    torch.manual_seed(0)
    m = make().eval()
    for p in m.parameters():
        if p.ndim>1: nn.init.normal_(p, std=.3)
    return m

class OpenClip(nn.Module):
    "The parts of open_clip's CLIP that are used"
    context_length,vocab_size,text_pool_type = 8,12,'argmax'
    def __init__(self):
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3,8,3,2,1), nn.ReLU(), nn.Conv2d(8,8,3,2,1), nn.AdaptiveAvgPool2d(1),
                                    nn.Flatten())
        self.token_embedding,self.logit_scale,self.logit_bias = nn.Embedding(12,8),nn.Parameter(torch.ones([])),None
    def encode_image(self, image, normalize=False):
        e = self.visual(image)
        return F.normalize(e, dim=-1) if normalize else e
    def encode_text(self, ids, normalize=False): return self.token_embedding(ids).mean(1)

class OpenTokenizer:
    "Cuts texts as open_clip's tokenizer does"
    context_length,eot_token_id = 8,11
    def __call__(self, texts, context_length=None):
        n = context_length or self.context_length
        res = torch.zeros(len(texts), n, dtype=torch.long)
        for row,t in zip(res, texts):
            ids = [1] + [2+len(w) for w in t.split()] + [self.eot_token_id]
            if len(ids)>n: ids = ids[:n-1]+[self.eot_token_id]
            row[:len(ids)] = torch.tensor(ids)
        return res

x = torch.randn(2,3,32,32, generator=torch.Generator().manual_seed(0))

@pytest.mark.parametrize('name', ['clip','siglip','chinese','blip','alt','dual'])
def test_the_score_is_the_models_own_logit(name):
    m,tok = family(name),word_tokenizer('<unk>' if name=='alt' else '<pad>')
    t = text_target(m, ['a dog','a photo of a cat'], tok)
    h = explain(m, x, 'gradcam', target=t)
    pad = dict(padding='max_length', max_length=12) if name=='siglip' else dict(padding=True)
    ids = tok(t.prompts, return_tensors='pt', **pad)
    ids = {k:v for k,v in ids.items() if k in inspect.signature(m.forward).parameters}
    with torch.no_grad(): want = m(**ids, pixel_values=x).logits_per_image
    torch.testing.assert_close(h.notes['score'], want.amax(1), atol=1e-4, rtol=1e-4)
    assert list(h.target)==[t.prompts[i] for i in want.argmax(1)]
    own = want.sigmoid() if name=='siglip' else want.softmax(1)
    torch.testing.assert_close(h.notes['probability'], own.amax(1), atol=1e-5, rtol=1e-4)
    assert (h.raw.flatten(1).amax(1)>0).any() and type(explain(m, x)) is Heatmap
    assert not any('text' in c.name for c in candidates(m, x))

def test_open_clip():
    torch.manual_seed(0)
    m,tok = OpenClip().eval(),OpenTokenizer()
    t = text_target(m, ['a dog','some cats'], tok)
    h = explain(m, x, 'gradcam', target=t['some cats'])
    with torch.no_grad():
        e = m.encode_image(x, normalize=True)@F.normalize(m.encode_text(tok(t.prompts)), dim=-1).T
    torch.testing.assert_close(h.notes['similarity'], e[:,1])
    torch.testing.assert_close(h.notes['score'], e[:,1]*m.logit_scale.exp().item())
    body = nn.Sequential(m.visual, nn.Linear(8,2)).eval()
    torch.testing.assert_close(explain(body, x, 'gradcam', target=t[1]).raw, h.raw)
    with pytest.raises(ValueError, match='has 11 tokens, with its start and end, and the model takes 8'):
        text_target(m, 'a b c d e f g h i', tok)
    with pytest.raises(ValueError, match='has 99 tokens or more'):
        m.token_embedding = nn.Embedding(200,8); tok.eot_token_id = 98; text_target(m, 'a', tok)
    with pytest.raises(TypeError, match="open_clip's tokenizer"): text_target(m, 'a', word_tokenizer())
    tok.eot_token_id = 1
    with pytest.raises(ValueError, match='not the largest'): text_target(m, 'a dog', tok)

def state(m):
    return ([len(o._forward_hooks)+len(o._forward_pre_hooks) for o in m.modules()], [o.training for o in m.modules()],
            [p.requires_grad for p in m.parameters()], [p.clone() for p in m.state_dict().values()],
            [p.grad is None for p in m.parameters()], [s for _,s in rng_state()], list(m.__dict__))

def same(a, b):
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, np.ndarray): return np.array_equal(a, b)
    return a==b

@pytest.mark.parametrize('method', ['relevance','legrad','maskclip','gradcam','saliency'])
def test_nothing_changes(method):
    m = family('clip').train()
    m.text_model.eval(); m.visual_projection.requires_grad_(False)
    before = state(m)
    t = text_target(m, ['a dog','a cat'], word_tokenizer())
    h = explain(m, x, method, target=contrast(t[0], t[1]))
    assert same(before, state(m))
    half = explain(m, x[1:], method, target=contrast(t[0], t[1]))
    torch.testing.assert_close(half.raw, h.raw[1:], atol=1e-5, rtol=1e-4)
    with torch.inference_mode(): again = text_target(m, ['a dog','a cat'], word_tokenizer())
    torch.testing.assert_close(again.features, t.features)

def test_precision():
    m = family('clip')
    t = text_target(m, ['a dog','a cat'], word_tokenizer())
    h,low = explain(m, x, 'relevance', target=t[0]),copy.deepcopy(m).bfloat16()
    u = text_target(low, ['a dog','a cat'], word_tokenizer())
    assert u.features.dtype==torch.float32 and (u.features-t.features).abs().max()<.05
    g = explain(low, x, 'relevance', target=u[0])
    assert g.dtype==torch.float32 and (g-h).abs().mean()<.1

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_cuda():
    m = family('clip')
    h = explain(m, x, 'relevance', target=text_target(m, 'a dog', word_tokenizer()))
    g = explain(m.cuda(), x, 'relevance', target=text_target(m, 'a dog', word_tokenizer()))
    torch.testing.assert_close(g.raw.cpu(), h.raw, atol=1e-3, rtol=1e-2)

def test_processors():
    "A whole processor reads texts and pictures, and its map lies on the picture"
    m,tok = family('clip'),word_tokenizer()
    ip = tf.CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32))
    whole = tf.CLIPProcessor(ip, tok)
    pic = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60,90,3), dtype=np.uint8))
    h = explain(m, pic, 'gradcam', target=text_target(m, 'a dog', whole), prep=whole)
    assert h.shape==(1,60,90)
    torch.testing.assert_close(h.raw, explain(m, pic, 'gradcam', target=text_target(m, 'a dog', tok), prep=ip).raw)
    assert h[0,:,:10].abs().max()==0==h[0,:,-10:].abs().max() and h.max()>0 # cropped away

def test_relevance_is_that_of_the_authors_code():
    "Chefer et al. 2021: R += mean_heads((grad*attention)+) R, then the CLS row"
    m = family('clip')
    m.set_attn_implementation('eager')
    t = text_target(m, ['a dog','a cat'], word_tokenizer())
    out = m.vision_model(x, output_attentions=True)
    s = (F.normalize(m.visual_projection(out.pooler_output), dim=-1)@t.features[0]*m.logit_scale.exp()).sum()
    R = torch.eye(17).expand(2,-1,-1)
    for a in out.attentions:
        g, = torch.autograd.grad(s, a, retain_graph=True)
        R = R + (g*a).clamp(min=0).mean(1).detach()@R
    h = explain(m, x, 'relevance', target=t[0])
    torch.testing.assert_close(h.raw.flatten(1), R[:,0,1:], atol=1e-6, rtol=1e-4)

def test_gradcam_is_captums():
    captum = pytest.importorskip('captum.attr')
    m = family('clip')
    t = text_target(m, ['a dog','a cat'], word_tokenizer())
    tower,layer = unwrap(m),'vision_model.embeddings.patch_embedding'
    net = lambda x: t.scale*F.normalize(tower(x), dim=-1)@t.features.T
    want = captum.LayerGradCam(net, tower.get_submodule(layer)).attribute(x, target=1)[:,0].detach()
    h = explain(m, x, 'gradcam', target=t['a cat'], layer=layer)
    torch.testing.assert_close(h.raw.relu(), want.relu(), atol=1e-6, rtol=1e-4)

def test_towers_in_learners_survive_copies():
    m = family('clip')
    net = nn.Sequential(ImageTower(m), nn.Linear(8,2)).eval()
    t = text_target(m, ['a dog','a cat'], word_tokenizer())
    h = explain(net, x, 'relevance', target=t[0])
    torch.testing.assert_close(h.raw, explain(m, x, 'relevance', target=t[0]).raw)
    torch.testing.assert_close(explain(copy.deepcopy(net), x, 'relevance', target=t[0]).raw, h.raw)
    assert find_tower(net)=='0' and find_tower(nn.Sequential(net))=='0.0'
    with pytest.raises(ValueError, match='has no image tower'): explain(nn.Sequential(nn.Flatten(), nn.Linear(3072,2)),
                                                                         x, 'saliency', target=t[0])
    with pytest.raises(ValueError, match='embedded in 16 numbers and the text in 8'):
        explain(family('siglip'), x, 'gradcam', target=t)

def test_a_learner_of_a_whole_model_has_no_classes():
    "A vocab is that of the data, not of the embedding"
    m,t = family('clip'),text_target(family('clip'), ['a dog','a cat'], word_tokenizer())
    class _Data(DataLoaders): vocab = ['one','two']
    learn = Learner(_Data(), m, loss_func=nn.CrossEntropyLoss())
    assert list(explain(learn, x).target)==['what the model attends to']*2
    torch.testing.assert_close(explain(learn, x, 'relevance', target=t).raw, explain(m, x, 'relevance', target=t).raw)
    with pytest.raises(ValueError, match='no class names'): explain(learn, x, target='one')

def test_the_end_of_a_text():
    "Where a config says token 2, CLIP reads the largest token of a text, and MetaCLIP 2 reads that one"
    def model(kind, config):
        m = kind(config(text_config={**text, 'eos_token_id':2}, vision_config=vision, projection_dim=8)).eval()
        return m
    tok = word_tokenizer()
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing('$A <start>', special_tokens=[('<start>',2)])
    tok.eos_token = '<start>'                        # token 2
    meta = model(tf.MetaClip2Model, tf.MetaClip2Config)
    ids = tok(['a dog','a photo of a cat'], return_tensors='pt', padding=True, return_token_type_ids=False)
    with torch.no_grad(): want = F.normalize(meta.get_text_features(**ids).pooler_output, dim=-1)
    torch.testing.assert_close(text_embeddings(meta, ['a dog','a photo of a cat'], tok), want)
    with pytest.raises(ValueError, match='reads a text at its largest token, here 8'):
        text_embeddings(model(tf.CLIPModel, tf.CLIPConfig), ['a dog','a cat'], tok)
