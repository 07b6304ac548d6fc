"""Base against alignments, and what is told of bad questions."""

import json
import math
import pickle
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from close import UNIT
from evaluated import SUBSETS, lay, rounding
from PIL import Image
from torch.nn import functional as F

import labclip
from labclip import LABCLIP, Alignment, evaluate, scenes
from labclip.evaluation import BENCHMARKS, Benchmark, Items, Retrieval, summary
from labclip.features import embed
from labclip.features.features import Features


@pytest.fixture
def sugarcrepe(tmp_path):
    """Two items a subset of SugarCrepe's layout, on seven images that every subset shares."""
    drawn = scenes.sample(14, seed=5)
    for row in range(7):
        Image.fromarray(drawn.images[row]).save(tmp_path / f"{row}.png")
    for number, name in enumerate(SUBSETS):
        own, wrong = drawn.captions[number], drawn.swapped_captions[number]
        items = [
            {"filename": f"{number}.png", "caption": own + end, "negative_caption": wrong + end} for end in ("", " .")
        ]
        lay(tmp_path, {f"{name}.json": {"0": items[0], "3": items[1]}})
    return tmp_path


def test_captions_of_clevr_are_not_normalised_in_the_base_alone(model, tmp_path):
    drawn, rng = [Image.fromarray(pixels) for pixels in scenes.sample(40, seed=4).images], random.Random(0)
    lines = []
    for number, image in enumerate(drawn):
        image.save(tmp_path / f"{number}.png")
        (shape, other), colours = rng.sample(("cube", "ring", "star"), 2), rng.sample(("red", "teal", "black"), 2)
        lines.append(f"{number}.png,{shape},{colours[0]},{other},{colours[1]}")
    (tmp_path / "output_2obj.csv").write_text("\n".join(lines))
    asked = partial(evaluate, model, "clevr", data=tmp_path, cache=tmp_path / "cache")
    paper, ours = (asked(options={"split": "all", "protocol": protocol})["clevr"] for protocol in ("paper", "labclip"))
    items = paper.items[: len(drawn)]
    shown = F.normalize(model.encode_image(torch.stack([model.preprocess(image) for image in drawn])), dim=-1)

    def margin(**how):
        own, wrong = (model.encode_text([item.captions[side] for item in items], **how) for side in (0, 1))
        return (shown * (own - wrong)).sum(-1)

    base, aligned = margin(normalize=False, aligned=False), margin(normalize=True)
    for name, margins, at in (("base", base, 0), ("labclip", aligned, 1)):
        assert [item.margin[name] for item in items] == pytest.approx(margins.tolist(), abs=1e-4)
        assert paper.metric("binding").estimates[at].value == pytest.approx((margins > 0).float().mean().item())
    by_cosine = (margin(normalize=True, aligned=False) > 0).float().mean()
    assert by_cosine != (base > 0).float().mean()
    (note,) = (note for note in paper.notes if "not normalised" in note)
    assert f"By cosine the base has binding {by_cosine:.3f} (here {(base > 0).float().mean():.3f})" in note
    assert not any("not normalised" in text for text in ours.notes)
    for metric in ("part_swap", "part_foil", "half_truth", "whole_truth", "search_map"):  # by cosine
        assert metric not in note
        assert paper.metric(metric).estimates == ours.metric(metric).estimates


def test_what_stands_where_there_is_no_negative_counts_for_nothing(model):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3, 12, 256)).astype(np.float32)
    negatives, has = rng.normal(size=(12, 4, 256)).astype(np.float16), rng.random((12, 4)) < 0.5
    has[0] = False
    stored = {"images": rows[0], "texts": rows[1], "image_index": np.arange(12), "has_negative": has}
    results = []
    for empty in (1.0, 0.0, math.nan):
        negatives[~has] = empty
        features = labclip.Features.from_arrays(**stored, negatives=negatives)
        results.append(evaluate(model, "features", data=features, progress=False)["features"])
    assert results[0].compared == results[1].compared == results[2].compared
    assert results[0].metric("binding").estimates[0].n == has.any(axis=1).sum()
    assert [answer.captions for answer in results[0].items[:1]] == [answer.captions for answer in results[1].items[:1]]
    negatives[np.nonzero(has)[0][0], np.nonzero(has)[1][0]] = 0
    with pytest.raises(ValueError, match=r"row \d+ is all zeros"):
        evaluate(model, "features", data=labclip.Features.from_arrays(**stored, negatives=negatives), progress=False)


