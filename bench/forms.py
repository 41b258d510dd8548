"""Every form of soft attention with both activations, and the same network without any, on the demo set: accuracy,
share of mask and CAM on the object, parameters"""
import argparse, json, time
from fastai.vision.all import *
from fastattn.all import *
from common import here, write

def shares(learn, method):
    "Mean `energy_inside` and `pointing_game` of `method` on validation images; None where the model has no such map"
    if method not in suitable(learn.model): return None
    items = learn.dls.valid_ds.items
    raw = torch.cat([explain(learn, b[0], method).raw for b in learn.dls.test_dl(items, bs=64)])
    m = demo_masks(items)
    return dict(energy=round(energy_inside(raw, m).mean().item(),4),
                pointing=round(pointing_game(raw, m).mean().item(),4))

def run(form, activation, seed, n, epochs, bs, lr):
    dls = demo_dls(n=n, bs=bs, seed=seed)
    set_seed(seed)
    # fastai's Adam goes through 67 million weights of the dense form eight times a step;
    # PyTorch's fused one, with the same numbers, once
    opt = partial(OptimWrapper, opt=torch.optim.AdamW, fused=True, betas=(.9,.99), eps=1e-5) if form=='dense' else Adam
    learn = attention_learner(dls, demo_arch, form=form, activation=activation, first_bn=True, pretrained=False,
                              metrics=accuracy, opt_func=opt)
    start = time.time()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    secs = time.time()-start
    with learn.no_bar(): acc = float(accuracy(*learn.get_preds()))
    return dict(form=form, activation=None if form=='none' else activation, seed=seed, images=n, accuracy=round(acc,4),
                mask=shares(learn, 'soft_attention'), cam=shares(learn, 'cam'),
                attention_parameters=total_params(learn.model[1][0])[0], seconds=round(secs,1))

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seeds', type=int, nargs='+', default=[0,1,2])
    p.add_argument('--images', type=int, nargs='+', default=[3000]); p.add_argument('--epochs', type=int, default=12)
    p.add_argument('--bs', type=int, default=32); p.add_argument('--lr', type=float, default=5e-3)
    p.add_argument('--forms', nargs='+', default=['none','spatial','channel','element','dense'])
    p.add_argument('--activations', nargs='+', default=['sigmoid','softmax']); p.add_argument('--name', default='forms')
    p.add_argument('--add', action='store_true', help='to the rows that are there already')
    a = p.parse_args()
    f = here/'results'/f'{a.name}.json'
    rows = json.loads(f.read_text())['runs'] if a.add and f.exists() else []
    for n in a.images:
        for seed in a.seeds:
            for form in a.forms:
                for act in a.activations if form!='none' else a.activations[:1]:
                    rows.append(run(form, act, seed, n, a.epochs, a.bs, a.lr))
                    rows = [r for i,r in enumerate(rows)
                            if not any(all(r[k]==q[k] for k in ('form','activation','seed','images'))
                                       for q in rows[i+1:])]
                    write(a.name, what=f'demo set, {a.epochs} epochs, batch {a.bs}, learning rate {a.lr}; '
                                       'the seed makes the set, too', epochs=a.epochs, bs=a.bs, lr=a.lr, runs=rows)
