"""Captions, parts and keywords of an image together: in the folder, in its arrays, and in a fit."""

import json
import re
import sys
from pathlib import Path

import commands
import numpy as np
import planted
import pytest
import rows
import torch
import torch.nn.functional as F
from close import UNIT
from folders import contents, draw, run, write
from PIL import Image

import labclip
from labclip import Alignment
from labclip.features import Features
from labclip.negatives import add_parts, taggers
from labclip.scenes.captions import noun_phrase
from labclip.training.frontier import frontier
from labclip.training.rows import read_data
from labclip.training.splits import split

N = 6


def parts_of(scene):
    """Each object of a scene of two, and the same with the colour of the other."""
    (colour, shape), (other, other_shape) = scene
    objects = (colour, other, shape), (other, colour, other_shape)
    return [(noun_phrase(own, shape), noun_phrase(swapped, shape)) for own, swapped, shape in objects]


@torch.no_grad()
def test_embed_takes_each_text_of_an_image_once_and_says_its_kind(model, tmp_path):
    """Two rows an image: a sentence with two parts; tags, in which the first part stands again, and the keywords."""
    folder, scenes = tmp_path, labclip.scenes.sample(N, seed=3)
    draw(folder, scenes)
    table = []
    for number, scene in enumerate(scenes.objects):
        parts, negatives = zip(*parts_of(scene), strict=True)
        words = [word for pair in scene for word in pair]
        for caption, negative, *lists in (
            (scenes.captions[number], scenes.swapped_captions[number], parts, negatives, ["swap", "swap"], words),
            (scenes.tags[number], "", parts[:1], [""], ["foil"], words),
        ):
            cells = zip(("parts", "part_negatives", "part_kinds", "keywords"), map(json.dumps, lists), strict=True)
            table.append({"image": f"{number}.png", "caption": caption, "negative": negative, **dict(cells)})
    rows.write(folder / "captions.csv", table)
    features = run(model, folder)
    captions = [text for pair in zip(scenes.captions, scenes.tags, strict=True) for text in pair]
    parts = [part for scene in scenes.objects for part, _ in parts_of(scene)]
    wrong = [negative for scene in scenes.objects for _, negative in parts_of(scene)]
    keywords = [" ".join(word for pair in scene for word in pair) for scene in scenes.objects]
    texts = model.encode_text([*captions, *parts, *keywords], normalize=True, aligned=False)
    assert np.abs(features.texts - texts.numpy()).max() < UNIT
    assert features.kind.dtype == np.int8
    assert features.kind.tolist() == [0] * 2 * N + [1] * 2 * N + [2] * N
    images = list(range(N))
    assert features.image_index.tolist() == [*np.repeat(images, 2).tolist() * 2, *images]
    assert features.has_negative.ravel().tolist() == [True, False] * N + [True] * 2 * N + [False] * N
    negatives = model.encode_text(wrong, normalize=True, aligned=False)
    assert np.abs(features.negatives[2 * N : 4 * N, 0] - negatives.numpy()).max() < UNIT
    counts = features.manifest["counts"]
    assert [counts[name] for name in ("captions", "captions_with_negative", "parts", "keywords")] == [12, 6, 12, 6]
    lines = [json.loads(line) for line in (folder / "features" / "captions.jsonl").read_text().splitlines()]
    assert lines[1].keys() == {"caption", "negatives"}
    assert lines[2 * N] == {"caption": parts[0], "negatives": [wrong[0]], "kind": "part"}
    assert lines[-1] == {"caption": keywords[-1], "negatives": [], "kind": "keywords"}
    # Saved again it is the same folder.
    again = features.save(folder / "again").manifest
    facts = ("base", "weights_sha256", "fingerprint", "inputs", "counts", "files", "skipped", "images_sha256")
    assert {name: again[name] for name in facts} == {name: features.manifest[name] for name in facts}
    made, saved = (contents(folder / name) for name in ("features", "again"))
    assert {**made, "manifest.json": b""} == {**saved, "manifest.json": b""}
    Features.load(folder / "again", verify=True)
    # A benchmark of the folder asks about its captions alone.
    report = labclip.evaluate(model, "features", data=features, progress=False)["features"]
    assert [report.metric(name).estimates[0].n for name in ("binding", "t2i_r1")] == [N, 2 * N]


