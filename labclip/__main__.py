"""`python -m labclip` is the `labclip` command."""

from labclip.cli import main

main(prog_name="labclip")
