"What `DetrAttention` costs on a DETR of full size, and what the small one learns; `python bench/detr.py`"
import argparse, json, sys, tempfile, time
import torch
from fastai.vision.all import Learner, OptimWrapper, no_random, partial
from fastattn.detr.attention import DetrAttention
import fastattn.detr.maps  # the maps are methods of `DetrAttention`
from fastattn.data.demo import demo_dls
from fastattn.models.learners import demo_detr_learner, demo_learner
from fastattn.detr.boxes import DetectionScore, box_hits, box_labels, detected
from fastattn.detr.cross_attention import DetrTrace
from fastattn.core.pipeline import explain
from fastattn.detr.model import DetrLoss, demo_detr
from common import here, in_child, pairs, peak_mb, write

H,W = 800,1066

def resnet50(stride):
    "DETR with a ResNet-50, 6 + 6 layers and 100 queries, from its configuration: the weights are random"
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
    if stride==32:
        kw = dict(backbone_config=ResNetConfig(out_features=['stage4']), use_timm_backbone=False,
                  use_pretrained_backbone=False, backbone=None)
    else: kw = dict(use_timm_backbone=True, use_pretrained_backbone=False, backbone='resnet50', dilation=True)
    return DetrForObjectDetection(DetrConfig(**kw)).eval()

@torch.no_grad()
def forward(m, x): return m(x)

def look(m, x): return DetrAttention(m, x).decoder
def look_all(m, x): # the encoder's matrix between all places, too
    d = DetrAttention(m, x)
    return d.decoder,d.encoder
def points(m, x): # what the encoder attends to at four places: only their rows are worked out
    return DetrAttention(m, x).point_maps([(200,200),(400,280),(600,200),(800,440)])
def relevance(m, x): return DetrAttention(m, x).relevance([0,1,2,3])
def eager(m, x):
    "What the model gives when it is asked for all weights"
    m.set_attn_implementation('eager')
    with torch.no_grad(): return m(x, output_attentions=True)
asks = dict(forward=forward, look=look, look_all=look_all, points=points, relevance=relevance, eager=eager)

def memory(name, stride, seed):
    "Everything that the process holds at its peak, in MB: libraries and weights included"
    torch.manual_seed(seed)
    m,x = resnet50(stride),torch.randn(1,3,H,W)
    added = peak_mb(lambda: asks[name](m, x))
    total = int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])/1024
    return dict(added=round(added), process=round(total))

def cost(seed, n):
    torch.manual_seed(seed)
    res = {}
    for stride,names in ((32,('look','look_all','points','relevance','eager')),(16,('look','look_all'))):
        m,x = resnet50(stride),torch.randn(1,3,H,W)
        for k in names:
            other = resnet50(stride) if k=='eager' else m
            res[f'{k} stride {stride}'] = pairs(lambda: asks[k](other, x), lambda: forward(m, x), n, warm=1)
            print(k, stride, res[f'{k} stride {stride}'], file=sys.stderr, flush=True)
    for stride in (32,16):
        for k in ('forward','look_all','eager') + (('relevance',) if stride==32 else ()):
            res[f'{k} stride {stride} MB'] = in_child(__file__, '--one', k, stride)
    return res

def inside(maps, boxes):
    "Is the middle of each map's highest place in its box, and which share of the map lies in it? Boxes in 0..1"
    h,w = maps.shape[1:]
    y,x = (torch.arange(n)+.5 for n in (h,w))
    gx,gy = (x/w)[None,None],(y/h)[None,:,None]
    b = boxes[:,:,None,None]
    there = (b[:,0]<=gx) & (gx<=b[:,2]) & (b[:,1]<=gy) & (gy<=b[:,3])
    at = maps.flatten(1).argmax(1)
    return (there.flatten(1)[torch.arange(len(maps)),at].tolist(),
            ((maps*there).sum((1,2))/maps.sum((1,2)).clamp(min=1e-12)).tolist())

def judge(learn, threshold=.5):
    "Recall and precision on the validation images, and where the maps of the detections that are right have their peak"
    model,vocab = learn.model.eval(),learn.dls.vocab
    good = n = kept = 0
    peaks,shares = ({k:[] for k in ('cross-attention, last layer','cross-attention, first layer','relevance')}
                    for _ in range(2))
    for x,b,l in learn.dls.valid:
        with torch.no_grad(), DetrTrace(model) as t: out = model(x)
        found,truth = detected(out, threshold, model, vocab),box_labels(b, l)
        layers = {'cross-attention, last layer':t.cross[-1].mean()[:,0],
                  'cross-attention, first layer':t.cross[0].mean()[:,0]}
        for i,(f,(tb,tl)) in enumerate(zip(found, truth)):
            hs = box_hits(f, tb, tl)
            right = [j for j,o in enumerate(hs) if o is not None]
            good,n,kept = good+len(right),n+len(tb),kept+len(f)
            if not right: continue
            maps = {k:a[i,f.keep[right]].unflatten(1, t.grid) for k,a in layers.items()}
            if len(peaks['relevance'])<300:
                maps['relevance'] = torch.cat([explain(model, x[i:i+1], 'bimodal_relevance', query=int(f.keep[j]),
                                                       target=lambda o, idx, q=int(f.keep[j]), c=int(f.labels[j]):
                                                       o['pred_logits'][idx,q,c]).raw for j in right])
            for k,m in maps.items():
                p,s = inside(m, f.boxes[right]); peaks[k] += p; shares[k] += s
    mean = lambda o: round(sum(o)/max(len(o),1), 3)
    return dict(objects=n, recall=round(good/n,3), precision=round(good/max(kept,1),3), right=good,
                peak_in_own_box={k:mean(v) for k,v in peaks.items()},
                share_in_own_box={k:mean(v) for k,v in shares.items()}, maps={k:len(v) for k,v in peaks.items()})

def train(seeds):
    res = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory() as d: # from nothing: pictures, backbone and detector
            start = time.time()
            demo_learner(seed, base=d)
            backbone = time.time()-start
            learn = demo_detr_learner(seed, base=d)
            res[f'seed {seed}'] = dict(seconds=round(time.time()-start), of_these_backbone=round(backbone),
                                       **judge(learn))
            print(res[f'seed {seed}'], file=sys.stderr, flush=True)
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=42); p.add_argument('--pairs', type=int, default=7)
    p.add_argument('--only', choices=('cost','train'),
                   help='measure this alone, and keep the other part of the results')
    p.add_argument('--one', nargs=2, help='print the memory of one question at one stride')
    a = p.parse_args()
    if a.one: print(json.dumps(memory(a.one[0], int(a.one[1]), a.seed))); sys.exit()
    fn = here/'results'/'detr.json'
    old = json.loads(fn.read_text()) if fn.exists() else {}
    res = dict(seed=a.seed, size=[H,W], cost=old.get('cost'), train=old.get('train'))
    if a.only!='train': res['cost'] = cost(a.seed, a.pairs)
    if a.only!='cost': res['train'] = train((a.seed,a.seed+1))
    write('detr', **res)
