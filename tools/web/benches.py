"Each benchmark: what its tables are made of, its title, its key number, and the command that repeats it"
import re
from collections import namedtuple
from statistics import mean
from .tables import in_cell, first_up, fixed_space, is_number, is_ratio, words_of_path, plain_word, flat, \
    mean_and_error, ratio, text

## Shapes of single results: what the tables are made of

def _cams(d):
    rows = d['time_and_memory']
    cost = {}
    for k,r in rows.items():
        q,mb = r.get('fastest_peer'),r['memory_mb']
        cost[k] = {'forward passes':r['forward'], 'extra MB':mb['fastattn'], 'plain forward, MB':mb['forward'],
                   'quickest peer':q and plain_word(q), "peer's MB":q and mb[q]}
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
    cost = {k:v for k,v in d['cost'].items() if is_ratio(v)}
    memory = {k.removesuffix(' MB'):v for k,v in d['cost'].items() if k.endswith(' MB')}
    def _rows(v): return {names.get(k, k):r for k,r in _by_size(v, r'(\w+) (.*)').items()}
    told = dict(of_these_backbone='of these for the backbone', right='objects found', maps='number of maps')
    return {f"Time at {text(d['size'], 'size')} pixels, as a ratio to a plain forward pass":_rows(cost),
            'Peak memory, MB: added by the call, and of the whole process':_rows(memory),
            'The small one, trained on the demo set':{s:{told.get(k, k):v for k,v in r.items()}
                                                      for s,r in d['train'].items()}}

def _recorder(d):
    return {'':{k:{'time, as a ratio to training without':v} for k,v in d.items() if is_ratio(v)}}

def _import_time(d):
    names = dict(here='the version measured', beside='another version beside it')
    def _column(k): return {'fastai':'fastai alone, s'}.get(k, f'fastattn, {plain_word(k)}, s')
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
            for m,v in r[k].items(): res.setdefault(m, {})[f"{plain_word(k)}, seed {r['seed']}, {r['pool']}"] = v
    runs = [{k:v for k,v in r.items() if k not in ('pointing','energy_inside')} for r in d['runs']]
    return {'By method, seed and pooling':res, 'The networks':runs}

def _mean_of(rows):
    "The mean of each number over rows of the same shape; None where any has none"
    vs = [flat(r) for r in rows]
    return {p:mean(v[p] for v in vs) for p in vs[0] if all(is_number(v.get(p)) for v in vs)}

def _forms(d):
    groups = {}
    for r in d['runs']:
        name = ' '.join(filter(None, (r['form'],r['activation'])))
        groups.setdefault(f"{name}, {r['images']} images", []).append(r)
    def _row(rs):
        means = {p:v for p,v in _mean_of(rs).items() if p[0] in ('accuracy','mask','cam','seconds')}
        return {'seeds':len(rs), **{words_of_path(p):round(v, 1 if p==('seconds',) else 3) for p,v in means.items()},
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
                    **v, **{f'earlier version: {plain_word(o)}':w for o,w in old.items()}}
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
        if name!='images': res.setdefault(f"{plain_word(where)}, {d[f'{where}: images']} images", {})[name] = v
    return res

def _zoo(d):
    "By library; of the models that make up a family the smallest was taken"
    res = {}
    for r in d['rows']:
        found = f"{r['hits']}{fixed_space}of{fixed_space}{r['places']}"
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

def _public(d):
    "A table for each network, and one of differences for each comparison of LeGrad with relevance"
    res = {k:v for k,v in d.items() if 'rows' not in (v if isinstance(v, dict) else {}) and k!='legrad'}
    for k,v in d.items():
        if not isinstance(v, dict) or 'rows' not in v: continue
        few = v['images_for_insertion_deletion_road']
        name = f"{part_names[k]}: {v['images']} images, {few} of them for insertion, deletion and ROAD"
        res[name] = v['rows']
    for k,v in d.get('legrad', {}).items():
        if k=='options': continue
        both = [(m,v['rows'][m]) for m in ('legrad','relevance') if 'rows' in v]
        res[f"LeGrad minus relevance, {k}, {v['images']} images: mean, and 95 % interval"] = {
            plain_word(f):{**{m:r[f] for m,r in both}, **o} for f,o in v['differences'].items()}
    return res

