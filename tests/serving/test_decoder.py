"""The decoder's limits: what a request may cost, what may wait, and what a hang-up ends."""

from __future__ import annotations

import threading
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from serving.calls import Call
from serving.codec import png
from serving.decoder import REQUEST_IMAGES, Decoder
from serving.errors import BadInput, DeadlineExceeded, Overloaded
from serving.images import ImageSpec
from serving.telemetry import Telemetry

SPEC = ImageSpec(4, 4, 1)
SMALL = png(np.zeros((4, 4, 1), np.uint8))


@pytest.fixture
def decoder():
    decoder = Decoder(threads=1, max_image_pixels=100, max_queue_rows=100, max_queue_bytes=5000, telemetry=Telemetry())
    yield decoder
    decoder.close(10)


@pytest.fixture
def busy(decoder):
    """The decoder with its thread in a step that takes until the event is set."""
    entered, go = threading.Event(), threading.Event()

    def steps():
        entered.set()
        assert go.wait(10)
        yield

    decoder.work(steps(), Call("Test"), rows=0, size_bytes=0)
    assert entered.wait(10)
    yield decoder, go
    go.set()


def image(width, height, *, damaged=False):
    file = BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    data = bytearray(file.getvalue())
    if damaged:
        data[-20] ^= 1
    return bytes(data)


@pytest.mark.parametrize("damaged", [False, True])
def test_the_images_of_a_request_have_a_budget_of_pixels_together(decoder, damaged):
    """Each within the limit is not enough; damaged ones count, for they cost the same."""
    most = [image(10, 10, damaged=damaged)] * REQUEST_IMAGES
    rows = decoder.read(most, SPEC, Call("Classify")).result(10)
    assert len(rows.pixels) + len(rows.failures) == REQUEST_IMAGES
    with pytest.raises(BadInput, match="--max-image-pixels = 100"):
        decoder.read([*most, SMALL], SPEC, Call("Classify")).result(10)


def test_an_image_refused_by_its_header_costs_nothing_of_the_budget(decoder):
    """It is a failure of its own, however many there are."""
    rows = decoder.read([image(20, 20)] * 30 + [b"junk", SMALL], SPEC, Call("Classify")).result(10)
    assert (len(rows.failures), len(rows.pixels)) == (31, 1)


def test_bytes_that_wait_are_bounded(busy):
    """As images are; and what is done or cancelled counts no more."""
    decoder, go = busy
    with pytest.raises(BadInput, match="--max-queue-bytes = 5000"):
        decoder.read([bytes(5000)], SPEC, Call("Classify"))
    waiting = decoder.read([bytes(4000)], SPEC, Call("Classify"))
    with pytest.raises(Overloaded, match="--max-queue-bytes"):
        decoder.read([bytes(1000)], SPEC, Call("Classify"))
    waiting.cancel()
    after = decoder.read([bytes(4000)], SPEC, Call("Classify"))
    go.set()
    assert after.result(10).failures.keys() == {0}
    assert decoder.read([bytes(4000)], SPEC, Call("Classify")).result(10).failures.keys() == {0}


def test_rows_that_are_larger_than_what_was_sent_count_as_what_they_become(decoder):
    """A thousand bytes must not become a million."""
    with pytest.raises(BadInput, match="--max-queue-bytes"):
        decoder.fit(np.zeros((10, 1, 1, 1), np.uint8), ImageSpec(100, 100, 3), Call("Classify"))


def test_images_that_wait_are_bounded(decoder):
    """By the setting that the sentence names."""
    with pytest.raises(BadInput, match="--max-queue-rows = 100"):
        decoder.read([b""] * 101, SPEC, Call("Classify"))


def test_too_many_files_are_refused_by_their_number(decoder):
    """None of them is looked at."""

    class Untouchable(list):
        def __iter__(self):
            raise AssertionError

    with pytest.raises(BadInput, match="--max-queue-rows = 100"):
        decoder.read(Untouchable([b""] * 101), SPEC, Call("Classify"))


def test_a_deadline_ends_the_decoding(decoder):
    """Before the next image."""
    with pytest.raises(DeadlineExceeded):
        decoder.read([SMALL], SPEC, Call("Classify", deadline=0.0)).result(10)


def test_what_becomes_of_a_stop(busy):
    """The one in work is not waited for longer than was said."""
    decoder, _ = busy
    waiting = decoder.read([SMALL], SPEC, Call("Classify"))
    decoder.close(0.0)
    assert waiting.exception(0) is not None
