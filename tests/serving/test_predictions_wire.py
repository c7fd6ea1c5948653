"""calotype.v1 through a real server and the real client."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from concurrent.futures import CancelledError

import grpc
import numpy as np
import pytest
from PIL import Image

from serving.aio_client import AsyncClient
from serving.client import Client, Options
from serving.codec import pixel_block, png
from serving.errors import BadInput, ModelNotFound, Overloaded, TooLarge
from serving.images import ImageSpec, fit
from serving.predictions import Failure
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from tests.serving.fake_models import IMAGE, LABELS, classifier, expected_probabilities, pixels, reconstructor
from tests.serving.fake_registry import served, two_models


@pytest.fixture(scope="module")
def rig(form):
    with served(two_models(), form) as rig:
        yield rig


@pytest.fixture(scope="module")
def client(rig):
    with Client(rig.address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(rig):
    with grpc.insecure_channel(rig.address) as channel:
        yield v1_grpc.PredictionServiceStub(channel)


@pytest.fixture
def records():
    """What is logged about calls, whatever other tests made of the handlers above."""
    log = logging.getLogger("calotype.calls")
    handler = logging.Handler()
    kept = []
    handler.emit = kept.append
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    yield kept
    log.setLevel(level)
    log.removeHandler(handler)


def probabilities(prediction):
    by_label = {score.label: score.probability for score in prediction.labels}
    return [by_label[label] for label in LABELS]


def test_pixels_are_classified_as_the_model_computes_it(client):
    """What comes over the wire is what the model says, for every row, best label first."""
    block = pixels(70)
    predictions = client.classify(block, model="digits")
    np.testing.assert_allclose([probabilities(p) for p in predictions], expected_probabilities(block), atol=1e-6)
    for prediction in predictions:
        scores = [score.probability for score in prediction.labels]
        assert scores == sorted(scores, reverse=True)


def test_files_and_pixels_get_the_same_answers(client, tmp_path):
    """A PNG by path, its bytes, and its pixels are one image."""
    block = pixels(3)
    paths = []
    for number, row in enumerate(block):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(png(row))
    expected = client.classify(block, model="digits")
    assert client.classify(paths, model="digits") == expected
    assert client.classify([path.read_bytes() for path in paths], model="digits") == expected
    assert client.classify([paths[0], block[1], paths[2].read_bytes()], model="digits") == expected


def test_an_unreadable_image_fails_alone(client):
    """Its neighbours are answered, in their places."""
    block = pixels(4)
    files = [png(block[0]), b"junk", png(block[2]), b"", "/nowhere/at/all.png", png(block[3])]
    predictions = client.classify(files, model="digits")
    assert [isinstance(p, Failure) for p in predictions] == [False, True, False, True, True, False]
    assert [p.code for p in predictions if isinstance(p, Failure)] == [
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
    ]
    np.testing.assert_allclose(probabilities(predictions[5]), expected_probabilities(block)[3], atol=1e-6)


def test_only_unreadable_images_are_failures_without_a_model_call(rig, client):
    """Nothing to compute is no error of the call."""
    before = len(rig.registry.deadlines)
    assert all(isinstance(p, Failure) for p in client.classify([b"junk", b"more"], model="digits"))
    assert len(rig.registry.deadlines) == before


def test_unreadable_images_are_counted_and_logged(records, form):
    """Their call is OK: without it, whoever runs the server would take a caller who sends junk for a happy one."""
    with served(two_models(), form) as rig, Client(rig.address) as client:
        client.classify([b"junk", png(pixels(1)[0]), b"more"], model="digits")
    assert 'calotype_images_unreadable_total{method="Classify",model="digits",version="1"} 2.0' in (
        rig.telemetry.exposition().decode()
    )
    [line] = [record.fields for record in records if record.getMessage() == "call"]
    assert (line["images"], line["unreadable"]) == (3, 2)


def test_top_k_keeps_the_best(client):
    """top_k cuts the end of the list; more than there are is all."""
    block = pixels(2)
    full = client.classify(block, model="digits")
    assert [p.labels for p in client.classify(block, model="digits", top_k=2)] == [p.labels[:2] for p in full]
    assert client.classify(block, model="digits", top_k=99) == full


def test_ties_come_in_label_order(client):
    """A black image scores all labels alike."""
    [prediction] = client.classify(np.zeros((1, *IMAGE.shape), np.uint8), model="digits")
    assert tuple(score.label for score in prediction.labels) == LABELS


def test_pixels_of_another_size_are_resized_as_in_training(client):
    """Colour of 9x9 becomes what images.fit makes of it."""
    block = pixels(3, image=ImageSpec(9, 9, 3))
    fitted = np.stack([fit(row, IMAGE) for row in block])
    assert client.classify(block, model="digits") == client.classify(fitted, model="digits")


def test_requests_that_repeat_a_form_get_their_own_answers_from_the_version_that_serves(form):
    """Other pixels of the same form, rows of another number, other wishes, and then a newer version of the models."""
    registry = two_models()
    with served(registry, form) as rig, Client(rig.address) as client:
        for version in (1, 2):
            if version > 1:
                registry.add(classifier(), version=version)
                registry.add(reconstructor(), version=version)
            for rows in (1, 3, 1, 3):
                block = np.random.default_rng(rows + version).permuted(pixels(rows), axis=1)
                [answered] = client.classify_each(block, model="digits")
                assert answered.version == version
                got = [probabilities(result) for result in answered.results]
                np.testing.assert_allclose(got, expected_probabilities(block), atol=1e-6)
                best = client.classify(block, model="digits", top_k=1)
                assert [one.labels for one in best] == [all_.labels[:1] for all_ in answered.results]
                errors = [one.error for one in client.reconstruct(block, model="digits-ae")]
                alone = [client.reconstruct(row[None], model="digits-ae")[0].error for row in block]
                assert errors == pytest.approx(alone, rel=1e-5)
                images = [one.image for one in client.reconstruct(block, model="digits-ae", form="pixels")]
                assert len(set(images)) == rows
                assert [one.image for one in client.reconstruct(block, model="digits-ae")] == [b""] * rows


def test_reconstructions_in_all_forms(client):
    """PNG and PIXELS are the model's output rounded; the error is the same in each; the threshold decides."""
    block = np.stack([np.zeros(IMAGE.shape, np.uint8), np.full(IMAGE.shape, 200, np.uint8)])
    bare = client.reconstruct(block, model="digits-ae")
    assert [r.anomalous for r in bare] == [False, True]
    assert bare[1].error == pytest.approx((100 / 255) ** 2, rel=1e-5)
    assert bare[1].image == b""
    raw = client.reconstruct(block, model="digits-ae", form="pixels")
    assert raw[1].image == bytes([100]) * 30
    files = client.reconstruct(block, model="digits-ae", form="png")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(files[1].image))), np.full((6, 5), 100))
    assert [r.error for r in files] == [r.error for r in raw] == [r.error for r in bare]


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (v1.ClassifyRequest(model="digits"), grpc.StatusCode.INVALID_ARGUMENT, "at least one image"),
        (
            v1.ClassifyRequest(model="digits", images=v1.Images(pixels=v1.PixelBlock())),
            grpc.StatusCode.INVALID_ARGUMENT,
            "rows=0",
        ),
        (
            v1.ClassifyRequest(
                model="digits",
                images=v1.Images(pixels=v1.PixelBlock(rows=1, height=6, width=5, channels=1, data=b"short")),
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "5 bytes",
        ),
        (
            v1.ClassifyRequest(
                model="digits",
                images=v1.Images(pixels=v1.PixelBlock(rows=2**31, height=2**31, width=2**31, channels=3)),
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
            "0 bytes",
        ),
        (v1.ClassifyRequest(model="digits-ae"), grpc.StatusCode.INVALID_ARGUMENT, "call Reconstruct"),
        (v1.ClassifyRequest(model="nobody"), grpc.StatusCode.NOT_FOUND, "nobody"),
        (v1.ClassifyRequest(model="digits", version=7), grpc.StatusCode.NOT_FOUND, "7"),
        (v1.ReconstructRequest(model="digits"), grpc.StatusCode.INVALID_ARGUMENT, "call Classify"),
        (v1.ReconstructRequest(model="digits-ae", form=9), grpc.StatusCode.INVALID_ARGUMENT, "PIXELS"),
    ],
)
def test_wrong_requests_get_the_status_of_the_contract(stub, request_, code, word):
    """Each with a sentence that names what was wrong."""
    method = stub.Classify if isinstance(request_, v1.ClassifyRequest) else stub.Reconstruct
    with pytest.raises(grpc.RpcError) as caught:
        method(request_, timeout=10)
    assert caught.value.code() is code
    assert word in caught.value.details()


