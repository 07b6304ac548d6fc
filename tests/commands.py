"""The command line as a person types it."""

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
