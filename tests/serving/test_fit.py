"""Fitting: one picture, one answer."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving import images
from serving.errors import BadInput
from serving.images import ImageSpec

COLOUR = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
GRAY = COLOUR[..., 0]

# ---- fit ----------------------------------------------------------------------------------------

_specs = st.builds(
    ImageSpec,
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 3]),
    st.sampled_from(["stretch", "pad", "crop"]),
)


@settings(max_examples=150)
@given(spec=_specs, height=st.integers(1, 60), width=st.integers(1, 60), channels=st.sampled_from([1, 3]))
def test_fitting_gives_what_was_asked_for(spec, height, width, channels):
    """Every size from every size, in every way, and the same at the second time."""
    picture = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
    fitted = images.fit(picture, spec)
    assert (fitted.shape, fitted.dtype) == (spec.shape, np.uint8)
    np.testing.assert_array_equal(images.fit(picture, spec), fitted)
    np.testing.assert_array_equal(images.fit(fitted, spec), fitted)


@settings(max_examples=60)
@given(spec=_specs, value=st.integers(0, 255))
def test_equal_channels_fit_as_the_gray_picture_does(spec, value):
    """Whether a gray picture was saved as colour makes no difference to a model."""
    gray = np.random.default_rng(value).integers(0, 256, (17, 23, 1), np.uint8)
    np.testing.assert_array_equal(images.fit(np.repeat(gray, 3, axis=2), spec), images.fit(gray, spec))


def test_shrinking_is_antialiased():
    """One-pixel stripes become gray, not black or white as by picking pixels."""
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(images.fit(stripes, ImageSpec(16, 16, 1)).astype(int) - 127).max() <= 16


def test_pad_adds_black_and_crop_cuts_about_the_centre():
    """A white 10 x 20 picture with a black centre line."""
    picture = np.full((10, 20, 1), 255, np.uint8)
    padded = images.fit(picture, ImageSpec(20, 20, 1, "pad"))
    assert padded[:5].max() == 0
    assert padded[5:15].min() == 255
    assert padded[15:].max() == 0
    picture[:, :5] = picture[:, 15:] = 9
    assert images.fit(picture, ImageSpec(10, 10, 1, "crop")).min() == 255


def test_read_is_decode_then_fit():
    """What the server calls on an encoded file is what ingest does."""
    spec = ImageSpec(8, 8, 1)
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "PNG")
    np.testing.assert_array_equal(images.read(buffer.getvalue(), spec), images.fit(COLOUR, spec))


@pytest.mark.parametrize(
    "values", [(0, 5, 1), (5, -1, 1), (5, 5, 2), (5, 5, True), (70_000, 5, 1), (5.0, 5, 1), (5, 5, 1, "squeeze")]
)
def test_a_specification_that_no_image_has_is_refused(values):
    """Sides, channels and ways to resize are checked when it is made."""
    with pytest.raises(BadInput, match="Received"):
        ImageSpec(*values)
