"""Weights, maps and pixels as pictures: what a colour means is the same everywhere."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pipelines import pictures


def opened(png):
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))


def test_a_filter_is_red_above_zero_white_at_it_and_blue_below():
    """The largest weight has full colour, on whichever side; zero is white."""
    seen = opened(pictures.weights(np.array([[[-2.0]], [[0.0]], [[1.0]], [[2.0]]], np.float32)))[:, 0]
    assert tuple(seen[0]) == pictures.NEGATIVE
    assert tuple(seen[1]) == pictures.ZERO
    assert tuple(seen[3]) == pictures.POSITIVE
    assert seen[2][0] > seen[3][0], "half the weight is paler"


def test_a_colour_filter_shows_the_colour_it_looks_for():
    """Three channels: gray is nothing, and a weight on red alone is reddish."""
    seen = opened(pictures.weights(np.array([[[0, 0, 0], [1, 0, 0]]], np.float32)))[0]
    assert len(set(seen[0].tolist())) == 1
    assert seen[1][0] == 255
    assert seen[1][1] == seen[0][1]


@pytest.mark.parametrize("broken", [np.zeros((2, 3, 3)), np.full((2, 3, 3), np.nan), np.full((2, 3, 3), np.inf)])
def test_dead_and_broken_units_are_black(broken):
    """A unit that is zero everywhere, or no number at all, divides nothing by nothing."""
    assert all(not opened(one).any() for one in pictures.feature_maps(broken.astype(np.float32)))


def test_maps_of_one_unit_share_their_scale():
    """An image that excites a unit half as much is half as bright."""
    weak, strong = (opened(one).max() for one in pictures.feature_maps(np.stack([np.eye(3), 2 * np.eye(3)])))
    assert strong == 255
    assert weak == pytest.approx(128, abs=1)


@pytest.mark.parametrize(("shape", "wanted"), [((10, 20, 1), (10, 20)), ((400, 200, 3), (96, 48)), ((1, 1, 3), (1, 1))])
def test_thumbnails_are_never_enlarged_and_never_large(shape, wanted):
    """At most 96 pixels a side, in their own proportions; they open from their address."""
    address = pictures.data_url(pictures.thumbnail(np.full(shape, 7, np.uint8)))
    png = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    assert opened(png).shape[:2] == wanted
    assert (opened(png) == 7).all()
