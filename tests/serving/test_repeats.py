"""A request found by the bytes of an earlier one says what protobuf reads in it, whatever its contents are."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from serving.repeats import Forms, Repeat
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


def request(raw=b"abc", **fields):
    return v2.ModelInferRequest(
        model_name="m", inputs=[{"name": "x", "datatype": "UINT8", "shape": [3]}], raw_input_contents=[raw], **fields
    )


def whole(read):
    return read.whole() if isinstance(read, Repeat) else read


@given(st.lists(requests, min_size=1, max_size=6), st.data())
def test_what_is_read_is_what_protobuf_reads(messages, data):
    forms = Forms()
    for message in messages:
        contents = [data.draw(st.binary(min_size=len(raw), max_size=len(raw))) for raw in message.raw_input_contents]
        for raws in (message.raw_input_contents, contents):
            sent = v2.ModelInferRequest()
            sent.CopyFrom(message)
            sent.ClearField("raw_input_contents")
            sent.raw_input_contents.extend(raws)
            read = forms.read(sent.SerializeToString())
            assert whole(read) == sent
            if isinstance(read, Repeat):
                same = v2.ModelInferRequest()
                same.CopyFrom(read.form.message)
                same.raw_input_contents.append(read.contents)
                assert same == sent
                assert (read.model_name, read.model_version, read.id) == (sent.model_name, sent.model_version, sent.id)
                assert read.parameters == sent.parameters


@given(st.binary(max_size=60), st.integers(0, 60))
def test_damaged_bytes_are_refused_or_read_as_protobuf_does(noise, at):
    forms = Forms()
    good = request().SerializeToString()
    forms.read(good)
    damaged = good[:at] + noise + good[at + len(noise) :]
    try:
        expected = v2.ModelInferRequest.FromString(damaged)
    except DecodeError:
        with pytest.raises(DecodeError):
            forms.read(damaged)
    else:
        assert whole(forms.read(damaged)) == expected


def test_the_second_of_a_form_is_not_parsed():
    forms = Forms()
    first, second = (forms.read(request(raw).SerializeToString()) for raw in (b"abc", b"xyz"))
    assert second.form is first.form
    assert second.contents == b"xyz"


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
    assert Forms().read(message.SerializeToString()) == message


def test_fields_in_another_order_than_protobufs_have_no_form():
    parts = request(), v2.ModelInferRequest(model_version="1")
    data = b"".join(part.SerializeToString() for part in parts)
    assert Forms().read(data) == v2.ModelInferRequest.FromString(data)


def test_callers_who_never_repeat_themselves_fill_no_memory():
    forms = Forms()
    for number in range(1000):
        forms.read(request(b"a" * (number % 7), model_version=str(number)).SerializeToString())
    assert sum(map(len, forms._by_length.values())) <= 128
