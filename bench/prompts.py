"""Does the map for a prompt lie on the object that the prompt names, and not on the one beside it? The small CLIP of
`demo_clip`, on pictures of two objects that are neither in its training set nor were used to choose anything
(`--scenes`): prompts by name, by colour, by place and by all three. Beside it what the model knows: names, colours and
places of both objects, which colour and place belong to which name, and the classes of the demo set.
`python bench/prompts.py --epochs 2 --n 40` is a short run."""
import argparse, warnings
import numpy as np, torch
from fastattn.all import demo_dls, explain, pointing_game
from fastattn.core.text import text_embeddings, text_target
from fastattn.data.captions import Phrase, Scenes, caption_colours, caption_names, caption_places
from fastattn.models.small_clip import demo_clip
from common import write

methods = 'auto','relevance','legrad','gradcam','pyramidcam','maskclip'
kinds = dict(name=('name',), colour=('colour',), place=('place',), all=('name','colour','place'))
values = dict(name=caption_names, colour=list(caption_colours), place=list(caption_places))

def two_objects(n, seed, size=64):
    "Scenes of exactly two objects"
    scenes = Scenes(2*n, size, seed, most=2)
    return [s for s in scenes if len(s.objects)==2][:n]

def said(phrase, keys): return str(Phrase(**{k:getattr(phrase, k) for k in keys}))

def interval(v, n=2000, seed=0):
    "Mean, and the 95% interval of a bootstrap over pictures"
    v = np.asarray(v, float)
    means = v[np.random.RandomState(seed).randint(0, len(v), (n,len(v)))].mean(1)
    return [round(float(o), 3) for o in (v.mean(), *np.quantile(means, (.025,.975)))]

def located(model, processor, scenes, method, keys, bs=50):
    "For each scene: is the maximum on the named object, on the other, and which of the two has more of the map?"
    prompts = [said(s.objects[0].phrase, keys) for s in scenes]
    masks = [torch.stack([s.objects[i].mask for s in scenes]) for i in (0,1)]
    target,maps,names = text_target(model, sorted(set(prompts)), processor),[],set()
    for i in range(0, len(scenes), bs):
        h = explain(model, [s.img for s in scenes[i:i+bs]], method, target=target[prompts[i:i+bs]], prep=processor)
        maps.append(torch.stack([torch.as_tensor(np.asarray(o)).squeeze() for o in h]))
        names.add(h.method)
    maps = torch.cat(maps)
    mean = [(maps*m).sum((1,2))/m.sum((1,2)) for m in masks]
    return [pointing_game(maps, m).float() for m in masks], (mean[0]>mean[1]).float(), names.pop()

@torch.no_grad()
def embedded(model, processor, images):
    out = [model.get_image_features(**processor(images=images[i:i+100], return_tensors='pt').to(model.device))
           for i in range(0, len(images), 100)]
    return torch.nn.functional.normalize(torch.cat([getattr(o, 'pooler_output', o) for o in out]), dim=1).cpu()

def known(model, processor, scenes):
    "What the model knows of pictures of two objects, as means with intervals"
    z,res = embedded(model, processor, [s.img for s in scenes]),{}
    def scores(texts): return z@text_embeddings(model, texts, processor).cpu().T
    for k,vs in values.items():
        top = scores([str(Phrase(**{k:v})) for v in vs]).topk(2, 1).indices.tolist()
        res[f'both {k}s'] = interval([{vs[i] for i in t}=={getattr(o.phrase, k) for o in s.objects}
                                      for t,s in zip(top, scenes)])
    for k in ('colour','place'): # the name of one object with its own colour, and with that of the other
        pairs = [[Phrase(s.objects[0].phrase.name, **{k:getattr(o.phrase, k)}) for o in s.objects] for s in scenes]
        texts = sorted({str(p) for pq in pairs for p in pq})
        table = scores(texts)
        res[f'{k} of a name'] = interval([table[i,texts.index(str(p))]>table[i,texts.index(str(q))]
                                          for i,(p,q) in enumerate(pairs)])
    return res

def zero_shot(model, processor, n):
    """Accuracy on the validation set of the demo data, where one of eight classes lies anywhere, in any colour; the
    convolutions were trained on labels of its training set"""
    dls = demo_dls(n)
    names,files = [str(Phrase(o)) for o in dls.vocab],dls.valid_ds.items
    from PIL import Image
    z = embedded(model, processor, [Image.open(f) for f in files])
    seen = (z@text_embeddings(model, [f'a photo of {o}' for o in names], processor).cpu().T).argmax(1)
    return interval([dls.vocab[i]==f.parent.name for i,f in zip(seen, files)])

def one(seed, scenes, a):
    model,processor = demo_clip(seed, **({'epochs':a.epochs} if a.epochs else {}))
    res = dict(known=known(model, processor, scenes),
               zero_shot=zero_shot(model, processor, a.demo), maps={})
    for k,keys in kinds.items():
        for m in methods:
            (on,other),more,used = located(model, processor, scenes, m, keys)
            res['maps'][f'{k}, {m}'] = dict(named=interval(on), other=interval(other), more_on_named=interval(more),
                                            method=used)
            print(k, m, res['maps'][f'{k}, {m}'], flush=True)
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seeds', type=int, nargs='*', default=[42]); p.add_argument('--scenes', type=int, default=2024)
    p.add_argument('--n', type=int, default=300); p.add_argument('--epochs', type=int)
    p.add_argument('--demo', type=int, default=2000)
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    scenes = two_objects(a.n, a.scenes)
    area = np.mean([float(s.objects[0].mask.float().mean()) for s in scenes])
    write('prompts', what=f'{len(scenes)} pictures of two objects, one of them named by the prompt: share of maps with '
          'their maximum on it, on the other, and with more on it than on the other; mean and 95% interval',
          scenes=a.scenes, by_chance=dict(named=round(float(area), 3), more_on_named=.5),
          runs={s:one(s, scenes, a) for s in a.seeds})
