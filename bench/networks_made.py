"""Networks put together at random, with an object planted in the image: the map of Grad-CAM lies on it, or there is an
error. Convolutions and recurrent networks, two towers, shared parts, tokens before and behind, heads with boxes"""
import argparse, math, random, warnings
import torch, torch.nn.functional as F
from torch import nn
from fastattn.all import *

def body(r, c, width):
    "Convolutions of stride 2 or a patch embedding, whose first channel knows red"
    stride = r.choice([4,8]) if r.random()<.5 else 2
    first = nn.Conv2d(c, width, stride, stride) if stride>2 else nn.Conv2d(c, width, 3, 2, 1)
    layers = [first, nn.ReLU()]
    if stride==2: layers += [nn.Conv2d(width, width, 3, 2, 1), r.choice([nn.ReLU,nn.GELU,nn.SiLU])()]
    return nn.Sequential(*layers)

class Recurrent(nn.Module):
    "Reads the columns of features, as for text"
    def __init__(self, r, width):
        super().__init__()
        self.body = body(r, 3, width)
        self.rnn = r.choice([nn.LSTM,nn.GRU])(width, width, batch_first=True, bidirectional=r.random()<.5)
        self.head = nn.Linear(width*(1+self.rnn.bidirectional), 4)
    def forward(self, x): return self.head(self.rnn(self.body(x).mean(2).transpose(1,2))[0]).mean(1)

class Plain(nn.Module):
    def __init__(self, r, width):
        super().__init__()
        self.body,self.head = body(r, 3, width),nn.Linear(width, 4)
    def forward(self, x): return self.head(self.body(x).mean((2,3)))

class Towers(nn.Module):
    "An image's tower and one for a text, whose number of tokens is that of the patches, or near it"
    def __init__(self, r, width):
        super().__init__()
        self.image = Tokens(r, width, pooled=False)
        n = r.choice([16,24,48,49,77,96])
        self.words,self.more = nn.Embedding(50, width),nn.ModuleList([Block(width) for _ in range(2)])
        self.register_buffer('ids', torch.randint(0, 50, (r.choice([1,3]),n)))
        self.text_first = r.random()<.5
    def text(self):
        t = self.words(self.ids)
        for b in self.more: t = b(t)
        return t.mean(1)
    def forward(self, x):
        if self.text_first: t = self.text()
        i = self.image(x).mean(1)
        if not self.text_first: t = self.text()
        return F.pad(i@t.T, (0, 4-len(t)))

class Block(nn.Module):
    "Of a transformer, whose attention adds little and is not trained, so that what is known about a place stays there"
    def __init__(self, width):
        super().__init__()
        self.norm1,self.norm2 = nn.LayerNorm(width),nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True).requires_grad_(False)
        self.attn.out_proj.weight *= .01
        self.mlp = nn.Sequential(nn.Linear(width, 2*width), nn.GELU(), nn.Linear(2*width, width))
    def forward(self, t):
        n = self.norm1(t)
        t = t+self.attn(n, n, n, need_weights=False)[0]
        return t+self.mlp(self.norm2(t))

class Tokens(nn.Module):
    "A transformer with tokens before and behind the patches, in rows or columns, from a convolution or a linear layer"
    def __init__(self, r, width, pooled=True):
        super().__init__()
        self.p,self.linear,self.columns,self.pooled = r.choice([4,8]),r.random()<.5,r.random()<.3,pooled
        self.embed = nn.Linear(3*self.p**2, width) if self.linear else nn.Conv2d(3, width, self.p, self.p)
        self.front,self.behind = (nn.Parameter(torch.randn(1,r.choice(ns),width)) for ns in ((0,1,4),(0,0,1,10)))
        self.blocks,self.head = nn.ModuleList([Block(width) for _ in range(r.choice([1,2,3]))]),nn.Linear(width, 4)
    def forward(self, x):
        gh,gw = x.shape[2]//self.p,x.shape[3]//self.p
        if self.linear: t = self.embed(F.unfold(x, self.p, stride=self.p).transpose(1,2))
        else: t = self.embed(x).flatten(2).transpose(1,2)
        if self.columns: t = t.unflatten(1, (gh,gw)).transpose(1,2).flatten(1,2)
        t = torch.cat([self.front.expand(len(x),-1,-1), t, self.behind.expand(len(x),-1,-1)], 1)
        for b in self.blocks: t = b(t)
        return self.head(t.mean(1)) if self.pooled else t

