"""`calotype predict`, in this process and through a server."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner
from pyarrow import parquet

from serving.codec import png
from serving.commands.predict import command
from serving.errors import BadBundle, BadInput, BadRepository, ModelNotFound
from tests.serving.fake_models import LABELS, pixels, publish_classifier, publish_reconstructor, write_plain
from tests.serving.fake_registry import served, two_models


@pytest.fixture
def models(tmp_path):
    publish_classifier(tmp_path / "models")
    publish_reconstructor(tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for number, row in enumerate(pixels(3)):
        (tmp_path / "images" / f"{number}.png").write_bytes(png(row))
    (tmp_path / "images" / "deep" / "bad.png").write_bytes(b"junk")
    (tmp_path / "images" / ".hidden.png").write_bytes(b"junk")
    return tmp_path / "images"


def predict(*arguments):
    return CliRunner(catch_exceptions=False).invoke(command, [str(argument) for argument in arguments])


def test_a_folder_is_predicted_in_process(models, folder):
    """Every file has a row with its path; unreadable ones are counted, and the exit status is 0."""
    done = predict(folder, "--model", "digits", "--models", models, "--top", 2, "--json")
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert (result["model"], result["version"], result["images"], result["failed"]) == ("digits", 1, 4, 1)
    first, *_, last = result["predictions"]
    assert first["path"] == str(folder / "0.png")
    assert first["label"] in LABELS
    assert first["labels"][0] == {"label": first["label"], "probability": first["probability"]}
    assert len(first["labels"]) == 2
    assert last == {"path": str(folder / "deep" / "bad.png"), "failure": last["failure"]}
    assert last["failure"]["code"] == "INVALID_ARGUMENT"


def test_a_damaged_newest_version_is_passed_over_as_a_server_does(models, folder):
    """The version before it answers, and the damage is told; asked for by its number, the damaged one is an error."""
    publish_classifier(models)
    model = models / "digits" / "2" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    done = predict(folder, "--model", "digits", "--models", models, "--json")
    assert json.loads(done.stdout)["version"] == 1
    assert "digits/2/model.onnx" in done.stderr
    with pytest.raises(BadBundle, match=r"digits/2/model\.onnx"):
        predict(folder, "--model", "digits", "--version", "2", "--models", models)


def test_in_process_the_versions_that_are_served_answer(models, folder):
    """A config.pbtxt that pins a version holds here too; any other is to be had by its number."""
    publish_classifier(models)
    config = models / "digits" / "config.pbtxt"
    config.write_text("version_policy { specific { versions: [ 1 ] } }")

    def version(*more):
        done = predict(folder, "--model", "digits", "--models", models, "--json", *more)
        return json.loads(done.stdout)["version"]

    assert version() == 1
    assert version("--version", 2) == 2
    config.write_text("version_policy { latest { num_versions: 1 } }")
    assert version() == 2
    config.write_text("version_policy { specific { versions: [ 7 ] } }")
    with pytest.raises(ModelNotFound, match=r"config\.pbtxt has served, which are 7"):
        version()


def test_predicting_in_process_needs_nothing_of_the_wire():
    """Whoever trains has neither grpc nor the protobuf that the wire needs."""
    code = "import sys, serving.local; print({'grpc', 'google.protobuf', 'prometheus_client'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "set()"


def test_images_beyond_the_pixel_limit_fail_by_themselves(models, folder):
    """The server's limit, from the same variable, and to be changed by the same flag."""
    limit = pixels(1)[0].size - 1
    done = predict(folder, "--model", "digits", "--models", models, "--max-image-pixels", limit, "--json")
    failures = [row["failure"]["message"] for row in json.loads(done.stdout)["predictions"]]
    assert sum("pixels" in message for message in failures) == 3


def test_the_help_tells_of_exit_statuses_and_tls():
    """What a script needs to know."""
    told = " ".join(predict("--help").stdout.split())
    assert "0 when some images failed" in told
    assert "1 when all did" in told
    assert "grpcs://HOST:PORT" in told


@pytest.mark.parametrize("model", ["digits", "digits-ae"])
def test_a_server_gives_the_same_predictions(models, folder, model):
    """The same command, either way."""
    local = json.loads(predict(folder, "--model", model, "--models", models, "--json").stdout)
    with served(two_models()) as rig:
        remote = json.loads(predict(folder, "--model", model, "--server", rig.address, "--json").stdout)
    numbers = ("probability", "error")
    for ours, theirs in zip(local["predictions"], remote["predictions"], strict=True):
        assert {key: ours[key] for key in ours if key not in (*numbers, "labels")} == {
            key: theirs[key] for key in theirs if key not in (*numbers, "labels")
        }
        for key in numbers:
            assert ours.get(key) == pytest.approx(theirs.get(key), abs=1e-6)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_predictions_are_written_to_a_file(models, folder, tmp_path, ending):
    """One row per image, whatever the form."""
    output = tmp_path / f"out.{ending}"
    assert predict(folder, "--model", "digits-ae", "--models", models, "--output", output).exit_code == 0
    if ending == "parquet":
        rows = parquet.read_table(output).to_pylist()
    elif ending == "csv":
        with output.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    else:
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 4
    assert float(rows[0]["error"]) > 0
    assert rows[-1].get("error") in (None, "")


def test_only_unreadable_images_are_a_failure(models, folder):
    """Exit status 1."""
    done = predict(folder / "deep", "--model", "digits", "--models", models, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["failed"] == 1


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--model", "digits"], BadInput, "either --server"),
        (["--model", "digits", "--models", "{models}", "--server", "x:1"], BadInput, "either --server"),
        (["--model", "nobody", "--models", "{models}"], ModelNotFound, "nobody"),
        (["--model", "digits", "--version", "9", "--models", "{models}"], ModelNotFound, "version 9"),
        (["--model", "digits", "--models", "/no/such"], BadRepository, "not a folder"),
        (["--model", "digits", "--models", "{models}", "--output", "x.xml"], BadInput, "x.xml"),
        (["--model", "digits", "--models", "{models}", "/no/such.png"], BadInput, "does not exist"),
    ],
)
def test_wrong_usage_is_one_sentence(models, folder, arguments, error, words):
    """An error that the command line turns into exit status 2."""
    written = [argument.format(models=models) for argument in arguments]
    with pytest.raises(error, match=words):
        predict(folder, *written)


@pytest.mark.parametrize("arguments", [("--model", "plain"), ("--model", "plain", "--version", 1)])
def test_a_plain_model_is_told_by_the_servers_sentence(models, folder, arguments):
    """It is in the repository, and `models list` shows it: that it isn't there would be no answer."""
    write_plain(models)
    with pytest.raises(BadInput, match=r"'plain' version 1 is plain ONNX without a bundle.json: .*ModelInfer only"):
        predict(folder, *arguments, "--models", models)
    with pytest.raises(ModelNotFound, match="has no model 'plain' version 2"):
        predict(folder, "--model", "plain", "--version", 2, "--models", models)
