"""The section "Measured" of the site: an index, and a page for each benchmark of `bench/` that has results.

`pages(root)` gives the pages as Markdown (MyST), `pictures(root)` the files that they show. Every number is read from
`bench/results`, every description from the script that made it."""
import ast, fnmatch, json, re
from collections import namedtuple
from pathlib import Path
from statistics import mean

## Which script makes which result

def _option(tree, name):
    "The default of the command-line option `--name` of a script"
    for n in ast.walk(tree):
        if isinstance(n, ast.Call) and getattr(n.func, 'attr', '')=='add_argument' and n.args:
            if getattr(n.args[0], 'value', None)==f'--{name}':
                return next((k.value.value for k in n.keywords if k.arg=='default'), None)

def _part(v): return v.value if isinstance(v, ast.Constant) else '*'

def _glob(node, tree):
    "The name that `node`, the first argument of `write`, stands for; `*` is what only a run knows"
    if isinstance(node, ast.Constant): return node.value
    if isinstance(node, ast.JoinedStr): return ''.join(map(_part, node.values))
    return _option(tree, node.attr) if isinstance(node, ast.Attribute) else None

def _writes(path):
    "Globs on the names of the results that the script at `path` writes"
    tree = ast.parse(path.read_text(encoding='utf-8'))
    res = [_glob(n.args[0], tree) for n in ast.walk(tree)
           if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id=='write' and n.args]
    if None in res: raise ValueError(f'bench/{path.name} writes a result whose name cannot be read from the script.')
    return list(dict.fromkeys(res))

def _owner(name, makes, what):
    "The script among `makes` that writes the result `name`"
    for script,globs in makes.items():
        if any(fnmatch.fnmatchcase(name, g) for g in globs): return script
    raise ValueError(f'No script in bench/ makes {what}.')

def measured(root:Path) -> dict[str,dict[str,dict]]:
    "The results of each benchmark, as `{script: {result: content}}`"
    makes = {p.stem:_writes(p) for p in sorted((root/'bench').glob('*.py'))}
    res = {k:{} for k,globs in makes.items() if globs}
    for f in sorted((root/'bench/results').glob('*.json')):
        owner = _owner(f.stem, makes, f'bench/results/{f.name}')
        res[owner][f.stem] = json.loads(f.read_text(encoding='utf-8'))
    for k,v in res.items():
        if not v and k not in elsewhere: raise ValueError(f'bench/{k}.py has no result in bench/results.')
    return {k:v for k,v in res.items() if v}

def _shown(root):
    "The pictures of each benchmark, as `{script: {name: path}}`"
    makes = {p.stem:[*_writes(p),p.stem] for p in sorted((root/'bench').glob('*.py'))}
    res = {}
    for f in sorted((root/'bench/results').glob('*.png')):
        res.setdefault(_owner(f.stem, makes, f'bench/results/{f.name}'), {})[f.stem] = f
    return res

def pictures(root:Path) -> dict[str,Path]:
    "What has to be copied into the site, as `{path in the site: file}`"
    return {f'bench/{f.name}':f for fs in _shown(root).values() for f in fs.values()}

## Words

_units = dict(mb='MB', kb='kB', px='px')
_words = dict(
    average_precision='precision', iou_at_equal_area='IoU', asked_of_two='of two: peak', energy='energy inside',
    share_of_the_asked='of two: share', grad_cam='grad-cam', area='share of the picture that the object covers',
    object_area='object area', few='images for insertion and deletion', of_two='pictures of two objects',
    cells_look_off_by_px='how far the cells of the layer look off, px', boxes_cover='share covered by the boxes',
    share_of_three_largest_places='share of the three largest positions', bs='batch size', lr='learning rate',
    left_open='figures left open', most_mb='most memory, MB', most_seconds='most seconds', in_time='interrupted',
    left='left behind', read_whole='read, and whole', older_is_whole='what was there is whole', bad='not whole',
    equal='equal to one that was not killed',
    rss_before='process before, MB', rss_peak_until='process at its peak, MB, until picture', output_mb='output, MB',
    drawn_per_second='drawn a second', by_command='drawn a second by the command', largest_kb='largest picture, kB',
    memory='memory, as a ratio', plain_mb='memory of the plain one, MB', extra_mb='extra memory, MB',
    embeddings_mb='memory of the embeddings, MB', time='time, as a ratio', n='number', first='first seed',
    std_over_places='deviation over positions', images_below_half='images with AUC below half', auc='AUC',
    pointing_game='pointing', cpu_seconds='CPU seconds', dice='Dice', cam='CAM', arg='argument', alone='objects alone',
    among_others='objects among others')
_headings = dict(
    gains='What each part adds', wrong='Wrong maps', refusals='What refusals say', runs='Every run', counts='Calls',
    injected='Exceptions injected into trainings', changed='Calls that changed something', by_kind='By kind of file',
    text='Text', focus='Single objects', demo='The demo set', imagenet='Photographs, with ImageNet weights',
    classes='Classes and their images', failed='Those that failed', count='How many', kills='Writers killed',
    two='Two writers at a time', full_disk='On a full disk', trained='Training runs killed, and resumed', timm='timm',
    fastai='fastai', transformers='transformers')
