"""Ctrl-C at any moment of a command that writes: one line and exit code 130, and nothing half-written.

Each command runs in a process of its own, which gets a real SIGINT: raised in the process of the tests it would leave
gradients switched off, or a thread that waits for ever.
"""

import json
import os
import random
import re
import subprocess
import sys

import pytest
import sound

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")

# What takes a command seconds to import is imported once; then each run is a fork of this process.
RUNS = """
import json, os, shutil, signal, sys, time
import torch, open_clip
import sound
from labclip import cli, evaluation, training
torch.set_num_threads(1)

def command(arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open("said", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
    code = 130
    try:
        cli.main([*arguments, "-q"])
    except SystemExit as end:
        code = end.code or 0
    finally:
        os._exit(code)

def run(arguments, moment=None):
    '''The exit code, None if it hangs; what was said; and what is left.'''
    began = time.monotonic()
    if not (child := os.fork()):
        try:
            command(arguments)
        finally:
            os._exit(130)
    if moment is not None:
        time.sleep(moment)
        os.kill(child, signal.SIGINT)
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() - began < 600:
        time.sleep(0.001)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    took, left = time.monotonic() - began, sorted(sound.left("."))
    for path in [path for path in os.listdir() if path.startswith(("out", ".out"))] + [os.environ["LABCLIP_CACHE"]]:
        shutil.rmtree(path) if os.path.isdir(path) else os.path.exists(path) and os.remove(path)
    return os.waitstatus_to_exitcode(ended[1]) if ended[0] else None, open("said").read(), left, took

found = {}
for name, (arguments, fractions) in json.loads(sys.argv[1]).items():
    *whole, took = run(arguments)
    found[name] = [whole, *(run(arguments, fraction * took)[:3] for fraction in fractions)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    sound.make(folder := tmp_path_factory.mktemp("interrupts"))
    return folder


@pytest.mark.parametrize("count", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_an_interrupt_at_any_moment_leaves_nothing_half(folder, count):
    """At moments drawn from the time that the whole command takes here."""
    draw = random.Random(count)
    asked = {name: (command, [draw.random() for _ in range(count)]) for name, command in sound.WRITERS.items()}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "LABCLIP_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", RUNS, json.dumps(asked)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for name, (whole, *interrupted) in json.loads(done.stdout.splitlines()[-1]).items():
        assert whole[0] == 0, whole
        assert whole[2], f"{name} wrote nothing"
        for fraction, (code, errors, left) in zip(asked[name][1], interrupted, strict=True):
            case = f"{name} at {fraction:.3f} of its time: exit code {code}, {left}, {errors}"
            assert code in (0, 1, 2, 130), case
            assert left in ([], whole[2]), case
            # What Python raises in a destructor it only tells, and the command goes on.
            assert code == 0 or "Traceback" not in errors, case
            if code == 130 and errors.strip():  # else it had not begun
                assert re.search(r"\nInterrupted\. .*Type again: labclip ", errors), case
            if code == 2:  # a library made an error of its own of it
                assert errors.count("\n") == 1, case
