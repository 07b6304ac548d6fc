"""What the page's controls ask for, as HTML. What one page uploads or fits, no other sees."""

from __future__ import annotations

import base64
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

import jinja2
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.alignment import Alignment, compose
from labclip.app.pair import SCENES, Gallery, ModelPair, judge, lines_in, nearest, thumbnail, uri
from labclip.app.work import REPORT, TABLES, Upload, match, unpack
from labclip.checks import printable
from labclip.data.images import ImageSource

EXAMPLES: dict[str, tuple[dict[str, int], tuple[str, str] | None]] = {
    "two colours": ({"seed": 8}, None),  # the scene of README.md
    "two more": ({"seed": 7}, None),
    "three objects": ({"seed": 17, "n_objects": 3}, None),
    "CLIP is right": ({"seed": 6}, None),
    "left or right": ({"seed": 0}, ("a red moon left of an orange cross", "an orange cross left of a red moon")),
    "without": ({"seed": 4}, ("a yellow heart without a brown cube", "a yellow heart without a brown star")),
}
"""Scenes to click on, each with a right and a wrong caption; None is the scene's own and the swapped one.

The embedded model's base is wrong on all but the fourth, its matrix on the last two."""

SESSIONS = 200
"""Open pages at once; one more ends the oldest."""
CAPTIONS = 32
"""Captions that are compared at once, and parts of a query; more nobody reads."""

_SHOWN = 320  # pixels of the image that is compared


def _plain(value: Any) -> Any:
    """Anybody's words inside HTML; also what the page's own templates would take for code is plain text."""
    if isinstance(value, Markup):
        return value
    return Markup(str(escape(printable(str(value)))).replace("{", "&#123;").replace("$", "&#36;"))


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined, finalize=_plain,
)  # fmt: skip
_parts = _templates.get_template("parts.html", globals={"judge": judge}).module


def part(name: str, *values: Any) -> str:
    """A part of the page, as parts.html has it: `error`, `note`, `scene`, `compared`, `searched` and others."""
    return str(getattr(_parts, name)(*values))


