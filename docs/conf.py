"""The documentation site: `make docs` builds it into docs/_build/html."""

import importlib
import inspect
import os
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyObject

import labclip

os.environ["OMP_NUM_THREADS"] = "1"  # several notebooks run at once

project = "labclip"
release = version = labclip.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"  # progress bars

autosummary_generate = False  # only the tables: the pages already have what they link to
smartquotes = False  # so that options and quoted values stay as typed
default_role = "code"  # single backticks in docstrings
highlight_language = "none"  # of blocks that name no language
autodoc_default_options = {"members": True, "special-members": "__call__, __getitem__"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_custom_sections = ["Source"]
napoleon_numpy_docstring = False  # it would parse docstrings a second time
napoleon_use_ivar = True
napoleon_attr_annotations = False  # types are in the signature of a dataclass, shapes in its docstring
nitpicky = True
INNER = "Array|ArrayOrList|Data|Embedded|HeldOutPairs|ImageSource|ItemRows|LabelledScenes|Layout|Origin|Page|Section"
nitpick_ignore_regex = [
    ("py:.*", "(?!labclip).*"),  # other packages: the site is built offline
    ("py:class", rf".*\.({INNER})"),  # in signatures, but not public
]

maximum_signature_line_length = 80

html_theme = "furo"
html_title = "labclip"
html_copy_source = False
html_extra_path = sorted(path.name for path in Path(__file__).parent.glob("*.png"))  # named in HTML
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# Code has a copy button, output has none.
copybutton_selector = "div[class*=highlight-]:not(.highlight-text, .highlight-none, .highlight-myst-ansi) pre"


def contents(app, page, source):
    """Make a navigation group from each list in index.md, which GitHub shows as it is."""
    if page != "index":
        return
    for caption, items in re.findall(r"^## (.+)\n\n(?:[^-#].*\n\n)?((?:- .*\n|  .*\n)+)", source[0], re.MULTILINE):
        pages = "\n".join(re.findall(r"^- \[.*?\]\((.+?)\.md\)", items, re.MULTILINE))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def summaries(app, page, source):
    """Replace `.. autosummary:: MODULE` by a table of the module's public classes and functions."""

    def summary(match):
        module = importlib.import_module(match[1])
        defined = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == match[1]]
        names = getattr(module, "__all__", [name for name in defined if not name.startswith("_")])
        values = {name: getattr(module, name) for name in names}
        lines = [
            f"   ~{'labclip' if getattr(labclip, name, None) is value else match[1]}.{name}\n"
            for name, value in values.items()
            if inspect.isclass(value) or inspect.isroutine(value)
        ]
        return ".. currentmodule:: None\n\n.. autosummary::\n   :nosignatures:\n\n" + "".join(lines)

    source[0] = re.sub(r"^\.\. autosummary:: (\S+)$", summary, source[0], flags=re.MULTILINE)


def untyped(app, what, name, value, options, lines):
    """Keep Napoleon from reading the words before a colon as a type: our types are in annotations."""
    if what == "module":
        lines.clear()  # module docstrings are for readers of the code
    starts = [i for i, line in enumerate(lines, 1) if line.strip() == "Returns:"]
    for i in (*starts, *([0] if what in ("property", "attribute", "data") else [])):
        if i < len(lines):  # autosummary passes only the first lines
            text = lines[i].lstrip()
            lines[i] = f"{lines[i][: len(lines[i]) - len(text)]}: {text}"


def signature(app, what, name, value, options, arguments, returned):
    """Shorten a signature: NumPy's arrays to their name, and `<factory>`, which Sphinx can't parse, to dots."""
    if getattr(value, "_is_protocol", False):
        return "", None

    def short(text):
        if not text:
            return text
        text = text.replace("<factory>", "...").replace("<class 'list'>", "list")
        text = re.sub(r"(~?numpy\.ndarray)\[tuple\[[^]]*\], ~?numpy\.dtype\[(?:[^][]|\[[^][]*\])*\]\]", r"\1", text)
        text = re.sub(r"~?\S*_Buffer \| .*?complex \| bytes \| str\](?=[,)])", "ArrayLike", text)
        # A constant is shown as its value.
        return re.sub(
            r"(?<== )[A-Z][A-Z_]+\b", lambda match: repr(getattr(sys.modules[value.__module__], match[0])), text
        )

    return short(arguments), short(returned)


def skipped(app, what, name, value, skip, options):
    """Leave out fields of named tuples, and fields whose default is a class: the docstring has them."""
    is_field = (getattr(value, "__doc__", None) or "").startswith("Alias for field number") or value is list
    return True if is_field else skip


def readable(app, doctree):
    """Write `name: text` in lists of parameters, and `ndarray` without arguments as the type of a property."""
    for text in [*doctree.findall(nodes.Text)]:
        if text.startswith(" -- "):
            text.parent.replace(text, nodes.Text(f": {text[4:]}"))
    for annotation in doctree.findall(addnodes.desc_annotation):
        if annotation.astext().startswith(": ndarray["):
            annotation[:] = [nodes.Text(": ndarray")]


def setup(app):
    """Register the functions above; Sphinx calls this."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("source-read", contents)
    app.connect("source-read", summaries)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skipped)
    app.connect("doctree-read", readable)
    app.connect("autodoc-process-docstring", untyped, priority=400)  # before Napoleon