# What a column means, said below the tables in which it occurs
_meaning = {
    'pointing':'the share of images in which the peak of the map lies on the object',
    'energy inside':'the share of the map that lies on the object',
    'precision':'average precision: do the positions on the object have the highest values?',
    'IoU':'the overlap of the object with as many of the highest positions as the object has',
    'deletion':'the probability of the class while the highest positions are covered, lower is better',
    'insertion':'the probability of the class while the highest positions are uncovered, higher is better',
    'average drop':'what the class loses when the image is masked by the map, lower is better',
    'of two: peak':'of two objects in a picture, the peak lies on the one that the map was asked about',
    'of two: share':'of the part of the map on either object, the share on the one that the map was asked about',
    'AUC':'the chance that a position on the object has a higher value than one beside it',
    'Dice':'the overlap of the predicted and the actual pixels of each class',
    'Dice lost':'how much Dice falls when the gate is held at its mean',
    'compiled anew':"without Python's compiled files",
    'found':'places of a change in the image that the layer shows where its grid says',
    'right':'at most one was missed and nothing lies a cell off, or the positions of the layer answer in the order '
            'of their grid',
    'earlier version':'the same, as an earlier version did it'}

def _word(k):
    "The key `k` of a result in words, with its unit behind a comma"
    if k in _words: return _words[k]
    stem,_,unit = k.rpartition('_')
    if stem and unit in _units: return f'{_word(stem)}, {_units[unit]}'.replace('memory, as a ratio', 'memory')
    return k.replace('_', ' ')

def _first_up(s): return s[:1].upper()+s[1:]

_temporary = re.compile(r'/tmp/\w+/')
def _cell(s):
    "Text in which nothing is Markdown, on one line and without folders of a machine"
    s = re.sub(r'\s+', ' ', _temporary.sub('', str(s))).strip()
    return re.sub(r'([\\`*\[\]<>|${}~#]|(?<!\w)_|_(?!\w))', r'\\\1', s)

def _prose(s):
    "Text whose backticks are code, and nothing else Markdown; its first letter is large, and a stop ends it"
    parts = re.split(r'(`[^`]*`)', re.sub(r'\s+', ' ', s).strip())
    s = ''.join(p if i%2 else _cell_spaced(p) for i,p in enumerate(parts))
    if re.match(r'[a-z]+(?![\w.])', s): s = _first_up(s) # a name stays as it is
    return s if not s or s[-1] in '.?!' else s+'.'

def _cell_spaced(s):
    "`_cell` with the blanks around it"
    return s[:len(s)-len(s.lstrip())]+_cell(s)+s[len(s.rstrip()):] if s.strip() else s

## Numbers

# Lists of two numbers that are not a mean and its error
_pairs_of_numbers = {'size','shift','grid','ordered','cells_look_off_by_px','seeds','seed'}
_tallies = {'bad','left'}

def _is_ratio(v): return isinstance(v, dict) and {'median','quartiles'}<=v.keys()
def _is_number(v): return isinstance(v, (int,float)) and not isinstance(v, bool)
def _is_mean(v, key):
    "A mean and its standard error"
    return (isinstance(v, list) and len(v)==2 and all(isinstance(o, float) for o in v) and v[1]>=0
            and key not in _pairs_of_numbers)
def _is_leaf(v, key=''):
    "What stands in one cell"
    if isinstance(v, dict): return _is_ratio(v) or not v or key in _tallies
    if not isinstance(v, list): return True
    return bool(v) and not any(isinstance(o, (dict,list)) for o in v) and sum(len(str(o)) for o in v)<60

def _digits(v): return 0 if abs(v)>=100 else 2 if abs(v)>=.1 else 3

_fixed = '\N{NO-BREAK SPACE}'

def ratio(v):
    "`1.04 (0.98 to 1.10)`, and the smallest where it was kept; a line breaks before the bracket only"
    n = max(map(_digits, (v['median'],*v['quartiles'])))
    q = f'{_fixed}to{_fixed}'.join(f'{o:.{n}f}' for o in v['quartiles'])
    return f"{v['median']:.{n}f} ({q}{'; smallest '+format(v['smallest'], f'.{n}f') if 'smallest' in v else ''})"

def mean_and_error(v):
    "`.886 ± .020`"
    return f' ±{_fixed}'.join(re.sub(r'^(-?)0\.', r'\1.', number(o, 3)) for o in v)

def number(v, digits=None):
    "An integer with commas from ten thousand on; a fraction with at most three digits"
    if isinstance(v, int): return f'{v:,}' if abs(v)>=10_000 else str(v)
    s = f'{v:.{_decimals(v) if digits is None else digits}f}'
    return s if float(s) else s.lstrip('-')

def _decimals(v): return len(f'{v:.3f}'.rstrip('0').partition('.')[2])

