"""Search one index in each library, with the base and with the matrix folded in: R@1, version, time.

    python benchmarks/in_libraries.py [TITLE ...] [--rounds 6] [--json benchmarks/in_libraries.json]

Runs the functions of `docs/libraries.py` whose package is installed, or those named. The index has 400 image embeddings
by the base: 200 scenes, and the same with the colours of their objects swapped. R@1 is the fraction of the 200 captions
whose own scene comes first. The file keeps its rows of libraries and of major versions that were not run.
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
OTHER_PROCESSES = {"Ray Serve", "Triton"}  # they serve in processes whose time is not counted here


@dataclass(frozen=True)
class Index:
    """The index that all libraries search.

    Attributes:
        pixels: The images, uint8 [400, 64, 64, 3].
        images: Their embeddings by the base, unit length, [400, dim].
        captions: The captions of the first 200 images.
    """

    pixels: np.ndarray
    images: np.ndarray
    captions: list


def make_index():
    """Scenes with captions, then the same scenes with the colours swapped."""
    model, sample = LABCLIP.from_pretrained("scenes"), scenes.sample(N, seed=SEED)
    swapped = replace(sample, layout=replace(sample.layout, colours=sample.layout.colours[:, ::-1]))
    pixels = np.concatenate([sample.images, swapped.render(64)])
    images = model.encode_image([Image.fromarray(image) for image in pixels], normalize=True)
    return Index(pixels, images.numpy(), sample.captions)


def write_folders(parent):
    """Write the folders that the functions open: `parent/base/folded`, `parent/aligned/folded` and so on."""
    for side, strength in SIDES.items():
        model = LABCLIP.from_pretrained("scenes", strength=strength)
        labclip.fold(model, folder=parent / side / "folded")
        labclip.fold(with_transformer(model), to="transformers", folder=parent / side / "folded-hf")
        with contextlib.suppress(ValueError):  # if ONNX is not installed
            labclip.fold(model, to="onnx", folder=parent / side / "folded-onnx")


def write_fastembed(parent):
    """Write an existing text tower as fastembed opens it, an ONNX file, and the same with the matrix folded in."""
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
    """The same text tower with a small random vision transformer, as transformers has no CLIP with a ResNet."""
    clip = copy.deepcopy(model.clip)
    torch.manual_seed(0)
    visual = VisionTransformer(64, 16, width=64, layers=1, heads=1, mlp_ratio=4, output_dim=model.alignment.dim)
    visual.preprocess_cfg = clip.visual.preprocess_cfg
    clip.visual = visual.eval()
    return LABCLIP(clip, model.alignment, tokenizer=model.tokenizer)


@contextlib.contextmanager
def inside(folder):
    """Work in a new folder, from which the content of `folder` can be opened."""
    previous = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        for path in folder.iterdir():
            (Path(scratch) / path.name).symlink_to(path)
        os.chdir(scratch)
        try:
            yield
        finally:
            os.chdir(previous)
            if "ray" in sys.modules:  # its processes still work in the folder they were started in
                sys.modules["ray"].shutdown()


def make_arguments(index, folders, side):
    """For each argument that a function may have, a function that makes its value."""
    model = LABCLIP.from_pretrained("scenes", strength=SIDES[side])
    base = f"local-dir:{folders / 'base' / 'folded'}"

    def client():
        import chromadb
        from chromadb.utils.embedding_functions import OpenCLIPEmbeddingFunction

        # A relative path would open the client of the last folder again.
        chroma = chromadb.PersistentClient(str(Path.cwd() / "chroma"))
        photos = chroma.create_collection("existing", embedding_function=OpenCLIPEmbeddingFunction(base, ""))
        photos.add(ids=[str(number) for number in range(len(index.images))], embeddings=index.images)
        return chroma

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

        server = psycopg.connect(os.environ["PGVECTOR"], autocommit=True)
        server.execute("DROP TABLE IF EXISTS photos")
        return server

    def architecture():
        import open_clip

        config = json.loads((folders / "base" / "folded" / "open_clip_config.json").read_text())["model_cfg"]
        (folders / "scenes.json").write_text(json.dumps(config))
        open_clip.add_model_config(folders / "scenes.json")
        return "scenes"

    def pairs():
        captions = [[caption] for caption in index.captions] + [[] for _ in index.captions]
        return [
            (model.preprocess(Image.fromarray(image)), texts)
            for image, texts in zip(index.pixels, captions, strict=True)
        ]

    def task():
        import datasets
        import mteb

        sugarcrepe, sample = mteb.get_task("SugarCrepe"), scenes.sample(N, seed=SEED)
        columns = {"caption": sample.captions, "negative_caption": sample.swapped_captions}
        columns["images"] = [Image.fromarray(image) for image in sample.images]
        sugarcrepe.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(columns)})
        sugarcrepe.data_loaded = True  # else MTEB fetches SugarCrepe's data
        return sugarcrepe

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
    """The result of a library's function, and the seconds of processor time it took, loading included."""
    with inside(folders / side):
        make = make_arguments(index, folders, side)
        arguments = {name: make[name]() for name in inspect.signature(library.run).parameters}
        start = time.process_time()
        with torch.no_grad():
            result = library.run(**arguments)
        return result, time.process_time() - start


