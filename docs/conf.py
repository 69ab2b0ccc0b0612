"""The site: Sphinx with furo; every block of Python on its pages is run while it is built."""

import importlib.metadata
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")  # of tqdm in a notebook

project = "ancestral"
author = "The ancestral developers"
release = importlib.metadata.version("ancestral")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "executed_blocks",
    "explored_graph",
    "inline_pictures",
    "mathml",
    "reference",
]
exclude_patterns = ["_build", "extensions", "jupyter_execute"]
default_role = "code"

html_theme = "furo"
html_title = "ancestral"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_in_temp = True  # what the blocks write is no part of the sources
nb_execution_timeout = 300
nb_merge_streams = True
copybutton_selector = "div.highlight-python pre, div.highlight-sh pre, div.highlight-ipython3 pre"

napoleon_numpy_docstring = False
napoleon_use_ivar = True  # and not a second description of each field
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = True
linkcheck_anchors = False