def test_the_client_raises_the_errors_of_the_house(client):
    """Statuses come back as what they were."""
    with pytest.raises(ModelNotFound, match="nobody"):
        client.classify(pixels(1), model="nobody")
    with pytest.raises(BadInput, match="call Reconstruct"):
        client.classify(pixels(1), model="digits-ae")
    with pytest.raises(BadInput, match="uint8"):
        client.classify(np.zeros((1, 6, 5, 1), np.float32), model="digits")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"top_k": -1}, "top_k must be .* Received: -1"),
        ({"top_k": 2**32}, "top_k must be"),
        ({"top_k": 1.5}, "top_k must be"),
        ({"version": -1}, "version must be .* Received: -1"),
        ({"version": "1"}, "version must be"),
        ({"form": "jpg"}, "form must be error, png, pixels. Received: 'jpg'"),
        ({"form": ["png"]}, "form must be"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(rig, client, wrong, words):
    """By one sentence of the house; by the twin as well."""

    async def ask():
        async with AsyncClient(rig.address) as twin:
            await (twin.reconstruct if "form" in wrong else twin.classify)(pixels(1), model="digits", **wrong)

    with pytest.raises(BadInput, match=words):
        (client.reconstruct if "form" in wrong else client.classify)(pixels(1), model="digits", **wrong)
    with pytest.raises(BadInput, match=words):
        asyncio.run(ask())
    assert client.classify(pixels(1), model="digits", top_k=np.int64(1), version=np.uint8(1))


def test_a_message_over_a_limit_is_told_as_such(form):
    """The server's, in its sentence, for requests and answers; and the client's own."""
    block = pixels(40)
    small, large = Options(max_message_bytes=600), Options(request_images=99)

    async def ask(address):
        async with AsyncClient(address, options=large) as client:
            await client.classify(block, model="digits")

    with served(two_models(), form, max_message_bytes=1000) as rig:
        with Client(rig.address, options=large) as client:
            with pytest.raises(TooLarge, match=r"^A message may have 1000 bytes"):
                client.classify(block, model="digits")
            with pytest.raises(TooLarge, match=r"^The answer has .*--max-message-bytes"):
                client.classify(block[:30], model="digits")
        with pytest.raises(TooLarge, match=r"^A message may have 1000 bytes"):
            asyncio.run(ask(rig.address))
        with Client(rig.address, options=small) as client:
            for rows in (20, 25):
                with pytest.raises(TooLarge, match="max_message_bytes"):
                    client.classify(block[:rows], model="digits")


def test_models_are_listed(client):
    """By name, with what a caller needs to know."""
    digits, autoencoder = client.models()
    assert (digits.name, digits.version, digits.task, digits.state) == ("digits", 1, "classify", "Available")
    assert (digits.height, digits.width, digits.channels) == IMAGE.shape
    assert tuple(digits.labels) == LABELS
    assert autoencoder.task == "reconstruct"


def test_a_newer_version_answers_and_the_old_one_on_request(form):
    """Version 0 is the one being served; a number is that one."""
    registry = two_models()
    registry.add(classifier(gain=9.0), version=2)
    block = pixels(2)
    with served(registry, form) as rig, Client(rig.address) as client:
        new = client.classify(block, model="digits")
        old = client.classify(block, model="digits", version=1)
    np.testing.assert_allclose([probabilities(p) for p in new], expected_probabilities(block, gain=9.0), atol=1e-6)
    np.testing.assert_allclose([probabilities(p) for p in old], expected_probabilities(block), atol=1e-6)


def request(request_id, block=None):
    block = pixels(1) if block is None else block
    return v1.ClassifyRequest(model="digits", request_id=request_id, images=v1.Images(pixels=pixel_block(block)))


def test_a_failing_request_of_a_stream_is_answered_and_the_stream_goes_on(stub):
    """By a message with its id and its error."""
    wrong = v1.ClassifyRequest(model="nobody", request_id="b")
    answers = {a.request_id: a for a in stub.StreamClassify(iter([request("a"), wrong, request("c")]), timeout=10)}
    assert answers.keys() == {"a", "b", "c"}
    assert answers["b"].error.code == "NOT_FOUND"
    assert not answers["b"].results
    assert answers["a"].results == answers["c"].results
    assert not answers["a"].HasField("error")


def test_answers_of_a_stream_overtake_and_reading_is_bounded(form):
    """A slow request does not hold up its successors; no more than the window is read ahead."""
    registry = two_models()
    registry.hold = True
    with served(registry, form, max_stream_requests=3) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        answers = stub.StreamClassify((request(str(n)) for n in range(5)), timeout=20)
        wait_until(lambda: len(registry.held) == 3)
        registry.answer(2)
        assert next(answers).request_id == "2"
        wait_until(lambda: len(registry.held) == 4)
        for index in (0, 1, 3):
            registry.answer(index)
        assert {next(answers).request_id for _ in range(3)} == {"0", "1", "3"}
        wait_until(lambda: len(registry.held) == 5)
        registry.answer(4)
        assert [a.request_id for a in answers] == ["4"]


def wait_until(true, seconds=10.0):
    """Poll for what another thread does; returns as soon as it is done."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.002)


def test_a_hang_up_cancels_its_own_work_only(form):
    """The caller's future reaches the batcher as a cancelled one; the neighbour gets its answer."""
    registry = two_models()
    registry.hold = True
    with served(registry, form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        leaving = stub.Classify.future(request("leaving"), timeout=20)
        wait_until(lambda: len(registry.held) == 1)
        staying = stub.Classify.future(request("staying"), timeout=20)
        wait_until(lambda: len(registry.held) == 2)
        leaving.cancel()
        wait_until(registry.held[0][0].cancelled)
        registry.answer(1)
        assert staying.result().request_id == "staying"
        with pytest.raises(grpc.FutureCancelledError):
            leaving.result()
        assert [handle.open for handle in registry.models()] == [0, 0]


def test_a_deadline_reaches_the_model_and_ends_the_call(form):
    """The status is DEADLINE_EXCEEDED and the work is cancelled."""
    registry = two_models()
    registry.hold = True
    with served(registry, form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Classify(request("late"), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        wait_until(registry.held[0][0].cancelled)
        assert registry.deadlines[0] is not None


def test_a_broken_stream_cancels_what_it_started(form):
    """Nobody waits for its answers any more."""
    registry = two_models()
    registry.hold = True
    with served(registry, form) as rig, grpc.insecure_channel(rig.address) as channel:
        stub = v1_grpc.PredictionServiceStub(channel)
        answers = stub.StreamClassify(iter([request("a"), request("b")]), timeout=20)
        wait_until(lambda: len(registry.held) == 2)
        answers.cancel()
        wait_until(lambda: all(future.cancelled() for future, _ in registry.held))


def test_a_full_queue_is_retried_after_the_wait_that_the_server_names(form):
    """Overloaded carries its pushback, and the client keeps to it."""
    registry = two_models()
    registry.trouble = [Overloaded("full", retry_after_ms=300), Overloaded("full", retry_after_ms=700)]
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            registry.trouble = None

    with served(registry, form) as rig, Client(rig.address, sleep=sleep) as client:
        [prediction] = client.classify(pixels(1), model="digits")
    assert prediction.label in LABELS
    assert 0.3 <= waits[0] < 0.7 <= waits[1]


def test_inside_details_stay_inside(records, form):
    """INTERNAL carries an id; the log has the id and the cause; the wire has no cause."""
    registry = two_models()
    registry.trouble = [RuntimeError("secret path /etc/shadow")]
    with (
        served(registry, form) as rig,
        grpc.insecure_channel(rig.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        v1_grpc.PredictionServiceStub(channel).Classify(request("x"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in caught.value.details()
    record = next(record for record in records if record.getMessage() == "internal_error")
    assert record.fields["incident"] in caught.value.details()
    assert record.fields["request_id"] == "x"
    assert "secret" in str(record.exc_info[1])


def test_calls_are_counted_with_their_status(rig, stub):
    """Answered ones by images, failed ones by code."""
    stub.Classify(request("n", pixels(7)), timeout=10)
    with pytest.raises(grpc.RpcError):
        stub.Classify(v1.ClassifyRequest(model="digits-ae"), timeout=10)
    text = rig.telemetry.exposition().decode()
    assert 'code="OK"' in text
    assert 'code="INVALID_ARGUMENT"' in text


def test_a_cancelled_error_from_below_is_no_hang_up(form):
    """Work that the server itself gave up is the server's failure, not a cancelled call."""
    registry = two_models()
    registry.trouble = [CancelledError()]
    with (
        served(registry, form) as rig,
        grpc.insecure_channel(rig.address) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        v1_grpc.PredictionServiceStub(channel).Classify(request("x"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
