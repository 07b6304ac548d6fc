"""The command line as a person types it."""

import os
import subprocess
import sys

from click.testing import CliRunner

from labclip import cli


def run(*arguments, code=0):
    """What a command with this exit code printed."""
    done = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit | None)
    return done


def fails(*arguments):
    """The one line on stderr of a command that must fail."""
    done = run(*arguments, code=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")
    return done.stderr


def python(program, *arguments, **options):
    """What a program prints in a process of its own, which finds this one's modules."""
    environment = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}} | options
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
