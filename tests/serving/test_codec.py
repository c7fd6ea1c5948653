"""Messages and arrays say the same thing."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from serving import codec, tensors
from serving.errors import BadInput
from serving.v1 import prediction_pb2 as v1
from serving.v2 import open_inference_pb2 as v2

BLOCKS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3]))
)
TYPED = {
    "bool": ("BOOL", "bool_contents"), "uint8": ("UINT8", "uint_contents"), "uint16": ("UINT16", "uint_contents"),
    "uint32": ("UINT32", "uint_contents"), "uint64": ("UINT64", "uint64_contents"),
    "int8": ("INT8", "int_contents"), "int16": ("INT16", "int_contents"), "int32": ("INT32", "int_contents"),
    "int64": ("INT64", "int64_contents"), "float32": ("FP32", "fp32_contents"),
    "float64": ("FP64", "fp64_contents"), "float16": ("FP16", None),
}  # fmt: skip


@given(BLOCKS)
def test_pixels_survive_the_message(block):
    """Byte for byte, and without a copy on the way in."""
    message = v1.PixelBlock.FromString(codec.pixel_block(block).SerializeToString())
    read = codec.pixels(message)
    assert np.array_equal(read, block)
    assert not read.flags.owndata


@given(BLOCKS, st.integers(-3, 3).filter(bool))
def test_data_of_another_length_is_refused(block, difference):
    """Neither cut nor padded."""
    message = codec.pixel_block(block)
    message.data = message.data[:difference] if difference < 0 else message.data + bytes(difference)
    with pytest.raises(BadInput, match="bytes"):
        codec.pixels(message)


@given(BLOCKS)
def test_a_png_is_read_back_by_others(block):
    """Pillow sees the pixels that were written."""
    read = np.asarray(Image.open(io.BytesIO(codec.png(block[0]))))
    assert np.array_equal(read.reshape(block[0].shape), block[0])


@given(arrays.arrays(np.float32, (3, 5), elements=st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.integers(0, 7))
def test_labels_come_best_first_and_ties_in_label_order(probabilities, top_k):
    """For every row, whatever the scores."""
    response = v1.ClassifyResponse()
    codec.add_classifications(response.results, probabilities, "abcde", top_k=top_k)
    for row, result in zip(probabilities, response.results, strict=True):
        expected = sorted(zip(row.tolist(), "abcde", strict=True), key=lambda pair: (-pair[0], pair[1]))
        got = [(score.probability, score.label) for score in result.labels]
        assert got == expected[: top_k or None]


ODD = [0.0, -0.0, 0.25, 1.0, float("nan"), float("inf"), float("-inf")]
SCORES = st.one_of(st.sampled_from(ODD), st.floats(0, 1, width=32))
NAMES = st.one_of(st.sampled_from(["a", "b", ""]), st.text(max_size=3), st.text("xyz", min_size=1, max_size=200))


@given(st.data(), st.integers(1, 9), st.integers(1, 6), st.integers(0, 7))
def test_results_written_by_hand_are_what_protobuf_writes(data, rows, classes, top_k):
    """To the byte: labels of any length, empty ones, zeros, few rows and many."""
    probabilities = data.draw(arrays.arrays(np.float32, (rows, classes), elements=SCORES))
    same_length = data.draw(st.booleans())
    names = st.text("abc", min_size=2, max_size=2) if same_length else NAMES
    labels = tuple(data.draw(st.lists(names, min_size=classes, max_size=classes)))
    head = v1.ClassifyResponse(model="m", version=3, request_id="r")
    write = codec.Classifications(labels, top_k=top_k)
    by_hand = b"".join((head.SerializeToString(), *write(probabilities)))
    codec.add_classifications(head.results, probabilities, labels, top_k=top_k)
    assert by_hand == head.SerializeToString()


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_probability_that_is_no_number_comes_last(rows):
    """In few rows as in many; sorting by comparisons alone would leave everything where it is."""
    probabilities = np.tile(np.array([np.nan, 0.25, np.inf, 0.5, np.nan, -np.inf], np.float32), (rows, 1))
    response = v1.ClassifyResponse.FromString(b"".join(codec.Classifications(tuple("abcdef"), top_k=0)(probabilities)))
    assert ["".join(score.label for score in result.labels) for result in response.results] == ["cdbfae"] * rows


@pytest.mark.parametrize("dtype", TYPED)
@given(data=st.data())
def test_tensors_survive_raw_and_typed(dtype, data):
    """All datatypes that have both forms; FP16 goes raw only."""
    array = data.draw(arrays.arrays(dtype, arrays.array_shapes(max_dims=3, min_side=0, max_side=4)))
    datatype, field = TYPED[dtype]
    message = v2.ModelInferRequest(raw_input_contents=[array.tobytes()])
    message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    assert tensors.read_now(tensors.sent(message))["x"].tobytes() == array.tobytes()
    if not array.size:
        return
    del message.raw_input_contents[:]
    if field is None:
        with pytest.raises(BadInput, match="raw_input_contents"):
            tensors.read_now(tensors.sent(message))
        return
    getattr(message.inputs[0].contents, field).extend(array.ravel().tolist())
    read = tensors.read_now(tensors.sent(message))["x"]
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(read, array)


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_survive_packing(values):
    """Each with its length before it."""
    message = v2.ModelInferRequest(raw_input_contents=[tensors.packed(values)])
    message.inputs.add(name="x", datatype="BYTES", shape=[len(values)])
    assert tensors.read_now(tensors.sent(message), files="x")["x"].tolist() == values


@given(st.binary(max_size=40), st.integers(0, 5))
def test_damaged_bytes_are_bad_input_or_what_they_say(raw, count):
    """No other error, and never another number of elements."""
    message = v2.ModelInferRequest(raw_input_contents=[raw])
    message.inputs.add(name="x", datatype="BYTES", shape=[count])
    try:
        read = tensors.read_now(tensors.sent(message), files="x")["x"]
    except BadInput:
        return
    assert tensors.packed(read.tolist()) == raw