def text(v, key='', digits=None):
    "The value `v` as one cell"
    if _is_ratio(v): return ratio(v)
    if _is_mean(v, key): return mean_and_error(v)
    if isinstance(v, bool): return 'yes' if v else 'no'
    if v is None: return ''
    if _is_number(v): return number(v, digits)
    if isinstance(v, dict): return '; '.join(f'{_cell(_word(k))}: {number(n)}' for k,n in v.items()) or 'none'
    if isinstance(v, list):
        of = f'{_fixed}by{_fixed}' if key in ('size','grid','shift') else ', '
        return of.join(text(o, digits=digits) for o in v) if v else 'none'
    return _cell(v)

def column(values, key):
    "The cells of a column, all with as many digits"
    floats = [o for v in values for o in (v if isinstance(v, list) else [v]) if isinstance(o, float)]
    digits = min(3, max(map(_decimals, floats), default=0))
    return [text(v, key, digits) for v in values]

## Tables

def flat(d, path=()):
    "Nested dicts as one, `{path: leaf}`; what an empty one stood for is `none`"
    res = {}
    for k,v in d.items():
        if _is_leaf(v, k) or isinstance(v, list) and not v: res[(*path,k)] = v
        else: res.update(flat(v if isinstance(v, dict) else {str(i+1):o for i,o in enumerate(v)}, (*path,k)))
    return res

def _lines(head, rows, right):
    "A table of cells; columns in `right` are flush right"
    bar = ['---:' if i in right else '---' for i in range(len(head))]
    return ['| '+' | '.join(r)+' |' for r in (head,bar,*rows)]

def _numeric(cells): return all(re.match(r'-?[\d.,]', c) or not c for c in cells)

def table(rows, corner=''):
    "A table of rows `{name: {column: leaf, ...}}`, which may be nested; few rows with many columns are turned round"
    rows = {k:flat(r) for k,r in rows.items()}
    names = _columns(rows.values())
    heads = [_cell(_path_words(p)) for p in names]
    cols = [column([r.get(p) for r in rows.values()], p[-1]) for p in names]
    sides = [_cell(k) for k in rows]
    if len(names)>8 and len(rows)<len(names)/2: heads,sides,cols = sides,heads,[list(r) for r in zip(*cols)]
    body = [[s,*r] for s,r in zip(sides, zip(*cols))]
    return _lines([corner,*heads], body, {i+1 for i,c in enumerate(cols) if _numeric(c)})

def _columns(rows):
    "The paths in flat `rows`, without those that are None where other rows have more below them"
    names = list(dict.fromkeys(p for r in rows for p in r))
    def _is_void(p): return any(q[:len(p)]==p and q!=p for q in names) and all(r.get(p) is None for r in rows)
    return [p for p in names if not _is_void(p)]

def _path_words(p): return ': '.join(_word(o) for o in p)

def records(rows):
    "A table of a list of dicts"
    rows = [flat(r) for r in rows]
    names = _columns(rows)
    cols = [column([r.get(p) for r in rows], p[-1]) for p in names]
    if len(names)>9 and len(rows)<5: # turned round: its first line heads it
        return _lines([_cell(_path_words(names[0])),*cols[0]],
                      [[_cell(_path_words(p)),*c] for p,c in zip(names[1:], cols[1:])], range(1, len(rows)+1))
    return _lines([_cell(_path_words(p)) for p in names], list(zip(*cols)),
                  {i for i,c in enumerate(cols) if _numeric(c)})

def _is_table(d):
    "Do the dicts in `d` share so many columns that one table shows them?"
    if not all(isinstance(v, dict) and v and not _is_leaf(v) for v in d.values()): return False
    rows = [flat(v) for v in d.values()]
    names = {p for r in rows for p in r}
    return max(map(len, names))<=3 and sum(map(len, rows))>=len(rows)*len(names)/2 and (len(names)<=14 or len(rows)<=4)

def _bullets(d): return [f'- {_cell(_first_up(_word(k)))}: {text(v, k)}' for k,v in d.items()]

def block(v, level=3):
    "The lines of Markdown that show `v`, whatever it is; `level` is that of a heading in it"
    if not v: return ['None.']
    if isinstance(v, list): return records(v) if isinstance(v[0], dict) else [f'- {_cell(o)}' for o in v]
    leaves = {k:o for k,o in v.items() if _is_leaf(o, k)}
    if len(leaves)==len(v): return table({_word(k):{'':o} for k,o in v.items()}) if len(v)>3 else _bullets(v)
    if _is_table(v): return table(v)
    return _bullets(leaves)+['']+sections({k:o for k,o in v.items() if k not in leaves}, level)

def sections(d, level):
    "Each entry below a heading of its own; `rows` and the unnamed need none"
    res = []
    for k,v in d.items():
        if k and k!='rows': res += [f"{'#'*level} {_headings.get(k) or _first_up(_cell(_word(k)))}",'']
        res += [*block(v, level+1),'']
    return res

## Shapes of single results: what the tables are made of

def _cams(d):
    rows = d['time_and_memory']
    cost = {}
    for k,r in rows.items():
        q,mb = r.get('fastest_peer'),r['memory_mb']
        cost[k] = {'forward passes':r['forward'], 'extra MB':mb['fastattn'], 'plain forward, MB':mb['forward'],
                   'quickest peer':q and _word(q), "peer's MB":q and mb[q]}
    return {'Time, in plain forward passes, and extra peak memory':cost,
            'Time, as a ratio to each other library':{k:r['peers'] for k,r in rows.items() if r['peers']}}

