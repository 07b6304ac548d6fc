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

os.environ["OMP_NUM_THREADS"] = "1"  # notebooks run side by side

project = "labclip"
release = version = labclip.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"  # progress bars

autosummary_generate = False  # the tables alone: the pages have what they link to
smartquotes = False  # options and quoted values stay as they are typed
default_role = "code"  # single backticks in docstrings
highlight_language = "none"  # where a block names no language
autodoc_default_options = {"members": True, "special-members": "__call__, __getitem__"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_custom_sections = ["Source"]
napoleon_numpy_docstring = False  # which would parse a second time
napoleon_use_ivar = True
napoleon_attr_annotations = False  # a dataclass's signature has the types, and a docstring the shapes
nitpicky = True
INNER = "Array|ArrayOrList|Data|Embedded|HeldOutPairs|ImageSource|ItemRows|LabelledScenes|Layout|Origin|Page|Section"
nitpick_ignore_regex = [
    ("py:.*", "(?!labclip).*"),  # other packages: the site is built offline
    ("py:class", rf".*\.({INNER})"),  # in signatures, but not part of the interface
]

maximum_signature_line_length = 80

html_theme = "furo"
html_title = "labclip"
html_copy_source = False
html_extra_path = sorted(path.name for path in Path(__file__).parent.glob("*.png"))  # named in HTML
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
# What is typed; what is printed has no button.
copybutton_selector = "div[class*=highlight-]:not(.highlight-text, .highlight-none, .highlight-myst-ansi) pre"


def contents(app, page, source):
    """Make a navigation group of each list in index.md: GitHub shows the list, and each page is named once."""
    if page != "index":
        return
    for caption, listed in re.findall(r"^## (.+)\n\n(?:[^-#].*\n\n)?((?:- .*\n|  .*\n)+)", source[0], re.MULTILINE):
        pages = "\n".join(re.findall(r"^- \[.*?\]\((.+?)\.md\)", listed, re.MULTILINE))
        source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n"


def summaries(app, page, source):
    """Name a module's public names where a page asks for a table of them: `.. autosummary:: MODULE`."""

    def listed(found):
        module = importlib.import_module(found[1])
        own = [name for name, one in vars(module).items() if getattr(one, "__module__", "") == found[1]]
        names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
        known = {name: getattr(module, name) for name in names}
        shown = [
            f"   ~{'labclip' if getattr(labclip, name, None) is value else found[1]}.{name}\n"
            for name, value in known.items()
            if inspect.isclass(value) or inspect.isroutine(value)
        ]
        return ".. currentmodule:: None\n\n.. autosummary::\n   :nosignatures:\n\n" + "".join(shown)

    source[0] = re.sub(r"^\.\. autosummary:: (\S+)$", listed, source[0], flags=re.MULTILINE)


def untyped(app, what, name, value, options, lines):
    """Keep Napoleon from taking the words before a colon for a type: types are in annotations here."""
    if what == "module":
        lines.clear()  # it says where the code is; the page has what a reader needs
    places = [place for place, line in enumerate(lines, 1) if line.strip() == "Returns:"]
    for place in (*places, *([0] if what in ("property", "attribute", "data") else [])):
        if place >= len(lines):  # autosummary shows the first lines alone
            continue
        text = lines[place].lstrip()
        lines[place] = f"{lines[place][: len(lines[place]) - len(text)]}: {text}"


def signature(app, what, name, value, options, arguments, returned):
    """Shorten a signature: NumPy's arrays by their name, `<factory>`, which Sphinx can't parse, as dots."""
    if getattr(value, "_is_protocol", False):
        return "", None

    def short(text):
        if not text:
            return text
        text = text.replace("<factory>", "...").replace("<class 'list'>", "list")
        text = re.sub(r"(~?numpy\.ndarray)\[tuple\[[^]]*\], ~?numpy\.dtype\[(?:[^][]|\[[^][]*\])*\]\]", r"\1", text)
        text = re.sub(r"~?\S*_Buffer \| .*?complex \| bytes \| str\](?=[,)])", "ArrayLike", text)
        # A constant by its value.
        return re.sub(
            r"(?<== )[A-Z][A-Z_]+\b", lambda found: repr(getattr(sys.modules[value.__module__], found[0])), text
        )

    return short(arguments), short(returned)


def skipped(app, what, name, value, skip, options):
    """Leave out fields whose default is a class, and those of named tuples: the docstring has them."""
    field = (getattr(value, "__doc__", None) or "").startswith("Alias for field number") or value is list
    return True if field else skip


def readable(app, doctree):
    """Write `name: text` in lists of parameters, and arrays by their name where a property is one."""
    for text in [*doctree.findall(nodes.Text)]:
        if text.startswith(" -- "):
            text.parent.replace(text, nodes.Text(f": {text[4:]}"))
    for kind in doctree.findall(addnodes.desc_annotation):
        if kind.astext().startswith(": ndarray["):
            kind[:] = [nodes.Text(": ndarray")]


def setup(app):
    """What Sphinx calls."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("source-read", contents)
    app.connect("source-read", summaries)
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-skip-member", skipped)
    app.connect("doctree-read", readable)
    app.connect("autodoc-process-docstring", untyped, priority=400)  # before Napoleon
