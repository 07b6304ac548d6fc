"""What the page's controls ask for, session by session; what one page uploads or fits, no other sees."""

from __future__ import annotations

import base64
import json
import random
import shlex
import shutil
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Any

import jinja2
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.alignment import Alignment
from labclip.app import work
from labclip.app.pair import Gallery, ModelPair, captions_in, judge, parts_in, thumbnail, uri
from labclip.app.work import CaptionsFile, Job, Upload
from labclip.checks import printable
from labclip.data.images import ImageSource
from labclip.packages import EMBEDDED

DRAWN = 10_000
"""Scenes of a diagnosis or a fit: what is sent may be more than the slider has."""
SESSIONS = 200
"""At once; one more ends the oldest."""

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

_SHOWN = 320  # pixels of the image that is compared
# Seconds that a fit was measured to take on two free cores, beside encoding: its start, and a caption of dim 256.
_START, _CAPTION = 12.0, 0.004


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


def duration(seconds: float) -> str:
    """An expected duration in words."""
    return f"about {seconds / 60:.0f} min" if seconds > 90 else f"about {max(round(seconds, -1), 10):.0f} s"


def report(folder: Path, alignment: str = "") -> str:
    """The report in a folder as a part of the page; it, and the alignment beside it, to save."""
    page = folder / "report.html"
    files = {page.name: ("text/html", page)}
    if alignment:
        packed = shutil.make_archive(str(folder / alignment), "zip", folder, alignment)
        files[f"{alignment}.zip"] = "application/zip", Path(packed)
    uris = {
        name: f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        for name, (kind, path) in files.items()
    }
    return part("report", uris, page.read_text(encoding="utf-8"))


@cache
def sample(name: str) -> bytes:
    """The sample to download: `sample.csv`, or `sample.zip` with its images."""
    with tempfile.TemporaryDirectory() as folder:
        table = scenes.sample(500, seed=1).save(Path(folder, "images"))
        if name == "sample.csv":
            return table.read_bytes()
        table.unlink()
        return Path(shutil.make_archive(str(Path(folder, "sample")), "zip", folder, "images")).read_bytes()