def test_text_to_text_is_what_the_folded_model_gives_by_itself(model, tmp_path):
    drawn = scenes.sample(30, seed=9)
    Image.fromarray(drawn.images[0]).save(tmp_path / "0.png")
    words = zip(drawn.captions[::2], drawn.captions[1::2], drawn.swapped_captions[::2], strict=True)
    keys = ("caption", "caption2", "negative_caption")
    items = [{"id": at, "filename": "0.png", **dict(zip(keys, text, strict=True))} for at, text in enumerate(words)]
    for name in SUBSETS[2:]:
        (tmp_path / f"{name}.json").write_text(json.dumps(items))
    result = evaluate(model, "sugarcrepe-pp", data=tmp_path)["sugarcrepe-pp"]
    folded = labclip.fold(model)
    with torch.no_grad():
        first, two, wrong = (
            F.normalize(folded.encode_text(model.tokenizer([item[key] for item in items])), dim=-1) for key in keys
        )
    margin = (first * two).sum(-1) - torch.maximum((first * wrong).sum(-1), (two * wrong).sum(-1))
    listed = [item.margin for item in result.items if item.metrics[0] == "swap_obj_tot"]
    assert [each["labclip"] for each in listed] == pytest.approx(margin.tolist(), abs=UNIT)
    assert result.metric("micro_tot").estimates[1].value == pytest.approx((margin > 0).float().mean().item())
    assert [each["base"] for each in listed] != pytest.approx(margin.tolist(), abs=1e-3)


def test_no_matrix_is_measured_alone_strength_zero_is_the_base_and_a_matrix_without_a_base_is_told(model):
    bare = LABCLIP(model.clip, Alignment.identity(256), tokenizer=model.tokenizer)
    assert evaluate(bare, "scenes", options={"n": 20}).models == ("base",)
    report = evaluate(model, "scenes", options={"n": 100}, strengths=[0.0])
    values = report.to_json()["benchmarks"]["scenes"]
    assert values["models"]["base"] == values["models"]["labclip"]
    assert not any(difference["measurable"] for difference in values["differences"]["labclip"].values())
    without = evaluate(model, "scenes", options={"n": 20}, alignments=Alignment(model.alignment.fitted))
    named = ["does not say which base it was fitted on" in " ".join(str(shown).split()) for shown in (report, without)]
    assert named == [False, True]


def swapped_colours(sources, *, split="seen", n: int = 30):
    """`right`: the caption beats the one with its colours swapped."""
    drawn, items = scenes.sample(n, seed=7, split=split), Items(sources)
    for row, (pixels, *captions) in enumerate(zip(drawn.images, drawn.captions, drawn.swapped_captions, strict=True)):
        items.add(sources.image_in_memory(pixels, f"scene {row}"), captions, f"row {row}")
    return sources.task(*items.question("right"), *items.gallery())


MINE = Benchmark("mine", "My own", "binding", swapped_colours)


@pytest.mark.parametrize(
    ("benchmarks", "arguments", "message"),
    [
        ("sugarcrap", {}, r"no benchmark 'sugarcrap'. Did you mean 'sugarcrepe'"),
        ("scenes", {"options": {"m": 3}}, "scenes has no option 'm'. It has n, seed"),
        ("scenes", {"options": {"scenes": {"n": "many"}}}, "option n is 'many'. Type a number"),
        ("scenes", {"ties": "first"}, r"ties is 'first'\. Pass one of wrong, index"),
        ("sugarcrepe", {}, r"No data was given. Pass data=PATH. SugarCrepe needs"),
        ("sugarcrepe", {"data": "/nowhere/at/all"}, r"There is no .*nowhere.*SugarCrepe needs"),
        (["vg-a", "vg-r"], {"data": "aro"}, r"but for which of vg-a, vg-r\? Pass data=\{'vg-a': 'aro'\}"),
        ("scenes", {"alignments": Alignment.identity(8)}, r"dim 8 .*embeds in 256"),
        ("scenes", {"alignments": {"base": "scenes"}}, r"alignment is called base, as .* Pass another name\."),
        ([MINE, replace(MINE, title="Mine")], {}, "Two benchmarks are called mine"),
        (replace(MINE, read=lambda sources: None), {}, r"reader of mine gives no Task\. End it with: return sources"),
        (replace(MINE, read=lambda s: Items(s, 1, [[0, 1]], [[0, 1, 2]], [""], [{}]).gallery()), {}, "2 is longer"),
    ],
)
def test_bad_questions_are_reported_in_one_line(benchmarks, arguments, message):
    options = {} if "options" in arguments or benchmarks != "scenes" else {"options": {"n": 20}}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        evaluate("scenes", benchmarks, **arguments, **options)
    assert "\n" not in str(caught.value)


