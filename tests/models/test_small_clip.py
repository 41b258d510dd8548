"The small CLIP without its training run: captions against masks, tokens, shapes, and steps that lower the loss."
import random
import numpy as np, pytest, torch
from fastai.vision.all import set_seed
from fastattn.core.hooks import Trace
from fastattn.core.pipeline import explain
from fastattn.core.text import text_target
from fastattn.data.captions import Phrase, Scenes, caption, caption_colours, caption_places
from fastattn.models.small_clip import caption_batch, caption_loss, caption_processor, small_clip, told_apart

@pytest.fixture(scope='module')
def processor(): return caption_processor()

@pytest.fixture(scope='module')
def scenes(): return Scenes(60, seed=11)[:]

@pytest.fixture(scope='module')
def model(processor):
    set_seed(3)
    return small_clip(processor).eval()

def test_colours_and_places_of_masks(scenes):
    "Most pixels of a mask are nearest to the named colour, and its box is centred in the named quarter"
    rgb = torch.tensor(list(caption_colours.values())).float()
    right = []
    for s in scenes:
        im = torch.tensor(np.array(s.img)).float()
        for o in s.objects:
            if o.phrase.name in ('coffee','cat','skull'): continue # thin lines blend with what is behind them
            pixels = im[o.mask]
            strong = pixels[(pixels.amax(1)-pixels.amin(1))>60] # not those of the outline
            nearest = torch.cdist(strong, rgb).argmin(1).bincount(minlength=len(rgb))
            right.append(list(caption_colours)[nearest.argmax()]==o.phrase.colour)
            ys,xs = o.mask.nonzero(as_tuple=True)
            middle = tuple(int(v.min()+v.max()>=64) for v in (xs,ys))
            assert middle==caption_places[o.phrase.place]
    assert sum(right)>.97*len(right), (sum(right),len(right))

def test_true_and_false(scenes):
    rng = random.Random(0)
    for s in scenes:
        for _ in range(5):
            assert s.fits(s.true_phrases(rng)) and not s.fits(s.false_phrases(rng))
        here = {o.phrase for o in s.objects}
        for p in here: assert s.fits(p) and not s.fits(p._replace(name='dog'))

def test_tokens(processor, model):
    tok = processor.tokenizer
    told = tok(['A red umbrella, at the top left.','a dog'], padding='max_length', return_tensors='pt').input_ids
    assert told.shape==(2,tok.model_max_length)
    assert tok.decode(told[0], skip_special_tokens=True)=='a red umbrella at the top left'
    assert (told[1]==tok.unk_token_id).sum()==1 and (told[0]==tok.unk_token_id).sum()==0
    with Trace(model.text_model, 'final_layer_norm') as t, torch.no_grad():
        out = model.get_text_features(told).pooler_output
    end = (told==tok.eos_token_id).int().argmax(1) # the text is read where it ends
    read = t['final_layer_norm'][torch.arange(2),end]
    torch.testing.assert_close(model.text_projection(read), out)

def test_processor_and_batch_agree(processor, scenes):
    x = caption_batch(scenes[:3], processor, rng=random.Random(0))[1]
    torch.testing.assert_close(processor(images=[s.img for s in scenes[:3]], return_tensors='pt')['pixel_values'], x,
                               atol=1e-4, rtol=0)

def test_steps_lower_the_loss(processor, scenes):
    set_seed(0)
    model = small_clip(processor)
    batch = caption_batch(scenes[:8], processor, rng=random.Random(1))
    opt,losses = torch.optim.AdamW(model.parameters(), 1e-3),[]
    for _ in range(8):
        ids,x,true = batch
        out = model(ids, x)
        losses.append(caption_loss(out, true))
        opt.zero_grad(); losses[-1].backward(); opt.step()
    assert losses[-1]<.9*losses[0], losses
    assert 0<=told_apart(out, true)<=1

def test_maps_of_prompts(processor, model, scenes):
    "A map lies on the grid of the convolutions, and depends on the prompt"
    img,prompts = scenes[0].img,[caption(Phrase('cat')), caption(Phrase(colour='red'))]
    t = text_target(model, prompts, processor)
    maps = [explain(model, img, 'gradcam', target=t[p], prep=processor) for p in prompts]
    assert [tuple(h.raw.shape[-2:]) for h in maps]==[(8,8)]*2 and tuple(maps[0].shape[-2:])==(64,64)
    assert not torch.equal(maps[0].raw.as_subclass(torch.Tensor), maps[1].raw.as_subclass(torch.Tensor))
