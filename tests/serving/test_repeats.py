"""A request found by the bytes of an earlier one says what protobuf reads in it, whatever its contents are."""

import tracemalloc
from typing import Any, NamedTuple

import pytest
from google.protobuf.message import DecodeError
from hypothesis import event, given
from hypothesis import strategies as st

from serving import inference, service, wire
from serving.repeats import Forms, Repeat
from serving.v1 import prediction_pb2 as v1
from serving.v2 import open_inference_pb2 as v2

text = st.text(max_size=5)
tensors = st.builds(
    lambda name, datatype, shape: v2.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape),
    text,
    st.sampled_from(("UINT8", "FP32", "BYTES", "")),
    st.lists(st.integers(-1, 2**40), max_size=3),
)
requests = st.builds(
    lambda name, version, id_, inputs, outputs, raw: v2.ModelInferRequest(
        model_name=name,
        model_version=version,
        id=id_,
        inputs=inputs,
        outputs=[v2.ModelInferRequest.InferRequestedOutputTensor(name=output) for output in outputs],
        raw_input_contents=raw,
    ),
    text,
    text,
    st.sampled_from(("", "", "id")),
    st.lists(tensors, max_size=2),
    st.lists(text, max_size=2),
    st.lists(st.binary(max_size=300), max_size=2),
)
images = st.one_of(
    st.builds(
        lambda data, *sizes: v1.Images(
            pixels=v1.PixelBlock(rows=sizes[0], height=sizes[1], width=sizes[2], channels=sizes[3], data=data)
        ),
        st.binary(max_size=300),
        *[st.integers(0, 300)] * 4,
    ),
    st.builds(
        lambda files: v1.Images(encoded=v1.EncodedImages(files=files)), st.lists(st.binary(max_size=300), max_size=2)
    ),
    st.just(v1.Images()),
)
asked = {
    "model": text,
    "version": st.integers(-1, 300),
    "images": images,
    "request_id": st.sampled_from(("", "", "id")),
}


class Kind(NamedTuple):
    """A message that has forms, where its contents are, and what becomes of one when they are others."""

    message: Any
    path: Any
    repeats: Any
    contents: Any
    put: Any
    requests: Any

    def forms(self):
        return Forms(self.message, path=self.path, repeats=self.repeats)


def raw(message):
    return message.raw_input_contents[0]


def put_raw(message, contents):
    message.raw_input_contents[0] = contents


def pixels(message):
    return message.images.pixels.data


def put_pixels(message, contents):
    message.images.pixels.data = contents


INFER = Kind(v2.ModelInferRequest, inference._CONTENTS, inference._repeats, raw, put_raw, requests)
OF_PIXELS = service._CONTENTS, service._repeats, pixels, put_pixels
CLASSIFY = Kind(v1.ClassifyRequest, *OF_PIXELS, st.builds(v1.ClassifyRequest, top_k=st.integers(0, 300), **asked))
RECONSTRUCT = Kind(v1.ReconstructRequest, *OF_PIXELS, st.builds(v1.ReconstructRequest, form=st.integers(0, 3), **asked))
KINDS = pytest.mark.parametrize("kind", [INFER, CLASSIFY, RECONSTRUCT], ids=["infer", "classify", "reconstruct"])


def request(raw=b"abc", **fields):
    return v2.ModelInferRequest(
        model_name="m", inputs=[{"name": "x", "datatype": "UINT8", "shape": [3]}], raw_input_contents=[raw], **fields
    )


def classify(data=b"abc", *, model="m", **fields):
    block = v1.PixelBlock(rows=1, height=1, width=len(data), channels=1, data=data)
    return v1.ClassifyRequest(model=model, images=v1.Images(pixels=block), **fields)


def whole(read):
    return read.whole() if isinstance(read, Repeat) else read


