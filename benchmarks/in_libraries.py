"""What each library makes of one index, with the base and with the matrix folded in: R@1, version, time.

    python benchmarks/in_libraries.py [TITLE ...] [--rounds 6] [--json benchmarks/in_libraries.json]

Runs every function of `docs/libraries.py` whose package is installed, or those named. The index is 400 image embeddings
by the base: 200 scenes, and the same with the colours of their objects swapped. R@1 is the fraction of the 200 captions
whose own scene comes first. The file keeps the rows of libraries and of major versions that are not installed.
"""

import argparse
import contextlib
import copy
import inspect
import json
import os
import runpy
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from open_clip.transformer import VisionTransformer
from PIL import Image

import labclip
from labclip import LABCLIP, Alignment, metrics, scenes

ROOT = Path(__file__).parents[1]
LIBRARIES = runpy.run_path(str(ROOT / "docs" / "libraries.py"))["LIBRARIES"]
N, SEED = 200, 2
SIDES = {"base": 0.0, "aligned": 1.0}  # strengths
ELSEWHERE = {"Ray Serve", "Triton"}  # processes of their own serve, and their time is not this one's


@dataclass(frozen=True)
class Index:
    """The one index: embeddings of images by the base, unit length [400, dim]; the first 200 have the captions."""

    pixels: np.ndarray
    images: np.ndarray
    captions: list


def make_index():
    """Scenes, the same with colours swapped, and the captions of the former."""
    model, drawn = LABCLIP.from_pretrained("scenes"), scenes.sample(N, seed=SEED)
    swapped = replace(drawn, layout=replace(drawn.layout, colours=drawn.layout.colours[:, ::-1]))
    pixels = np.concatenate([drawn.images, swapped.render(64)])
    images = model.encode_image([Image.fromarray(image) for image in pixels], normalize=True)
    return Index(pixels, images.numpy(), drawn.captions)


def write_folders(parent):
    """The folders that the functions open, of the base and folded: `parent/base/folded`, `parent/aligned/folded` ..."""
    for side, strength in SIDES.items():
        model = LABCLIP.from_pretrained("scenes", strength=strength)
        labclip.fold(model, folder=parent / side / "folded")
        labclip.fold(with_transformer(model), to="transformers", folder=parent / side / "folded-hf")
        with contextlib.suppress(ValueError):  # ONNX is not installed
            labclip.fold(model, to="onnx", folder=parent / side / "folded-onnx")


def write_fastembed(parent):
    """A text tower that exists in ONNX, as fastembed opens it, and the matrix put behind that."""
    from transformers import CLIPTextModelWithProjection

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = CLIPTextModelWithProjection.from_pretrained(parent / "base" / "folded-hf")

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).text_embeds

    tokens = torch.ones(2, 7, dtype=torch.int64)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=16)}
    program = torch.onnx.export(
        Tower().eval(), (tokens, tokens.clone()), dynamo=True, verbose=False,
        input_names=["input_ids", "attention_mask"], output_names=["text_embeds"], dynamic_shapes=(free, free),
    )  # fmt: skip
    program.save(parent / "clip-text.onnx", external_data=False)
    alignment = Alignment.from_pretrained("scenes").at(SIDES["aligned"])
    labclip.fold(parent / "clip-text.onnx", alignment, folder=parent / "appended")
    for side, tower in {"base": "clip-text.onnx", "aligned": "appended/text.onnx"}.items():
        shutil.copytree(parent / side / "folded-hf", parent / side / "folded-fastembed")
        (parent / side / "folded-fastembed" / "model.onnx").symlink_to(parent / tower)


def with_transformer(model):
    """The same text tower beside a small random vision transformer: transformers has no CLIP with a ResNet."""
    clip = copy.deepcopy(model.clip)
    torch.manual_seed(0)
    visual = VisionTransformer(64, 16, width=64, layers=1, heads=1, mlp_ratio=4, output_dim=model.alignment.dim)
    visual.preprocess_cfg = clip.visual.preprocess_cfg
    clip.visual = visual.eval()
    return LABCLIP(clip, model.alignment, tokenizer=model.tokenizer)


