"Sphinx's settings"
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from web import settings as _settings

project,author,copyright = _settings.name,_settings.cfg['author'],_settings.cfg['author']
version = release = _settings.version
extensions = ['myst_nb','sphinx_design','web.mathml']
nb_execution_mode = 'off'
nb_ipywidgets_js = {} # they would come from another host
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ['dollarmath','colon_fence','deflist','attrs_inline']
myst_heading_anchors = 4
html_math_renderer = 'mathml'
html_theme = 'pydata_sphinx_theme'
html_title = _settings.name
html_baseurl = _settings.site
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = False
html_show_sourcelink = False
html_favicon = '_static/icon.svg'
html_context = dict(default_mode='auto')
html_sidebars = {'index':[]}
html_theme_options = dict(
    logo=dict(text=_settings.name), navbar_align='left', header_links_before_dropdown=7, show_prev_next=True,
    icon_links=[dict(name='Repository', url=_settings.repository, icon='fa-brands fa-github')],
    secondary_sidebar_items=['page-toc'], footer_start=['copyright'], footer_end=[], show_nav_level=1,
    navigation_with_keys=False, pygments_light_style='a11y-high-contrast-light',
    pygments_dark_style='a11y-high-contrast-dark',
    back_to_top_button=False)
exclude_patterns = ['_static']
templates_path = []
