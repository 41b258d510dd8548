from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

ini = ConfigParser(interpolation=None)
ini.read(Path(__file__).with_name('settings.ini'), encoding='utf-8')
cfg = ini['DEFAULT']
licenses = dict(apache2='Apache-2.0')
split = lambda k: cfg.get(k, '').split()

setup(
    version=cfg['version'], author=cfg['author'], keywords=split('keywords'),
    license_expression=licenses[cfg['license']], license_files=['LICENSE'],
    long_description=Path(__file__).with_name('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['fastattn*']),
    install_requires=split('requirements'),
    extras_require={k: split(f'{k}_requirements') for k in ('dev', 'bench', 'attribution', 'projection', 'app', 'completion',
                                                             'notebook', 'report', 'scale', 'text')},
    entry_points={'console_scripts': split('console_scripts'), 'nbdev': ['fastattn=fastattn._modidx:d']},
    classifiers=['Programming Language :: Python :: 3', 'Intended Audience :: Science/Research',
                 'Topic :: Scientific/Engineering :: Artificial Intelligence'],
)
