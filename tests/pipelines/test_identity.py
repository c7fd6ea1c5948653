"""The identity of a picture: one picture, one name, whatever file it came in."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.identity import content_hash

GRAY = np.random.default_rng(0).integers(0, 256, (21, 34), np.uint8)


def test_a_known_picture_has_a_known_hash():
    """The hash is BLAKE3's first 16 bytes over height, width and pixels: ledgers hold it for years."""
    assert content_hash(np.arange(6, dtype=np.uint8).reshape(2, 3, 1)) == "8bce9e517327ff230094003c00877661"


def test_equal_channels_hash_as_gray():
    """Colour without colour is the gray picture; one pixel off is another one."""
    repeated = np.repeat(GRAY[..., None], 3, axis=2)
    assert content_hash(repeated) == content_hash(GRAY[..., None])
    repeated[-1, -1, 2] ^= 1
    assert content_hash(repeated) != content_hash(GRAY[..., None])


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_shape_is_part_of_the_hash(height, width):
    """The same bytes in another shape are another picture."""
    flat = np.arange(height * width, dtype=np.uint8)
    one, other = flat.reshape(height, width, 1), flat.reshape(width, height, 1)
    assert (content_hash(one) == content_hash(other)) == (height == width)