def _attribution(d):
    mb = d['memory_mb']
    return {'':{k:{'time, as a ratio to captum':v, 'extra memory, MB':mb[k]['fastattn'], "captum's, MB":mb[k]['captum']}
                for k,v in d['time'].items()}}

def _by_size(d, pattern):
    "Of `{'rollout 224px batch 4': value}` the rows, `{'rollout': {'224px batch 4': value}}`"
    res = {}
    for k,v in d.items():
        name,size = re.fullmatch(pattern, k).groups()
        res.setdefault(name, {})[size] = v
    return res

def _vit(d):
    names = dict(textbook='rollout, as products of matrices', all_heads='all heads of all layers, stored',
                 forward='plain forward pass')
    def _rows(v): return {names.get(k, k):r for k,r in _by_size(v, r'(\w+) (.*)').items()}
    res = {'Time, as a ratio to a plain forward pass':_rows(d['time']),
           'Extra peak memory, MB, of one image':_rows(d['memory_mb'])}
    shares = {k.rpartition('_')[2]:v for k,v in d.items() if k.startswith('rollout_share')}
    return {**res, 'Memory of rollout, as a share of that of all heads':shares}

def _detr(d):
    names = dict(forward='plain forward pass', look='boxes with the maps of their queries',
                 look_all="the same, and the encoder's whole matrix", relevance='relevance of four queries',
                 points='what the encoder attends to at four points', eager='the model asked for all its weights')
    cost = {k:v for k,v in d['cost'].items() if _is_ratio(v)}
    memory = {k.removesuffix(' MB'):v for k,v in d['cost'].items() if k.endswith(' MB')}
    def _rows(v): return {names.get(k, k):r for k,r in _by_size(v, r'(\w+) (.*)').items()}
    told = dict(of_these_backbone='of these for the backbone', right='objects found', maps='number of maps')
    return {f"Time at {text(d['size'], 'size')} pixels, as a ratio to a plain forward pass":_rows(cost),
            'Peak memory, MB: added by the call, and of the whole process':_rows(memory),
            'The small one, trained on the demo set':{s:{told.get(k, k):v for k,v in r.items()}
                                                      for s,r in d['train'].items()}}

def _recorder(d):
    return {'':{k:{'time, as a ratio to training without':v} for k,v in d.items() if _is_ratio(v)}}

def _import_time(d):
    names = dict(here='the version measured', beside='another version beside it')
    def _column(k): return {'fastai':'fastai alone, s'}.get(k, f'fastattn, {_word(k)}, s')
    return {'':{n:{_column(k):v for k,v in d[o].items()} for o,n in names.items() if o in d}}

def _unet(d):
    runs = {(s,k):r for s,rs in d['runs'].items() for k,r in rs.items()}
    rows = {k:{'Dice, mean over the seeds':d['mean'][k], 'standard deviation':d['stdev'][k],
               **{f'seed {s}':r['dice'] for (s,o),r in runs.items() if o==k}} for k in d['mean']}
    gates = [dict(seed=int(s), grid=g['grid'], auc=g['auc'], images_below_half=g['images_below_half'], mean=g['mean'],
                  std_over_places=g['std_over_places'], **{'Dice lost':g['dice_lost']})
             for (s,_),r in runs.items() for g in r['gates'] or []]
    return {'':rows, 'What each gate does, coarse to fine':gates}

def _vit_localise(d):
    res = {}
    for r in d['runs']:
        for k in ('pointing','energy_inside'):
            for m,v in r[k].items(): res.setdefault(m, {})[f"{_word(k)}, seed {r['seed']}, {r['pool']}"] = v
    runs = [{k:v for k,v in r.items() if k not in ('pointing','energy_inside')} for r in d['runs']]
    return {'By method, seed and pooling':res, 'The networks':runs}

def _mean_of(rows):
    "The mean of each number over rows of the same shape; None where any has none"
    vs = [flat(r) for r in rows]
    return {p:mean(v[p] for v in vs) for p in vs[0] if all(_is_number(v.get(p)) for v in vs)}

def _forms(d):
    groups = {}
    for r in d['runs']:
        name = ' '.join(filter(None, (r['form'],r['activation'])))
        groups.setdefault(f"{name}, {r['images']} images", []).append(r)
    def _row(rs):
        means = {p:v for p,v in _mean_of(rs).items() if p[0] in ('accuracy','mask','cam','seconds')}
        return {'seeds':len(rs), **{_path_words(p):round(v, 1 if p==('seconds',) else 3) for p,v in means.items()},
                'attention parameters':rs[0]['attention_parameters']}
    return {'Means over the seeds':{k:_row(rs) for k,rs in groups.items()}, 'runs':d['runs']}

