"""A request found by the bytes of an earlier one says what protobuf reads in it, whatever its contents are."""

from typing import Any, NamedTuple

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from serving import inference, service
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
    """A message that has forms, and what becomes of one when its contents are others."""

    message: Any
    contents: Any
    put: Any
    requests: Any

    def forms(self):
        return Forms(self.message, contents=self.contents, put=self.put)


INFER = Kind(v2.ModelInferRequest, inference._contents, inference._put, requests)
CLASSIFY = Kind(
    v1.ClassifyRequest,
    service._pixels,
    service._put,
    st.builds(v1.ClassifyRequest, top_k=st.integers(0, 300), **asked),
)
RECONSTRUCT = Kind(
    v1.ReconstructRequest,
    service._pixels,
    service._put,
    st.builds(v1.ReconstructRequest, form=st.integers(0, 3), **asked),
)


def request(raw=b"abc", **fields):
    return v2.ModelInferRequest(
        model_name="m", inputs=[{"name": "x", "datatype": "UINT8", "shape": [3]}], raw_input_contents=[raw], **fields
    )


def classify(data=b"abc", *, model="m", **fields):
    block = v1.PixelBlock(rows=1, height=1, width=len(data), channels=1, data=data)
    return v1.ClassifyRequest(model=model, images=v1.Images(pixels=block), **fields)


def whole(read):
    return read.whole() if isinstance(read, Repeat) else read


@pytest.mark.parametrize("kind", [INFER, CLASSIFY, RECONSTRUCT], ids=["infer", "classify", "reconstruct"])
@given(data=st.data())
def test_what_is_read_is_what_protobuf_reads(kind, data):
    forms = kind.forms()
    for message in data.draw(st.lists(kind.requests, min_size=1, max_size=6)):
        sent = [message]
        contents = kind.contents(message)
        if contents is not None:
            other = kind.message()
            other.CopyFrom(message)
            kind.put(other, data.draw(st.binary(min_size=len(contents), max_size=len(contents))))
            sent.append(other)
        for one in sent:
            read = forms.read(one.SerializeToString())
            assert isinstance(read, Repeat) == bool(contents)
            assert whole(read) == one
            if isinstance(read, Repeat):
                same = kind.message()
                same.CopyFrom(read.repeated.message)
                kind.put(same, read.contents)
                assert same == one


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
    ],
    ids=["id", "parameters", "long", "two inputs", "typed"],
)
def test_what_is_hardly_repeated_has_no_form(message):
    assert INFER.forms().read(message.SerializeToString()) == message


def test_fields_in_another_order_than_protobufs_have_no_form():
    parts = request(), v2.ModelInferRequest(model_version="1")
    data = b"".join(part.SerializeToString() for part in parts)
    assert INFER.forms().read(data) == v2.ModelInferRequest.FromString(data)


def test_callers_who_never_repeat_themselves_fill_no_memory():
    forms = INFER.forms()
    for number in range(1000):
        forms.read(request(b"a" * (number % 7), model_version=str(number)).SerializeToString())
    assert sum(map(len, forms._by_length.values())) <= 128


@pytest.mark.parametrize(
    "message",
    [classify(request_id="a"), v1.ClassifyRequest(images=v1.Images(encoded=v1.EncodedImages(files=[b"abc"])))],
    ids=["id", "files"],
)
def test_what_is_hardly_classified_again_has_no_form(message):
    assert CLASSIFY.forms().read(message.SerializeToString()) == message
