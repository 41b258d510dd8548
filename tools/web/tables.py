"Results of benchmarks as Markdown: words, numbers and tables"
import re

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
meanings = {
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

def plain_word(k):
    "The key `k` of a result in words, with its unit behind a comma"
    if k in _words: return _words[k]
    stem,_,unit = k.rpartition('_')
    if stem and unit in _units: return f'{plain_word(stem)}, {_units[unit]}'.replace('memory, as a ratio', 'memory')
    return k.replace('_', ' ')

def first_up(s): return s[:1].upper()+s[1:]

_temporary = re.compile(r'/tmp/\w+/')
def in_cell(s):
    "Text in which nothing is Markdown, on one line and without folders of a machine"
    s = re.sub(r'\s+', ' ', _temporary.sub('', str(s))).strip()
    return re.sub(r'([\\`*\[\]<>|${}~#]|(?<!\w)_|_(?!\w))', r'\\\1', s)

def in_prose(s):
    "Text whose backticks are code, and nothing else Markdown; its first letter is large, and a stop ends it"
    parts = re.split(r'(`[^`]*`)', re.sub(r'\s+', ' ', s).strip())
    s = ''.join(p if i%2 else _cell_spaced(p) for i,p in enumerate(parts))
    if re.match(r'[a-z]+(?![\w.])', s): s = first_up(s) # a name stays as it is
    return s if not s or s[-1] in '.?!' else s+'.'

def _cell_spaced(s):
    "`in_cell` with the blanks around it"
    return s[:len(s)-len(s.lstrip())]+in_cell(s)+s[len(s.rstrip()):] if s.strip() else s

## Numbers

# Lists of two numbers that are not a mean and its error
_pairs_of_numbers = {'size','shift','grid','ordered','cells_look_off_by_px','seeds','seed'}
_tallies = {'bad','left'}

def is_ratio(v): return isinstance(v, dict) and {'median','quartiles'}<=v.keys()
def is_number(v): return isinstance(v, (int,float)) and not isinstance(v, bool)
def _is_mean(v, key):
    "A mean and its standard error"
    return (isinstance(v, list) and len(v)==2 and all(isinstance(o, float) for o in v) and v[1]>=0
            and key not in _pairs_of_numbers)
def is_leaf(v, key=''):
    "What stands in one cell"
    if isinstance(v, dict): return is_ratio(v) or not v or key in _tallies
    if not isinstance(v, list): return True
    return bool(v) and not any(isinstance(o, (dict,list)) for o in v) and sum(len(str(o)) for o in v)<60

def _digits(v): return 0 if abs(v)>=100 else 2 if abs(v)>=.1 else 3

fixed_space = '\N{NO-BREAK SPACE}'

def ratio(v):
    "`1.04 (0.98 to 1.10)`, and the smallest where it was kept; a line breaks before the bracket only"
    n = max(map(_digits, (v['median'],*v['quartiles'])))
    q = f'{fixed_space}to{fixed_space}'.join(f'{o:.{n}f}' for o in v['quartiles'])
    return f"{v['median']:.{n}f} ({q}{'; smallest '+format(v['smallest'], f'.{n}f') if 'smallest' in v else ''})"

def mean_and_error(v):
    "`.886 ± .020`"
    return f' ±{fixed_space}'.join(re.sub(r'^(-?)0\.', r'\1.', number(o, 3)) for o in v)

def number(v, digits=None):
    "An integer with commas from ten thousand on; a fraction with at most three digits"
    if isinstance(v, int): return f'{v:,}' if abs(v)>=10_000 else str(v)
    s = f'{v:.{_decimals(v) if digits is None else digits}f}'
    return s if float(s) else s.lstrip('-')

def _decimals(v): return len(f'{v:.3f}'.rstrip('0').partition('.')[2])

def text(v, key='', digits=None):
    "The value `v` as one cell"
    if is_ratio(v): return ratio(v)
    if _is_mean(v, key): return mean_and_error(v)
    if isinstance(v, bool): return 'yes' if v else 'no'
    if v is None: return ''
    if is_number(v): return number(v, digits)
    if isinstance(v, dict): return '; '.join(f'{in_cell(plain_word(k))}: {number(n)}' for k,n in v.items()) or 'none'
    if isinstance(v, list):
        of = f'{fixed_space}by{fixed_space}' if key in ('size','grid','shift') else ', '
        return of.join(text(o, digits=digits) for o in v) if v else 'none'
    return in_cell(v)

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
        if is_leaf(v, k) or isinstance(v, list) and not v: res[(*path,k)] = v
        else: res.update(flat(v if isinstance(v, dict) else {str(i+1):o for i,o in enumerate(v)}, (*path,k)))
    return res

def row_lines(head, rows, right):
    "A table of cells; columns in `right` are flush right"
    bar = ['---:' if i in right else '---' for i in range(len(head))]
    return ['| '+' | '.join(r)+' |' for r in (head,bar,*rows)]

def _numeric(cells): return all(re.match(r'-?[\d.,]', c) or not c for c in cells)

def table(rows, corner=''):
    "A table of rows `{name: {column: leaf, ...}}`, which may be nested; few rows with many columns are turned round"
    rows = {k:flat(r) for k,r in rows.items()}
    names = _columns(rows.values())
    heads = [in_cell(words_of_path(p)) for p in names]
    cols = [column([r.get(p) for r in rows.values()], p[-1]) for p in names]
    sides = [in_cell(k) for k in rows]
    if len(names)>8 and len(rows)<len(names)/2: heads,sides,cols = sides,heads,[list(r) for r in zip(*cols)]
    body = [[s,*r] for s,r in zip(sides, zip(*cols))]
    return row_lines([corner,*heads], body, {i+1 for i,c in enumerate(cols) if _numeric(c)})

def _columns(rows):
    "The paths in flat `rows`, without those that are None where other rows have more below them"
    names = list(dict.fromkeys(p for r in rows for p in r))
    def _is_void(p): return any(q[:len(p)]==p and q!=p for q in names) and all(r.get(p) is None for r in rows)
    return [p for p in names if not _is_void(p)]

def words_of_path(p): return ': '.join(plain_word(o) for o in p)

def records(rows):
    "A table of a list of dicts"
    rows = [flat(r) for r in rows]
    names = _columns(rows)
    cols = [column([r.get(p) for r in rows], p[-1]) for p in names]
    if len(names)>9 and len(rows)<5: # turned round: its first line heads it
        return row_lines([in_cell(words_of_path(names[0])),*cols[0]],
                      [[in_cell(words_of_path(p)),*c] for p,c in zip(names[1:], cols[1:])], range(1, len(rows)+1))
    return row_lines([in_cell(words_of_path(p)) for p in names], list(zip(*cols)),
                  {i for i,c in enumerate(cols) if _numeric(c)})

def is_table(d):
    "Do the dicts in `d` share so many columns that one table shows them?"
    if not all(isinstance(v, dict) and v and not is_leaf(v) for v in d.values()): return False
    rows = [flat(v) for v in d.values()]
    names = {p for r in rows for p in r}
    return max(map(len, names))<=3 and sum(map(len, rows))>=len(rows)*len(names)/2 and (len(names)<=14 or len(rows)<=4)

def bullets(d): return [f'- {in_cell(first_up(plain_word(k)))}: {text(v, k)}' for k,v in d.items()]

def block(v, level=3):
    "The lines of Markdown that show `v`, whatever it is; `level` is that of a heading in it"
    if not v: return ['None.']
    if isinstance(v, list): return records(v) if isinstance(v[0], dict) else [f'- {in_cell(o)}' for o in v]
    leaves = {k:o for k,o in v.items() if is_leaf(o, k)}
    if len(leaves)==len(v): return table({plain_word(k):{'':o} for k,o in v.items()}) if len(v)>3 else bullets(v)
    if is_table(v): return table(v)
    return bullets(leaves)+['']+sections({k:o for k,o in v.items() if k not in leaves}, level)

def sections(d, level):
    "Each entry below a heading of its own; `rows` and the unnamed need none"
    res = []
    for k,v in d.items():
        if k and k!='rows': res += [f"{'#'*level} {_headings.get(k) or first_up(in_cell(plain_word(k)))}",'']
        res += [*block(v, level+1),'']
    return res
