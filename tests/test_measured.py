"The site's pages of measurements: one for every benchmark, whole tables, and the numbers of the results"
import json, re, shutil, sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root/'tools'))
from web import benches, measured as m, tables as t

made = {k:v.replace('\N{NO-BREAK SPACE}', ' ') for k,v in m.pages(root).items()}
results = m.measured(root)

def cells(line): return [c.strip().replace('\\', '') for c in re.split(r'(?<!\\)\|', line.strip())[1:-1]]

def tables(page):
    "The tables of a page as lists of rows of cells, without the bars below their heads"
    res,rows = [],[]
    for l in [*page.splitlines(), '']:
        if l.startswith('|'): rows.append(cells(l))
        elif rows:
            res.append([rows[0],*rows[2:]])
            rows = []
    return res

def row(page, name, column):
    "The cell of the row `name` in the first table that has the column"
    for head,*rows in tables(made[f'measured/{page}.md']):
        if column in head:
            for r in rows:
                if r[0]==name: return r[head.index(column)]
    raise AssertionError(f'{page} has no {name}, {column}')

def numbers(o):
    "Every number in a result, also those written in its keys and sentences"
    if isinstance(o, dict): return set().union(*[numbers(k)|numbers(v) for k,v in o.items()])
    if isinstance(o, list): return set().union(*map(numbers, o), {len(o)})
    if isinstance(o, bool) or o is None: return set()
    return {float(o)} if isinstance(o, (int,float)) else {float(s) for s in re.findall(r'\d+\.?\d*|\.\d+', o)}

def test_a_page_for_every_result():
    assert set(made)=={'measured/index.md',*(f'measured/{k}.md' for k in results)} and len(results)>20
    assert sorted(n for r in results.values() for n in r)==sorted(f.stem for f in (root/'bench/results').glob('*.json'))
    index = made['measured/index.md']
    for k,rs in results.items():
        page = made[f'measured/{k}.md']
        assert f']({k}.md)' in index and f'\n{k}\n' in index.partition('{toctree}')[2]
        assert page.startswith('# ') and f'python bench/{k}.py' in page
        for d in rs.values(): assert f"commit `{d['about']['commit']}`" in page

@pytest.mark.parametrize('name', sorted(made))
def test_tables_are_whole(name):
    page = made[name]
    for t in tables(page):
        assert len({len(r) for r in t})==1 and len(t)>1, t
        for r in t[1:]: assert any(r) and not any(re.search(r"[{}]|'median'|nan$|^None$", c) for c in r[1:3])
    prose = re.sub(r'```.*?```|`[^`]*`', '', page, flags=re.S)
    assert not re.search(r'\{\'|/tmp/|/work/|/root/|/home/', prose) and max(map(len, page.splitlines()))<1500
    assert '\n\n\n' not in page and page.endswith('\n')

# of these, means over seeds and millions of parameters are worked out, and are tested below
worked_out = {'forms','zoo'}

@pytest.mark.parametrize('name', sorted(set(results)-worked_out))
def test_numbers_are_those_of_the_results(name):
    there = sorted(numbers(results[name]))
    for head,*rows in tables(made[f'measured/{name}.md']):
        for c in (c for r in rows for c in r[1:]):
            for s in re.findall(r'-?(?:\d+\.\d+|\.\d+|\d+)', c.replace(',', '')):
                step = 10.**-len(s.partition('.')[2])
                assert any(abs(abs(float(s))-abs(v))<=step*.5001 for v in there), (name, c)

def test_costs():
    "What people look up first"
    def read(n): return json.loads((root/f'bench/results/{n}.json').read_text())
    cams,attr,vit,detr,rec = (read(n) for n in ('cams','attribution','vit','detr','recorder'))
    for k,r in cams['time_and_memory'].items():
        assert row('cams', k, 'forward passes')==t.ratio(r['forward']).replace('\N{NO-BREAK SPACE}', ' ')
        assert row('cams', k, 'extra MB')==str(r['memory_mb']['fastattn'])
        assert row('cams', k, 'quickest peer')==r.get('fastest_peer', '').replace('_', '-')
    for k,v in attr['memory_mb'].items(): assert row('attribution', k, "captum's, MB")==str(v['captum'])
    for k in ('attention','rollout','relevance','gradcam'):
        v = vit['time'][f'{k} 768px batch 1']['median']
        assert row('vit', k, '768px batch 1').startswith(f'{v:.2f} (')
    assert row('vit', 'rollout', '1024px')==str(vit['memory_mb']['rollout 1024px'])
    v = detr['cost']['relevance stride 32']['median']
    assert row('detr', 'relevance of four queries', 'stride 32').startswith(f'{v:.2f} (')
    for k in ('AttentionRecorder','ActivationStats'):
        assert f"{rec[k]['median']:.2f} (" in row('recorder', k, 'time, as a ratio to training without')

