"""The command line, as a process of its own."""

from __future__ import annotations

import json
import time

import pytest

from pipelines.cli import COMMANDS


@pytest.fixture
def empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def is_one_sentence(finished):
    """Whether a user would call it an answer: something on stderr, no traceback, nothing on stdout."""
    return bool(finished.err.strip()) and "Traceback" not in finished.err and not finished.out


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_it_answers_at_once(calotype, flag):
    """Asking for help or the version loads no heavy library: a hundredth of what TensorFlow takes to import."""
    began = time.monotonic()
    done = calotype(flag, PYTHONPROFILEIMPORTTIME="1")
    assert time.monotonic() - began < 5  # the limit is 0.5 s; this only catches a TensorFlow on a busy machine
    assert done.status == 0
    assert done.out
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.err.splitlines()}
    assert not imported & {"tensorflow", "keras", "prefect", "onnxruntime", "grpc", "numpy", "PIL", "rich", "pydantic"}


def test_every_command_says_what_it_does(calotype):
    """The list of commands and each command's own help exist, without running anything."""
    listed = calotype("--help").out
    for name in COMMANDS:
        assert name in listed
    for name in ("run", "tune", "serve", "predict", "models"):
        done = calotype(name, "--help")
        assert done.status == 0, done.err
        assert "--json" in done.out or name == "serve" or "list" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "nowhere", "--name", "m"), "nowhere"),
        (("run", ".", "--name", "../m"), "model name"),
        (("run", ".", "--name", "m", "--architecture", "vgg99"), "vgg99"),
        (("run", ".", "--name", "m", "--epochs", "0"), "'epochs'"),
        (("run", ".", "--name", "m", "--image-size", "28"), "HxW"),
        (("run", ".", "--name", "m", "--split", "a,b"), "0.7,0.15,0.15"),
        (("run", ".", "--name", "m", "--task", "detect"), "'classify' or 'reconstruct'"),
        (("run", ".", "--name", "m", "--recipe", "none.toml"), "none.toml"),
        (("run", ".", "--name", "m", "--set", "epochs"), "KEY=VALUE"),
        (("run", "."), "--name"),
        (("tune", ".", "--name", "m", "--trials", "0"), "--trials"),
        (("tune", ".", "--name", "m", "--space", "none.toml"), "none.toml"),
        (("tune", ".", "--name", "m", "--storage", "nonsense"), "sqlite:////folder/file.db"),
        (("train", "no-such-dataset"), "no-such-dataset"),
        (("architectures", "vgg99"), "vgg99"),
        (("publish", "no-such-run"), "no-such-run"),
        (("serve", "--models", "nowhere"), "nowhere"),
        (("serve", "--port", "eighty"), "eighty"),
        (("predict", "nowhere.png", "--model", "m", "--models", "."), "nowhere.png"),
        (("models", "list", "--models", "nowhere"), "nowhere"),
        (("no-such-command",), "no-such-command"),
    ],
)
def test_what_cannot_be_is_refused_in_words(calotype, tmp_path, arguments, words):
    """Wrong usage exits 2 with a sentence that names what is wrong, and leaves nothing behind."""
    done = calotype(*arguments)
    assert done.status == 2, done.err
    assert is_one_sentence(done), done.err
    assert words in done.err
    assert list(tmp_path.iterdir()) == []


def test_architectures_are_listed_for_people_and_programs(calotype):
    """A table on stderr, JSON on stdout, and no TensorFlow needed for either."""
    done = calotype("architectures", "--json", PYTHONPROFILEIMPORTTIME="1")
    listed = {family["name"]: family for family in json.loads(done.out)}
    assert listed["lenet5"]["task"] == "classify"
    assert listed["autoencoder"]["parameters"] > 0
    assert "| tensorflow" not in done.err
