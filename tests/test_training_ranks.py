import subprocess
import sys
from pathlib import Path

import planted
import pytest
import torch

import labclip

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, torch.distributed as dist
import labclip, planted, test_training_ranks
torch.set_num_threads(1)
dist.init_process_group("gloo")
results = [test_training_ranks.fit(*case) for case in test_training_ranks.CASES]
try:
    labclip.fit(planted.drawn(330), objective=lambda logits, columns: logits.sum())
except ValueError as error:
    assert "sees the logits of one process only, but 2 processes fit together" in str(error)
else:
    raise AssertionError
if dist.get_rank() == 0:
    torch.save([(result.alignment.fitted, result.history) for result in results], sys.argv[2])
dist.destroy_process_group()
"""

CASES = [("softmax", True), ("softmax", False), ("sigmoid", True)]


def fit(objective, with_images):
    """A fit on texts of which some recur, with images of some negatives or without."""
    images, texts, negatives = planted.world(330, k=2)
    texts[::7], negatives[::11, 0] = texts[0], texts[0]
    others = images[torch.stack([torch.arange(330).roll(-1 - j) for j in range(2)], dim=1)]
    others[::3] = images[::3, None]
    data = planted.features(images, texts, negatives, negative_images=others if with_images else None)
    return labclip.fit(
        data, epochs=3, batch_size=64, learning_rate=1e-2, progress=False, objective=objective, hard_negatives=2
    )


@pytest.mark.slow
def test_two_ranks_fit_the_matrix_of_one(tmp_path):
    program, out = tmp_path / "program.py", tmp_path / "out.pt"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    command += [program, Path(__file__).parent, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for case, (matrix, history) in zip(CASES, torch.load(out, weights_only=True), strict=True):
        alone = fit(*case)
        torch.testing.assert_close(matrix, alone.alignment.fitted, rtol=0, atol=1e-5)
        for ours, theirs in zip(history, alone.history, strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
