"""What a message of the package tells to type: in Python a parameter, on the command line an option."""

from __future__ import annotations

import re
from collections.abc import Mapping

import click

_VALUE = r"(?P<name>[a-z_]+)=(?P<value>'[^']*'|\"[^\"]*\"|[\w.]*\w)(?![\w/])"
_ADVISED = re.compile(rf"(?i)(?P<before>\b(?:pass|or|try|with|of|out|in|set|need|example),?\s+){_VALUE}")
_NAMED = re.compile(r"`(?P<name>[a-z_]+)`|^(?P<first>[a-z_]+)(?= is | ')")
_CHOSEN = re.compile(r"options=\{[\"'](\w+)[\"']: [\"']?(\w+)[\"']?\}")
_CALLED = re.compile(r"\blabclip\.(?P<command>[a-z]+)\b(?:\((?P<arguments>[^()]*)\))?(?!\.\w)")
_PHRASES = {
    "base=, an OpenCLIP model that you loaded": "--model with its base, and this as --alignment",
    ", or pass token=...": "",
    "pass cache_dir=FOLDER, or ": "",
    "the same call": "the same command",
    "labclip.training.split_combinations": "--split combinations",
    "alignment.save_pretrained": "labclip fit",
}


def with_options(text: str, name: str | None, commands: Mapping[str, click.Command]) -> str:
    """A message with the options of the command of a name in the place of Python's parameters.

    >>> with_options("Pass force=True to overwrite it.", "fit", main.commands)
    'Pass --force to overwrite it.'
    """
    options = _options(commands.get(name or ""))

    def called(call: re.Match[str]) -> str:
        if (command := call["command"]) not in commands:
            return call[0]
        given = re.finditer(_VALUE, call["arguments"] or "")
        return " ".join(["labclip", command, *(_typed(_options(commands[command]), one) for one in given)])

    for python, typed in _PHRASES.items():
        text = text.replace(python, typed)
    text = _CHOSEN.sub(r"--option \1=\2", _CALLED.sub(called, text))
    text = _NAMED.sub(lambda one: options.get(one["name"] or one["first"], {}).get("", one[0]), text)
    return _ADVISED.sub(lambda one: one["before"] + _typed(options, one), text)


def _options(command: click.Command | None) -> dict[str, dict[str, str]]:
    """For each parameter's name in Python what is typed for its values; "" is for any other value."""
    found: dict[str, dict[str, str]] = {}
    for option in command.params if command else ():
        if isinstance(option, click.Option):
            long = option.opts[-1]
            name = long.lstrip("-").replace("-", "_")
            typed = {"": long}
            if option.is_flag:
                typed |= {"True": long, "False": "".join(option.secondary_opts)}
            for known in (name, f"{name}s"):  # what may be given again has a plural in Python
                found.setdefault(known, {}).update(typed)
            if name.startswith("no_"):
                found.setdefault(name.removeprefix("no_"), {})["None"] = long
    return found


def _typed(options: Mapping[str, Mapping[str, str]], given: re.Match[str]) -> str:
    """`name=value` as it is typed; as it is where the command has no such option."""
    option, value = options.get(given["name"], {}), given["value"].strip("'\"")
    if option.get(value):
        return option[value]
    return f"{option['']} {value}" if "" in option else f"{given['name']}={given['value']}"