@contextlib.contextmanager
def inside(folder):
    """A new folder to work in, where the content of another can be opened."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        for path in folder.iterdir():
            (Path(scratch) / path.name).symlink_to(path)
        os.chdir(scratch)
        try:
            yield
        finally:
            os.chdir(before)
            if "ray" in sys.modules:  # its processes work where they were started
                sys.modules["ray"].shutdown()


def given(index, folders, side):
    """What a function may ask for by the name of its argument."""
    model = LABCLIP.from_pretrained("scenes", strength=SIDES[side])
    base = f"local-dir:{folders / 'base' / 'folded'}"

    def client():
        import chromadb
        from chromadb.utils.embedding_functions import OpenCLIPEmbeddingFunction

        found = chromadb.PersistentClient(str(Path.cwd() / "chroma"))  # a relative path would give the last one again
        photos = found.create_collection("existing", embedding_function=OpenCLIPEmbeddingFunction(base, ""))
        photos.add(ids=[str(number) for number in range(len(index.images))], embeddings=index.images)
        return found

    def table():
        import lancedb
        from lancedb.embeddings import get_registry
        from lancedb.pydantic import LanceModel, Vector

        embed = get_registry().get("open-clip").create(name=base, pretrained="")

        class Photo(LanceModel):
            path: str = embed.SourceField()
            vector: Vector(embed.ndims()) = embed.VectorField()

        photos = lancedb.connect("existing").create_table("photos", schema=Photo)
        photos.add([{"path": str(number), "vector": image} for number, image in enumerate(index.images)])
        return photos

    def connection():
        import psycopg

        found = psycopg.connect(os.environ["PGVECTOR"], autocommit=True)
        found.execute("DROP TABLE IF EXISTS photos")
        return found

    def architecture():
        import open_clip

        config = json.loads((folders / "base" / "folded" / "open_clip_config.json").read_text())["model_cfg"]
        (folders / "scenes.json").write_text(json.dumps(config))
        open_clip.add_model_config(folders / "scenes.json")
        return "scenes"

    def pairs():
        captions = [[caption] for caption in index.captions] + [[] for _ in index.captions]
        return [
            (model.preprocess(Image.fromarray(image)), some) for image, some in zip(index.pixels, captions, strict=True)
        ]

    def task():
        import datasets
        import mteb

        found, drawn = mteb.get_task("SugarCrepe"), scenes.sample(N, seed=SEED)
        pairs = {"caption": drawn.captions, "negative_caption": drawn.swapped_captions}
        pixels = [Image.fromarray(image) for image in drawn.images]
        found.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"images": pixels, **pairs})})
        found.data_loaded = True  # MTEB would fetch SugarCrepe's own
        return found

    return {
        "images": lambda: index.images,
        "captions": lambda: index.captions,
        "texts": lambda: model.encode_text(index.captions, normalize=True).numpy(),
        "pixels": lambda: list(torch.from_numpy(index.pixels[:N]).permute(0, 3, 1, 2)),
        "model": lambda: model, "task": task,
        "pairs": pairs, "client": client, "table": table, "connection": connection,
        "architecture": architecture,
    }  # fmt: skip


def call(library, index, folders, side):
    """What a function gives, and the seconds of processor time it took, loading included."""
    with inside(folders / side):
        made = given(index, folders, side)
        arguments = {name: made[name]() for name in inspect.signature(library.run).parameters}
        start = time.process_time()
        with torch.no_grad():
            found = library.run(**arguments)
        return found, time.process_time() - start


def unit(found):
    """Embeddings that a function gave, unit length, or None where it gave something else."""
    found = np.asarray(found, dtype=None if isinstance(found, np.ndarray | torch.Tensor) else object)
    if found.ndim != 2 or found.shape[1] == 1:
        return None
    return torch.nn.functional.normalize(torch.from_numpy(found.astype(np.float32)), dim=1)


def recall(found, index):
    """R@1 of what a function gave: embeddings, the number of the first image, or a number, which is that itself.

    None where it gave another score.
    """
    if isinstance(found, float | dict):
        return found if isinstance(found, float) else None
    if (texts := unit(found)) is not None:
        ranks, *_ = metrics.ranks(torch.from_numpy(index.images), texts, torch.arange(N))
        return round(float((ranks < 1).double().mean()), 4)
    return round(float((np.asarray(found).reshape(-1).astype(int) == np.arange(N)).mean()), 4)


def measured(library, index, folders, rounds):
    """A row of the file: both figures, and the time with the folded folder as a ratio to that with the base's."""
    row = {"title": library.title, "package": library.package, "version": version(library.package)}
    seconds = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in reversed(SIDES) if turn % 2 else SIDES:
            found, spent = call(library, index, folders, side)
            row[side] = recall(found, index)
            seconds[side].append(spent)
    return row | {"ratio": round(min(seconds["aligned"]) / min(seconds["base"]), 2)}  # the first warms up


def major(row):
    """What a row stands for: a library, and its major version."""
    return row["title"], row["version"].partition(".")[0]


def main():
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("titles", nargs="*", help="headings of docs/libraries.py; by default all that are installed")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    index, rows = make_index(), []
    with tempfile.TemporaryDirectory() as scratch:
        write_folders(Path(scratch))
        for library in LIBRARIES:
            if library.title == "fastembed" in options.titles:
                write_fastembed(Path(scratch))
            if library.title in options.titles or (not options.titles and installed(library.package)):
                try:
                    rows.append(measured(library, index, Path(scratch), options.rounds))
                except ModuleNotFoundError as error:  # of a part of the package that is not installed
                    print(f"{library.title} is left out: {error}", flush=True)
                else:
                    print(rows[-1], flush=True)
    if options.json:
        kept = json.loads(options.json.read_text()) if options.json.exists() else []
        found = {major(row): row for row in [*kept, *rows]}
        order = [library.title for library in LIBRARIES]
        for library in LIBRARIES:
            gets_vectors = "texts" in inspect.signature(library.run).parameters  # and runs no model
            if gets_vectors or library.title in ELSEWHERE:
                found |= {key: row | {"ratio": None} for key, row in found.items() if key[0] == library.title}
        rows = sorted(found.values(), key=lambda row: (order.index(row["title"]), row["version"]))
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def installed(package):
    """Whether a package is installed."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
