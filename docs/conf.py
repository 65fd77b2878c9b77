"""Sphinx's settings; `docs/build.py` lays out the pages and runs it."""

import re

import zoo

project = "zoo"
version = release = zoo.__version__
html_title = f"zoo {version}"
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "ref.python"]  # types such as bytes are names of fields too
smartquotes = False  # two dashes belong to an option
default_role = "code"  # docstrings write `name` for code
napoleon_use_ivar = True  # the fields of a dataclass are listed once
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["zoo.css"]
html_js_files = ["gallery.js"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["pictures/README.md"]
pygments_dark_style = "monokai"


def escape_docstring(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code`; what reStructuredText would take for markup is meant as it stands."""
    for i, line in enumerate(lines):
        parts = re.split(r"(`[^`]*`)", line)
        lines[i] = "".join(
            part if part.startswith("`") else re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts
        )


def setup(app):
    """Before napoleon, which turns sections into fields, at its 500."""
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
