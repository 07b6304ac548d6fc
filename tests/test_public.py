"""The front door: public names load, lazily, and a type checker knows them."""

import subprocess
import sys
from pathlib import Path

import commands
import pytest

import labclip

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "LABCLIP", "Alignment", "Base", "Features", "embed", "fit", "evaluate", "diagnose", "fold", "transform",
    "compose", "create_model_and_transforms", "get_tokenizer", "list_pretrained",
    "metrics", "training", "negatives", "scenes", "analysis", "evaluation", "features",
}  # fmt: skip
MISTAKES = """
import torch

import labclip
from labclip import LABCLIP, Alignment, Features, fit

model = LABCLIP.from_pretrained("scenes", strenght=1)
fit(3)
texts: torch.Tensor = model.encode_text("a red cube")
alignment: Alignment = model.alignment
features: Features = labclip.features.Features.load("features")
"""


def test_all_is_what_imports():
    assert set(labclip.__all__) == PUBLIC
    assert len(labclip.__all__) == len(PUBLIC)
    for name in labclip.__all__:
        assert getattr(labclip, name).__name__.rpartition(".")[2] == name
    assert set(dir(labclip)) == PUBLIC | {"__version__"}
    assert {"unit_length", "choice_margins", "total_of", "preferred", "pairs", "ranks"} <= set(dir(labclip.metrics))
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'; it has LABCLIP, Alignment"):
        labclip.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match=r"'list_models' is OpenCLIP's.*import open_clip; open_clip.list_models"):
        labclip.list_models  # noqa: B018


COMMAND = "from labclip.cli import main; main({}, standalone_mode=False)"
LIGHT = {
    "import labclip": {"torch", "numpy", "open_clip"},
    "import labclip.scenes": {"torch", "open_clip", "PIL"},
    "import labclip.report": {"torch", "jinja2", "matplotlib", "numpy"},
    **{COMMAND.format(typed): {"torch", "open_clip"} for typed in (["--help"], ["list"], ["info", "ViT-B-32"])},
}


@pytest.mark.parametrize("code", LIGHT)
def test_what_needs_little_loads_little(code):
    printed = commands.python(f"import sys; {code}; print('loaded', *{LIGHT[code]} & sys.modules.keys())")
    assert printed.splitlines()[-1] == "loaded"


@pytest.mark.slow
def test_a_type_checker_finds_the_mistakes_of_a_user(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(MISTAKES)
    options = ["--strict", "--follow-imports=silent", "--cache-dir", ROOT / ".mypy_cache"]
    done = subprocess.run([sys.executable, "-m", "mypy", *options, script], capture_output=True, text=True, cwd=ROOT)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2, done.stdout + done.stderr
    assert "script.py:7" in errors[0]
    assert "strenght" in errors[0]
    assert "script.py:8" in errors[1]
    assert '"fit"' in errors[1]
