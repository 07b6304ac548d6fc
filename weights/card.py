"""The card of the embedded model, written from its measurements: no figure in it is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from labclip import Alignment
from labclip.io.bases import OPENCLIP_WEIGHTS
from labclip.io.card import model_card
from labclip.scenes.vocabulary import COLOURS, SHAPES

DOCUMENTED = Path(__file__).parent / "scenes"  # the folder whose figures stand in the documentation
PAGE = Path(__file__).parents[1] / "docs" / "embedded-model.md"
_START, _END = "<!-- tables -->", "<!-- /tables -->"
_GAINS = ("binding_seen", "binding_heldout", "binding_heldout_both", "binding_validation", "binding_fit")
_COSTS = (
    *("sentences_t2i_r1", "sentences_i2t_r1", "twins_t2i_r1", "twins_i2t_r1", "tags_t2i_r1", "tags_i2t_r1"),
    *("single_object", "modality_gap"),
)
_MEANING = """\
`binding_*`: share of scenes whose caption scores above the same caption with the colours exchanged; chance .5, a tie
is wrong. *seen*: new scenes of colour-shape pairs that were in the fit; *heldout*: at least one of 12 pairs that the
fit never saw, neither in a caption nor in a negative; *heldout_both*: both pairs are such; *validation*: six other such
pairs, on which this one of the trained models was chosen; *fit*: scenes of the fit itself. `*_r1`: recall at 1 in
galleries of 256 scenes, text to image and image to text, by sentences, by tags (captions that name colours and shapes
without binding them; not in the fit), and by sentences where each scene stands beside its colour-exchanged twin.
`single_object`: one thing, zero-shot among 120. `modality_gap`: distance between the mean image and the mean caption.
"""


def write_card(folder: Path) -> str:
    """Write `README.md` from `results.json` and the alignment, and the measured table into the alignment.

    Args:
        folder: The embedded model's folder.

    Returns:
        The tables, to be printed.
    """
    results = json.loads((folder / "results.json").read_text())
    shipped = next(trial for trial in results["trials"] if trial["seed"] == results["shipped"])
    alignment = Alignment.from_pretrained(folder)
    measured = {"scenes": {side: shipped[side] for side in ("base", "labclip")}}
    alignment = Alignment(
        alignment.fitted,
        base=alignment.base,
        logit_scale=alignment.logit_scale,
        fingerprint=alignment.fingerprint,
        metadata={**alignment.metadata, "results": measured, "probes": shipped["probes"]},
    )
    alignment.save_pretrained(folder)
    tables = _tables(results["trials"], shipped)
    if folder.resolve() == DOCUMENTED.resolve():
        _fill(PAGE, tables)
    about = "\n\n".join([_about(alignment.metadata, results, shipped, _size(folder)), tables])
    (folder / "README.md").write_text(
        model_card(alignment, name="The embedded CLIP of labclip, and its matrix", about=about)
    )
    return tables


def _fill(page: Path, tables: str) -> None:
    """Put the tables between the markers of a page."""
    before, rest = page.read_text().split(_START)
    _, after = rest.split(_END)
    page.write_text(f"{before}{_START}\n\n{tables.replace('## ', '### ')}\n\n{_END}{after}")


def _size(folder: Path) -> dict[str, int]:
    """Parameters of the towers and of the token table, and words known beside colours, shapes and the three marks.

    The marks are padding, start and end; a token that no training saw is a row of zeros.
    """
    weights = load_file(folder / OPENCLIP_WEIGHTS)
    table = weights.pop("token_embedding.weight")
    known = int((table != 0).any(dim=1).sum())
    towers = sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())
    return {"towers": towers, "table": table.numel(), "words": known - len(COLOURS) - len(SHAPES) - 3}


def _about(metadata: dict[str, Any], results: dict[str, Any], shipped: dict[str, Any], size: dict[str, int]) -> str:
    pretraining = metadata["pretraining"]
    probes = shipped["probes"]
    return f"""\
A CLIP of {size["towers"] / 1e6:.1f} million parameters and a token table of {size["table"] / 1e6:.1f} million
(OpenCLIP's `CLIP`, ResNet and Transformer), trained from nothing on two CPU cores on rendered scenes of two things, and
one matrix for it. It is a demonstration and a test fixture: it knows {len(COLOURS)} colours, {len(SHAPES)} shapes and
{size["words"]} other words, and nothing else.

```python
from labclip import LABCLIP

model = LABCLIP.from_pretrained("scenes")
```

## How it learnt

{pretraining["scenes"]:,} pictures of all 120 colour-shape pairs, {pretraining["steps"]} steps of
{pretraining["batch_size"]}. Each picture came with tags ("moon cross pink white", in independent orders), or, with
probability {pretraining["sentence_share"]:g}, with a sentence that binds. So picture and text hardly meet over who has
which colour.

**The text tower learns binding from text alone**: a second loss brings together two wordings of one scene and keeps
apart the same scene with the colours exchanged ("a red cube next to a blue sphere" = "the sphere is blue and the cube
is red", not "a blue cube next to a red sphere"). Without it a model this small has nothing in its text for a matrix to
repair. In large CLIPs text knows binding without such help; this model stands in for that finding, it is no evidence
of it.

Held-out pairs were held out of the *fit*. Pretraining saw pictures, tags and sentences of all 120.

Linear probes, asked for the colour of each shape (chance {probes["chance"]:.3f}; half for who knows the two colours
only): {probes["image"]:.3f} from the picture alone, {probes["text"]:.3f} from the caption alone.

Made by `python weights/make.py`. Seeds trained: {len(results["trials"])}; this one, seed {results["shipped"]}, is the
best on the validation pairs among those whose base binds at most .65 of the scenes of the fit (with a stronger base
there is no finding to show). Distance of the matrix from the identity, Frobenius:
{shipped["distance_from_identity"]:.1f}, after scaling it so that captions keep their length on average.

{_MEANING}"""


def _tables(trials: list[dict[str, Any]], shipped: dict[str, Any]) -> str:
    parts = [
        "## All seeds trained",
        "Base > LABCLIP.",
        _table(["", *(f"seed {t['seed']}" for t in trials)], _trial_rows(trials)),
    ]
    strengths = shipped["strengths"]
    rows = [
        [key, f"{shipped['base'][key]:.3f}", *(f"{found[key]:.3f}" for found in strengths.values())]
        for key in (*_GAINS[:3], *_COSTS)
    ]
    parts += [
        "## Strength",
        'The matrix blended with the identity, `LABCLIP.from_pretrained("scenes", strength=...)`.',
        _table(["", "0", *strengths], rows),
    ]
    return "\n\n".join(parts)


def _trial_rows(trials: list[dict[str, Any]]) -> list[list[str]]:
    rows = [[key, *(f"{t['base'][key]:.3f} > {t['labclip'][key]:.3f}" for t in trials)] for key in (*_GAINS, *_COSTS)]
    rows += [[f"probe, {side}", *(f"{t['probes'][side]:.3f}" for t in trials)] for side in ("image", "text")]
    rows.append(["distance from identity", *(f"{t['distance_from_identity']:.1f}" for t in trials)])
    return rows


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
