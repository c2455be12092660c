"""Sphinx configuration: `sphinx-build -W docs docs/_build`.

No network is needed if `HYPERSPY_FUSION_DATA` names the folder of the real data files,
which an example downloads otherwise.
"""

import importlib.metadata
import warnings

import hyperspy.api as hs

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
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "examples"]
templates_path = ["_templates"]

html_theme = "pydata_sphinx_theme"
html_title = "hyperspy_fusion"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
}

myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 2

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
    r"\.MultimodalData\.",  # fields of a named tuple
}

plot_include_source = True
plot_html_show_formats = plot_html_show_source_link = False
plot_formats = [("png", 100)]

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

hs.preferences.General.show_progressbar = False

# `import exspy` raises it under HyperSpy 2.5; readers of the gallery cannot help it.
warnings.filterwarnings("ignore", message="Importing `Lazy")


def quiet_zspy(*_):
    """Leave out, before each example, what zarr 2 says of its store for `.zspy`."""
    warnings.filterwarnings("ignore", message="The NestedDirectoryStore")


sphinx_gallery_conf = {
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
