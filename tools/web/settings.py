"Addresses and names, which `settings.ini` alone holds"
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parents[2]
cfg = ConfigParser(delimiters=['='])
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = dict(cfg['DEFAULT'])
name,version = cfg['lib_name'],cfg['version']
site = cfg['doc_url'].rstrip('/')+'/'
repository,branch = cfg['git_url'].rstrip('/'),cfg['branch']

def in_repository(
    path, # Relative to the repository's root
    lines:tuple=None # First and last line
)->str:
    "The address of a file, or of a folder, on the default branch"
    at = '#L{}-L{}'.format(*lines) if lines else ''
    kind = 'tree' if (root/path).is_dir() else 'blob'
    return f'{repository}/{kind}/{branch}/{path}{at}'

def page_address(
    page # As in `links.page_of`
)->str:
    "The address of a page of the site"
    return f'{site}{page}.html'

def picture_address(
    name # Of a file in `docs/images`
)->str:
    "The address under which the repository serves a picture of the README"
    return f'{repository}/raw/{branch}/docs/images/{name}'

def colab(
    path # Of a notebook, relative to the repository's root
)->str:
    "The address that opens a notebook in Colab"
    return f"{cfg['colab_url'].rstrip('/')}/{repository.split('/', 3)[3]}/blob/{branch}/{path}"
