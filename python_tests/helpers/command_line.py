"""The dgdd command, as a person types it."""

from typer.testing import CliRunner

from dgdd_fast.commands import cli


def dgdd(*arguments, ok=True):
    """The result of the command; unless `ok` is False it must have ended well."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    if ok:
        assert result.exit_code == 0, result.output
    return result


def failure(*arguments):
    """Exit code and message of a command that must fail in one line, without a traceback."""
    result = dgdd(*arguments, ok=False)
    assert isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.output