def _large_pictures(d):
    names = dict(read='fastai alone: read', explain='explain', overlay='overlay', save='save', show='show', html='HTML',
                 size_224='explain, sized to 224 px')
    res = {}
    for n,r in (d['megapixels'] or {}).items():
        before = (d['before'] or {}).get(n, {})
        rows = {}
        for who in ('learner','prep'):
            for k,v in r[who].items():
                old = before.get(who, {}).get(k, {})
                rows[f"{'a learner' if who=='learner' else 'a model with prep'}: {names.get(k, k)}"] = {
                    **v, **{f'earlier version: {_word(o)}':w for o,w in old.items()}}
        res[f"{n} megapixels, {r['picture_mb']} MB as pixels"] = rows
    return res

def _phases(d): return {'':{k:{f'phase {i+1}':o for i,o in enumerate(v)} for k,v in d.items()}}

def _default_cost(d):
    rows = {k:{'forward passes':v.get('forward'), 'extra memory, MB':v['memory_mb']} for k,v in d.items()
            if 'memory_mb' in v}
    return {'':{'plain forward pass' if k=='forward' else k:r for k,r in rows.items()},
            'What is measured once, in the first call, in forward passes':d['first call']}

def _default_dinov2(d):
    res = {}
    for k,v in d.items():
        where,name = k.split(': ', 1)
        if name!='images': res.setdefault(f"{_word(where)}, {d[f'{where}: images']} images", {})[name] = v
    return res

def _zoo(d):
    "By library; of the models that make up a family the smallest was taken"
    res = {}
    for r in d['rows']:
        found = f"{r['hits']}{_fixed}of{_fixed}{r['places']}"
        row = {'family':r['family'], 'model':r['model'], 'parameters, M':round(r['parameters']/1e6, 1),
               'layer':r['layer'], 'grid':r['grid'], 'method':r['method'], 'found':found, 'right':r['right']}
        res.setdefault(r['library'], []).append(row)
    for rows in res.values():
        if all(o['family']==o['model'] for o in rows):
            for o in rows: del o['model']
    return res

def _bad_inputs(d):
    names = dict(sentence='a sentence that says what is wrong', python="Python's own word on a call that does not fit",
                 silent='nothing is said', traceback='an error from somewhere below', hang='a hang', crash='a crash')
    res = {names.get(k, k):v for k,v in sorted(d['count'].items(), key=lambda o: -o[1])}
    rest = {k:v for k,v in d.items() if k not in ('count','failed')}
    return {**rest, 'What came of them':res, 'failed':d['failed']}

shapes = dict(cams=_cams, attribution=_attribution, vit=_vit, detr=_detr, recorder=_recorder, import_time=_import_time,
              unet=_unet, vit_localise=_vit_localise, forms=_forms, large_pictures=_large_pictures, zoo=_zoo,
              default_map_phases=_phases, default_map_cost=_default_cost, default_map_dinov2=_default_dinov2,
              bad_inputs=_bad_inputs)

## Each benchmark: its title, its key number, and how it is repeated

Bench = namedtuple('Bench', 'title key commands', defaults=(lambda r: '', None))

def _span(vs, digits=2):
    "`0.71 to 1.06`, or the one number there is"
    a,b = (f'{f(vs):.{digits}f}' for f in (min,max))
    return a if a==b else f'{a} to {b}'

def _percent(v): return f'{100*v:.0f} %'

def _cams_key(r):
    row = r['cams']['time_and_memory']['gradcam']
    q = row['fastest_peer']
    return (f"Grad-CAM takes {ratio(row['forward'])} plain forward passes, and {row['peers'][q]['median']:.2f} times "
            f'as long as {_word(q)}, the quickest other library')

def _attribution_key(r):
    return f"By method, {_span([v['median'] for v in r['attribution']['time'].values()])} times as long as captum"

def _vit_key(r):
    time,mb = r['vit']['time'],r['vit']['memory_mb']
    size = next(k for k in time if k.startswith('rollout ')).removeprefix('rollout ')
    res = f"Rollout takes {ratio(time['rollout '+size])} plain forward passes ({size})"
    if not mb: return res
    k = next(k for k in mb if k.startswith('rollout '))
    return res+f", and {mb[k]} MB at {k.split()[1]}, where all heads take {mb[k.replace('rollout', 'all_heads')]} MB"

def _detr_key(r):
    c = r['detr']['cost']
    return (f"Boxes with the maps of their queries take {ratio(c['look stride 32'])} plain forward passes, the "
            f"encoder's whole matrix included {c['look_all stride 32']['median']:.2f}, relevance of four queries "
            f"{c['relevance stride 32']['median']:.2f}")

def _recorder_key(r):
    a,b = (r['recorder'][k] for k in ('AttentionRecorder','ActivationStats'))
    return (f'Training takes {ratio(a)} times as long with AttentionRecorder as without '
            f"(fastai's ActivationStats, at every batch: {b['median']:.2f})")

def _tables(r): return [v for v in r.values() if 'gains' in v]

def _default_key(r):
    def _of(m): return _span([v['rows'][m]['pointing'][0] for v in _tables(r)])
    return (f"On {len(_tables(r))} networks, the peak of the default map lies on the object in {_of('default')} of the "
            f"images, that of Grad-CAM in {_of('gradcam')}")

