"""Configuration of the documentation: Sphinx with MyST; the notebooks are executed and rendered with their pictures."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT), str(ROOT / "widgets")]

project = "jepa-lab"
author = "The jepa-lab developers"
copyright = "the jepa-lab developers"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "tables", "jupyter_execute"]
html_theme = "furo"
html_title = "jepa-lab"
default_role = "literal"  # docstrings are read as Markdown by most editors: one pair of backticks is code

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks are kept outside, without outputs; they are copied here, executed once (and again when they change).
TUTORIALS = HERE / "tutorials"
TUTORIALS.mkdir(exist_ok=True)
for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
    copy = TUTORIALS / notebook.name
    if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
        shutil.copyfile(notebook, copy)
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]  # plotly's own format
os.environ.update(JEPA_FRONT_END="0", PLOTLY_RENDERER="plotly_mimetype")  # figures come with a picture beside