def unit_embeddings(result):
    """A function's result as unit-length embeddings, or None if it is something else."""
    result = np.asarray(result, dtype=None if isinstance(result, np.ndarray | torch.Tensor) else object)
    if result.ndim != 2 or result.shape[1] == 1:
        return None
    return torch.nn.functional.normalize(torch.from_numpy(result.astype(np.float32)), dim=1)


def recall(result, index):
    """R@1 of a function's result: of embeddings, of the index of the first image for each caption, or R@1 itself.

    None if the result is another score.
    """
    if isinstance(result, float | dict):
        return result if isinstance(result, float) else None
    if (texts := unit_embeddings(result)) is not None:
        ranks, *_ = metrics.ranks(torch.from_numpy(index.images), texts, torch.arange(N))
        return round(float((ranks < 1).double().mean()), 4)
    return round(float((np.asarray(result).reshape(-1).astype(int) == np.arange(N)).mean()), 4)


def measure(library, index, folders, rounds):
    """A row of the file: R@1 of both models, and the time with the matrix as a ratio to that of the base."""
    row = {"title": library.title, "package": library.package, "version": version(library.package)}
    seconds = {side: [] for side in SIDES}
    for turn in range(rounds):
        for side in reversed(SIDES) if turn % 2 else SIDES:
            result, duration = call(library, index, folders, side)
            row[side] = recall(result, index)
            seconds[side].append(duration)
    return row | {"ratio": round(min(seconds["aligned"]) / min(seconds["base"]), 2)}  # the first warms up


def major(row):
    """A row's key: the library and its major version."""
    return row["title"], row["version"].partition(".")[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("titles", nargs="*", help="titles in docs/libraries.py; by default all that are installed")
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
                    rows.append(measure(library, index, Path(scratch), options.rounds))
                except ModuleNotFoundError as error:  # for an extra of the package that is not installed
                    print(f"{library.title} is left out: {error}", flush=True)
                else:
                    print(rows[-1], flush=True)
    if options.json:
        earlier_rows = json.loads(options.json.read_text()) if options.json.exists() else []
        row_of = {major(row): row for row in [*earlier_rows, *rows]}
        order = [library.title for library in LIBRARIES]
        for library in LIBRARIES:
            gets_vectors = "texts" in inspect.signature(library.run).parameters  # and runs no model
            if gets_vectors or library.title in OTHER_PROCESSES:
                row_of |= {key: row | {"ratio": None} for key, row in row_of.items() if key[0] == library.title}
        rows = sorted(row_of.values(), key=lambda row: (order.index(row["title"]), row["version"]))
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def installed(package):
    """Whether a package is installed."""
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
