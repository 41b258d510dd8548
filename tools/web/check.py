"Checks of a built site: links, pictures, and that no page asks another host for anything"
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

class _Page(HTMLParser):
    "Anchors of a page, its links, and what it loads"
    def __init__(self):
        super().__init__()
        self.ids,self.links,self.loads,self.text,self.quiet = set(),[],[],[],0
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id','name') if a.get(k)}
        if tag=='a' and a.get('href'): self.links.append(a['href'])
        if tag=='link' and a.get('href'):
            loaded = {'stylesheet','preload','icon','prefetch'} & set((a.get('rel') or '').split())
            (self.loads if loaded else self.links).append(a['href'])
        if tag in ('img','script','source','iframe','video','audio') and a.get('src'): self.loads.append(a['src'])
        if tag=='object' and a.get('data'): self.loads.append(a['data'])

        self.quiet += tag in _code
    def handle_endtag(self, tag): self.quiet -= tag in _code
    def handle_data(self, data):
        if not self.quiet: self.text.append(data)

_code = 'code','pre','script','style'

def _read(f):
    p = _Page()
    p.feed(f.read_text(encoding='utf-8'))
    return p

def _is_elsewhere(url): return bool(urlsplit(url).netloc)

def faults_of(
    site:Path # Folder of the built site
)->list: # Sentences
    "Broken links and anchors, missing pictures, and what pages load from other hosts"
    pages,res = {f.relative_to(site).as_posix():_read(f) for f in sorted(site.rglob('*.html'))},[]
    for name,p in pages.items():
        if m := re.search(r'\S*\]\([^\s()]+\)', ''.join(p.text)): res.append(f'{name} shows a link as text: {m[0]!r}.')
        for url in p.loads:
            if url.startswith('data:'): continue
            if _is_elsewhere(url): res.append(f'{name} loads {url[:80]} from another host.')
            elif not _target(site, name, url).exists():
                res.append(f'{name} shows or loads {url!r}, which is not there.')
        for url in p.links:
            if _is_elsewhere(url) or urlsplit(url).scheme or url.startswith('#') and url=='#': continue
            to = _target(site, name, url)
            key = to.relative_to(site.resolve()).as_posix() if to.is_relative_to(site.resolve()) else None
            anchor = unquote(urlsplit(url).fragment)
            if key is None or not to.exists(): res.append(f'{name} links to {url!r}, which is not there.')
            elif anchor and key in pages and anchor not in pages[key].ids:
                res.append(f'{name} links to {url!r}: no such place on that page.')
    return res

def _target(site, name, url):
    path = unquote(urlsplit(url).path)
    to = (site/name).parent/path if path else site/name
    to = to.resolve()
    return to/'index.html' if to.is_dir() else to