_scale_words = dict(
    batch='pictures in a batch', px='side of the input, px', plain_per_second='pictures a second, plain',
    save_maps_per_second='pictures a second, maps', fixed_seconds='fixed cost of a call, s',
    first_call_of_8_seconds='first call, of 8 pictures, s', read_per_core='pictures that one core reads in a second',
    pictures_per_second='pictures a second', rss_before_mb='memory before, MB',
    rss_first_tenth_mb='memory in the first tenth, MB', rss_last_tenth_mb='memory in the last tenth, MB',
    rss_most_mb='most memory, MB', growth='memory, last tenth to first', raw_map='raw values of the map',
    raw_numbers='all raw numbers', numbers='all numbers in the file', text='columns of text in the file',
    files='files with maps, whole', lists='lists of pictures', numbers_to_raw='numbers in the file to raw numbers',
    files_to_raw='whole files to raw numbers', took_seconds='the whole measurement, s',
    listing_seconds='to list the files, s', listing_mb='memory of the list, MB',
    listing_tar_seconds='to list the same in tar files, s', cutting_seconds='to cut the list into shards, s',
    cutting_mb='memory to cut it, MB', comparing_seconds="to compare it with the table's keys, s",
    rerun_seconds='a call that finds all finished, s', rerun_mb='memory of that call, MB',
    adding_one_seconds='a call with one picture more, s', open_and_len_seconds='to open the table and count rows, s',
    footers_ms_each="to read a file's footer, ms", one_map_ms='one map on its picture, ms',
    mean_map_of='rows in a mean map', mean_map_seconds='mean map, s', to_pandas_seconds='table for pandas, s',
    raw_ms='a picture without it, ms', picture_ms='a picture with it, ms', picture_bytes='bytes of it',
    raw_row_bytes='bytes of a row without it')

def _scale(d):
    def _told(v): return {_scale_words.get(k, k):o for k,o in v.items()}
    titles = dict(throughput='One process, beside plain inference',
                  processes='Two processes with one thread each, beside two of plain inference',
                  memory='A table of many small pictures', restart='To call it again, and to read',
                  picture='A small picture with its map in each row')
    res = {}
    for k,title in titles.items():
        v = d.get(k, {})
        if 'rows' in v: res[title] = {n:_told(o) for n,o in v['rows'].items()}
        if 'auto_takes' in v: res['What auto takes'] = {n:{'method':o} for n,o in v['auto_takes'].items()}
        leaves = _told({n:o for n,o in v.items() if n=='time' or not isinstance(o, dict)})
        if leaves: res[f'{title}: how it was measured' if 'rows' in v else title] = {'':leaves}
        if 'bytes_of_a_row' in v: res['Bytes of a row'] = {n:{'bytes':o} for n,o in _told(v['bytes_of_a_row']).items()}
        if 'bytes_by_column' in v: res['By column'] = {n:{'bytes':o} for n,o in v['bytes_by_column'].items()}
    commits = d.get('commits', {})
    return res|({'Commits': {k:{'commit':v} for k,v in commits.items()}} if len(set(commits.values()))>1 else {})

def _by_network(d, columns=('deeplift','attnlrp','lrp')):
    return {k:{f'{m}, {p}':v[f'{m}, {p}'] for m in columns for p in ('single','double')} for k,v in d.items()}

def _complete(d):
    return {'What a map misses of the sum, as a share of it, in single and double precision':_by_network(d['complete']),
            'What stays where, by AttnLRP':{k:v['shares'] for k,v in d['complete'].items()},
            'Time, in plain forward passes':d['cost'],
            'Time beside the references, in plain forward passes':{k:{'time':v} for k,v in d['beside'].items()},
            'Largest differences from the references, in double precision':{k:{'difference':v}
                                                                            for k,v in d['apart'].items()}}

def _prompts(d):
    def _share(v): return f'{v[0]:.3f} ({v[1]:.3f} to {v[2]:.3f})'
    res = {}
    for r in d['runs'].values():
        asked = {}
        for k,v in r['maps'].items():
            what,method = k.split(', ')
            asked.setdefault(f'The prompt gives: {what}', {})[method] = {
                'peak on the named one':_share(v['named']), 'on the other':_share(v['other']),
                'more on the named one':_share(v['more_on_named'])}
        res |= asked
        res['What the model knows of a picture of two objects'] = {k:{'share':_share(v)} for k,v in r['known'].items()}
    return res

