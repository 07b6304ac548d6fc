"""What the page's controls ask for, session by session; what one page uploads, no other sees."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import torch
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.app import markup, work
from labclip.app.markup import part
from labclip.app.pair import SCENES, Gallery, ModelPair, captions_in, parts_in, thumbnail, uri, with_swapped
from labclip.app.work import Upload, Worker
from labclip.data.images import ImageSource

DRAWN = 10_000
"""Scenes of a diagnosis or a fit: what is sent may be more than the slider has."""
SESSIONS = 200
"""At once; one more ends the oldest."""
STRONGEST = 1.5
"""Of the slider; `Alignment.at` warns above."""

_FIRST = 8  # seed of the scene that is seen first, that of README.md
_SHOWN = 320  # pixels of the image that is compared


class Session:
    """What one open page has; it ends when the page is closed."""

    def __init__(self, root: Path) -> None:
        self.image: Tensor | None = None
        self.encoded: tuple[list[str], Tensor, str] = [], torch.empty(0), ""  # captions, embeddings, what was cut
        self.gallery: Gallery | None = None
        self.table: Path | None = None
        self.spent: list[Path] = []  # uploaded files that were read
        self.idle = threading.Event()  # whether no long work of it runs
        self.idle.set()
        self.folder = Path(tempfile.mkdtemp(prefix="session-", dir=root))
        self.images = self.folder / "images"

    def forget(self) -> None:
        """Remove uploaded files that were read; gradio has put each in a folder of its own."""
        while self.spent:
            path = self.spent.pop()
            with suppress(OSError):
                path.unlink()
                path.parent.rmdir()

    def close(self) -> None:
        """Leave nothing."""
        self.forget()
        shutil.rmtree(self.folder, ignore_errors=True)


class Answers:
    """The page's answers, as HTML: each control has a method that takes the visitor's session and what was typed.

    What is wrong with it is a ValueError.

    Args:
        pair: The loaded model.
        root: Folder of the sessions' own folders.
        typed: What a command is told to load its base, for example ["--model", "scenes"].
        alignment: What it is told of another matrix than the model's own, for example ["--alignment", "mine"].
    """

    of_scenes = f"{SCENES} rendered scenes are searched."

    def __init__(self, pair: ModelPair, root: Path, typed: Sequence[str], alignment: Sequence[str] = ()) -> None:
        self.pair, self.root, self.typed, self.alignment = pair, root, typed, alignment
        self.strength = min(max(pair.alignment.strength, 0.0), STRONGEST)
        self._sessions: dict[str, Session] = {}
        self._lock, self._scenes_lock = threading.Lock(), threading.Lock()
        self._scenes: Gallery | None = None
        self._worker = Worker()

    def session(self, key: str) -> Session:
        """The session of a key that only one browser knows, made where there is none."""
        with self._lock:
            if key not in self._sessions:
                if len(self._sessions) >= SESSIONS:
                    self._sessions.pop(next(iter(self._sessions))).close()
                self._sessions[key] = Session(self.root)
            return self._sessions[key]

    def end(self, key: str) -> None:
        """End a session; what runs in it gradio has ended."""
        if (session := self._sessions.pop(key, None)) is not None:
            session.close()

    def close(self) -> None:
        """End all sessions, and whatever runs."""
        self._worker.close()
        for key in list(self._sessions):
            self.end(key)

    def scene(self, session: Session, strength: float) -> tuple[str, str, str]:
        """A rendered scene, shown, its caption with the swapped one, and what both models say of them."""
        seed = _FIRST if session.image is None else random.randrange(1_000_000)
        drawn = scenes.sample(1, seed=seed, split="all")
        session.image = self.pair.image(ImageSource("scene", data=drawn.images[0]))
        shown = part("scene", uri(Image.fromarray(drawn.render(_SHOWN)[0]), "PNG"), "A rendered scene")
        captions = "\n".join(filter(None, (drawn.captions[0], drawn.swapped_captions[0])))
        return str(shown), captions, self.compared(session, captions, strength)

    def photo(self, session: Session, files: Sequence[Upload], captions: str, strength: float) -> tuple[str, str]:
        """An uploaded image, shown, and what both models say; the one before stays where this is none."""
        source = ImageSource(files[0].name, data=files[0].path.read_bytes())
        session.image = self.pair.image(source)
        return part("scene", thumbnail(source, _SHOWN), source.name), self.compared(session, captions, strength)

    def swapped(self, session: Session, captions: str, strength: float) -> tuple[str, str]:
        """The captions with their swapped ones, and what both models say."""
        text = with_swapped(captions)
        return text, self.compared(session, text, strength)

    def compared(self, session: Session, captions: str, strength: float) -> str:
        """What both models say of the session's image; captions are encoded only where they changed."""
        found, (known, texts, cut) = captions_in(captions), session.encoded
        if found != known:
            texts, cut = self.pair.texts(found)
            session.encoded = found, texts, cut
        if session.image is None:
            raise ValueError("There is no image. Upload one, or take another scene.")
        base, ours = self.pair.scores(session.image, texts, strength)
        return part("note", cut) + markup.bars(found, base, ours)

    def gallery(self, session: Session) -> Gallery:
        """The session's own images, else the scenes, which are the same for all and indexed once."""
        if session.gallery is not None:
            return session.gallery
        with self._scenes_lock:
            self._scenes = self._scenes or self.pair.index_scenes()
        return self._scenes

    def indexed(self, session: Session, files: Sequence[Upload]) -> str:
        """Take uploaded images as this session's gallery."""
        session.gallery = self.pair.index(work.images_in(files))
        left = session.gallery.left_out
        more = f"{len(left) - 5:,} more were left out." if len(left) > 5 else ""
        return part("note", f"Your images that are searched: {len(session.gallery.names):,}.", *left[:5], more)

    def back(self, session: Session) -> str:
        """Search the scenes again."""
        session.gallery = None
        return part("note", self.of_scenes)

    def searched(self, session: Session, query: str, without: str) -> str:
        """The top results of both sides for what must be there and what must not."""
        wanted, unwanted = parts_in(query), parts_in(without)
        if not wanted:
            raise ValueError("There is no query. Type what must be there, one part per line or with commas between.")
        texts, cut = self.pair.texts([*wanted, *unwanted])
        left_out = texts[len(wanted) :] if unwanted else None
        gallery = self.gallery(session)
        hits = self.pair.search(gallery, texts[: len(wanted)], left_out, self.strength)
        return part("note", cut) + markup.results(gallery, *hits)

    def table(self, session: Session, files: Sequence[Upload]) -> str:
        """Take a file of captions for a fit."""
        name = PurePath(files[0].name).name
        if PurePath(name).suffix.lower() not in work.TABLES:
            raise ValueError(f"{name} is of no kind that is read here: {', '.join(work.TABLES)}.")
        session.table = session.folder / name
        shutil.copyfile(files[0].path, session.table)
        return part("note", f"Captions: {name}.")

    def photos(self, session: Session, files: Sequence[Upload]) -> str:
        """Take images for a fit, in the place of those before."""
        shutil.rmtree(session.images, ignore_errors=True)
        return part("note", f"Images: {work.unpack(files, session.images):,}.")

    def diagnosis(self, session: Session, count: int) -> Iterator[str]:
        """The loaded model's diagnosis on drawn scenes, at most `DRAWN`, as it goes."""
        with tempfile.TemporaryDirectory(prefix="work-", dir=self.root) as folder:
            yield from self._worked(Path(folder), work.diagnosis(self.typed, self.alignment, min(int(count), DRAWN)))

    def fit(self, session: Session, own: int, count: int, clean: bool) -> Iterator[str]:
        """A fit on scenes, or on the session's own captions and images, as it goes."""
        with tempfile.TemporaryDirectory(prefix="work-", dir=self.root) as folder:
            table, images = session.table, session.images
            if not own:
                images = Path(folder, "scenes")
                table = scenes.sample(min(int(count), DRAWN), seed=0).save(images)
            elif table is None or not images.is_dir():
                raise ValueError("Upload a file of captions and their images first, or fit on scenes.")
            work.check_table(table, images)
            yield from self._worked(Path(folder), work.fit(self.typed, table, images, clean=clean))

    def _worked(self, folder: Path, commands: Sequence[Sequence[str]]) -> Iterator[str]:
        """How far commands are, then what came out of them."""
        began = time.monotonic()
        for step in self._worker.run(folder, *commands):
            yield markup.step(step, time.monotonic() - began)
        told, note = json.loads((folder / "stdout").read_bytes()), ""
        if not told.get("written", True):
            note = part("note", "The fit was not worth it, so there is no matrix.", *told["advice"])
        yield note + markup.report(folder / work.REPORT, folder / work.ALIGNMENT)
