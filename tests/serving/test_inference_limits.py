"""What the Open Inference Protocol's callers can ask for, and what that may cost the others."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest

from serving import tensors
from serving.calls import Call
from serving.decoder import Decoder
from serving.errors import BadInput, Draining, TooLarge
from serving.inference import InferenceService
from serving.telemetry import Telemetry
from serving.v2 import open_inference_pb2 as v2
from tests.serving.fake_models import classifier, echo, pixels
from tests.serving.fake_registry import two_models
from tests.serving.test_inference_wire import broken, files, request

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def registry():
    registry = two_models()
    registry.add((classifier()[0], echo()), plain="echo")
    return registry


@pytest.fixture
def decoder():
    decoder = Decoder(
        threads=1, max_image_pixels=10_000, max_queue_rows=1000, max_queue_bytes=10_000_000, telemetry=Telemetry()
    )
    yield decoder
    decoder.close(10)


@pytest.fixture
def infer(registry, decoder):
    service = InferenceService(registry, decoder, Telemetry(), version="0.0", max_message_bytes=10_000)
    yield lambda message: service.infer(message, Call("ModelInfer"))
    assert all(handle.open == 0 for handle in registry.models())
    service.close()


def message_of(answer):
    return v2.ModelInferResponse.FromString(answer.result(10).SerializeToString())


def words(shape, raw):
    message = v2.ModelInferRequest(model_name="echo", raw_input_contents=[raw])
    message.inputs.add(name="image", datatype="BYTES", shape=shape)
    return message


def classes(name, model="digits", rows=1, **parameter):
    message = request(pixels(rows), model=model, outputs=(name,))
    for field, value in parameter.items():
        setattr(message.outputs[0].parameters["classification"], field, value)
    return message


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (request(pixels(1), outputs=["probabilities"] * 2), "twice"),
        (broken(lambda m: setattr(m, "model_version", "9" * 5000)), "decimal digits"),
        (broken(lambda m: m.inputs[0].shape.extend([2**62, 2**62, 0])), "so large"),
        (broken(lambda m: m.inputs[0].shape.extend([1] * 100)), "dimensions"),
        (words([], tensors.packed([b"a"])), "shape"),
        (broken(lambda m: m.inputs.add(name="image", datatype="UINT8", shape=[0])), "one element per input"),
        (classes("error", "digits-ae", int64_param=3), "[rows, classes]"),
        (classes("reconstruction", "digits-ae", int64_param=3), "[rows, classes]"),
        (classes("probabilities", int64_param=-3), "int64_param"),
        (classes("probabilities", string_param="3"), "int64_param"),
        (classes("probabilities", bool_param=True), "int64_param"),
        (request(pixels(2049)), "--max-queue-rows = 2048"),
    ],
)
def test_what_no_model_can_answer_is_bad_input(infer, message, word):
    """Never an error of the server's own."""
    with pytest.raises(BadInput) as caught:
        infer(message).result(10)
    assert word in str(caught.value)


def test_a_file_without_dimensions_is_bad_input(infer):
    """BYTES of shape [] in an image."""
    message = files(b"junk")
    del message.inputs[0].shape[:]
    with pytest.raises(BadInput, match=r"shape \[rows\]"):
        infer(message)


def test_more_classes_than_there_are_mean_all(infer):
    """However many more."""
    response = message_of(infer(classes("probabilities", uint64_param=2**64 - 1)))
    assert list(response.outputs[0].shape) == [1, 3]


def test_unsigned_scores_are_ranked_by_size():
    """Their negatives are not."""
    [best] = tensors.classes(np.array([[0, 7, 3]], np.uint8), (), 2).tolist()
    assert best == [b"7.000000:1", b"3.000000:2"]


@pytest.mark.parametrize("message", [request(pixels(400), model="digits-ae"), request(pixels(2000), outputs=())])
def test_an_answer_over_the_limit_is_refused_before_it_is_built(infer, message):
    """By the sizes of its arrays; the sentence names the setting."""
    if message.model_name == "digits":
        message.outputs.add(name="probabilities").parameters["classification"].int64_param = 3
    else:
        del message.outputs[:]
    with pytest.raises(TooLarge, match="--max-message-bytes"):
        infer(message).result(10)


def test_a_string_input_may_be_called_image(infer):
    """Only pixels can come as files."""
    raw = tensors.packed([b"a", "b€".encode()])
    assert message_of(infer(words([1, 2], raw))).raw_output_contents == [raw]


def test_text_that_is_not_utf_8_is_bad_input(infer):
    """Before it is in a batch with others."""
    with pytest.raises(BadInput, match="UTF-8"):
        infer(words([1, 1], tensors.packed([b"\xff"]))).result(10)


def elements(shape, values, form):
    message = words(shape, tensors.packed(values))
    if form == "typed":
        del message.raw_input_contents[:]
        message.inputs[0].contents.bytes_contents.extend(values)
    return message


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_elements_count_by_their_bytes(infer, form):
    """However they are written: 5,000 texts of 1,000 bytes take 5 MB as sent, and as much again as they are read."""
    message = elements([1, 5000], [bytes(1000)] * 5000, form)
    assert 10_000_000 < tensors.sent(message)[0].read_bytes < 11_000_000
    with pytest.raises(BadInput, match="--max-queue-bytes"):
        infer(message)


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_many_elements_are_read_by_another_thread(infer, decoder, form):
    """The caller's thread, a transport's, is free at once; the answer is the same."""
    held, go = threading.Event(), threading.Event()

    def steps():
        held.set()
        assert go.wait(10)
        yield

    decoder.work(steps(), Call("Test"), rows=0, size_bytes=0)
    assert held.wait(10)
    answer = infer(elements([1, 10_000], [b"x"] * 10_000, form))
    assert not answer.done()
    go.set()
    with pytest.raises(TooLarge):  # 50,000 bytes: they were all read, and given back
        answer.result(10)


@pytest.mark.parametrize("form", ["raw", "typed"])
def test_elements_that_nobody_has_room_for_are_refused_unread(infer, monkeypatch, form):
    """By their number, before one of them is looked at."""
    monkeypatch.delattr(tensors.Sent, "read_bytes")
    with pytest.raises(BadInput, match="--max-queue-bytes"):
        infer(elements([1, 1_000_000], [b""] * 1_000_000, form))


def test_what_the_model_does_not_take_is_refused_unread(infer):
    """By its name, datatype or shape: its contents, damaged here, are not looked at."""
    message = words([1_000_000], b"\xff" * 4_000_000)
    for model, word in (("nobody", "nobody"), ("echo", "shape"), ("digits", "--max-queue-rows")):
        message.model_name = model
        with pytest.raises(Exception, match=word):
            infer(message)


def test_a_load_that_takes_for_ever_holds_no_stop_up(registry, decoder):
    """Its thread is a daemon; who waits for its turn is told that the server is stopping."""
    entered, go = threading.Event(), threading.Event()

    def load(_name):
        entered.set()
        assert go.wait(10)

    registry.load = load
    service = InferenceService(registry, decoder, Telemetry(), version="0.0")
    asked = v2.RepositoryModelLoadRequest(model_name="digits")
    first, second = (service.load(asked, Call("RepositoryModelLoad")) for _ in range(2))
    assert entered.wait(10)
    service.close(0.0)
    with pytest.raises(Draining):
        second.result(0)
    go.set()
    first.result(10)


def test_reading_stops_where_the_caller_hangs_up():
    """Between two steps, each of a few thousand elements."""
    message = words([1, 100_000], bytes(400_000))
    steps = tensors.read(tensors.sent(message))
    assert sum(1 for _ in steps) == 100_000 // 4096