def _planted(d):
    res = {}
    for k in ('volumes','signals'):
        res[f'{first_up(k)}: {d[k]["n"]} held out'] = {m:{'pointing':v['pointing'], 'ms':v['ms_each']}
                                                      for m,v in d[k]['methods'].items()}
    res['Largest relative differences from torchcam'] = d['torchcam']
    return {**res, 'Largest difference from MONAI':{'densenet121':{'difference':d['monai']['densenet121']}}}

def _patches(d):
    names = dict(points='among points', all_patches='among all patches', nearest='among the points of all others',
                 without_background='among points, without background', n='questions')
    def _told(v): return {names[k]:o for k,o in v.items() if k in names and not isinstance(o, dict)}
    part = 'The same part, in another photograph'
    return {f'{part}: by layer of DINOv2':{k:_told(v) for k,v in d['dinov2_layers'].items()},
            f'{part}: by part':{k:_told(v) for k,v in d['dinov2']['parts'].items()},
            f'{part}: default layers':{'DINOv2':_told(d['dinov2']), 'EfficientNet-Lite0':_told(d['efficientnet_lite0'])},
            'Foreground of the demo set':{'':{'pictures':d['demo_foreground']['n'], 'IoU':d['demo_foreground']['iou'],
                                              'IoU of coarse masks':d['demo_foreground']['of_coarse_masks']}}}

def _text(d):
    return {'Largest differences':{**{f'logits, {k}':{'difference':v} for k,v in d['logits'].items()},
                                   **{k:{'difference':d[k]} for k in ('legrad','relevance','maskclip')},
                                   **{f'gradcam, {k}':{'difference':v} for k,v in d['gradcam'].items()}},
            "Time, in passes of the image's tower":{k:{'time':v} for k,v in d['cost'].items()}}

shapes = dict(cams=_cams, attribution=_attribution, vit=_vit, detr=_detr, recorder=_recorder, import_time=_import_time,
              unet=_unet, vit_localise=_vit_localise, forms=_forms, large_pictures=_large_pictures, zoo=_zoo,
              default_map_phases=_phases, default_map_cost=_default_cost, default_map_dinov2=_default_dinov2,
              bad_inputs=_bad_inputs, public=_public, scale=_scale, complete=_complete,
              prompts=_prompts, volumes=_planted, patches=_patches, text=_text)

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
            f'as long as {plain_word(q)}, the quickest other library')

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

def _public_key(r):
    d = r['public']
    rows = d['lite0']['rows']
    best = max(rows, key=lambda m: rows[m]['pointing'][0])
    diff = d['legrad']['demo set, mean of the seeds' if 'demo set, mean of the seeds' in d['legrad'] else
                       'demo set, seed 0']['differences']['pointing']
    share,fewer = mean_and_error(rows[best]['pointing']),f"{-diff['mean']:.2f}"
    return (f"On EfficientNet-Lite0 the peak of {plain_word(best)} lies on the object most often, in {share} of the "
            f"images; on a ViT with a CLS token that of LeGrad does in {fewer} fewer than that of relevance")

