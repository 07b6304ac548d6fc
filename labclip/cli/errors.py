"""Whatever a command raises, in one line: what is wrong, with its path, and what to do."""

from __future__ import annotations

import errno
import re

_NUMBER = re.compile(r"\[Errno \d+\] ")
_DEBUG = "The same command with --debug shows where it comes from."
_ADVICE = {
    errno.ENOSPC: "The disk is full. Free some space and type the command again.",
    errno.EACCES: "Pass a path that you may read and write, or close what has it open.",
    errno.EPERM: "Pass a path that you may read and write.",
    errno.EROFS: "The disk is read-only. Pass a path on another one.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file.",
    errno.EISDIR: "It is a folder. Pass a file.",
    errno.ENAMETOOLONG: "The name is too long. Pass a shorter one.",
    errno.ELOOP: "Its links lead in a circle. Pass another path.",
    errno.EMFILE: "Too many files are open. Raise the limit: ulimit -n 4096.",
    errno.EIO: "Look whether the disk or file server that it is on still answers.",
    errno.EPIPE: "What was reading has ended.",
}
# By the class's name, so that no package is imported for it.
_KINDS = {
    "MemoryError": ("There is not enough memory", "Pass a smaller --batch-size, or less data."),
    "OutOfMemoryError": ("The GPU has not enough memory", "Pass a smaller --batch-size, or --device cpu."),
    "SafetensorError": ("A safetensors file can't be read or written", "Check the files that the command names."),
    "sqlite3.Error": ("A file of SQLite can't be used", "Check that its disk has space and that you may write to it."),
    "OverflowError": ("A number is too large", "Check the numbers that the command names."),
}


def in_one_line(error: BaseException) -> str:
    """An error in one line, with what to do: our own are as they were written, others are explained."""
    text = _NUMBER.sub("", " ".join(str(error).split()))
    if isinstance(error, OSError) and error.strerror is not None:
        paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
        what = f"{' and '.join(paths)} can't be used" if paths else "Reading or writing failed"
        return f"{what} ({error.strerror}). {_ADVICE.get(error.errno or 0, _DEBUG)}"
    if isinstance(error, ValueError | OSError) and text:
        return text
    if "No space left on device" in text or "disk is full" in text:
        return f"Writing failed ({text}). {_ADVICE[errno.ENOSPC]}"
    if "not enough memory" in text or "can't allocate memory" in text:
        error = MemoryError(text)
    for kind in type(error).__mro__:
        name = f"sqlite3.{kind.__name__}" if kind.__module__ == "sqlite3" else kind.__name__
        if name in _KINDS:
            what, remedy = _KINDS[name]
            return f"{what}{f' ({text})' if text else ''}. {remedy} {_DEBUG}"
    return f"{type(error).__name__}: {text or 'without a message'}. This is an error in labclip or below it. {_DEBUG}"
