"""The model card of the embedded model. All its numbers come from `results.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evaluate import MIXED
from safetensors.torch import load_file

from labclip import Alignment
from labclip.alignment import with_record
from labclip.files import OPENCLIP_WEIGHTS
from labclip.io.card import model_card
from labclip.report import Table, markdown_table
from labclip.scenes.vocabulary import COLOURS, SHAPES

DOCUMENTED = Path(__file__).parent / "scenes"  # the folder whose numbers the documentation shows
PAGE = Path(__file__).parents[1] / "docs" / "embedded-model.md"
_START, _END = "<!-- tables -->", "<!-- /tables -->"
_BINDING = ("binding_seen", "binding_heldout", "binding_heldout_both")
_GAINS = (*_BINDING, "binding_three", "query_three", "binding_validation", "binding_fit")
_THREE = ("tags_three_t2i_r1", "tags_three_i2t_r1")
_COSTS = (
    *("sentences_t2i_r1", "sentences_i2t_r1", "with_swapped_t2i_r1", "with_swapped_i2t_r1"),
    *("tags_t2i_r1", "tags_i2t_r1", *_THREE, "single_object", "modality_gap"),
)
_MEANING = """\
- `binding_*`: accuracy of choosing a scene's caption over the same caption with the colours swapped. Chance is .5,
  and a tie is wrong. *seen*: new scenes of colour-shape pairs that were in the fit. *heldout*: at least one of 12
  unseen pairs, which were in no caption and no negative of the fit. *heldout_both*: both pairs are unseen.
  *validation*: six other unseen pairs, on which the recipe and the seed were chosen. *fit*: scenes of the fit itself.
  *three*: three objects of seen pairs, two of which have their colours swapped.
- `query_three`: the same as *three*, with the sum of the embeddings of the three parts instead of the sentence.
- `*_r1`: recall at 1 in galleries of 256 scenes, text to image and image to text. *sentences*; *tags*, captions that
  name colours and shapes without binding them; *tags_three*, tags of three objects, which were not in the fit;
  *with_swapped*, sentences in a gallery that also has each scene with its colours swapped.
- `single_object`: zero-shot accuracy on one object, 120 classes.
- `modality_gap`: distance between the mean image and the mean caption.
"""


def write_card(folder: Path) -> str:
    """Write a folder's `README.md` from its `results.json` and alignment, and the results into the alignment.

    Returns the tables. For the folder that ships, they also go into the documentation.
    """
    results = json.loads((folder / "results.json").read_text())
    shipped = next(trial for trial in results["trials"] if trial["seed"] == results["shipped"])
    alignment = Alignment.from_pretrained(folder)
    measured = {"results": {"scenes": shipped["scenes"]}, "probes": shipped["probes"]}
    alignment = with_record(alignment, metadata=alignment.metadata | measured)
    alignment.save_pretrained(folder)
    tables = _tables(results["trials"], shipped)
    if folder.resolve() == DOCUMENTED.resolve():
        before, rest = PAGE.read_text().split(_START)
        text = tables.replace("## ", "### ")
        PAGE.write_text(f"{before}{_START}\n\n{text}\n\n{_END}{rest.split(_END)[1]}")
    about = _about(alignment.metadata, results, shipped, _size(folder))
    (folder / "README.md").write_text(f"{model_card(alignment, 'scenes')}\n{about}\n{tables}\n")
    return tables


def _size(folder: Path) -> dict[str, int]:
    """Parameters of the towers and of the token table, and the number of words besides colours and shapes.

    A token that was never trained is a row of zeros.
    """
    weights = load_file(folder / OPENCLIP_WEIGHTS)
    table = weights.pop("token_embedding.weight")
    tokens = int((table != 0).any(dim=1).sum()) - 3  # without padding, start and end
    towers = sum(tensor.numel() for tensor in weights.values() if tensor.is_floating_point())
    return {"towers": towers, "table": table.numel(), "words": tokens - len(COLOURS) - len(SHAPES)}


def _about(metadata: dict[str, Any], results: dict[str, Any], shipped: dict[str, Any], size: dict[str, int]) -> str:
    pretraining = metadata["pretraining"]
    probes, three = shipped["probes"], shipped["probes_three"]
    return f"""\
## The model

