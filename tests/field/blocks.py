"""fastai's kinds of labels and the learners people train on them, small: for tests over all of them"""
import functools
from functools import partial
import numpy as np, timm, torch
from fastai.vision.all import (BCEWithLogitsLossFlat, CategoryBlock, CrossEntropyLossFlat, DataBlock, ImageBlock, L,
                               Learner, MaskBlock, Module, MSELossFlat, MultiCategoryBlock, NormType, PointBlock,
                               RandomSplitter, RegressionBlock, get_image_files, nn, parent_label, resnet18,
                               unet_learner, vision_learner)
from fastattn.all import attention_learner, attention_unet_learner
from fastattn.data.demo import demo_arch, demo_masks, demo_path

words = ['umbrella','airplane','telephone','anchor','knight','cat','skull','coffee']

@functools.lru_cache(None)
def files(n=16): return L(get_image_files(demo_path(n=64)/'train').sorted()[:n])

def _place(f): # where the object is, `(x,y)`
    at = demo_masks([f])[0].nonzero().float().mean(0)
    return [float(at[1]), float(at[0])]

def _several(f):
    x,y = _place(f)
    return [parent_label(f), *['left']*(x<32), *['high']*(y<32)]
def _one_hot(f): return [int(w==parent_label(f)) for w in words]
def _share(f): return float(demo_masks([f])[0].float().mean())
def _mask(f): return np.uint8(demo_masks([f])[0])
def _first_half(f): return 'pos' if words.index(parent_label(f))<4 else 'neg'
def _points(f): return torch.tensor([_place(f), [32.,32.]])

kinds = dict( # blocks, the functions that give the labels, number of outputs, loss
    category=([CategoryBlock], [parent_label], None, CrossEntropyLossFlat()),
    multi=([MultiCategoryBlock], [_several], None, BCEWithLogitsLossFlat()),
    one_hot=([partial(MultiCategoryBlock, encoded=True, vocab=words)], [_one_hot], 8, BCEWithLogitsLossFlat()),
    regression=([RegressionBlock], [_share], 1, MSELossFlat()),
    two_numbers=([partial(RegressionBlock, n_out=2)], [_place], 2, MSELossFlat()),
    points=([lambda: PointBlock], [_points], 4, MSELossFlat()),
    masks=([partial(MaskBlock, codes=['background','object'])], [_mask], 2, CrossEntropyLossFlat(axis=1)),
    one_logit=([CategoryBlock], [_first_half], 1, BCEWithLogitsLossFlat()),
    two_targets=([CategoryBlock,RegressionBlock], [parent_label,_share], 9, None))

def dls_of(kind, bs=8, **kwargs):
    blocks,ys,_,_ = kinds[kind]
    db = DataBlock((ImageBlock,*[b() for b in blocks]), n_inp=1, get_y=ys, splitter=RandomSplitter(.4, seed=1),
                   **kwargs)
    return db.dataloaders(files(), bs=bs, num_workers=0)

class TwoLosses(Module):
    "Cross entropy of the first eight outputs, squared error of the last"
    def forward(self, out, y, z, reduction='mean'):
        loss = nn.functional.cross_entropy(out[:,:8], y, reduction=reduction)
        return loss+nn.functional.mse_loss(out[:,8], z.view(-1), reduction=reduction)

def learner_of(arch, kind, bs=8, **kwargs):
    "A small learner; None where the architecture is not for this kind of label"
    dls,(_,_,n,loss) = dls_of(kind, bs),kinds[kind]
    n,loss = n or len(dls.vocab),loss or TwoLosses()
    opts = dict(n_out=n, loss_func=loss, pretrained=False, **kwargs)
    if kind=='masks':
        if arch=='vision_learner': return unet_learner(dls, demo_arch, norm_type=NormType.Batch, **opts)
        return attention_unet_learner(dls, demo_arch, **opts) if arch=='attention_unet_learner' else None
    if arch=='vision_learner': # what depends on the labels does not on the body
        return vision_learner(dls, resnet18 if kind=='category' else demo_arch, **opts)
    if arch=='attention_learner': return attention_learner(dls, demo_arch, **opts)
    if arch=='timm ViT':
        vit = timm.create_model('test_vit', img_size=64, num_classes=n)
        return Learner(dls, vit, loss_func=loss, **kwargs)

architectures = ['vision_learner','timm ViT','attention_learner','attention_unet_learner']