def test_missing_images_are_counted_or_left_out_with_a_note(sugarcrepe):
    (sugarcrepe / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 7 images are missing, for example .*0\.png"):
        evaluate("scenes", "sugarcrepe", data=sugarcrepe)
    values = evaluate("scenes", "sugarcrepe", data=sugarcrepe, on_missing="skip").to_json()["benchmarks"]["sugarcrepe"]
    assert "1 of 7 images are missing" in values["notes"][0]
    assert values["n"]["micro"] == 12
    assert "add_att" not in values["models"]["base"]


def test_every_benchmark_says_what_it_wants():
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert all(getattr(benchmark, field) for field in ("title", "wants", "source", "licence", "paper", "headline"))
        assert benchmark.read.__doc__
    assert {benchmark.measures for benchmark in BENCHMARKS.values()} == set(summary.SIDES)


def test_features_in_a_folder_and_in_memory_give_what_their_images_give(tmp_path, model):
    table = scenes.sample(40, seed=8).save(tmp_path)
    features = embed(model, captions=table, out=tmp_path / "features", progress=False)
    arrays = {name: np.array(getattr(features, name)) for name in ("images", "texts", "negatives")}
    held = Features.from_arrays(**arrays, base=model.alignment.base)
    folder, memory, own = (
        evaluate(model, name, data=data)[name]
        for name, data in (("features", tmp_path / "features"), ("features", held), ("csv", table))
    )
    assert folder.metric("binding").estimates == memory.metric("binding").estimates == own.metric("binding").estimates
    assert memory.data.startswith("Features(40 images, 40 texts")
    assert memory.items[3].captions == ("caption 3", "negative 3")
    by_hand = (arrays["images"] * (arrays["texts"] - arrays["negatives"][:, 0])).sum(-1) > 0
    assert [item.right["base"] for item in memory.items[:40]] == by_hand.tolist()
    bare = labclip.LABCLIP(model.clip, labclip.Alignment.identity(256))  # nothing is encoded: no tokenizer is needed
    assert evaluate(bare, "features", data=held).models == ("base",)
    with pytest.raises(FileNotFoundError, match=r"data is Features.*which only the benchmark features reads"):
        evaluate(model, "sugarcrepe", data=held)
    other = Features.from_arrays(**arrays, base=labclip.Base("ViT-B-32", "openai", True, 256))
    with pytest.raises(ValueError, match=r"embedded by ViT-B-32 \(openai\), but the model is scenes.*another base"):
        evaluate(model, "features", data=other)
    with torch.no_grad():
        model.clip.visual.conv1.weight[0, 0, 0, 0] += 0.5
    with pytest.raises(ValueError, match=r"with weights .*: other weights\. Embed again"):
        evaluate(model, "features", data=tmp_path / "features")


def test_captions_and_images_that_are_one_to_the_model_are_ties_and_noted(model, tmp_path, monkeypatch):
    """Captions of the same tokens, encoded in different passes, a caption that is cut, and one image in two files."""
    monkeypatch.setattr("labclip.features.cache.BLOCK", 3)
    rounding(model, monkeypatch)
    drawn = scenes.sample(8, seed=9)
    lines = ["image,caption,negative"]
    for row, caption in enumerate(drawn.captions):
        Image.fromarray(drawn.images[row % 7]).save(tmp_path / f"{row}.png")
        wrong = caption.replace(" ", "&#32;", 1) if row else f"{caption}{' very' * 20} red"
        lines.append(f"{row}.png,{caption if row else caption + ' very' * 20},{wrong}")
    (tmp_path / "own.csv").write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="longer than the 16 tokens"):
        values = evaluate(model, "csv", data=tmp_path / "own.csv").to_json()["benchmarks"]["csv"]
    assert (values["models"]["base"]["binding"], values["models"]["labclip"]["binding"]) == (0, 0)
    assert any(note.startswith("8 of 16 captions have exactly the embedding") for note in values["notes"])
    assert any(note.startswith("1 of 8 images of the gallery have exactly the embedding") for note in values["notes"])


def test_alignments_have_the_names_that_they_are_given(model, tmp_path, monkeypatch):
    """The base's own name is refused: numbers would stand where the base's do. "n" and "notes" are as good as any."""
    monkeypatch.chdir(tmp_path)
    for name in ("base", "notes"):
        Alignment.identity(256).save_pretrained(name)
    asked = partial(evaluate, model, "scenes", options={"n": 12})
    for given, strengths, names in (
        (["./base", "notes"], (), ("./base", "notes")),
        ({"mine": model.alignment, "none": Alignment.identity(256)}, (), ("mine", "none")),
        ({"mine": "scenes"}, [0.5], ("mine@0.5",)),
        (["scenes", "notes"], [0.5, 1], ("scenes@0.5", "scenes@1", "notes@0.5", "notes@1")),
        (["scenes", "notes", "scenes"], [0.5, 0.5], ("scenes@0.5", "notes@0.5")),
        ("notes", (), ("labclip",)),
    ):
        assert asked(alignments=given, strengths=strengths).models == ("base", *names)
    with pytest.raises(ValueError, match=r"alignment is called base, as the report calls .*\. Type \./base"):
        asked(alignments=["base", "notes"])