def _localise_key(r):
    rows = r['localise']['imagenet']['rows']
    a,b = (mean_and_error(rows[m]['pointing']) for m in ('pyramidcam','gradcam'))
    return f'Among clutter, the peak of PyramidCAM lies on the object in {a} of the images, that of Grad-CAM in {b}'

def _dinov2_key(r):
    rows = {k:v['pointing'] for k,v in r['dinov2']['rows'].items()}
    best = max(rows, key=rows.get)
    return (f"The peak of plain rollout lies on the object in {rows['rollout']:.2f} of the maps, that of {_cell(best)} "
            f'in {rows[best]:.2f}')

def _segmentation_key(r):
    nets = [v['rows'] for k,v in r['segmentation'].items() if isinstance(v, dict) and 'rows' in v]
    def _iou(part): return _span([row['iou_at_equal_area'][0] for rows in nets for k,row in rows.items()
                                  if k.startswith(f'gradcam, {part} ')])
    return (f"IoU of Grad-CAM with the object, by network: {_iou('default')} at the default layer, "
            f"{_iou('deepest')} at the deepest")

def _vit_localise_key(r):
    vs = [o['pointing']['relevance'] for o in r['vit_localise']['runs']]
    return f"The peak of `relevance` lies on the object in {_span(vs)} of the images"

def _forms_key(r):
    inside = {k:v['mask: energy inside'] for k,v in _forms(r['forms'])['Means over the seeds'].items()
              if 'mask: energy inside' in v}
    best = max(inside, key=inside.get)
    return f'{_first_up(best)}: {inside[best]:.2f} of the mask lies on the object, the most of all forms'

def _demo_key(r):
    runs = r['demo']['runs']
    return (f"Accuracy {_span([o['accuracy'] for o in runs], 3)}, {_span([o['energy_inside'] for o in runs])} of the "
            f'mask on the object, over {len(runs)} seeds')

def _unet_key(r):
    m = r['unet']['mean']
    step = ratio(r['unet_cost']['time'])
    return f"Dice {m['gated']:.3f} with gates, {m['plain']:.3f} without; a training step takes {step} times as long"

def _unet_classifier_key(r):
    runs = r['unet_classifier']['runs']
    return (f"Accuracy {_span([o['accuracy'] for o in runs], 3)}; "
            f"{_span([o['evidence']['energy_inside'] for o in runs])} of its evidence lies on the object")

def _visualize_key(r):
    runs = r['visualize']['runs']
    n,timed = next((n,v) for n,v in runs.items() if 'drawn_per_second' in v)
    most = max(runs, key=int)
    return (f"{timed['drawn_per_second']:.0f} pictures a second; over {int(most):,} pictures the process grows from "
            f"{runs[most]['rss_before']} to {max(runs[most]['rss_peak_until'].values())} MB")

def _large_key(r):
    n,row = max(r['large_pictures']['megapixels'].items(), key=lambda o: int(o[0]))
    v = row['learner']['explain']
    return f"A heatmap of a picture of {n} megapixels takes {v['seconds']:.0f} seconds and {v['peak_mb']} MB"

def _zoo_key(r):
    rows = r['zoo']['rows']
    return (f"On {sum(bool(o['right']) for o in rows)} of {len(rows)} models, the layer that is taken lies on the "
            'image as its grid says')

def _made_key(r):
    c = r['networks_made']['count'].values()
    right,refused,wrong = (sum(v[k] for v in c) for k in ('right','refused','wrong'))
    return (f'Of {right+refused+wrong} networks, {right} get a right map, {refused} are refused with a reason, and '
            f'{wrong} get a wrong map')

def _unchanged_key(r):
    d = r['unchanged']
    return f"After {len(d['changed'])} of {d['calls']} calls something was not as before"

def _interrupts_key(r):
    d = r['interrupts']
    return (f"{d['interrupts']} interrupts in {len(d['scenarios'])} scenarios; in {d['left']} of the scenarios "
            'something was left behind')

def _writers_key(r):
    d = r['writers']
    k = d['kills'].values()
    bad = sum(sum(v['bad'].values()) for v in k)
    return f"{sum(v['kills'] for v in k)} writers killed; what was left was not whole {bad} times"

def _crafted_key(r):
    d = r['crafted_files']
    harmless = sum(d['verdicts'].get(k, 0) for k in ('clear','read'))
    return (f"{harmless} of {d['files']} files are refused in a sentence, or read as they may be; not so: "
            f"{d['files']-harmless}")

def _bad_inputs_key(r):
    d = r['bad_inputs']
    return f"{d['count']['sentence']} of {d['tried']} wrong arguments get a sentence that says what is wrong"

def _import_key(r): return f"{ratio(r['import_time']['here']['compiled'])} seconds beyond fastai's own import"

def _similar_key(r):
    d = r['similar']
    return (f"{ratio(d['time'])} times one matrix product, and {d['extra_mb']} MB beside the {d['embeddings_mb']} MB "
            'of the embeddings')

def _gpu_key(r):
    rs = [v['result'] for v in r['gpu']['checks'].values()]
    return f"{rs.count('ok')} of {len(rs)} checks pass, {rs.count('failed')} fail"