class Session:
    """What one open page has, and its answers as HTML; it ends when the page is closed.

    Each control has a method, which takes what was typed. What is wrong with it is a ValueError.
    """

    def __init__(self, shared: Answers) -> None:
        self._shared, self._pair = shared, shared.pair
        self.alignment = shared.pair.alignment  # what is in use
        self.fitted: Alignment | None = None
        self.jobs: dict[str, Job] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="session-", dir=shared.root))
        self._image: Tensor | None = None
        self._truth: dict[str, bool] = {}  # whether captions are right, of a scene
        self._gallery: Gallery | None = None
        self._table: CaptionsFile | None = None
        self._images, self._told = self.folder / "images", list[str]()  # for a fit, and what is said of them

    def close(self) -> None:
        """Leave nothing, and end what runs."""
        for job in self.jobs.values():
            job.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)

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
        source = ImageSource(files[0].name, data=files[0].path.read_bytes())
        self._image, self._truth = self._pair.image(source), {}
        return part("scene", thumbnail(source, _SHOWN), source.name), self.compared(captions, strength)

    def compared(self, captions: str, strength: float) -> str:
        """What both models say of the image."""
        if self._image is None:
            raise ValueError("There is no image. Upload one, or take another scene.")
        found = captions_in(captions)
        texts, cut = self._pair.texts(found)
        base, ours = self._pair.scores(self._image, texts, self.alignment.at(strength))
        return part("compared", found, base, ours, self._truth, cut)

    def indexed(self, files: Sequence[Upload]) -> str:
        """Take uploaded images as what is searched."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            told = work.unpack(files, Path(folder))
            self._gallery = self._pair.index(Path(folder))
        return part("note", *told, *self._gallery.left_out[:5]) + part("knows", self._shared.embedded)

    def back(self) -> str:
        """Search the scenes again."""
        self._gallery = None
        return part("scenes", self._shared.embedded)

    def searched(self, query: str, without: str) -> str:
        """The top results of both sides for what must be there and what must not."""
        wanted, unwanted = parts_in(query), parts_in(without)
        if not wanted:
            raise ValueError("There is no query. Type what must be there, one part per line or with commas between.")
        texts, cut = self._pair.texts([*wanted, *unwanted])
        gallery, left_out = self._gallery or self._pair.scenes, texts[len(wanted) :] if unwanted else None
        hits = self._pair.search(gallery, texts[: len(wanted)], left_out, self.alignment)
        return part("searched", gallery, *hits, wanted, unwanted, cut)

    def taken(self, files: Sequence[Upload]) -> str:
        """Take a file of captions, or images, or both for a fit, in the place of those before; what is in them."""
        if "fitted" in self.jobs and not self.jobs["fitted"].result.done():
            raise ValueError("A fit uses your files. Wait until it has ended, or cancel it.")
        tables = [one for one in files if PurePath(one.name).suffix.lower() in work.TABLES]
        if tables:
            self._table, path = None, self.folder / PurePath(tables[0].name).name
            shutil.copyfile(tables[0].path, path)
            self._table = work.read_table(path)
        if images := [one for one in files if one not in tables]:
            self._told = []
            shutil.rmtree(self._images, ignore_errors=True)
            self._told = work.unpack(images, self._images)
        table, told = self._table, self._told
        if table is not None:
            told = [*table.told, *told]
            if self._images.is_dir():
                shutil.rmtree(self.folder / "named", ignore_errors=True)
                told += work.lay_out(table, self._images, self.folder / "named")
                told.append(f"A fit takes {duration(self.seconds(table.captions))}.")
        return part("note", *told)

    def seconds(self, captions: int) -> float:
        """How long a fit is expected to take on this machine."""
        return _START + captions * (self._pair.seconds + _CAPTION * self.alignment.dim / 256)

    def expected(self, count: int) -> str:
        """How long a fit on scenes is expected to take, in words."""
        return part("note", f"A fit on {count:,} scenes takes {duration(self.seconds(count))} on this machine.")

    def diagnosis(self, count: int) -> Job:
        """The loaded model's diagnosis on drawn scenes, at most `DRAWN`."""
        words = ["diagnose", *self._shared.typed, *self._shared.alignment, "--out", "report.html", "--json"]
        count = min(int(count), DRAWN)
        return Job([[*words, "--scenes", str(count)]], report, _START + count * _CAPTION)

    def fit(self, own: int, count: int) -> Job:
        """A fit on scenes, or on the session's own captions and images."""
        count, table, draw, self.fitted = min(int(count), DRAWN), self._table, list[list[str]](), None
        if not own:
            draw = [["sample", "scenes", "--n", str(count)]]
            data = ["--captions", "scenes/captions.csv", "--as-is"]
        elif table is None or not self._images.is_dir():
            raise ValueError("Upload a file of captions and their images first, or fit on scenes.")
        else:
            count, clean = table.captions, "--clean" if table.clean else "--as-is"
            data = ["--captions", str(table.path), "--images", str(self.folder / "named"), "--on-error", "skip", clean]
        embed = ["embed", "features", *self._shared.typed, *data, "--json"]
        words = ["fit", "features", "alignment", "--html", "report.html", "--json"]
        return Job([*draw, embed, words], self._fitted, self.seconds(count))

    def _fitted(self, folder: Path) -> str:
        """What came out of a fit; the matrix, if there is one, is kept to be used here."""
        result = json.loads((folder / "stdout").read_bytes())
        if not result["written"]:
            advice = map(work.in_page_words, result["advice"])
            return part("note", "The fit was not worth it, so there is no matrix.", *advice) + report(folder)
        self.fitted = Alignment.from_pretrained(folder / "alignment")
        return part("command", self._shared.command) + report(folder, "alignment")


class Answers:
    """What all sessions share: the model, and the line of long work. `root` is the folder of their own folders.

    `typed` is what a command is told to load the base, for example ["--model", "scenes"], and `alignment` what it is
    told of another matrix than the model's own, for example ["--alignment", "mine"].
    """

    def __init__(self, pair: ModelPair, root: Path, typed: Sequence[str], alignment: Sequence[str] = ()) -> None:
        self.pair, self.root, self.typed, self.alignment = pair, root, typed, alignment
        self.embedded = EMBEDDED in typed
        # Where a folder lies on this machine is nobody's business.
        words = [PurePath(word).name if PurePath(word).is_absolute() else word for word in typed]
        self.command = shlex.join(["labclip", "app", *words, "--alignment", "alignment"])
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._line, self._pool = list[Job](), ThreadPoolExecutor(1)

    def session(self, key: str) -> Session:
        """The session of a key that only one browser knows, made where there is none."""
        with self._lock:
            if key not in self._sessions:
                if len(self._sessions) >= SESSIONS:
                    self._sessions.pop(next(iter(self._sessions))).close()
                self._sessions[key] = Session(self)
            return self._sessions[key]

    def end(self, key: str) -> None:
        """End a session."""
        if (session := self._sessions.pop(key, None)) is not None:
            session.close()

    def close(self) -> None:
        """End all sessions, and whatever runs."""
        for key in list(self._sessions):
            self.end(key)
        self._pool.shutdown()

    def add(self, job: Job) -> Job:
        """Let a job wait for its turn: one runs at a time, and not in a thread of the page, so it ends by itself."""
        with self._lock:
            job.result = self._pool.submit(job.run, self.root)
            self._line = [*(one for one in self._line if not one.result.done()), job]
        return job

    def before(self, job: Job) -> int:
        """How many other jobs come first."""
        return sum(not one.result.done() for one in takewhile(lambda one: one is not job, self._line))
