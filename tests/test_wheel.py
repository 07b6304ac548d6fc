"""What is installed: the wheel has the embedded model, nothing else that is large, and works on its own."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAM = """
import labclip, sys
from labclip import LABCLIP, scenes
assert "site" in labclip.__file__, labclip.__file__
model = LABCLIP.from_pretrained("scenes")
print(tuple(model.encode_text(scenes.sample(2, seed=0).captions).shape))
"""


@pytest.mark.slow
def test_the_wheel_is_small_whole_and_works_on_its_own(tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 12e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    needed = {"config.json", "model.safetensors", "open_clip_config.json", "open_clip_model.safetensors", "README.md"}
    assert {f"labclip/weights/scenes/{name}" for name in needed} <= names
    assert {"labclip/py.typed", "labclip/report/page.html"} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/")) or name.endswith((".pt", ".bin"))]
    program = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n{PROGRAM}"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout == "(2, 256)\n", done.stderr