def test_a_benchmark_of_ones_own(model):
    report = evaluate(model, ["scenes", MINE], options={"mine": {"n": "40", "split": "heldout"}, "scenes": {"n": 20}})
    right = report["mine"].metric("right")
    assert MINE.options == {"split": "seen", "n": 30}
    assert report["mine"].options == {"n": "40", "split": "heldout"}
    assert (right.estimates[0].n, report["scenes"].metric("binding").estimates[0].n) == (40, 20)
    assert right.estimates[1].value > 0.75 > right.estimates[0].value
    assert repr(report) == "Report(scenes, mine; scenes (embedded): base, labclip)"
    assert "t2i_r1" in str(evaluate(model, MINE))
    with pytest.raises(ValueError, match=r"mine has no option 'size'\. It has split, n"):
        evaluate(model, MINE, options={"size": 3})
    with pytest.raises(ValueError, match=r"measures of mine is 'bindng'\. Pass one of binding, retrieval, classif"):
        replace(MINE, measures="bindng")
    with pytest.raises(KeyError, match="no benchmark 'csv'; it has scenes, mine"):
        report["csv"]
    with pytest.raises(KeyError, match="mine has no metric 'left'; it has right, right_blind, right_grounded, t2i_r1"):
        report["mine"].metric("left")


def test_ties_by_index_stand_in_a_table_of_their_own(model):
    """Two images, one caption of both: a tie, wrong here, right for the first of the two by index."""

    def read(sources):
        drawn = labclip.scenes.sample(2, seed=1)
        rows = [sources.image_in_memory(image, f"scene {at}") for at, image in enumerate(drawn.images)]
        text = sources.caption("a picture", "here")
        return sources.task(Retrieval(np.array(rows), np.array([text, text]), np.array([0, 1])))

    mine = Benchmark("mine", "Mine", "retrieval", read, headline=("t2i_r1",))
    report = evaluate(model, mine, ties="index")
    values = {metric.metric: metric.estimates[0].value for metric in report["mine"].compared}
    assert (values["i2t_r1"], values["i2t_r1_index"]) == (0.0, 0.5)
    assert not [
        metric
        for metric in summary.metrics(*report.results, *report.results)
        if metric.compared.metric.endswith("_index")
    ]
    assert "Ties by index" in str(report)
    assert "What it may cost: ties" not in str(report)
    assert "i2t_r1_index" not in {metric.metric for metric in evaluate(model, mine)["mine"].compared}


def test_every_item_says_what_it_is_and_who_was_right(sugarcrepe, model):
    result = evaluate(model, "sugarcrepe", data=sugarcrepe)["sugarcrepe"]
    items = result.items
    choices = [item for item in items if "micro" in item.metrics]
    assert len(choices) == 14
    first = choices[1]
    written = json.loads((sugarcrepe / "add_att.json").read_text())["3"]
    assert first.location == "add_att.json item 3"
    assert first.images == (str(sugarcrepe / written["filename"]),)
    assert first.captions == (written["caption"], written["negative_caption"])
    assert first.metrics == ("add_att", "add", "macro", "micro")
    for model_name, place in (("base", 0), ("labclip", 1)):
        for metric in (*SUBSETS, "micro", "t2i_r1", "i2t_r1"):
            among = [item for item in items if metric in item.metrics]
            value = sum(item.right[model_name] for item in among) / len(among)
            assert value == pytest.approx(result.metric(metric).estimates[place].value)
    with torch.no_grad():
        image = model.encode_image(Image.open(first.images[0]), normalize=True)[0]
        for name, aligned in (("base", False), ("labclip", True)):
            good, bad = (model.encode_text(list(first.captions), normalize=True, aligned=aligned) @ image).tolist()
            assert first.margin[name] == pytest.approx(good - bad, abs=UNIT)
            assert first.right[name] == (good > bad)


def test_a_search_is_an_item_with_its_query_and_its_margin_and_keeps_no_pixels(model):
    result = evaluate(model, MINE, options={"n": 25})["mine"]
    by_text, by_image = ([item for item in result.items if item.metrics == (f"{side}_r1",)] for side in ("t2i", "i2t"))
    assert len(by_text) == result.metric("t2i_r1").estimates[0].n
    assert all(len(item.captions) == 1 and len(item.images) == 1 for item in by_text)
    assert all(item.captions == () and len(item.images) == 1 for item in by_image)
    assert all(item.right[name] == (item.margin[name] > 1e-6) for item in [*by_text, *by_image] for name in item.right)
    kept = pickle.dumps(result)
    assert len(kept) < 25 * 64 * 64 * 3 / 4
    assert pickle.loads(kept).items[3] == result.items[3]
