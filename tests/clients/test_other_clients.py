"""Clients that nobody here wrote, against a real server: grpcurl and tritonclient, in an environment of their own.

Two sets of generated messages of package `inference` cannot live in one process, and tritonclient wants an older
protobuf: so they live in `.venv-clients` (or where CALOTYPE_CLIENTS points), made from requirements/clients.lock.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from serving.client import Client
from tests.conformance import models as conformance_models
from tests.serving.fake_models import LABELS, classifier, expected_probabilities, pixels
from tests.serving.fake_registry import served, two_models
from tests.serving.server_process import running

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("triton_program.py")
EXAMPLES = Path(__file__).with_name("triton_examples.py")


@pytest.fixture(scope="module")
def tools():
    """The folder with python and grpcurl; missing at home is a skip, missing in CI a failure."""
    folder = Path(os.environ.get("CALOTYPE_CLIENTS", ROOT / ".venv-clients")) / "bin"
    missing = [name for name in ("python", "grpcurl") if not (folder / name).exists()]
    if missing:
        reason = f"{folder} lacks {', '.join(missing)}: make it from requirements/clients.lock"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="module", params=["aio", "core"])
def form(request):
    """The name of a transport's form."""
    return request.param


@pytest.fixture(scope="module")
def address(form):
    registry = two_models()
    registry.add(classifier(), plain="plain")
    with served(registry, form) as rig:
        yield rig.address


def run(*command, given=""):
    done = subprocess.run(
        [str(part) for part in command], input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_grpcurl_finds_and_calls_everything_by_reflection(tools, address):
    """Without any proto file, and with the probabilities that the Python client gets."""
    grpcurl = (tools / "grpcurl", "-plaintext")
    services = run(*grpcurl, address, "list").split()
    assert {"calotype.v1.PredictionService", "inference.GRPCInferenceService", "grpc.health.v1.Health"} <= {*services}
    block = pixels(2)
    given = {
        "model": "digits",
        "images": {
            "pixels": {
                "rows": 2,
                "height": 6,
                "width": 5,
                "channels": 1,
                "data": base64.b64encode(block.tobytes()).decode(),
            }
        },
    }
    answer = json.loads(run(*grpcurl, "-d", json.dumps(given), address, "calotype.v1.PredictionService/Classify"))
    with Client(address) as client:
        ours = client.classify(block, model="digits")
    for result, prediction in zip(answer["results"], ours, strict=True):
        assert [score["label"] for score in result["labels"]] == [score.label for score in prediction.labels]
        assert [score["probability"] for score in result["labels"]] == pytest.approx(
            [score.probability for score in prediction.labels], abs=1e-6
        )


def test_tritonclient_takes_this_server_for_one_of_its_own(tools, address, tmp_path):
    """Its checks, its inference in every form, its stream and its repository calls."""
    block = pixels(3)
    np.save(tmp_path / "block.npy", block)
    done = json.loads(run(tools / "python", PROGRAM, address, tmp_path / "block.npy"))
    expected = expected_probabilities(block)
    for form in ("raw", "typed", "files", "plain", "stream"):
        np.testing.assert_allclose(done[form], expected[: len(done[form])], atol=1e-6)
    assert done["best"].split(":")[2] == LABELS[int(expected[0].argmax())]
    assert done["stream_error"].find("unknown model") >= 0
    assert "Request for unknown model" in done["unknown"]
    assert done["max_batch_size"] == 64
    assert done["index"] == ["digits", "digits-ae", "plain"]


@pytest.mark.slow
def test_what_tritons_own_examples_do_works(tools, form, tmp_path):
    """Their models, calls and checks, and the sentences that they look for in a refusal."""
    conformance_models.write(tmp_path / "models")
    with running(tmp_path / "models", tmp_path / "log", "--transport", form) as server:
        said = json.loads(run(tools / "python", EXAMPLES, server.address))
    contents = "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'"
    assert contents in said["mixed"]
    assert "failed to get model version from specified version string 'wrong_specification'" in said["version"]
