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
                yield from ((None, element) for element in text.elements("]"))
            else:
                for key in text.elements("}"):
                    if not isinstance(key, str):
                        raise ValueError(f"a key is {key!r}")
                    text.take(":")
                    if text.peek() == "[" and text.take("["):
                        yield from (((key,), element) for element in text.elements("]"))
                    else:
                        yield key, text.value()
            if rest := text.peek():
                raise ValueError(f"found {rest!r} behind its end")
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"{path} is not JSON as it should be: {error}. Fetch or write it again.") from error


class _Text:
    """A file's text, of which only what is being read is held."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._held, self._start = file, "", 0
        self._decoder = json.JSONDecoder()

    def _more(self) -> bool:
        new = self._file.read(max(_CHUNK, len(self._held) - self._start))
        self._held, self._start = self._held[self._start :] + new, 0
        return bool(new)

    def peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            while self._start < len(self._held) and self._held[self._start] in _SPACE:
                self._start += 1
            if self._start < len(self._held) or not self._more():
                return self._held[self._start : self._start + 1]

    def take(self, expected: str) -> str:
        """The next character, which must be one of those expected."""
        mark = self.peek()
        if not mark or mark not in expected:
            raise ValueError(f"found {mark!r} where one of {expected!r} should be" if mark else "it ends too early")
        self._start += 1
        return mark

    def value(self) -> Any:
        """The next value. One that reaches the end of what is held may go on behind it."""
        self.peek()
        while True:
            try:
                value, stop = self._decoder.raw_decode(self._held, self._start)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if stop < len(self._held) or not self._more():
                self._start = min(stop, len(self._held))
                return value

    def elements(self, closing: str) -> Iterator[Any]:
        """The elements of a list, or the keys of an object, whose opening bracket was taken."""
        if self.peek() != closing:
            yield self.value()
            while self.take("," + closing) == ",":
                yield self.value()
        else:
            self.take(closing)
