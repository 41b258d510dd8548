"""The check of `bench/zoo.py` on small models of every kind: the automatic layer lies where its grid says, and a grid
that is read wrongly is found out."""
import pytest, timm, torch, torch.nn as nn
from fastattn.all import *
from timm.models.mlp_mixer import MlpMixer

@pytest.fixture(scope='module')
def zoo(from_bench): return from_bench('zoo')

def vit(**kwargs):
    return timm.create_model('vit_tiny_patch16_224', img_size=(128,192), embed_dim=48, num_heads=3, depth=3,
                             num_classes=10, **kwargs)

class TokensFirst(nn.Module):
    "PyTorch's own encoder, `(tokens,bs,c)`, with a class token"
    def __init__(self):
        super().__init__()
        self.embed,self.cls,self.pos = (nn.Conv2d(3,48,16,16),nn.Parameter(torch.randn(1,1,48)),
                                       nn.Parameter(.1*torch.randn(97,1,48)))
        self.encoder,self.head = (nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 4, 96), 2,
                                                        enable_nested_tensor=False), nn.Linear(48,10))
    def forward(self, x):
        x = self.embed(x).flatten(2).permute(2,0,1)
        return self.head(self.encoder(torch.cat([self.cls.expand(-1,x.shape[1],-1), x])+self.pos)[0])

def fastai_body():
    from fastai.vision.all import create_vision_model, xresnet18
    return create_vision_model(xresnet18, 10, pretrained=False)

small = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=96, image_size=128,
             patch_size=16, num_labels=10)
def hf(kind, **kwargs):
    import transformers
    return getattr(transformers, kind+'ForImageClassification')(getattr(transformers, kind+'Config')(**kwargs))

kinds = { # model, layout, prefix
    'nchw':         (lambda: timm.create_model('test_resnet', num_classes=10), 'nchw', 0),
    'fastai':       (fastai_body, 'nchw', 0),
    'nhwc':         (lambda: timm.create_model('test_mambaout', num_classes=10), 'nhwc', 0),
    'swin':         (lambda: timm.create_model('swin_tiny_patch4_window7_224', img_size=(128,192), window_size=4,
                                               embed_dim=24, depths=(1,1,1,1), num_heads=(1,2,3,6), num_classes=10),
                     'nhwc', 0),
    'mixer':        (lambda: MlpMixer(img_size=(128,192), embed_dim=48, num_blocks=2, num_classes=10), 'tokens', 0),
    'mean':         (lambda: vit(class_token=False, global_pool='avg'), 'tokens', 0),
    'cls':          (vit, 'tokens', 1),
    'distilled':    (lambda: timm.create_model('deit_tiny_distilled_patch16_224', img_size=(128,192), embed_dim=48,
                                               num_heads=3, depth=3, num_classes=10), 'tokens', 2),
    'registers':    (lambda: vit(reg_tokens=4), 'tokens', 5),
    'hybrid':       (lambda: timm.create_model('test_coatnet', img_size=(128,192), num_classes=10), 'nchw', 0),
    'class_pooling':(lambda: timm.create_model('cait_xxs24_224', img_size=(128,192), embed_dim=48, num_heads=3, depth=2,
                                               num_classes=10), 'tokens', 1),
    'beside_a_map': (lambda: timm.create_model('pit_ti_224', img_size=(128,192), base_dims=(16,16,16), depth=(1,1,2),
                                               num_classes=10), 'tokens', 1),
    'hiera':        (lambda: timm.create_model('hiera_tiny_224', img_size=(128,192), embed_dim=24, num_classes=10),
                     'tokens', 0),
    'tokens_first': (TokensFirst, 'tokens_first', 1),
    'dinov2':       (lambda: hf('Dinov2WithRegisters', **small), 'tokens', 5),
    'convnext':     (lambda: hf('ConvNext', hidden_sizes=[16,32,48,64], depths=[1,1,1,1], num_labels=10), 'nchw', 0),
}

@pytest.mark.parametrize('kind', kinds)
def test_kind(zoo, kind):
    make,layout,prefix = kinds[kind]
    torch.manual_seed(0)
    r = zoo.check(make().eval(), (128,192))
    assert (r['layout'],r['prefix']) == (layout,prefix), r
    assert zoo.right(r), r

def swapped(o): return o.flatten(2).unflatten(2, (o.shape[3],o.shape[2])).transpose(2,3) # columns first
wrong_maps = dict(rows_for_columns=swapped, transposed=lambda o: o.transpose(2,3), upside_down=lambda o: o.flip(2),
                  mirrored=lambda o: o.flip(3), channels_last=lambda o: o.permute(0,2,3,1),
                  channels_first=lambda o: o.permute(0,3,1,2))
wrong_tokens = dict(one_late=lambda o: o.flatten(2).roll(1, 2).view_as(o),
                    one_early=lambda o: o.flatten(2).roll(-1, 2).view_as(o))

@pytest.mark.parametrize('kind', ['nchw','nhwc','cls','tokens_first'])
def test_wrong_layouts_are_found_out(zoo, kind):
    "The features of the same passes, read rightly and wrongly"
    make,layout,prefix = kinds[kind]
    torch.manual_seed(0)
    m,size,outs = make().eval(),(128,192),[]
    zoo.enliven(m, zoo.noise(size, 4))
    c = candidates(m, zoo.noise(size)).auto()
    def read(o): outs.append(c.grid.read(o)); return outs[-1]
    zoo.changes(m, c.name, read, size, 6)
    def says(f):
        d = sum(zoo.moved(f(o)) for o in outs).sqrt()
        return zoo.right(dict(nonempty=True, layout=layout, hits=sum(zoo.hits(d)), places=len(zoo.places),
                              shift=zoo.shift(d)))
    assert says(lambda o: o)
    for name,f in (wrong_maps | (wrong_tokens if c.grid.is_tokens else {})).items(): assert not says(f), name