A small CLIP and a matrix for it, trained from scratch on two CPU cores on rendered scenes of two objects. The CLIP
(OpenCLIP's `CLIP`, ResNet and Transformer) has {size["towers"] / 1e6:.1f} million parameters and a token table of
{size["table"] / 1e6:.1f} million. It is a demonstration and a test fixture: it knows only {len(COLOURS)} colours,
{len(SHAPES)} shapes and {size["words"]} other words.

## How it was trained

The CLIP was trained on {pretraining["scenes"]:,} images of all 120 colour-shape pairs, in {pretraining["steps"]} steps
of {pretraining["batch_size"]}. Each image came with tags ("moon cross pink white", in independent orders), or, with
probability {pretraining["sentence_share"]:g}, with a sentence that binds. So the image-text loss says almost nothing
about which object has which colour.

**The text tower learns binding from text alone.** A second loss brings together two wordings of one scene and separates
them from the same scene with the colours swapped: "a red cube next to a blue sphere" equals "the sphere is blue and the
cube is red", not "a blue cube next to a red sphere". Without this loss, a model this small does not encode binding in
its text embeddings, so a matrix could not repair it. The text encoders of large CLIPs encode binding without it. This
model demonstrates that finding, but is no evidence of it.

The unseen pairs were held out of the *fit* only. Pretraining had images, tags and sentences of all 120 pairs.

Linear probes that read the colour of each shape have an accuracy of {probes["image"]:.3f} on image embeddings and of
{probes["text"]:.3f} on caption embeddings. Chance is {probes["chance"]:.3f}. A bag-of-words baseline, which knows both
colours but not whose they are, has 1/2. On scenes of three objects, which were in no training, the probes have
{three["image"]:.3f} and {three["text"]:.3f}, the baseline 1/3.

Made by `python weights/make.py`. Seeds trained: {len(results["trials"])}. This one, seed {results["shipped"]}, is the
best on the validation pairs among those whose base has a binding of at most .65 on the scenes of the fit: with a
stronger base there is little to repair. The matrix has a distance of {shipped["distance_from_identity"]:.1f} from the
identity (Frobenius norm), scaled so that captions keep their length on average.

{_MEANING}"""


def _tables(trials: list[dict[str, Any]], shipped: dict[str, Any]) -> str:
    rows = [[key, *(f"{t['base'][key]:.3f} → {t['labclip'][key]:.3f}" for t in trials)] for key in (*_GAINS, *_COSTS)]
    for probes, suffix in (("probes", ""), ("probes_three", ", three objects")):
        rows += [[f"probe, {side}{suffix}", *(f"{t[probes][side]:.3f}" for t in trials)] for side in ("image", "text")]
    rows.append(["distance from identity", *(f"{t['distance_from_identity']:.1f}" for t in trials)])
    strengths = {"0": shipped["base"]} | shipped["strengths"] | {f"{shipped['strength']:g}": shipped["labclip"]}
    strengths = dict(sorted(strengths.items(), key=lambda item: float(item[0])))
    blended = [
        [key, *(f"{values[key]:.3f}" for values in strengths.values())]
        for key in (*_BINDING, "binding_three", "query_three", *_COSTS)
    ]
    matrices = {"base": "base", "LABCLIP": "labclip", "fitted on both": "fitted_on_both"}
    three = [
        [key, *(f"{shipped[side][key]:.3f}" for side in matrices.values())]
        for key in ("binding_three", "query_three", *_THREE, *_BINDING, "tags_t2i_r1", "tags_i2t_r1")
    ]
    return "\n\n".join(
        [
            "## All seeds trained",
            "Base → LABCLIP, the first number before the matrix, the second after.",
            markdown_table(Table("", ["", *(f"seed {t['seed']}" for t in trials)], rows)),
            "## Strength",
            'The matrix blended with the identity, `LABCLIP.from_pretrained("scenes", strength=...)`; '
            f"{shipped['strength']:g} is the default.",
            markdown_table(Table("", ["", *strengths], blended)),
            "## Three objects",
            "LABCLIP was fitted on scenes of two objects; the last column is another matrix for the same base, by the "
            f"same recipe on {MIXED:,} scenes of two and {MIXED // 2:,} of three. It does not ship.",
            markdown_table(Table("", ["", *matrices], three)),
        ]
    )
