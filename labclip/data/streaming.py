"""A JSON file's elements one by one, so that a file of captions need not fit in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

_CHUNK = 2**20
_SPACE = " \t\n\r"


def stream_json(path: Path) -> Iterator[tuple[str | tuple[str] | None, Any]]:
    """The elements of a JSON file whose outermost value is a list or an object.

    Yields:
        (None, element) for the elements of a list; (key, value) for those of an object, where a value that is a list
        itself comes element by element, as ((key,), element).
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = _Text(file)
            if text.take("[{") == "[":
                yield from ((None, text.value()) for _ in text.parts("]"))
            else:
                yield from _members(text)
            if found := text.peek():
                raise ValueError(f"found {found!r} behind its end")
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"{path} is not JSON as it should be: {error}. Fetch or write it again.") from error


def _members(text: _Text) -> Iterator[tuple[str | tuple[str], Any]]:
    for _ in text.parts("}"):
        key = text.value()
        if not isinstance(key, str):
            raise ValueError(f"a key is {key!r}")
        text.take(":")
        if text.peek() == "[":
            text.take("[")
            yield from (((key,), text.value()) for _ in text.parts("]"))
        else:
            yield key, text.value()


class _Text:
    """A file's text, of which only what is being read is held."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._held, self._at, self._ended = file, "", 0, False
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        new = self._file.read(max(_CHUNK, len(self._held) - self._at))
        self._ended = not new
        self._held, self._at = self._held[self._at :] + new, 0
        return not self._ended

    def peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            while self._at < len(self._held) and self._held[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def take(self, expected: str) -> str:
        """The next character, which must be one of those expected."""
        found = self.peek()
        if not found or found not in expected:
            raise ValueError(f"found {found!r} where one of {expected!r} should be" if found else "it ends too early")
        self._at += 1
        return found

    def value(self) -> Any:
        """The next value. One that reaches the end of what is held may go on behind it."""
        self.peek()
        while True:
            try:
                value, stop = self._decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if stop == len(self._held) and self._more():
                continue
            self._at = stop
            return value

    def parts(self, closing: str) -> Iterator[None]:
        """Stops at each part of a list or object whose opening bracket was taken, for the caller to take it."""
        if self.peek() == closing:
            self.take(closing)
            return
        yield
        while self.take("," + closing) == ",":
            yield
