"""Notebooks with outputs, the README, and the site: `docs.py execute NB...`, `docs.py fresh`, `docs.py readme`,
`docs.py check`, `docs.py site`."""
import argparse, os, sys
from pathlib import Path
from web.settings import root

def site(out):
    "Build the site into a folder"
    from web.build import Stopped, build
    try: made = build(out.resolve())
    except Stopped as e: sys.exit(str(e))
    print(f"{made['pages']} pages, {made['megabytes']} MB, in {made['seconds']} s: {out}")

def main():
    p = argparse.ArgumentParser(description=__doc__)
    sub = p.add_subparsers(dest='cmd', required=True)
    sub.add_parser('execute', help='run notebooks and store their outputs').add_argument('nbs', nargs='+', type=Path)
    fresh = sub.add_parser('fresh', help='run notebooks: do stored numbers, texts and pictures agree with the code?')
    fresh.add_argument('nbs', nargs='*', type=Path, help='these alone')
    fresh.add_argument('--store', action='store_true', help='store the new outputs of those that do not agree')
    fresh.add_argument('--slow', action='store_true', help='also what is flagged `slow`, which takes an hour')
    sub.add_parser('readme', help='write README.md from nbs/index.ipynb')
    sub.add_parser('check', help='is README.md fresh?')
    web = sub.add_parser('site', help='build the site, and check it')
    web.add_argument('--out', type=Path, default=root/'_site', help='its folder')
    args = p.parse_args()
    for k in ('IN_TEST', 'MPLBACKEND'): os.environ.pop(k, None)
    if args.cmd == 'readme': from web.readme import readme; readme()
    elif args.cmd == 'check': from web.readme import check; check()
    elif args.cmd == 'site': site(args.out)
    elif args.cmd == 'fresh': from web.fresh import fresh; sys.exit(fresh(args.nbs, args.store, args.slow))
    else:
        from web.execute import execute
        for o in args.nbs:
            print(f'executing {o}', flush=True)
            execute(o.resolve())

if __name__ == '__main__': main()