def _default_commands(r):
    nets = [k.removeprefix('default_map_') for k,v in r.items() if 'gains' in v]
    cost = r.get('default_map_cost', {}).get('gradcam', {}).get('forward', {}).get('pairs', 9)
    parts = {'phases':'phases', 'cost':f'cost --pairs {cost}', 'dinov2':'dinov2'}
    return [f"table {' '.join(nets)}", *(c for k,c in parts.items() if f'default_map_{k}' in r), 'pictures top.png']

def _forms_commands(r):
    forms = {}
    for o in r['forms']['runs']: forms.setdefault(o['images'], {})[o['form']] = True
    first,*more = (f"--images {n} --forms {' '.join(forms[n])}" for n in sorted(forms, reverse=True))
    return [first, *(f'{o} --add' for o in more)]

def _segmentation_commands(r):
    halves = [v['images'] for k,v in r['segmentation'].items() if k in ('demo','text')]
    return [f'-n {2*max(halves)}' if halves else '']

def _interrupts_commands(r):
    return [f"--n {max(v['tried'] for v in r['interrupts']['scenarios'].values())}"]

def _vit_localise_commands(r):
    return ['--runs '+' '.join(f"{o['seed']}:{o['pool']}" for o in r['vit_localise']['runs'])]

def _import_commands(r): return ['--beside OTHER_CHECKOUT' if 'beside' in r['import_time'] else '']

benches = dict(
    cams=Bench('Class activation maps', _cams_key),
    attribution=Bench('Attributions of pixels, beside captum', _attribution_key),
    vit=Bench('Attention of a vision transformer', _vit_key),
    detr=Bench('Attention of a DETR', _detr_key),
    recorder=Bench('Training with AttentionRecorder', _recorder_key),
    default_map=Bench('The default map', _default_key, _default_commands),
    localise=Bench('Which class activation map is right', _localise_key),
    vit_localise=Bench('Which map of a vision transformer is right', _vit_localise_key, _vit_localise_commands),
    dinov2=Bench('Rollout and outlier tokens', _dinov2_key),
    segmentation=Bench('Maps of segmentation networks', _segmentation_key, _segmentation_commands),
    zoo=Bench('Every family of models', _zoo_key, lambda r: ['--again']),
    networks_made=Bench('Networks put together at random', _made_key,
                        lambda r: [f"--n {r['networks_made']['n']} --first {r['networks_made']['first']}"]),
    forms=Bench('Forms of soft attention', _forms_key, _forms_commands),
    unet=Bench('Attention gates in a U-Net', _unet_key),
    unet_classifier=Bench('A classifier whose body is a U-Net', _unet_classifier_key,
                          lambda r: ['--seeds '+' '.join(map(str, r['unet_classifier']['seeds']))]),
    demo=Bench('The demo', _demo_key),
    visualize=Bench('Ten thousand photographs', _visualize_key,
                    lambda r: [f'--n {n}' for n in sorted(r['visualize']['runs'], key=int)]),
    large_pictures=Bench('Large pictures', _large_key),
    similar=Bench('Search among embeddings', _similar_key),
    import_time=Bench('Time to import', _import_key, _import_commands),
    unchanged=Bench('Explaining changes nothing', _unchanged_key),
    interrupts=Bench('Interrupts at any moment', _interrupts_key, _interrupts_commands),
    writers=Bench('Killed writers and full disks', _writers_key),
    crafted_files=Bench('Files made to do harm', _crafted_key),
    bad_inputs=Bench('What wrong arguments get', _bad_inputs_key),
    gpu=Bench('Checks on a GPU', _gpu_key))
# benchmarks that may be without results, and why
elsewhere = dict(gpu='needs a GPU')
_parts = dict(lite0='EfficientNet-Lite0', mobilenetv2='MobileNetV2', resnet18='A resnet18, trained from scratch',
              resnet50d='A resnet50d, trained from scratch', dinov2='DINOv2, a backbone without classes',
              phases='How evenly the map lies on the four phases of the grid', cost='What it costs')
_captions = dict(
    default_map='Top losses of the resnet18: on the left without a second stage, spread gradients and measured '
                'centres, on the right with them.',
    dinov2='The photographs at the largest size, with the maps of four of the methods.')

def _bench(stem): return benches.get(stem) or Bench(_first_up(stem.replace('_', ' ')))

def _key(stem, res):
    "The key number of a benchmark in a sentence without its stop"
    try: return _bench(stem).key(res)
    except (KeyError, StopIteration, ValueError, TypeError, AttributeError) as e:
        raise ValueError(f'The results of bench/{stem}.py lack what its key number is read from: {e!r}.') from e

## Pages

_own_command = re.compile(r'[;:] `python bench/[^`]*`(?=$|[,.])')

def _description(path):
    "The module docstring of a script as paragraphs, without its own command, which the page shows anyway"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    ps = [_own_command.sub('', re.sub(r'\s+', ' ', p)) for p in re.split(r'\n\s*\n', doc)]
    return [_prose(p) for p in ps if p.strip()]

def _commands(stem, res):
    given = _bench(stem).commands
    return [f'python bench/{stem}.py {o}'.strip() for o in (given(res) if given else [''])]