class Session:
    """What one open page has, and its answers.

    Each control has a method, which takes what was typed. What is wrong with it is a ValueError.

    `root` is where a session's own folder lies. `typed` is what a command is told to load the base, for example
    ["--model", "scenes"], and `other` what it is told of another matrix than the model's own.
    """

    def __init__(self, pair: ModelPair, root: Path, typed: Sequence[str], other: Sequence[str] = ()) -> None:
        self._pair, self._typed, self._other = pair, typed, other
        self.fitted: Alignment | None = None
        self._use_fitted = False
        self._image: Tensor | None = None
        self._truth: dict[str, bool] = {}  # whether captions are right, of a scene
        self._gallery: Gallery | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="session-", dir=root))
        self._table: Path | None = None  # of captions for a fit
        self._images: Path | None = None  # the folder of theirs

    def close(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def alignment(self) -> Alignment:
        """What is in use."""
        return self.fitted if self._use_fitted and self.fitted else self._pair.alignment

    def scene(self, strength: float, example: str = "") -> tuple[str, str, str]:
        """One of `EXAMPLES`, else a random scene, shown, with its captions and what both models say of them."""
        chosen, captions = EXAMPLES.get(example, ({"seed": random.randrange(1_000_000)}, None))
        scene = scenes.sample(1, split="all", **chosen)
        self._image = self._pair.image(ImageSource("scene", data=scene.images[0]))
        shown = part("scene", uri(Image.fromarray(scene.render(_SHOWN)[0]), "PNG"), "A rendered scene")
        captions = captions or (scene.captions[0], str(scene.swapped_captions[0]))
        self._truth = dict(zip(captions, (True, False), strict=True))
        return shown, "\n".join(captions), self.compared("\n".join(captions), strength)

    def photo(self, files: Sequence[Upload], captions: str, strength: float) -> tuple[str, str]:
        """An uploaded image, shown, and what both models say; the one before stays where this is none."""
        source = ImageSource(*files[0])
        self._image, self._truth = self._pair.image(source), {}
        return part("scene", thumbnail(source, _SHOWN), source.name), self.compared(captions, strength)

    def compared(self, captions: str, strength: float) -> str:
        """What both models say of the image."""
        if self._image is None:
            raise ValueError("There is no image. Upload one, or take another scene.")
        if not (lines := lines_in(captions)):
            raise ValueError("There is no caption. Type one per line.")
        if len(lines) > CAPTIONS:
            raise ValueError(f"There are {len(lines):,} captions, and {CAPTIONS} are compared at once. Leave some out.")
        texts, cut = self._pair.texts(lines)
        base, ours = self._pair.scores(self._image, texts, self.alignment.at(strength))
        return part("compared", lines, base, ours, self._truth, cut)

    def use(self, fitted: bool, captions: str) -> tuple[float, str]:
        """Take the fitted matrix, or the model's own; its strength and what both models say with it."""
        self._use_fitted = fitted
        return self.alignment.strength, self.compared(captions, self.alignment.strength)

    def indexed(self, files: Sequence[Upload]) -> str:
        """Take uploaded images as what is searched."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            unpack(files, Path(folder))
            self._gallery = self._pair.index(Path(folder))
        return part("note", f"Images: {len(self._gallery.names):,}.", *self._gallery.left_out[:5])

    def back(self) -> str:
        """Search the scenes again."""
        self._gallery = None
        return part("note", f"{SCENES} rendered scenes are searched.")

    def searched(self, query: str, without: str) -> str:
        """The top results of both sides for what must be there and what must not."""
        wanted, unwanted = (lines_in(words.replace(",", "\n"))[:CAPTIONS] for words in (query, without))
        if not wanted:
            raise ValueError("There is no query. Type what must be there, with commas between the parts.")
        gallery, (texts, cut) = self._gallery or self._pair.scenes, self._pair.texts([*wanted, *unwanted])
        base, ours = (
            nearest(gallery, compose(rows[: len(wanted)], rows[len(wanted) :] if unwanted else None))
            for rows in (texts, self.alignment(texts))
        )
        return part("searched", gallery, base, ours, wanted, unwanted, cut)

    def taken(self, files: Sequence[Upload]) -> str:
        """Take a file of captions, or images, or both for a fit, in the place of those before; what is in them."""
        tables = [file for file in files if PurePath(file[0]).suffix.lower() in TABLES]
        for name, path in tables:
            self._table = shutil.copyfile(path, self._folder / name)
        if images := [file for file in files if file not in tables]:
            unpack(images, folder := Path(tempfile.mkdtemp(dir=self._folder)))
            self._images = folder
        if self._table is None or self._images is None:
            return part("note", "A fit needs a file of captions and their images. Upload the other too.")
        return part("note", match(self._table, self._images)[0])

    def diagnosis(self, _: Path, count: int) -> list[list[str]]:
        """The commands of a diagnosis of the loaded model, on drawn scenes."""
        return [["diagnose", *self._typed, *self._other, "--scenes", str(count), "--out", REPORT]]

    def report(self, folder: Path, *others: str) -> str:
        """The report in a folder as a part of the page; it, and other files of the folder, to save."""
        names = REPORT, *others
        uris = {name: f"data:;base64,{base64.b64encode((folder / name).read_bytes()).decode()}" for name in names}
        return part("report", uris, (folder / REPORT).read_text(encoding="utf-8"))

    def fit(self, folder: Path, own: int, count: int) -> list[list[str]]:
        """The commands of a fit in a folder, on scenes, or on the session's own captions and images."""
        draw, data = [["sample", "scenes", "--n", str(count)]], ["--captions", "scenes/captions.csv", "--as-is"]
        if own:
            if self._table is None or self._images is None:
                raise ValueError("Upload a file of captions and their images first, or fit on scenes.")
            _, matched, clean = match(self._table, self._images)
            # A later upload changes nothing here.
            shutil.copyfile(self._table, folder / self._table.name)
            for name, path in matched.items():
                (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, folder / "images" / name)
            draw, data = [], ["--captions", self._table.name, "--images", "images", "--on-error", "skip", clean]
        return [*draw, ["embed", "features", *self._typed, *data], ["fit", "features", "alignment", "--html", REPORT]]

    def fit_result(self, folder: Path) -> str:
        """What came out of it; the matrix, if there is one, is kept to be used here."""
        if not (folder / "alignment").is_dir():
            note = part("note", "The fit was not worth it, so there is no matrix. The report says why.")
            return note + self.report(folder)
        self.fitted = Alignment.from_pretrained(folder / "alignment")
        shutil.make_archive(str(folder / "alignment"), "zip", folder, "alignment")
        return part("fitted") + self.report(folder, "alignment.zip")


class Sessions(dict[str, Session]):
    """The session of each open page by a key that only its browser knows, made where there is none."""

    def __init__(self, make: Callable[[], Session]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: str) -> Session:
        if len(self) >= SESSIONS:
            self.pop(next(iter(self))).close()
        self[key] = self._make()
        return self[key]
