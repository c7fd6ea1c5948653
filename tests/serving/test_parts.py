"""A caller's images become requests of sensible size, in order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import codec
from serving.errors import BadInput
from serving.parts import split

SHAPES = [(2, 3), (2, 3, 1), (4, 1, 3)]
IMAGES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(SHAPES).map(lambda shape: np.full(shape, 7, np.uint8)),
        st.just("/nowhere/at/all.png"),
    ),
    max_size=30,
)


def flat(part):
    """What a part holds, one item per image."""
    if part.images is None:
        return list(part.merged(()))
    if part.images.WhichOneof("form") == "pixels":
        return list(codec.pixels(part.images.pixels))
    return list(part.merged(part.images.encoded.files))


@given(IMAGES, st.integers(1, 5), st.integers(1, 60))
def test_nothing_is_lost_doubled_or_moved(images, max_images, max_bytes):
    """Whatever the mixture; and no part is longer than allowed."""
    parts = [flat(part) for part in split(images, max_images=max_images, max_bytes=max_bytes)]
    assert all(0 < len(part) <= max_images for part in parts)
    items = [item for part in parts for item in part]
    for image, item in zip(images, items, strict=True):
        if isinstance(image, np.ndarray):
            assert np.array_equal(image.reshape(item.shape), item)
        elif isinstance(image, bytes):
            assert item == image
        else:
            assert item.code == "NOT_FOUND"


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 200))
def test_a_block_is_cut_by_rows_and_bytes(rows, max_images, max_bytes):
    """At least one row to a part, however large a row is."""
    block = np.arange(rows * 12, dtype=np.uint8).reshape(rows, 2, 6, 1)
    parts = list(split(block, max_images=max_images, max_bytes=max_bytes))
    sizes = [part.images.pixels.rows for part in parts]
    assert all(1 <= size <= max(1, min(max_images, max_bytes // 12)) for size in sizes)
    assert b"".join(part.images.pixels.data for part in parts) == block.tobytes()


@pytest.mark.parametrize(
    ("images", "word"),
    [
        ("cat.png", "one str"),
        (b"bytes", "one bytes"),
        ([3], "int"),
        (np.zeros((1, 2, 2, 1), np.float32), "float32"),
        (np.zeros((1, 2, 2, 4), np.uint8), r"\[1, 2, 2, 4\]"),
        (np.zeros((2, 2, 1), np.uint8), r"\[2, 2, 1\]"),
    ],
)
def test_what_is_no_images_is_refused(images, word):
    """With what was received; one image is not taken for several."""
    with pytest.raises(BadInput, match=word):
        list(split(images, max_images=9, max_bytes=99))


@pytest.mark.parametrize("shape", [(2, 2, 4), (2,), (1, 2, 2, 3), (0, 2, 1), (0, 2)])
def test_an_array_of_other_pixels_fails_alone(shape):
    """As a file does that can't be read: its neighbours go on, in their places."""
    good, wrong = np.full((2, 2, 3), 7, np.uint8), np.zeros(shape, np.uint8)
    for bad in (wrong, good.astype(np.float32)):
        parts = [flat(part) for part in split([good, bad, b"file", bad, good], max_images=9, max_bytes=999)]
        first, failed, file, again, last = [item for part in parts for item in part]
        assert np.array_equal(first, good)
        assert np.array_equal(last, good)
        assert file == b"file"
        assert failed == again
        assert failed.code == "INVALID_ARGUMENT"
        assert f"{bad.dtype} {list(bad.shape[:2])}"[:-1] in failed.message