def test_parts_are_made_where_the_captions_have_none(model, tmp_path, monkeypatch):
    pytest.importorskip("HanTa")
    scenes = labclip.scenes.sample(N, seed=3)
    draw(tmp_path, scenes)
    rows = [[f"{number}.png", caption] for number, caption in enumerate(scenes.captions)]
    write(tmp_path, rows, "image,caption")
    add_parts(tmp_path / "captions.csv", tmp_path / "with.csv")
    options = ["embed", "--model", "scenes", "--images", tmp_path / "photos", "--quiet"]

    def embed(table, *more, code=0):
        return commands.run(*options, "--captions", tmp_path / table, tmp_path / Path(table).stem, *more, code=code)

    embed("with.csv")
    done = embed("captions.csv", "--parts")
    assert re.search("6 images, 6 captions, 0 of them with negatives, .* parts, 6 lists of keywords", done.stdout)
    made, read = (contents(tmp_path / name) for name in ("captions", "with"))
    assert {**made, "manifest.json": b""} == {**read, "manifest.json": b""}
    assert Features.load(tmp_path / "captions").kind.any()
    monkeypatch.setitem(sys.modules, "HanTa.HanoverTagger", None)
    taggers._hanta.cache_clear()
    missing = embed("captions.csv", "--parts", "--force", code=2)
    assert 'labclip needs HanTa. Type: pip install "labclip[negatives]"' in missing.stderr


def described(model, n, seed, split):
    """Scenes with a caption, two parts and the tags each; the tags have no negative."""
    scenes = labclip.scenes.sample(n, seed=seed, split=split)
    pairs = [pair for scene in scenes.objects for pair in parts_of(scene)]
    texts = [*scenes.captions, *(part for part, _ in pairs), *scenes.tags]
    wrong = [*scenes.swapped_captions, *(part for _, part in pairs), *scenes.tags]
    with torch.no_grad():
        images = model.encode_image([Image.fromarray(image) for image in scenes.images])
        texts, negatives = (model.encode_text(side, aligned=False) for side in (texts, wrong))
    index = [*range(n), *np.repeat(range(n), 2), *range(n)]
    kind = np.repeat([0, 1, 2], [n, 2 * n, n])
    return {"images": images, "texts": texts, "negatives": negatives, "image_index": index, "kind": kind}


ONE = {"batch_size": 128, "negative_weight": 12, "distill": 1, "identity_penalty": 0}  # one candidate


def test_a_fit_with_parts_gains_on_parts(model):
    """Short texts are true of many images, in the fit and held out."""
    train, held = described(model, 800, 0, "seen"), Features.from_arrays(**described(model, 200, 1, "heldout"))
    captions = {name: rows[:800] for name, rows in train.items()}
    with_parts, without = (
        labclip.fit(Features.from_arrays(**arrays), validation=held, keep=0.95, epochs=10, progress=False, **ONE)
        for arrays in (train, captions)
    )
    base, after = (with_parts.results["validation"][side] for side in ("base", "labclip"))
    assert after["part_binding_grounded"] > base["part_binding_grounded"] + 0.07
    assert after["part_binding_grounded"] > without.results["validation"]["labclip"]["part_binding_grounded"] + 0.07
    assert after["binding_grounded"] > base["binding_grounded"] + 0.03
    assert after["keywords_t2i_r1"] > 0.9 * base["keywords_t2i_r1"]
    assert with_parts.change.counted == "captions and parts"
    assert with_parts.change.captions == 600
    text = " ".join(str(with_parts).split())
    assert f"For parts it is {100 * base['part_binding']:.3g}%, with the matrix" in text
    assert f"Captions beat parts of their image in {100 * base['whole_truth']:.3g}% of pairs, with the matrix" in text
    assert "Data: 800 captions, 1,600 parts, 800 lists of keywords of 800 images" in text
    assert "Held out: 200 captions, 400 parts, 200 lists of keywords of 200 images, none of them" in text


@pytest.fixture(scope="module")
def kinds():
    """The planted world as captions, the same texts in another order of dimensions as parts, others as keywords."""
    images, captions, negatives = planted.world(120)
    keywords = planted.world(120, seed=0)[0].flip(0)
    texts = {"captions": captions, "parts": captions.roll(1, 1), "keywords": (keywords + 2 * images)}
    wrong = {"captions": negatives, "parts": negatives.roll(1, 1), "keywords": keywords + 2 * images}
    return images, texts, wrong


def together(images, texts, wrong, **other):
    """All of them as `Features`."""
    rows = {"images": images, "texts": torch.cat([*texts.values()]), "negatives": torch.cat([*wrong.values()])}
    index, kind = np.tile(range(len(images)), len(texts)), np.repeat(range(len(texts)), len(images))
    return Features.from_arrays(**rows, image_index=index, kind=kind, **other)


