"""Sphinx configuration: `sphinx-build -W docs docs/_build`.

No network is needed if `HYPERSPY_FUSION_DATA` names the folder of the real data files,
which examples download otherwise. Where neither is to be had, these are not run.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import hyperspy.api as hs

from hyperspy_fusion import data

project = "hyperspy_fusion"
author = "The hyperspy_fusion developers"
project_copyright = author
release = importlib.metadata.version("hyperspy-fusion")
version = release

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = "hyperspy_fusion"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]
# pages without others below them need no navigation beside them
alone = (
    "index",
    "getting_started",
    "installation",
    "developers",
    "bibliography",
    "changes",
)
html_sidebars = {page: [] for page in alone}
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # types and units stand in the docstrings
numpydoc_show_class_members = False  # HyperSpy's signals have hundreds
numpydoc_validation_checks = {
    "GL06",  # an unknown section
    "GL07",  # sections in the wrong order
    "GL08",  # no docstring
    "GL10",  # a directive without its two colons
    "PR02",  # a parameter that does not exist
    "PR03",  # parameters in the wrong order
    "SS03",  # a summary without its full stop
    "SS04",  # a summary with leading spaces
    "SS06",  # a summary of several lines
}
numpydoc_validation_exclude = {
    r"^hyperspy_fusion\.core\.",  # internal: prose where it says it best
    r"\.(MultimodalData|Propagated)\.",  # fields of named tuples
}

plot_include_source = True
plot_html_show_formats = plot_html_show_source_link = False
plot_formats = [("png", 100)]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

hs.preferences.General.show_progressbar = False
hs.set_log_level("ERROR")  # a note on Numexpr for each component of a model

# `import exspy` raises it under HyperSpy 2.5; readers of the gallery cannot help it.
warnings.filterwarnings("ignore", message="Importing `Lazy")


def quiet_zspy(*_):
    """Leave out, before each example, what zarr 2 says of its store for `.zspy`."""
    warnings.filterwarnings("ignore", message="The NestedDirectoryStore")


run = re.escape(os.sep) + "plot_"
if not os.environ.get("HYPERSPY_FUSION_DATA"):
    try:
        data.dysco3(), data.co3o4_mn3o4()
    except OSError as error:
        print("The examples on published data are shown but not run:", error)
        run += "(?!dysco3|co3o4|fgp)"

sphinx_gallery_conf = {
    "filename_pattern": run,
    "reset_modules": ("matplotlib", "seaborn", quiet_zspy),
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": None,
    "capture_repr": (),
    "download_all_examples": False,
    "show_signature": False,
}
suppress_warnings = ["config.cache"]  # of the function in it
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def add_unreleased(_app, page, source):
    """Put what is not released yet on the page of changes."""
    if page == "changes":
        command = [sys.executable, "-m", "towncrier", "build", "--draft"]
        where = Path(__file__).parent.parent
        command += ["--version", "Unreleased", "--dir", str(where)]
        draft = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, check=True
        )
        title = re.compile(r"^(## Unreleased) \(.*\)$", re.MULTILINE)  # with a date
        source[0] = source[0].replace("UNRELEASED", title.sub(r"\1", draft.stdout))


def setup(app):
    app.connect("source-read", add_unreleased)
