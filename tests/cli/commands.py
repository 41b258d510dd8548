"""Calls of the installed commands: each is a process of its own, forked from one that has imported the package already,
because that import takes longer than most of what is tested. `script` starts the console script itself."""
import multiprocessing, os, resource, subprocess, sys, tempfile
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['fastattn.cli.train','fastattn.cli.visualize','fastattn.cli.demo'])

def _path(name): return str(Path(sys.executable).parent/name)

def _command(name, *args):
    "What the console script does"
    sys.argv = [_path(name), *args]
    entry, = {e.value:e for e in entry_points(group='console_scripts', name=name)}.values()
    sys.exit(entry.load()())

def _child(f, args, cwd, out, max_bytes):
    os.chdir(cwd)
    for fd,n in ((1,'stdout'),(2,'stderr')): os.dup2(os.open(out/n, os.O_WRONLY|os.O_CREAT|os.O_APPEND), fd)
    if max_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes,max_bytes))
    f(*args)

def _process(f, args, cwd, out, max_bytes=None):
    p = context.Process(target=_child, args=(f, args, str(cwd), Path(out), max_bytes))
    p.start()
    return p

def call(f, *args, cwd='.', max_bytes=None):
    "Exit status and output of a function in a process of its own, which can write no file larger than `max_bytes`"
    with tempfile.TemporaryDirectory() as d:
        p = _process(f, args, cwd, d, max_bytes)
        p.join()
        return SimpleNamespace(returncode=p.exitcode, **{n:(Path(d)/n).read_text() for n in ('stdout','stderr')})

def run(name, *args, cwd='.', **kwargs): return call(_command, name, *map(str, args), cwd=cwd, **kwargs)

def start(name, *args, cwd):
    "The process of a command, still running; what it prints is lost"
    return _process(_command, (name, *map(str, args)), cwd, tempfile.mkdtemp(dir=cwd, prefix='.printed'))

def script(name, *args, cwd='.', env={}):
    "As `run`, by the console script"
    env = {**os.environ, **env}
    return subprocess.run([_path(name), *map(str, args)], capture_output=True, text=True, cwd=cwd, env=env)
