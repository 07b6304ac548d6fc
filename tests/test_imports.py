"""Imports point one way: each package may import those before it, and no two modules import each other in a circle."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1] / "labclip"
# A package may import what stands before it. data and io, negatives and io do not know each other.
ORDER = [
    "core", "report", "towers", "model", "io", "data", "negatives", "features", "training", "evaluation",
    "analysis", "demo", "app", "cli",
]  # fmt: skip
BESIDE = {
    "scenes": {"core", "towers", "model", "io"},
    "stored": {"core", "towers", "model", "io"},
}  # what stands beside the order, and what it may import
NOT = {("data", "io"), ("negatives", "io")}
# Methods that stand for functions further out, and `python -m labclip`.
FACADES = {
    "labclip.alignment": {"from_pretrained", "save_pretrained", "push_to_hub"},
    "labclip.model": {"from_pretrained", "save_pretrained", "fold"},
    "labclip.features.features": {"load"},
    "labclip.__main__": {"<module>"},
}


def name_of(path):
    parts = ["labclip", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def package_of(module):
    parts = module.split(".")
    if module == "labclip.model":  # the wrapper stands on the towers
        return "model"
    return parts[1] if len(parts) > 1 and (ROOT / parts[1]).is_dir() else "core"


class Imports(ast.NodeVisitor):
    """The modules of labclip that a module imports, at its top and in functions, not what only a type checker reads."""

    def __init__(self, module):
        self.module, self.found, self.inside = module, set(), ["<module>"]
        self.visit(ast.parse(MODULES[module].read_text(encoding="utf-8")))

    def visit_If(self, node):
        if ast.unparse(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_FunctionDef(self, node):
        self.inside.append(node.name)
        self.generic_visit(node)
        self.inside.pop()

    def visit_Import(self, node):
        self.add(alias.name for alias in node.names)

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"{self.module} has a relative import"
        inner = (f"{node.module}.{alias.name}" for alias in node.names)
        self.add(name if name in MODULES else node.module for name in inner)

    def add(self, names):
        if not set(self.inside) & FACADES.get(self.module, set()):
            self.found |= {name for name in names if name.split(".")[0] == "labclip"} - {self.module}


IMPORTS = {module: Imports(module).found for module in MODULES if module != "labclip"}


def may_import(package, other):
    if package == other or other == "core":
        return True
    if package in BESIDE:
        return other in BESIDE[package]
    if other in BESIDE:
        return ORDER.index(package) > ORDER.index("io")
    return ORDER.index(other) < ORDER.index(package) and (package, other) not in NOT


def test_imports_point_one_way():
    wrong = defaultdict(set)
    for module, imported in IMPORTS.items():
        for other in imported:
            if other == "labclip" or not may_import(package_of(module), package_of(other)):
                wrong[module].add(other)
    assert not wrong


def test_only_its_command_imports_the_page():
    inside = {module for module in MODULES if package_of(module) == "app"}
    assert {module for module, imported in IMPORTS.items() if imported & inside} - inside == {"labclip.cli.demo"}


def test_no_circles():
    done, on_the_way = set(), []

    def walk(module):
        assert module not in on_the_way, " -> ".join([*on_the_way[on_the_way.index(module) :], module])
        if module in done or module not in IMPORTS:
            return
        on_the_way.append(module)
        for other in sorted(IMPORTS[module]):
            walk(other)
        done.add(on_the_way.pop())

    for module in IMPORTS:
        walk(module)