class Shared(nn.Module):
    "One network on views of the image, or one block again and again"
    def __init__(self, r, width):
        super().__init__()
        self.m,self.kind = Plain(r, width),r.choice(['mirror','turned','half','chain','crop','both'])
        self.block = nn.Conv2d(width, width, 3, 1, 1)
    def forward(self, x):
        if self.kind in ('chain','both'):
            f,all_ = self.m.body(x),[]
            for _ in range(3): f = f+.1*self.block(f).relu(); all_.append(f)
            return self.m.head(sum(all_ if self.kind=='both' else [f]).mean((2,3)))
        view = dict(mirror=lambda x: x.flip(-1), turned=lambda x: x.flip(-2,-1), half=lambda x: F.avg_pool2d(x, 2),
                    crop=lambda x: x[:,:,x.shape[2]//4:,x.shape[3]//4:])[self.kind]
        return self.m(x)+self.m(view(x))

class Boxes(nn.Module):
    "Scores and boxes of every position, as YOLO heads return them"
    def __init__(self, r, width):
        super().__init__()
        self.body,k = body(r, 3, width),r.choice([4,6,8,12])
        self.cv,self.dfl = nn.Conv2d(width, 4*k+4, 1),nn.Conv1d(4*k, k, 1)
    def forward(self, x):
        o = self.cv(self.body(x)).flatten(2)
        n = self.dfl.in_channels
        return torch.cat([o[:,n:], self.dfl(o[:,:n])], 1)

kinds = dict(plain=Plain, recurrent=Recurrent, towers=Towers, tokens=Tokens, shared=Shared, boxes=Boxes)

def made(seed):
    "A network, an image with an object, where that is, and the target"
    r = random.Random(seed)
    torch.manual_seed(seed)
    kind = r.choice(sorted(kinds))
    m = kinds[kind](r, r.choice([8,16])).eval()
    x = .1*torch.randn(1,3,*r.choice([(32,48),(48,32),(48,48),(32,96)]))
    y0,x0 = (r.randrange(0, n-15, 8) for n in x.shape[2:])
    box = slice(y0,y0+16),slice(x0,x0+16)
    def scores(o): return o[:,0].amax(-1) if kind=='boxes' else o[:,0]
    return kind,m,x,box,scores

def taught(m, x, box, scores, steps=60):
    "Train until the first score tells the object from noise, wherever it is"
    opt,g = torch.optim.Adam(m.parameters(), 3e-3),torch.Generator().manual_seed(0)
    h,w = x.shape[2:]
    for _ in range(steps):
        xs = .1*torch.randn(16,3,h,w, generator=g)
        for i in range(8):
            a,b = (int(torch.randint(0, n-15, (), generator=g)) for n in (h,w))
            xs[i,0,a:a+16,b:b+16] += 2
        s = scores(m(xs))
        loss = F.softplus(-s[:8]).mean()+F.softplus(s[8:]).mean()
        opt.zero_grad(); loss.backward(); opt.step()
    return m.eval()

def verdict(seed):
    "`(kind, 'right', 'refused' or 'wrong', what was seen)`"
    kind,m,x,box,scores = made(seed)
    taught(m, x, box, scores)
    x[0,0][box] += 2
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try: h = explain(m, x, 'gradcam', target=lambda o,idx: scores(o), place='even')
        except (ValueError,RuntimeError) as e: return kind,'refused',str(e)
    if any('empty' in str(w.message) for w in said): return kind,'refused','an empty map, with a warning'
    inside = torch.zeros(x.shape[2:], dtype=torch.bool); inside[box] = True
    # a little around it, since cells are up to eight pixels wide
    near = F.max_pool2d(inside[None,None].float(), 17, 1, 8)[0,0]>0
    at = divmod(int(h[0].argmax()), x.shape[3])
    gain = float(h[0][inside].mean()/h[0][~near].mean().clamp(min=1e-9)) if (~near).any() else math.inf
    ok = bool(near[at]) and gain>1
    seen = f'{h.layer} {tuple(h.raw.shape[1:])}, peak {at}, object {box}, {gain:.1f} times'
    return kind,'right' if ok else 'wrong',seen

if __name__=='__main__':
    from common import write
    p = argparse.ArgumentParser()
    p.add_argument('--n', type=int, default=300, help='number of networks')
    p.add_argument('--first', type=int, default=1000, help='first seed')
    a = p.parse_args()
    rows = []
    for s in range(a.first, a.first+a.n):
        rows.append((s,*verdict(s)))
        if rows[-1][2]=='wrong': print(*rows[-1], flush=True)
    count = {k:{v:sum(r[1]==k and r[2]==v for r in rows) for v in ('right','refused','wrong')} for k in sorted(kinds)}
    for k,v in count.items(): print(k, v)
    write('networks_made', first=a.first, n=a.n, count=count, refusals=sorted({r[3] for r in rows if r[2]=='refused'}),
          wrong=[r for r in rows if r[2]=='wrong'])
