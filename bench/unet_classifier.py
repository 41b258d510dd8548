"The classifier whose body is a U-Net, on the demo set: accuracy, share of its evidence on the object, seconds"
import argparse, time
from fastai.vision.all import *
from fastai.callback.channelslast import ChannelsLast
from fastattn.all import *
from common import write

def run(seed, a):
    set_seed(seed)
    dls = demo_dls(n=a.images, bs=a.bs, seed=seed)
    t = time.time()
    learn = attention_learner(dls, demo_arch, pretrained=False, unet=True, activation=a.activation, metrics=accuracy,
                              cbs=ChannelsLast())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(a.epochs, a.lr)
    t = time.time()-t
    masks = demo_masks(dls.valid_ds.items)
    res = dict(seed=seed, accuracy=round(float(learn.validate()[1]),4), seconds=round(t),
               object_area=round(masks.float().mean().item(),3))
    for m in ('evidence','soft_attention','gradcam'):
        raw = torch.cat([explain(learn, x, m).raw for x,_ in dls.valid])
        res[m] = dict(energy_inside=round(energy_inside(raw, masks).mean().item(),3),
                      pointing_game=round(pointing_game(raw, masks).mean().item(),3))
    return res

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seeds', type=int, nargs='+', default=[42,1,2]); p.add_argument('--images', type=int, default=2400)
    p.add_argument('--epochs', type=int, default=8)
    p.add_argument('--bs', type=int, default=16); p.add_argument('--lr', type=float, default=5e-3)
    p.add_argument('--activation', default='softmax')
    a = p.parse_args()
    write('unet_classifier', what=f'{a.images} demo images of 64 px, demo_arch as encoder, '
                                  f'{a.epochs} epochs in batches of {a.bs}, {a.activation} mask', seeds=a.seeds,
          runs=[run(s, a) for s in a.seeds])
