"A signature as a call and a table of its arguments, which a narrow page can show"
import re, textwrap

_block = re.compile(r'^```python\n(?P<sig>(?:def|class) .*?)\n?```', re.M|re.S)
_idle = re.compile(r':(?:NoneType|function|type|object)(?==|$)') # types that a default already shows

def _escaped(s): return s.replace('|', '\\|')

def _split(line):
    "What a line of a signature declares, and what its comment says"
    code,_,comment = line.strip().partition(' # ') if ' # ' in line else (line.strip().rstrip(), '', '')
    if line.strip().startswith('# '): return '',line.strip()[2:]
    return code.strip().removeprefix('*, ').rstrip(','),comment.strip()

def _parts(code):
    "The arguments in a line, split at commas outside brackets and quotes"
    res,depth,quote,cur = [],0,'',''
    for c in code:
        if quote: quote = '' if c==quote else quote
        elif c in '"\'': quote = c
        elif c in '([{<': depth += 1
        elif c in ')]}>': depth -= 1
        if c==',' and depth<=0 and not quote: res.append(cur.strip()); cur = ''
        else: cur += c
    return [o for o in [*res,cur.strip()] if o and o!='*']

def _named(args): return ', '.join(f'`{_idle.sub("", a)}`' for a in args)

def _bare(arg):
    "An argument without its type"
    name,_,rest = arg.partition(':')
    return name+('='+rest.split('=', 1)[1] if '=' in rest else '') if rest else arg

def _result(last):
    "Type and comment of what is returned"
    m = re.match(r'\)(?:->(?P<type>.*?))?:?(?:\s+# (?P<says>.*))?$', last.strip())
    return (m['type'] or '').rstrip(':').split('.')[-1] if m else '',(m['says'] or '') if m else ''

def as_table(
    text:str # Markdown with a signature as nbdev writes it, or the fields of a dataclass
)->str: # The same where there is none, or where it is in one line
    "Replace a signature by a call and a table"
    m = _block.search(text)
    lines = m['sig'].splitlines() if m else []
    if len(lines)<2: return text
    is_class = lines[0].startswith('class')
    name = re.match(r'(?:def|class) ([\w.]+)', lines[0])[1]
    body,last = (lines[1:],'') if is_class and not lines[-1].startswith(')') else (lines[1:-1],lines[-1])
    rows,others,call = [],[],[]
    for l in body:
        code,says = _split(l)
        args = [o for o in _parts(code) if o!='self']
        call += map(_bare, args)
        if says: rows.append((_named(args),says))
        else: others += [a for a in args if not a.startswith('*')]
    kind,says = _result(last)
    if says or kind and kind!='None': rows.append((f'*returns*{f" `{kind}`" if kind else ""}',says))
    if others: rows.append((_named(others),'as in fastai, to which they are passed on'))
    call = textwrap.fill(f"{name}({', '.join(call)})", 72, subsequent_indent=' '*(len(name)+1), break_long_words=False,
                         break_on_hyphens=False)
    cells = [f'| {_escaped(a)} | {_escaped(s)} |' for a,s in rows]
    table = '\n'.join(['| argument | what it is |', '|---|---|', *cells])
    return text[:m.start()]+f'```python\n{call}\n```\n\n'+text[m.end():].strip()+(f'\n\n{table}' if rows else '')
