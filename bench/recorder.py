"Time of a training with AttentionRecorder as a ratio to one without, on the demo; fastai's ActivationStats beside it"
import argparse
import torch
from fastai.vision.all import *
from fastai.callback.hook import ActivationStats
from fastattn.all import *
from common import pairs, write

def train(n, seed, epochs, cbs):
    set_seed(seed)
    dls = demo_dls(n=n, bs=32, seed=seed)
    learn = attention_learner(dls, demo_arch, pretrained=False, activation='softmax', first_bn=True,
                              cbs=[c() for c in cbs])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 5e-3)

if __name__=='__main__':
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=0); p.add_argument('--n', type=int, default=7)
    p.add_argument('--images', type=int, default=2000); p.add_argument('--epochs', type=int, default=2)
    a = p.parse_args()
    def run(*cbs): return lambda: train(a.images, a.seed, a.epochs, cbs)
    write('recorder', what=f'{a.epochs} epochs of the demo ({a.images} images), '
                           'ratio to the same training without a callback', seed=a.seed,
          AttentionRecorder=pairs(run(AttentionRecorder), run(), a.n, 1),
          ActivationStats=pairs(run(ActivationStats), run(), a.n, 1))