@KINDS
@given(data=st.data())
def test_what_is_read_is_what_protobuf_reads(kind, data):
    forms = kind.forms()
    for message in data.draw(st.lists(kind.requests, min_size=1, max_size=6)):
        sent = [message]
        contents = kind.contents(message) if kind.repeats(message) else b""
        if contents:
            other = kind.message()
            other.CopyFrom(message)
            kind.put(other, data.draw(st.binary(min_size=len(contents), max_size=len(contents))))
            sent.append(other)
        for one in sent:
            read = forms.read(one.SerializeToString())
            assert isinstance(read, Repeat) == bool(contents)
            assert whole(read) == one
            if isinstance(read, Repeat):
                assert put_together(kind, read) == one


def put_together(kind, read):
    same = kind.message()
    same.CopyFrom(read.repeated.message)
    kind.put(same, read.contents)
    return same


def long_varint(number, more):
    """As it may be written too: with `more` bytes that add nothing."""
    short = wire.varint(number)
    return short[:-1] + bytes((short[-1] | 128,)) + b"\x80" * (more - 1) + b"\0" if more else short


numbers = st.integers(1, 15)
longer = st.sampled_from((*[0] * 20, 1, 3, 8))


def field_of(value, number=numbers):
    """A field of bytes, or of a message."""
    return st.builds(
        lambda number, value, a, b: long_varint(number << 3 | 2, a) + long_varint(len(value), b) + value,
        number,
        value,
        longer,
        longer,
    )


noise = st.one_of(
    st.builds(
        lambda number, value, more: wire.varint(number << 3) + long_varint(value, more), numbers, numbers, longer
    ),
    st.builds(lambda number, value: wire.varint(number << 3 | 1) + value, numbers, st.binary(min_size=8, max_size=8)),
    st.builds(lambda number, value: wire.varint(number << 3 | 5) + value, numbers, st.binary(min_size=4, max_size=4)),
    st.builds(lambda number: wire.varint(number << 3 | 3) + wire.varint(number << 3 | 4), st.just(15)),
    field_of(st.binary(max_size=3)),
)


@st.composite
def wires(draw, kind):
    """A message with contents, and with anything else before and behind them on every floor."""
    written = draw(st.binary(min_size=1, max_size=200))
    for field in reversed(kind.path):
        fields = [draw(field_of(st.just(written), st.just(field))), *draw(st.lists(noise, max_size=2))]
        written = b"".join(draw(st.permutations(fields)))
    if kind is INFER:
        written = request().SerializeToString().removesuffix(b"\x3a\x03abc") + written
    return written


@KINDS
@given(data=st.data())
def test_any_bytes_with_other_contents_are_read_as_protobuf_does(kind, data):
    """Fields in any order, several times, unknown, of another kind, or with lengths in too many bytes."""
    sent = data.draw(wires(kind))
    forms = kind.forms()
    try:
        expected = kind.message.FromString(sent)
    except DecodeError:
        with pytest.raises(DecodeError):
            forms.read(sent)
        return
    first = forms.read(sent)
    assert whole(first) == expected
    if not isinstance(first, Repeat):
        return
    event("has a form")
    head, tail = first.repeated.head, first.repeated.tail
    size = len(sent) - len(head) - len(tail)
    again = head + data.draw(st.binary(min_size=size, max_size=size)) + tail
    second = forms.read(again)
    assert second.repeated is first.repeated
    assert whole(second) == put_together(kind, second) == kind.message.FromString(again)


@pytest.mark.parametrize("kind", [INFER, CLASSIFY], ids=["infer", "classify"])
@given(noise=st.binary(max_size=60), at=st.integers(0, 60))
def test_damaged_bytes_are_refused_or_read_as_protobuf_does(kind, noise, at):
    forms = kind.forms()
    good = (request() if kind is INFER else classify()).SerializeToString()
    forms.read(good)
    damaged = good[:at] + noise + good[at + len(noise) :]
    try:
        expected = kind.message.FromString(damaged)
    except DecodeError:
        with pytest.raises(DecodeError):
            forms.read(damaged)
    else:
        assert whole(forms.read(damaged)) == expected


