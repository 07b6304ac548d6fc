"""The answers to the page's controls, as HTML. Uploads and fits of one open page are invisible to all others."""

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
from labclip.app.pair import SCENES, Gallery, ModelPair, judge, nearest, thumbnail, uri
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
"""Example scenes, each with a right and a wrong caption. None means its own caption and the swapped one.

The embedded model's base is wrong on all but the fourth, and its matrix on the last two."""

SESSIONS = 200
"""Number of open pages. One more closes the oldest."""
CAPTIONS = 32
"""Number of captions that are compared at once, and of parts in a query."""

_IMAGE_SIDE = 320  # pixels of the compared image


def _escape(value: Any) -> Any:
    """Escape text for HTML, and the signs that gradio's own templates would run as code."""
    if isinstance(value, Markup):
        return value
    return Markup(str(escape(printable(str(value)))).replace("{", "&#123;").replace("$", "&#36;"))


_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined, finalize=_escape,
)  # fmt: skip
_macros = _templates.get_template("parts.html", globals={"judge": judge}).module


def render(name: str, *values: Any) -> str:
    """Render a macro of parts.html: `error`, `note`, `scene`, `comparison`, `search_results` and others."""
    return str(getattr(_macros, name)(*values))


class Session:
    """The state of one open page. Each control calls a method, which returns HTML or raises ValueError.

    The session's own folder is made in `root`.
    """

    def __init__(self, pair: ModelPair, root: Path) -> None:
        self._pair = pair
        self.fitted: Alignment | None = None
        self._use_fitted = False
        self._image: Tensor | None = None
        self._truth: dict[str, bool] = {}  # whether each caption of a scene is right
        self._gallery: Gallery | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="session-", dir=root))
        self._table: Path | None = None  # captions for a fit
        self._images: Path | None = None  # folder of their images

    def close(self) -> None:
        """Remove the session's files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def alignment(self) -> Alignment:
        """The matrix in use: the fitted one or the model's own."""
        return self.fitted if self._use_fitted and self.fitted else self._pair.alignment

    def show_scene(self, strength: float, example: str = "") -> tuple[str, str, str]:
        """The image of an example or a random scene, its captions, and their comparison."""
        options, captions = EXAMPLES.get(example, ({"seed": random.randrange(1_000_000)}, None))
        scene = scenes.sample(1, split="all", **options)
        self._image = self._pair.image(ImageSource("scene", data=scene.images[0]))
        image = render("scene", uri(Image.fromarray(scene.render(_IMAGE_SIDE)[0]), "PNG"), "A rendered scene")
        captions = captions or (scene.captions[0], str(scene.swapped_captions[0]))
        self._truth = dict(zip(captions, (True, False), strict=True))
        return image, "\n".join(captions), self.compare("\n".join(captions), strength)

    def show_photo(self, files: Sequence[Upload], captions: str, strength: float) -> tuple[str, str]:
        """An uploaded image, and the comparison of captions. If it can't be read, the previous image stays."""
        source = ImageSource(*files[0])
        self._image, self._truth = self._pair.image(source), {}
        return render("scene", thumbnail(source, _IMAGE_SIDE), source.name), self.compare(captions, strength)

    def compare(self, captions: str, strength: float) -> str:
        """The scores of both models for the image and some captions, one per line."""
        if self._image is None:
            raise ValueError("There is no image. Upload one, or choose a scene.")
        if not (lines := list(filter(None, map(str.strip, captions.splitlines())))):
            raise ValueError("There is no caption. Type one per line.")
        if len(lines) > CAPTIONS:
            raise ValueError(f"There are {len(lines):,} captions, but at most {CAPTIONS} are compared. Remove some.")
        texts, cut = self._pair.texts(lines)
        base, aligned = self._pair.scores(self._image, texts, self.alignment.at(strength))
        return render("comparison", lines, base, aligned, self._truth, cut)

    def use_fitted(self, fitted: bool, captions: str) -> tuple[float, str]:
        """Switch to the fitted matrix or the model's own. Returns its strength and the new comparison."""
        self._use_fitted = fitted
        return self.alignment.strength, self.compare(captions, self.alignment.strength)

    def index_images(self, files: Sequence[Upload]) -> str:
        """Make uploaded images the gallery."""
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            unpack(files, Path(folder))
            self._gallery = self._pair.index(Path(folder))
        return render("note", f"Images: {len(self._gallery.names):,}.", *self._gallery.left_out[:5])

    def index_scenes(self) -> str:
        """Make the scenes the gallery again."""
        self._gallery = None
        return render("note", f"{SCENES} rendered scenes are searched.")

    def search(self, query: str, without: str) -> str:
        """The top results of both models. Parts of the query, and unwanted parts, are separated by commas."""
        wanted, unwanted = (list(filter(None, map(str.strip, text.split(","))))[:CAPTIONS] for text in (query, without))
        if not wanted:
            raise ValueError("There is no query. Type what must be in the image, with commas between the parts.")
        gallery, (texts, cut) = self._gallery or self._pair.scenes, self._pair.texts([*wanted, *unwanted])
        base, aligned = (
            nearest(gallery, compose(rows[: len(wanted)], rows[len(wanted) :] if unwanted else None))
            for rows in (texts, self.alignment(texts))
        )
        return render("search_results", gallery, base, aligned, wanted, unwanted, cut)

    def take_files(self, files: Sequence[Upload]) -> str:
        """Take captions or images for a fit, in place of earlier ones, and describe them."""
        tables = [file for file in files if PurePath(file[0]).suffix.lower() in TABLES]
        for name, path in tables:
            self._table = shutil.copyfile(path, self._folder / name)
        if images := [file for file in files if file not in tables]:
            unpack(images, folder := Path(tempfile.mkdtemp(dir=self._folder)))
            self._images = folder
        if self._table is None or self._images is None:
            return render("note", "A fit needs a file of captions and their images. Upload the other too.")
        return render("note", match(self._table, self._images)[0])

    def diagnosis_commands(self, _: Path, count: int) -> list[list[str]]:
        """The commands that diagnose the loaded model on scenes."""
        options = [*self._pair.model_options, *self._pair.alignment_options]
        return [["diagnose", *options, "--scenes", str(count), "--out", REPORT]]

    def show_report(self, folder: Path, *other_names: str) -> str:
        """The report in a folder, with links that save it and other files of the folder."""
        names = REPORT, *other_names
        uris = {name: f"data:;base64,{base64.b64encode((folder / name).read_bytes()).decode()}" for name in names}
        return render("report", uris, (folder / REPORT).read_text(encoding="utf-8"))

    def fit_commands(self, folder: Path, use_uploads: int, count: int) -> list[list[str]]:
        """The commands that fit in a folder, on scenes or on the session's captions and images."""
        sample, data = [["sample", "scenes", "--n", str(count)]], ["--captions", "scenes/captions.csv", "--as-is"]
        if use_uploads:
            if self._table is None or self._images is None:
                raise ValueError("Upload a file of captions and their images first, or fit on scenes.")
            _, matched, clean = match(self._table, self._images)
            # Copies, because a later upload must not change this fit.
            shutil.copyfile(self._table, folder / self._table.name)
            for name, path in matched.items():
                (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, folder / "images" / name)
            sample, data = [], ["--captions", self._table.name, "--images", "images", "--on-error", "skip", clean]
        embed = ["embed", "features", *self._pair.model_options, *data]
        return [*sample, embed, ["fit", "features", "alignment", "--html", REPORT]]

    def show_fit(self, folder: Path) -> str:
        """The result of a fit. Its matrix, if there is one, can then be used in the page."""
        if not (folder / "alignment").is_dir():
            note = render("note", "The fit did not help, so there is no matrix. The report says why.")
            return note + self.show_report(folder)
        self.fitted = Alignment.from_pretrained(folder / "alignment")
        shutil.make_archive(str(folder / "alignment"), "zip", folder, "alignment")
        return render("fitted") + self.show_report(folder, "alignment.zip")


class Sessions(dict[str, Session]):
    """The session of each open page, by a key that only its browser knows. A new key makes a session."""

    def __init__(self, make: Callable[[], Session]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: str) -> Session:
        if len(self) >= SESSIONS:
            self.pop(next(iter(self))).close()
        self[key] = self._make()
        return self[key]