def _dinov2_key(r):
    rows = {k:v['pointing'] for k,v in r['dinov2']['rows'].items()}
    best = max(rows, key=rows.get)
    return (f"The peak of plain rollout lies on the object in {rows['rollout']:.2f} of the maps, "
            f"that of {in_cell(best)} "
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
    return f'{first_up(best)}: {inside[best]:.2f} of the mask lies on the object, the most of all forms'

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
    n,timed = max(((int(n),v) for n,v in runs.items() if 'by_command' in v))
    return (f"{timed['by_command']:.0f} strips a second by the command (plain inference: "
            f"{timed['plain']['inference_from_disk']:.0f} images); over {n:,} pictures the process grows from "
            f"{timed['rss_before']} to {max(timed['rss_peak_until'].values())} MB")

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

def _audit_key(r):
    d = r['audit']
    top,runs = d['most_frequent_top_group']['of_runs']
    called = d['wrong_called_out'][0]
    return (f"The same methods share the top group in {top} of {runs} audits; methods that are wrong on purpose are "
            f"called out in {called}")

def _shortcuts_key(r):
    d = r['shortcuts']
    hit,none = d['costs_5_points'],d['false_alarms_unbiased']
    return (f"{hit['found']} of {hit['of']} shortcuts that cost 5 points or more are found; of {none['of']} classes "
            f"without one, {none['flagged']} are flagged")

def _cleaner_key(r):
    d,acc = r['cleaner']['found']['both sets'],r['cleaner']['accuracy']
    return (f"Of the first {_percent(r['cleaner']['share'])} in the cleaner's order {_percent(d['cleaner'])} are wrong, "
            f"in fastai's order by loss {_percent(d['loss'])}; mending them takes the accuracy from "
            f"{acc['before']:.3f} to {acc['after']:.3f}")

def _report_key(r):
    p = r['report']['pages'][0]
    return f"{p['pictures']} pictures with {p['maps']} maps are one page of {p['MB']:.0f} MB"

def _complete_key(r):
    worst = max(v for k in r['complete']['complete'].values() for n,v in k.items() if n.endswith('single'))
    return (f"On {len(r['complete']['complete'])} architectures DeepLIFT, LRP and AttnLRP miss at most {worst:.0e} of "
            "what they add up to")

def _prompts_key(r):
    maps = next(iter(r['prompts']['runs'].values()))['maps']
    def _of(k): return f"{100*maps[f'{k}, auto']['named'][0]:.0f}%"
    return (f"Of two objects in a picture, the default map points at the one that the prompt names in {_of('name')} of "
            f"cases, by its colour in {_of('colour')}, by its place in {_of('place')}")

def _volumes_key(r):
    v,s = (r['volumes'][k]['methods']['auto']['pointing'][0] for k in ('volumes','signals'))
    return f"The default map points at what was planted in {100*v:.0f}% of volumes and {100*s:.0f}% of signals"

def _patches_key(r):
    d = r['patches']
    return (f"DINOv2's most similar point in another photograph is of the same part in {100*d['dinov2']['points']:.0f}% "
            f"of cases ({100*d['chance']:.0f}% by chance), with the weights that a package ships")

def _text_key(r):
    d = r['text']
    return f"LeGrad is at most {d['legrad']:.0e} from its authors' code, and MaskCLIP {d['maskclip']:.0e} from its formula"

def _scale_key(r):
    d = r['scale']
    row,m = d['throughput']['rows']['resnet50, gradcam'],d['memory']
    return (f"A table of Grad-CAM maps of a resnet50 takes {ratio(row['time'])} times as long as plain inference, and "
            f"{m['bytes_of_a_row']['files']:.0f} bytes a picture; over {m['pictures']:,} pictures memory grows by a "
            f"factor of {m['growth']:.2f}")

def _scale_commands(r):
    n = {k:v['pictures'] for k,v in r['scale'].items() if isinstance(v, dict) and 'pictures' in v and k!='restart'}
    return [' '.join(f'--n-{k} {v}' for k,v in n.items())]

def _public_commands(r): return [v['options'] for v in r['public'].values() if isinstance(v, dict) and 'options' in v]

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
    public=Bench('A table as papers print it', _public_key, _public_commands),
    audit=Bench('Which map to believe, without masks', _audit_key),
    shortcuts=Bench('Shortcuts that were planted', _shortcuts_key),
    cleaner=Bench('Wrong labels that were planted', _cleaner_key),
    report=Bench('Reports', _report_key),
    scale=Bench('Tables of maps', _scale_key, _scale_commands),
    prompts=Bench('Prompts, and the object that they name', _prompts_key,
                  lambda r: ['--seeds '+' '.join(r['prompts']['runs'])]),
    text=Bench('Maps of image towers, beside the references', _text_key),
    patches=Bench('Parts of animals, found by their features', _patches_key),
    complete=Bench('Attributions that add up', _complete_key),
    volumes=Bench('What was planted in volumes and signals', _volumes_key),
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
    visualize=Bench('Strips of many photographs', _visualize_key,
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
part_names = dict(lite0='EfficientNet-Lite0', mobilenetv2='MobileNetV2', resnet18='A resnet18, trained from scratch',
              resnet50d='A resnet50d, trained from scratch', dinov2='DINOv2, a backbone without classes',
              phases='How evenly the map lies on the four phases of the grid', cost='What it costs')
captions = dict(
    default_map='Top losses of the resnet18: on the left without a second stage, spread gradients and measured '
                'centres, on the right with them.',
    dinov2='The photographs at the largest size, with the maps of four of the methods.')

def bench_of(stem): return benches.get(stem) or Bench(first_up(stem.replace('_', ' ')))

def key_number(stem, res):
    "The key number of a benchmark in a sentence without its stop"
    try: return bench_of(stem).key(res)
    except (KeyError, StopIteration, ValueError, TypeError, AttributeError) as e:
        raise ValueError(f'The results of bench/{stem}.py lack what its key number is read from: {e!r}.') from e