def test_what_is_worked_out():
    runs = results['forms']['forms']['runs']
    v = [r['accuracy'] for r in runs if (r['form'],r['activation'],r['images'])==('spatial','softmax',3000)]
    assert row('forms', 'spatial softmax, 3000 images', 'accuracy')==f'{sum(v)/len(v):.3f}'
    rows = results['zoo']['zoo']['rows']
    assert sum(len(t)-1 for t in tables(made['measured/zoo.md']))==len(rows)
    for r in rows:
        if r['library']=='timm': assert row('zoo', r['family'], 'parameters, M')==f"{r['parameters']/1e6:.1f}"

def test_how_numbers_are_written():
    said = t.ratio(dict(median=1.038, quartiles=[.984,1.1], pairs=7)).replace('\N{NO-BREAK SPACE}', ' ')
    assert said=='1.04 (0.98 to 1.10)'
    assert t.ratio(dict(median=.022, quartiles=[.02,.03], pairs=7)).startswith('0.022')
    assert t.mean_and_error([.886,.02]).replace('\N{NO-BREAK SPACE}', ' ')=='.886 ± .020'
    assert t.mean_and_error([-.0,.0]).startswith('.000')
    assert t.column([.5,None,.125], 'x')==['0.500','','0.125'] and t.text(86_635_816)=='86,635,816'
    assert t.text([800,1066], 'size').replace('\N{NO-BREAK SPACE}', ' ')=='800 by 1066'
    assert t.text({}, 'left')=='none' and t.text('a|b <c>\nd')==r'a\|b \<c\> d'

def test_pictures():
    shown = m.pictures(root)
    assert set(shown)=={f'bench/{f.name}' for f in (root/'bench/results').glob('*.png')} and shown
    for to,f in shown.items():
        assert f.exists() and sum(f'](../{to})' in p for p in made.values())==1

@pytest.fixture
def small(tmp_path):
    "A repository with one benchmark that this module knows nothing about"
    (tmp_path/'bench/results').mkdir(parents=True)
    (tmp_path/'bench/new_one.py').write_text('"What is new; `python bench/new_one.py`"\nfrom common import write\n'
                                             "for k in 'ab': write(f'new_one_{k}', rows={})\n")
    (tmp_path/'bench/helper.py').write_text('def made(): pass\n')
    about = dict(commit='abc1234', torch='2.9', threads=1, cpu='x86_64')
    rows = {'x':{'time':dict(median=2., quartiles=[1.,3.], pairs=5), 'size_mb':7}}
    for k in 'ab':
        f = tmp_path/f'bench/results/new_one_{k}.json'
        f.write_text(json.dumps(dict(about=about, seed=3, rows=rows, said=['a word'])))
    return tmp_path

def test_an_unknown_benchmark_gets_a_page(small):
    page = m.pages(small)['measured/new_one.md'].replace('\N{NO-BREAK SPACE}', ' ')
    assert page.startswith('# New one\n\nWhat is new.\n') and page.count('| x | 2.00 (1.00 to 3.00) | 7 |')==2
    assert '|  | time, as a ratio | size, MB |' in page and '1 thread, x86_64, seed 3.*' in page

def test_what_does_not_fit_is_named(small):
    res = small/'bench/results'
    (res/'stray.json').write_text('{}')
    with pytest.raises(ValueError, match=r'No script in bench/ makes bench/results/stray\.json\.'): m.pages(small)
    (res/'stray.json').rename(res/'stray.png')
    with pytest.raises(ValueError, match=r'makes bench/results/stray\.png\.'): m.pictures(small)
    (res/'stray.png').unlink()
    shutil.copy(root/'bench/recorder.py', small/'bench')
    with pytest.raises(ValueError, match=r'bench/recorder\.py has no result in bench/results\.'): m.pages(small)
    (res/'recorder.json').write_text('{"about": {}}')
    with pytest.raises(ValueError, match='The results of bench/recorder.py lack'): m.pages(small)
    (small/'bench/recorder.py').write_text('write(str(3))')
    with pytest.raises(ValueError, match='bench/recorder.py writes a result whose name cannot be read'): m.pages(small)

def test_commands_have_what_scripts_need():
    "Each command sets the options that its script cannot do without, and none that it does not have"
    for k,rs in results.items():
        src = (root/f'bench/{k}.py').read_text(encoding='utf-8')
        for c in m._commands(k, rs):
            for o in re.findall(r' (--?[a-z-]+)', c): assert f"'{o}'" in src, c
            if re.search(r"add_argument\('[a-z]\w*', (?!nargs='[*?])", src): assert len(c.split())>2, c
