"""Embedding over Ray: the folder is that of the local engine, byte for byte, whatever fails on the way."""

import os
import signal
import subprocess
import sys
from functools import partial

import folders
import pytest
import torch
from bucket import bucket
from folders import contents, draw, write

import labclip
from labclip.features import Features, embedding, folder, over_ray

N = 40
run = partial(folders.run, batch_size=2)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images with two captions each, in tasks of four images and blocks of seven captions."""
    monkeypatch.setattr(over_ray, "_BATCHES", 2)
    monkeypatch.setattr(embedding, "BLOCK", 7)
    monkeypatch.setattr(folder, "KEEP_SECONDS", 0.0)
    scenes = labclip.scenes.sample(N, seed=3)
    draw(tmp_path, scenes)
    rows = [[f"{number}.png", scenes.captions[number], scenes.swapped_captions[number]] for number in range(N)]
    tags = [[f"{number}.png", f"{scenes.tags[number]} {'and so on ' * 90 * (number == 7)}", ""] for number in range(N)]
    return write(tmp_path, [row for both in zip(rows, tags, strict=True) for row in both])


@pytest.fixture(scope="module")
def cluster():
    """The address of a local cluster with two workers, of one thread each."""
    ray, threads = pytest.importorskip("ray"), torch.get_num_threads()
    torch.set_num_threads(1)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
    torch.set_num_threads(threads)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own use of Ray, and one caption is cut
def test_the_folder_is_the_local_one_and_goes_on_where_it_stopped(cluster, model, data):
    broken = data / "photos" / "23.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"no image")
    messages = []
    for engine in ("local", "ray"):
        with pytest.raises(ValueError, match=r"23.png \(captions.csv line 48\) is not a complete image") as raised:
            run(model, data, f"{engine}-kept", engine=engine)
        messages.append(str(raised.value))
        run(model, data, engine, engine=engine, on_error="skip")
    assert messages[0] == messages[1]
    assert contents(data / "ray") == contents(data / "local")
    counts = Features.load(data / "ray", verify=True).manifest["counts"]
    assert (counts["images"], counts["captions_with_negative"], counts["texts_cut"]) == (N - 1, N - 1, 1)
    assert (data / "ray-kept" / "image_features.npy").stat().st_size >= 128 + 22 * 256 * 4
    broken.write_bytes(whole)
    for engine, other in (("local", "ray"), ("ray", "local")):  # each goes on with what the other has kept
        run(model, data, f"{engine}-kept", engine=other)
    assert contents(data / "ray-kept") == contents(data / "local-kept") == contents(run(model, data, "whole").folder)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_starts_again(cluster, model, data, monkeypatch):
    import ray

    run(model, data, "local")
    workers, killed = [], []

    def started(self, function=over_ray.RayEncoder._start_workers):
        workers[:] = function(self)
        return workers

    def keep(self, function=folder.Writer._keep):
        if not killed:
            killed.append(ray.get(workers[1].__ray_call__.remote(lambda self: os.getpid())))
            os.kill(killed[0], signal.SIGKILL)
        function(self)

    monkeypatch.setattr(over_ray.RayEncoder, "_start_workers", started)
    monkeypatch.setattr(folder.Writer, "_keep", keep)
    run(model, data, "ray", engine="ray")
    assert killed
    assert contents(data / "ray") == contents(data / "local")


@pytest.mark.libraries
@pytest.mark.filterwarnings("ignore")  # other people's warnings
def test_images_of_a_bucket_give_the_folder_of_local_ones(model, data):
    """Of a server on this machine, read here and by workers."""
    command = [sys.executable, "-m", "labclip", "embed", "--model", "scenes", "--captions", data / "captions.csv"]
    with bucket() as (there, environment):
        for image in (data / "photos").glob("*.png"):
            there.put_object(Key=f"photos/{image.name}", Body=image.read_bytes())
        for images, engine, out in (("s3://bucket/photos", "local", "local"), ("s3://bucket/photos", "ray", "ray"),
                                    (data / "photos", "local", "plain")):  # fmt: skip
            done = subprocess.run(
                [*command, "--images", images, "--engine", engine, data / out],
                env=environment, capture_output=True, text=True, check=False, timeout=240,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
    assert contents(data / "local") == contents(data / "ray") == contents(data / "plain")
