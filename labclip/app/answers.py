"""What the page's controls ask for, session by session; what one page uploads, no other sees."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

import torch
from PIL import Image
from torch import Tensor

from labclip import scenes
from labclip.app import jobs, markup, uploads
from labclip.app.compare import ModelPair, captions_in, with_swapped
from labclip.app.jobs import IMAGES, INPUTS, Workplace
from labclip.app.search import SCENES, Gallery, index, scene_gallery, search, thumbnail, uri
from labclip.app.uploads import Upload
from labclip.data.images import ImageSource

DRAWN = 10_000
"""Scenes of a diagnosis or a fit: what is sent may be more than the slider has."""
STRONGEST = 1.5
"""Of the slider; `Alignment.at` warns above."""

SESSIONS = 200
"""In memory at once; the one that was quiet longest is dropped."""

_FIRST = 8  # seed of the scene that everybody sees first, that of README.md
_SHOWN = 320  # pixels of the image that is compared


class Session:
    """What one open page has; it ends when the page is closed."""

    def __init__(self, root: Path) -> None:
        self.image: Tensor | None = None
        self.encoded: tuple[list[str], Tensor, str] = [], torch.empty(0), ""  # captions, embeddings, what was cut
        self.gallery: Gallery | None = None
        self.table: Path | None = None
        self.photos = 0
        self.spent: list[Path] = []  # uploaded files that were read
        self.place = Workplace(root)

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
        self.place.close()


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
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._sessions_lock, self._scenes_lock = threading.Lock(), threading.Lock()
        self._scenes: Gallery | None = None

    def session(self, key: str) -> Session:
        """The session of a key that only one browser knows, made where there is none."""
        dropped = None
        with self._sessions_lock:
            session = self._sessions.setdefault(key, Session(self.root))
            self._sessions.move_to_end(key)
            if len(self._sessions) > SESSIONS:
                dropped = self._sessions.popitem(last=False)[1]
        if dropped is not None:
            dropped.close()
        return session

    def end(self, key: str) -> None:
        """End a session, and whatever runs in it."""
        with self._sessions_lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def close(self) -> None:
        """End all sessions."""
        for key in list(self._sessions):
            self.end(key)

    def first(self, session: Session, strength: float) -> tuple[str, str, str]:
        """The scene that everybody sees first."""
        return self._scene(session, _FIRST, strength)

    def another(self, session: Session, strength: float) -> tuple[str, str, str]:
        """Any other scene."""
        return self._scene(session, random.randrange(1_000_000), strength)

    def _scene(self, session: Session, seed: int, strength: float) -> tuple[str, str, str]:
        """A rendered scene, shown, its caption with the swapped one, and what both models say of them."""
        drawn = scenes.sample(1, seed=seed, split="all")
        session.image = self.pair.image(ImageSource("scene", data=drawn.images[0]))
        shown = markup.scene(uri(Image.fromarray(drawn.render(_SHOWN)[0]), "PNG"), "A rendered scene")
        captions = "\n".join(filter(None, (drawn.captions[0], drawn.swapped_captions[0])))
        return shown, captions, self.compared(session, captions, strength)

    def photo(self, session: Session, files: Sequence[Upload], captions: str, strength: float) -> tuple[str, str]:
        """An uploaded image, shown, and what both models say; the one before stays where this is none."""
        source = uploads.image_in(files[0])
        session.image = self.pair.image(source)
        return markup.scene(thumbnail(source, _SHOWN), source.name), self.compared(session, captions, strength)

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
        return markup.note(cut) + markup.bars(found, base, ours)

    def gallery(self, session: Session) -> Gallery:
        """The session's own images, else the scenes, which are the same for all and indexed once."""
        if session.gallery is not None:
            return session.gallery
        with self._scenes_lock:
            self._scenes = self._scenes or scene_gallery(self.pair)
        return self._scenes

    def indexed(self, session: Session, files: Sequence[Upload]) -> str:
        """Take uploaded images as this session's gallery."""
        session.gallery = index(self.pair, uploads.images_in(files))
        left = session.gallery.left_out
        more = f"{len(left) - 5:,} more were left out." if len(left) > 5 else ""
        return markup.note(f"Images of yours that are searched: {len(session.gallery.names):,}.", *left[:5], more)

    def back(self, session: Session) -> str:
        """Search the scenes again."""
        session.gallery = None
        return markup.note(self.of_scenes)

    def searched(self, session: Session, query: str) -> str:
        """The top results of both sides for one caption."""
        texts, cut = self.pair.texts(captions_in(query)[:1])
        gallery = self.gallery(session)
        return markup.note(cut) + markup.results(gallery, *search(self.pair, gallery, texts, self.strength))

    def table(self, session: Session, files: Sequence[Upload]) -> str:
        """Take a file of captions for a fit."""
        (upload,) = files
        name = PurePath(upload.name).name
        if PurePath(name).suffix.lower() not in uploads.TABLES:
            raise ValueError(f"{name} is of no kind that is read here: {', '.join(uploads.TABLES)}.")
        session.table = session.place.empty(INPUTS) / name
        shutil.copyfile(upload.path, session.table)
        return markup.note(f"Captions: {name}.")

    def photos(self, session: Session, files: Sequence[Upload]) -> str:
        """Take images for a fit."""
        session.photos = 0
        session.photos = uploads.unpack(files, session.place.empty(IMAGES))
        return markup.note(f"Images: {session.photos:,}.")

    def diagnosis(self, session: Session, count: int) -> Iterator[str]:
        """The loaded model's diagnosis on drawn scenes, at most `DRAWN`, as it goes."""
        yield from self._worked(session, jobs.diagnosis(self.typed, self.alignment, min(int(count), DRAWN)))

    def fit(self, session: Session, own: int, count: int, clean: bool) -> Iterator[str]:
        """A fit on scenes, or on the session's own captions and images, as it goes."""
        if own:
            if session.table is None or not session.photos:
                raise ValueError("Upload a file of captions and their images first, or fit on scenes.")
            table, images = session.table, session.place.folder / IMAGES
            uploads.check_table(table, images)
        else:
            images = session.place.empty("scenes")
            table = scenes.sample(min(int(count), DRAWN), seed=0).save(images)
        yield from self._worked(session, jobs.fit(self.typed, table, images, clean=clean))

    def _worked(self, session: Session, commands: Sequence[Sequence[str]]) -> Iterator[str]:
        """How far commands are, then what came out of them."""
        place, began = session.place, time.monotonic()
        try:
            for step in place.run(*commands):
                yield markup.step(step, time.monotonic() - began)
            told, parts = place.printed(), []
            if not told.get("written", True):
                parts = [markup.note("It was not worth it, so there is no matrix.", *told["advice"])]
            if (written := place.work / jobs.ALIGNMENT).is_dir():
                parts.append(markup.folder(written))
            yield "".join([*parts, markup.report(place.work / jobs.REPORT)])
        finally:
            place.finish()