def test_each_kind_is_measured_as_if_it_stood_alone(kinds):
    images, texts, wrong = kinds
    draw = torch.Generator().manual_seed(0)
    matrix = torch.eye(planted.DIM) + 0.2 * torch.randn(planted.DIM, planted.DIM, generator=draw)
    (point,) = frontier({"validation": read_data(together(*kinds))}, matrix, [0.7])
    alone = {}
    for kind, own in texts.items():
        features = Features.from_arrays(images=images, texts=own, negatives=wrong[kind])
        (alone[kind],) = frontier({"validation": read_data(features)}, matrix, [0.7])
    captions, parts = alone["captions"], alone["parts"]
    assert 0 < parts.binding != captions.binding
    assert (point.binding, point.blind, point.grounded) == (captions.binding, captions.blind, captions.grounded)
    assert point.parts == (parts.binding, parts.blind, parts.grounded)
    assert point.recalls == captions.recalls
    assert [*point.most_lost, point.divergence] == pytest.approx([*captions.most_lost, captions.divergence], rel=1e-5)
    assert point.keywords == alone["keywords"].recalls["validation"]
    cosine = F.cosine_similarity(
        images[None], Alignment(matrix).at(0.7)(torch.stack([texts["captions"], texts["parts"]])), -1
    )
    margin = (cosine[0] - cosine[1]).double()
    whole = float(torch.special.ndtr(margin / (0.9 * margin.std(correction=0) * len(margin) ** -0.2)).mean())
    smoothed = [captions.smoothed_binding, parts.smoothed_binding, whole]
    assert point.smoothed_binding == pytest.approx(sum(smoothed) / 3)


def test_whole_truth_is_counted_over_all_captions_and_parts_of_an_image():
    draw = torch.Generator().manual_seed(0)
    images, (texts, negatives) = torch.randn(5, 8, generator=draw), torch.randn(2, 20, 8, generator=draw)
    matrix = torch.eye(8) + 0.3 * torch.randn(8, 8, generator=draw)
    index, kind = torch.randint(5, (20,), generator=draw), torch.randint(3, (20,), generator=draw)
    rows = {"images": images, "texts": texts, "negatives": negatives}
    held = read_data(Features.from_arrays(**rows, image_index=index, kind=kind.numpy()))
    for strength in (0.0, 0.7):
        cosine = F.cosine_similarity(images[index], Alignment(matrix).at(strength)(texts), dim=-1).tolist()
        beaten = [
            cosine[caption] > cosine[part] for caption in range(20) for part in range(20)
            if index[caption] == index[part] and (kind[caption], kind[part]) == (0, 1)
        ]  # fmt: skip
        (point,) = frontier({"validation": held}, matrix, [strength])
        assert 0 < point.whole_truth < 1
        assert point.whole_truth == pytest.approx(sum(beaten) / len(beaten))


def test_an_image_is_held_out_with_all_its_texts_and_what_short_texts_share_is_no_leak(kinds):
    images, texts, wrong = kinds
    shared = {**wrong, "parts": texts["captions"].roll(60, 0)}  # each wrong part is the caption of another image
    data, held, leaked = split(read_data(together(images, texts, shared)), None, 0.1, 0)
    assert leaked == 0
    assert len(held.captions) == 3 * 12
    for side in (data, held):
        assert torch.bincount(side.image_index[side.captions]).unique().tolist() in ([3], [0, 3])
    first, second = (
        together(images[rows], *({kind: side[rows] for kind, side in sides.items()} for sides in (texts, shared)))
        for rows in (slice(0, 60), slice(60, 120))
    )
    assert labclip.fit(first, validation=second, **planted.QUICK).frontier[0].parts is not None
    shared["captions"] = texts["captions"].roll(60, 0)
    first = together(images[:60], *({kind: side[:60] for kind, side in sides.items()} for sides in (texts, shared)))
    with pytest.raises(ValueError, match="Held-out captions are among the negatives of the fit"):
        labclip.fit(first, validation=second, **planted.QUICK)


def test_where_no_caption_has_a_negative_parts_decide(kinds):
    images, texts, wrong = kinds
    result = labclip.fit(together(images, texts, {**wrong, "captions": texts["captions"]}), **planted.QUICK)
    assert (result.frontier[0].binding, result.change.counted) == (None, "parts")
    assert "tells a part from its negative in" in str(result)
    assert result.alignment.metadata["held_out"].startswith("12 captions, 12 parts, 12 lists of keywords of 12 images,")
