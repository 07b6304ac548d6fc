"""Writes docs/command-line.md from the command itself; with --check, fails where the page is stale."""

import sys
from pathlib import Path

import click

from labclip.cli import main as command

PAGE = Path(__file__).parent / "command-line.md"
INTRODUCTION = """\
# Command line

Progress and errors go to standard error, results to standard output. Bad input is one line and exit code 2.
This page is written by `python docs/reference.py` from the command's own help.
"""


def page():
    """The page as the command is now."""
    parts = [INTRODUCTION]
    top = click.Context(command, info_name="labclip", max_content_width=100, terminal_width=100)
    parts.append(f"```text\n{command.get_help(top)}\n```\n")
    for name in command.list_commands(top):
        subcommand = command.get_command(top, name)
        context = click.Context(subcommand, info_name=name, parent=top, max_content_width=100, terminal_width=100)
        parts.append(f"## labclip {name}\n\n```text\n{subcommand.get_help(context)}\n```\n")
    return "\n".join(parts)


def main():
    if "--check" not in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} is stale. Type: python docs/reference.py")


if __name__ == "__main__":
    main()
