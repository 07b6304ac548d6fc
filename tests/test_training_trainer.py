import math
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import planted
import pytest
import torch

import labclip
from labclip.training import trainer
from labclip.training.objective import Ranks
from labclip.training.recipes import RECIPES

SETTINGS = {"epochs": 6, "batch_size": 64, "learning_rate": 1e-2, "progress": False}

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import planted, torch
import labclip
from labclip.training import trainer
torch.set_num_threads(1)
trainer._CHECKPOINT_SECONDS = 0.0  # after every step
result = labclip.fit(planted.drawn(600, k=2), epochs=6, batch_size=64, learning_rate=1e-2, progress=False,
                     checkpoint=sys.argv[2])
torch.save((result.alignment.fitted, result.alignment.strength, result.history), sys.argv[3])
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_it_is_the_same_fit(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def start(name):
        paths = Path(__file__).parent, tmp_path / name, tmp_path / f"{name}.pt"
        return subprocess.Popen([sys.executable, program, *paths])

    assert start("whole").wait(600) == 0
    kills = 0
    for wait in (0.05, 0.4, 0.9):
        process, begin = start("broken"), time.monotonic()
        while not any((tmp_path / "broken").rglob(trainer.CHECKPOINT)) and process.poll() is None:
            assert time.monotonic() < begin + 600
            time.sleep(0.005)
        time.sleep(wait)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills
    assert start("broken").wait(600) == 0
    whole, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "broken"))
    assert torch.equal(whole[0], two[0])
    assert whole[1:] == two[1:]


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
@pytest.mark.parametrize("rank", [None, 4])
def test_every_step_can_be_the_last(tmp_path, monkeypatch, objective, rank):
    monkeypatch.setattr(trainer, "_CHECKPOINT_SECONDS", 0.0)
    data = planted.drawn(300, negative_images=planted.world(300)[0].roll(-1, 0))
    settings = SETTINGS | {"objective": objective, "rank": rank, "identity_penalty": 1e-4}
    expected = labclip.fit(data, **settings)
    real, left, result = trainer.State.save, [0], None

    def save(*arguments):
        real(*arguments)
        left[0] -= 1
        if not left[0]:
            raise ZeroDivisionError

    monkeypatch.setattr(trainer.State, "save", save)
    for steps in range(7, 500, 5):  # the next is killed that many steps later
        left[0] = steps
        with suppress(ZeroDivisionError):
            result = labclip.fit(data, **settings, checkpoint=tmp_path)
            break
    monkeypatch.setattr(trainer, "_update", lambda *_: pytest.fail("what is finished is run again"))
    for finished in (result, labclip.fit(data, **settings, checkpoint=tmp_path)):
        assert torch.equal(finished.alignment.fitted, expected.alignment.fitted)
        assert finished.history == expected.history


def test_a_checkpoint_of_other_data_or_settings_is_refused(tmp_path):
    data, held = planted.world(200), planted.world(50, seed=1)

    def fit(data, held, **options):
        features, validation = planted.features(*data), planted.features(*held)
        labclip.fit(features, validation=validation, **SETTINGS | options, checkpoint=tmp_path)

    fit(data, held)
    others = [(data, held, {"seed": 3}), (data, held, {"objective": "sigmoid"})]
    for changed in range(3):  # one row of one array
        other, again = ([array.clone() for array in arrays] for arrays in (data, held))
        other[changed][7], again[changed][7] = other[changed][8], again[changed][8]
        others += [(other, held, {}), (data, again, {})]
    for ours, theirs, options in others:
        with pytest.raises(ValueError, match="can't be resumed: it was written with other data or settings"):
            fit(ours, theirs, **options)


def test_damaged_checkpoints_and_files_in_the_way(tmp_path):
    labclip.fit(planted.drawn(200), **SETTINGS, checkpoint=tmp_path)
    path = tmp_path / "candidate-1" / trainer.CHECKPOINT
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"can't be resumed: .*header.* or remove it"):
        labclip.fit(planted.drawn(200), **SETTINGS, checkpoint=tmp_path)
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")
    with pytest.raises(ValueError, match=r"is a file\. Pass the path of a folder"):
        labclip.fit(planted.drawn(200), **SETTINGS, checkpoint=tmp_path)


@pytest.mark.parametrize(("small", "threads"), [(trainer._SMALL, 1), (0, 2)])
def test_small_products_have_one_thread_and_the_caller_keeps_theirs(monkeypatch, small, threads):
    monkeypatch.setattr(trainer, "_SMALL", small)
    seen, before = [], torch.get_num_threads()

    def objective(logits, columns):
        seen.append(torch.get_num_threads())  # and no loss

    torch.set_num_threads(2)
    with pytest.raises(ValueError, match="returns NoneType"):
        labclip.fit(planted.drawn(200), objective=objective, **SETTINGS)
    seen.append(torch.get_num_threads())
    torch.set_num_threads(before)
    assert seen == [threads, 2]


@pytest.mark.parametrize(("sigmoid", "held", "end"), [(False, None, 100), (True, None, 118), (True, 150, 150)])
def test_a_temperature_that_is_learned_ends_where_its_objective_does(sigmoid, held, end):
    settings = replace(RECIPES["labclip"], logit_scale=held)
    state = trainer.State.new(4, settings, sigmoid=sigmoid, seed=0, device=torch.device("cpu"))
    for _ in range(1000):
        loss = sum(0 * parameter.sum() for parameter in state.parameters.values()) - state.parameters["log_scale"]
        trainer._update(state, loss, settings, Ranks(), 0.0)
    assert state.parameters["log_scale"].item() == pytest.approx(math.log(end))