def _seed_words(seed):
    "`seed 0`, `seeds 0, 1, 2`, or nothing"
    vs = seed if isinstance(seed, list) else [] if seed is None else [seed]
    words = ', '.join(_cell(v if _is_number(v) else repr(v)) for v in vs)
    return f"seed{'s' if len(vs)>1 else ''} {words}" if vs else ''

def _conditions(d):
    "One line of what a result depends on"
    about = d.get('about', {})
    threads = about.get('threads')
    parts = [about.get('commit') and f"commit `{about['commit']}`", about.get('torch') and f"PyTorch {about['torch']}",
             threads and f"{threads} thread{'s' if threads!=1 else ''}", _cell(about.get('cpu', '')),
             _cell(d.get('device', '')), _seed_words(d.get('seed', d.get('seeds')))]
    return f"*Measured at {', '.join(filter(None, parts))}.*"

_told_elsewhere = ('about','what','seed','seeds','device')

def _result(name, d, level):
    "The tables of one result, and its conditions"
    body = {k:v for k,v in d.items() if k not in _told_elsewhere}
    if name in shapes: body = shapes[name](body)
    leaves = {k:v for k,v in body.items() if _is_leaf(v, k) and v!={}}
    rest = {k:v for k,v in body.items() if k not in leaves}
    is_one = name not in shapes and not leaves and len(rest)>1 and _is_table(rest)
    shown = table(rest) if is_one else sections(rest, level)
    return [*_bullets(leaves),'',*shown,'',_conditions(d),'']

def _meanings(lines):
    "What the columns mean that occur in tables, said once"
    heads = {c.strip() for a,b in zip(lines, lines[1:]) if b.startswith('| ---') for c in a.strip('|').split('|')}
    def _is_in(k, h): return k in (h,h.partition(': ')[0],h.rpartition(': ')[2],h.partition(',')[0])
    found = [f'- *{k}*: {v}.' for k,v in _meaning.items() if any(_is_in(k, h) for h in heads)]
    return ['## What the columns mean','',*found,''] if found else []

def _page(root, stem, res, shown):
    "The page of one benchmark"
    several = len(res)>1
    whats = {n:_prose(d['what']) for n,d in res.items() if d.get('what')}
    once = set(whats.values()) if len(set(whats.values()))==1 and len(whats)>len(res)/2 else set()
    lines = [f'# {_bench(stem).title}','']
    if key := _key(stem, res): lines += [f'**{key}.**','']
    for p in (*_description(root/'bench'/f'{stem}.py'),*once): lines += [p,'']
    lines += ['To repeat it:','','```sh',*_commands(stem, res),'```','']
    tables = []
    for n in sorted(res, key=lambda n: (n!=stem,'gains' not in res[n],n)):
        part = n.removeprefix(stem).strip('_')
        if several and part: tables += [f'## {_parts.get(part, _first_up(_word(part)))}','']
        if n in whats and not once: tables += [whats[n],'']
        tables += _result(n, res[n], 3 if several and part else 2)
    for n,f in shown.items():
        caption = _captions.get(n, _bench(stem).title)
        tables += [f'![{caption}](../bench/{f.name})','',caption,'']
    return _joined([*lines,*tables,*_meanings(tables)])

def _joined(lines): return re.sub(r'\n{3,}', '\n\n', '\n'.join(lines)).strip()+'\n'

_how = """## How measurements are made

- **Time** is a ratio: what is measured and what it is compared with run in turn, in one process, and who goes first
  alternates. The number is the median of these pairs, the brackets hold the lower and the upper quartile. Below 1 is
  quicker than what it is compared with.
- **Memory** is what a call adds at its peak to what the process held before, in MB, in a process of its own
  (Linux), with libraries loaded and layers found.
- **Means** over images stand with their standard error, `.886 ± .020`.
- Every page is from one run of its script on one machine, unless it says otherwise; a page says at which commit, with
  which PyTorch, threads and seed. Ratios travel between machines better than seconds do."""

def _ordered(stems): return sorted(stems, key=lambda k: (list(benches).index(k) if k in benches else len(benches),k))

def _index(res):
    "The table of all benchmarks, and how measurements are made"
    stems = _ordered(res)
    rows = [[_bench(k).title,_key(k, res[k]).replace('|', r'\|'),f'[{k.replace("_", " ")}]({k}.md)'] for k in stems]
    missing = [f'`bench/{k}.py` {why}, and has no results here.' for k,why in elsewhere.items() if k not in res]
    what = ('What is claimed about cost and correctness is measured by a script in `bench/`, and the numbers are read '
            'from what it wrote.')
    return _joined(['# Measured','',what,'',*_lines(['what','the key number','page'], rows, ()),'',*missing,'',_how,'',
                    '```{toctree}',':hidden:','',*stems,'```'])

def pages(root:Path) -> dict[str,str]:
    "The pages of the section, as `{path in the site: Markdown}`"
    root = Path(root)
    res,shown = measured(root),_shown(root)
    return {'measured/index.md':_index(res),
            **{f'measured/{k}.md':_page(root, k, v, shown.get(k, {})) for k,v in res.items()}}
