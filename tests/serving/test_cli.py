"""The frame of the command line: what an error means, and that nobody is shown a traceback."""

import subprocess
import sys

import click
import pytest

from serving import cli, errors


def command_that(work):
    @click.command()
    @click.argument("numbers", nargs=-1, type=int)
    def command(numbers):
        return work()

    return command


def raising(error):
    def work():
        raise error

    return command_that(work)


class Refused(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.BadInput("no such model"), 2),
        (errors.BadSetting("--port"), 2),
        (errors.BadRepository("no folder"), 2),
        (errors.ModelNotFound("nobody"), 2),
        (errors.Overloaded("full"), 1),
        (FileNotFoundError(2, "No such file or directory", "x"), 1),
        (Refused("the gate"), 3),
        (ZeroDivisionError("a bug"), 1),
    ],
)
def test_an_error_is_one_sentence_and_its_status(error, status, capsys):
    assert cli.run(raising(error), [], status={**cli.STATUS, Refused: 3}) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert str(error) in told.err
    assert "Traceback" not in told.err


def test_wrong_usage_is_2_and_what_a_command_returns_or_exits_with_is_kept(capsys):
    assert cli.run(command_that(lambda: None), ["many"]) == 2
    assert "many" in capsys.readouterr().err
    assert cli.run(command_that(lambda: None), ["1"]) == 0
    assert cli.run(command_that(lambda: 3), []) == 3
    assert cli.run(raising(SystemExit(130)), []) == 130


def test_ctrl_c_is_130_without_a_word(capsys):
    assert cli.run(raising(KeyboardInterrupt()), []) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "extra"), [("grpc.aio", "serving"), ("tensorflow", "pipelines"), ("mlxtend.data", "demo")]
)
def test_a_package_that_is_not_there_is_told_with_the_extra_that_brings_it(package, extra, capsys):
    assert cli.run(raising(ModuleNotFoundError("no", name=package)), []) == 1
    assert f"pip install 'calotype[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_loads_and_bears_its_name(name):
    assert cli.load(name).name == name


def test_the_frame_imports_none_of_the_heavy_libraries():
    heavy = "{'numpy', 'grpc', 'onnxruntime', 'prometheus_client', 'PIL', 'tensorflow', 'prefect'}"
    code = f"import sys, serving.cli, serving.settings; print({heavy} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert shown.stdout.strip() == "set()"
