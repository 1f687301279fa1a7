"""`corerec` as the tests run it: in this process, its exit code checked."""

from typer.testing import CliRunner, Result

from corerec.cli.app import app

SMALL = ("--epochs", "1", "--hidden-dim", "8", "--max-seq-len", "8")


def run(*arguments: object, code: int = 0) -> Result:
    """Run a command, such as run("fit", path, "-o", model), and hold it to its exit code, without a traceback."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == code, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result


def words(text: str) -> str:
    """A text without the line breaks and frames that depend on the terminal's width."""
    return " ".join(text.replace("│", " ").split())