def test_the_second_of_a_form_is_not_parsed():
    forms = INFER.forms()
    first, second = (forms.read(request(raw).SerializeToString()) for raw in (b"abc", b"xyz"))
    assert second.repeated is first.repeated
    assert second.contents == b"xyz"


def test_what_follows_the_contents_belongs_to_the_form():
    """Two requests that differ behind their pixels alone are of two forms."""
    forms = CLASSIFY.forms()
    two, three = (forms.read(classify(top_k=top_k).SerializeToString()) for top_k in (2, 3))
    assert two.repeated is not three.repeated
    assert (two.top_k, three.top_k) == (2, 3)


def test_contents_that_stand_elsewhere_in_the_message_are_not_mistaken():
    """A model named like its pixels is asked for by its name, not by the pixels of the next request."""
    forms = CLASSIFY.forms()
    forms.read(classify(b"a", model="a").SerializeToString())
    read = forms.read(classify(b"b", model="a").SerializeToString())
    assert (read.model, read.contents) == ("a", b"b")


@pytest.mark.parametrize(
    "message",
    [
        request(id="a"),
        request(parameters={"a": v2.InferParameter(bool_param=True)}),
        v2.ModelInferRequest(model_name="m" * 2000, inputs=[{"name": "x"}], raw_input_contents=[b"abc"]),
        v2.ModelInferRequest(model_name="m", inputs=[{"name": "x"}, {"name": "y"}], raw_input_contents=[b"a", b"b"]),
        v2.ModelInferRequest(model_name="m", inputs=[{"name": "x"}]),
        v2.ModelInferRequest(model_name="m", inputs=[{"name": "x", "datatype": "BYTES"}], raw_input_contents=[b"abc"]),
        request(outputs=[{}] * 100),
    ],
    ids=["id", "parameters", "long", "two inputs", "typed", "files", "many fields"],
)
def test_what_is_hardly_repeated_has_no_form(message):
    assert INFER.forms().read(message.SerializeToString()) == message


def test_fields_in_another_order_than_protobufs_belong_to_the_form():
    parts = request(), v2.ModelInferRequest(model_version="1")
    data = b"".join(part.SerializeToString() for part in parts)
    read = INFER.forms().read(data)
    assert read.repeated.tail
    assert put_together(INFER, read) == v2.ModelInferRequest.FromString(data)


def test_contents_that_stand_there_twice_have_no_form():
    """Protobuf takes the last ones, or joins the messages around them."""
    data = classify().SerializeToString() * 2
    assert CLASSIFY.forms().read(data) == v1.ClassifyRequest.FromString(data)


def test_callers_who_never_repeat_themselves_fill_no_memory():
    forms = INFER.forms()
    for number in range(1000):
        forms.read(request(b"a" * (number % 7), model_version=str(number)).SerializeToString())
    assert sum(map(len, forms._by_length.values())) == len(forms._lengths) == 128
    assert all(forms._by_length.values())


def test_a_form_too_many_takes_the_place_of_the_oldest_alone():
    forms = INFER.forms()
    first, *others = [request(b"abc", model_version=str(number)).SerializeToString() for number in range(129)]
    old = [forms.read(data).repeated for data in (first, *others)]
    assert [forms.read(data).repeated for data in others] == old[1:]
    assert forms.read(first).repeated is not old[0]


def test_a_new_form_of_many_bytes_costs_no_copy_of_them():
    forms = INFER.forms()
    data = request(bytes(2**24)).SerializeToString()
    tracemalloc.start()
    try:
        form = forms._form(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert form is not None
    assert most < 2**20


@pytest.mark.parametrize(
    "message",
    [classify(request_id="a"), v1.ClassifyRequest(images=v1.Images(encoded=v1.EncodedImages(files=[b"abc"])))],
    ids=["id", "files"],
)
def test_what_is_hardly_classified_again_has_no_form(message):
    assert CLASSIFY.forms().read(message.SerializeToString()) == message
