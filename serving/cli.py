"""The serving half of the command line: which commands there are, and what exit status an error means.

Imports only click, so that `calotype --help` answers at once; a command's module is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

import click

from serving import errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DONE, FAILED, MISUSED, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS = {
    "serve": "The prediction server.",
    "predict": "Files or folders to predictions, through a server or in this process.",
    "models": "What is in a repository: list, show, verify, roll back.",
}

STATUS: Mapping[type[Exception], int] = {
    errors.BadInput: MISUSED,
    errors.BadRepository: MISUSED,
    errors.BadSetting: MISUSED,
    errors.ModelNotFound: MISUSED,
    errors.CalotypeError: FAILED,
    # The disk is full, a file can't be read …: Python's own sentence names it.
    OSError: FAILED,
}


def load(name: str) -> click.Command:
    """Import one of `COMMANDS`."""
    module = importlib.import_module(f"serving.commands.{name}")
    command: click.Command = module.command
    return command


def run(
    command: click.Command, arguments: Sequence[str] | None = None, *, status: Mapping[type[Exception], int] = STATUS
) -> int:
    """Run a command and return its exit status; what goes wrong is one sentence on stderr.

    Args:
        command: usually the group of all commands.
        arguments: without the program's name; None: those of this process.
        status: error -> exit status; the nearest class of an error counts.
    """
    try:
        result = command.main(
            args=None if arguments is None else list(arguments), prog_name="calotype", standalone_mode=False
        )
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else FAILED if exit_.code else DONE
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        return _nobody_reads()
    except Exception as error:  # noqa: BLE001 - the last one who can tell the user
        return _tell(error, status)
    return result if isinstance(result, int) else DONE


def exit_status(error: Exception, status: Mapping[type[Exception], int] = STATUS) -> int | None:
    """What an error means as an exit status; None: nobody foresaw it."""
    return next((status[kind] for kind in type(error).__mro__ if kind in status), None)


def _tell(error: Exception, status: Mapping[type[Exception], int]) -> int:
    code = exit_status(error, status)
    if code is not None:
        click.echo(f"Error: {error}", err=True)
        return code
    missing = _missing_extra(error)
    if missing:
        click.echo(f"Error: {missing}", err=True)
        return FAILED
    if os.environ.get("CALOTYPE_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    click.echo(
        f"Error: unforeseen, please report it: {type(error).__name__}: {error} "
        "(CALOTYPE_LOG_LEVEL=debug shows where it happened)",
        err=True,
    )
    return FAILED


def _missing_extra(error: Exception) -> str:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    package = error.name.partition(".")[0]
    if package in {"serving", "pipelines"}:
        return ""
    # What only pipelines and the demo import; the rest belongs to serving.
    heavy = {"fsspec", "keras", "matplotlib", "onnx", "prefect", "pyarrow", "pydantic", "rich", "tensorflow", "tf2onnx"}
    extra = "demo" if package in {"mlxtend", "sklearn"} else "pipelines" if package in heavy else "serving"
    return f"this command needs the package {package!r}: pip install 'calotype[{extra}]' brings it."


def _nobody_reads() -> int:
    # `calotype … | head`: Python would complain once more when it flushes stdout at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
