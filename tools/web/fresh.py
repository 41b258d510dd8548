"Do the outputs that notebooks have stored agree with what their code gives today?"
import base64, io, re
from pathlib import Path
from .execute import run, store
from .notebook import flags_of
from .settings import root

_number = re.compile(r'(?<![\w.])[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?')
_clock = re.compile(r'\b\d+:\d\d\b')
tolerance = .02 # of a number: other processors round otherwise
_block,_most = 16,12 # pixels, and the mean difference in a block, of 255: another digit makes 20 and more

def _unit(s): return 10.**-len(s.partition('.')[2]) if 'e' not in s else 0 # of the last digit

def _close(a, b): return abs(float(a)-float(b))<=max(tolerance*abs(float(b)), .51*max(_unit(a), _unit(b)))

def texts_differ(
    old:str, new:str # Texts of outputs
)->str: # What differs first; '' if nothing does
    "Compare texts: words must be the same, numbers nearly so, times are left out"
    old,new = (_clock.sub('', o) for o in (old,new))
    words = [_number.sub('#', o).split() for o in (old,new)]
    if words[0]!=words[1]:
        i = next((i for i,(a,b) in enumerate(zip(*words)) if a!=b), min(map(len, words)))
        return f"{' '.join(words[0][i:i+6])!r} is now {' '.join(words[1][i:i+6])!r}"
    for a,b in zip(_number.findall(old), _number.findall(new)):
        if not _close(a, b): return f'{a} is now {b}'
    return ''

def pictures_differ(
    old:str, new:str # PNGs as base64
)->str: # How; '' if they do not
    "Compare pictures block by block, which finds a changed word or number in a title"
    import numpy as np
    from PIL import Image
    a,b = (np.asarray(Image.open(io.BytesIO(base64.b64decode(o))).convert('RGB'), float) for o in (old,new))
    if max(abs(i-j) for i,j in zip(a.shape, b.shape))>9:
        return f'a picture of {a.shape[1]}x{a.shape[0]} pixels is now {b.shape[1]}x{b.shape[0]}'
    h,w = (min(i,j)//_block for i,j in zip(a.shape[:2], b.shape[:2]))
    a,b = (o[:h*_block,:w*_block] for o in (a,b))
    d = abs(a-b).mean(-1).reshape(h,_block,w,_block).mean((1,3))
    if d.max()<=_most: return ''
    y,x = np.unravel_index(d.argmax(), d.shape)
    return f'the picture differs at ({x*_block},{y*_block}), in {(d>_most).mean():.0%} of its area'

def _text(o):
    "What an output says; pictures and HTML of progress bars aside"
    d = o.get('data', {})
    v = o.get('text') or d.get('text/html') or d.get('text/markdown') or d.get('text/plain') or ''
    v = v if isinstance(v, str) else ''.join(v)
    return re.sub(r'<style.*?</style>|<[^>]*>', ' ', v, flags=re.S) if 'text/html' in d else v

def cell_differs(
    old:list, new:list # Outputs of a cell
)->str: # '' if it does not
    "Compare the outputs of a cell"
    if len(old)!=len(new): return f'{len(old)} outputs are now {len(new)}'
    for a,b in zip(old, new):
        pa,pb = (o.get('data', {}).get('image/png') for o in (a,b))
        if bool(pa)!=bool(pb): return 'a picture is there in one of the two only'
        if d := pictures_differ(pa, pb) if pa else texts_differ(_text(a), _text(b)): return d
    return ''

def stale_cells(old, new)->list: # Sentences
    "The cells of a notebook whose stored outputs no longer agree"
    res = []
    for a,b in zip(old.cells, new.cells):
        if a.cell_type!='code' or 'varies' in flags_of(a.source): continue
        if d := cell_differs(a.outputs, b.outputs):
            line = next((l for l in reversed(a.source.splitlines()) if l.strip()), '')
            res.append(f'cell `{line.strip()[:50]}`: {d}')
    return res

def _is_slow(path):
    "Does the frontmatter of a notebook say `slow: true`?"
    from fastcore.basics import str2bool
    from fastcore.nbio import nb_frontmatter, read_nb
    return str2bool(nb_frontmatter(read_nb(path)).get('slow', False))

def fresh(
    nbs:list, # Paths of notebooks; empty is all
    save:bool=False, # Store the new outputs of those that do not agree?
    slow:bool=False # Also run what is flagged `slow`, cells and notebooks?
)->str: # What an exit says: None if all agree
    "Run notebooks, and say where stored outputs no longer agree with the code"
    every = sorted(o for o in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in o.parts)
    paths = [Path(o).resolve() for o in nbs] or [o for o in every if slow or not _is_slow(o)]
    bad = 0
    for i,p in enumerate(paths):
        try: old,new = run(p, slow)
        except SystemExit as e: new,found = None,[f"a cell fails: {str(e).strip().splitlines()[-1]}"]
        else: found = stale_cells(old, new)
        bad += bool(found)
        print(f"{i+1}/{len(paths)} {p.relative_to(root)}: {'; '.join(found) or 'agrees'}", flush=True)
        if found and save and new is not None: store(new, p)
    if bad and not save:
        return f'{bad} notebooks do not agree with their code: run `python tools/docs.py fresh --store`.'
