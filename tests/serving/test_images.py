"""Decoding and fitting: the same pixels by every path, and never wrong ones."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from serving import decode_any, decode_plain, images
from serving.errors import BadInput

COLOUR = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
GRAY = COLOUR[..., 0]


def _smooth(height, width):
    """A picture as cameras make them: JPEG hardly changes it."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def encoded(picture, form="PNG", **options):
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(data):
    return images.decode(data).pixels


# ---- what each kind of image becomes ------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "TGA", "JPEG2000", "QOI"])
def test_lossless_colour_is_kept_to_the_bit(form):
    """Whatever the format, found by its content."""
    decoded = images.decode(encoded(COLOUR, form))
    np.testing.assert_array_equal(decoded.pixels, COLOUR)
    assert (decoded.format, decoded.mode, decoded.width, decoded.height) == (form, "RGB", 34, 21)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "PPM", "TGA", "JPEG2000"])
def test_lossless_gray_is_one_channel(form):
    """Gray stays gray: [height, width, 1]."""
    np.testing.assert_array_equal(pixels(encoded(GRAY, form)), GRAY[..., None])


def test_one_bit_becomes_black_and_white():
    """0 and 255, never 0 and 1."""
    got = pixels(encoded(Image.fromarray(GRAY).convert("1")))
    assert set(np.unique(got)) == {0, 255}


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_gray_keeps_its_high_byte(form):
    """Not clipped to white, as Pillow's own conversion does."""
    wide = (GRAY.astype(np.uint16) << 8) + 77
    np.testing.assert_array_equal(pixels(encoded(wide, form)), GRAY[..., None])


def test_sixteen_bit_portable_graymaps_follow_the_same_rule():
    """A dark 16-bit picture in PGM, which Pillow opens as 32-bit integers, stays dark."""
    wide = np.full((4, 5), 200, np.uint16)
    data = b"P5 5 4 65535\n" + wide.astype(">u2").tobytes()
    assert pixels(data).max() == 0


def test_sixteen_bit_colour_follows_the_same_rule():
    """Equal channels of 16 bits give what 16-bit gray gives."""
    wide = GRAY.astype(np.uint16) * 256 + 200
    rows = b"".join(b"\0" + np.repeat(row, 3).astype(">u2").tobytes() for row in wide)
    head = struct.pack(">IIBBBBB", 34, 21, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    colour = pixels(data)
    assert images.is_gray(colour)
    np.testing.assert_array_equal(colour[..., :1], pixels(encoded(wide)))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 256, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 255.0]], np.float32), [0, 100, 255]),
    ],
)
def test_wide_values_follow_the_written_rule(values, expected):
    """32-bit integers in 0…255 or 0…65535; floats in 0…1 or 0…255."""
    assert pixels(encoded(values, "TIFF")).ravel().tolist() == expected


@pytest.mark.parametrize(
    "values", [[[-1, 5]], [[0, 70000]], [[0.0, np.nan]], [[np.inf, 1.0]], [[-0.1, 1.0]], [[0.0, 300.0]]]
)
def test_wide_values_beyond_the_rule_are_refused(values):
    """Every guess would be wrong pixels, so there is none."""
    array = np.array(values)
    array = array.astype(np.int32 if array.dtype.kind == "i" else np.float32)
    with pytest.raises(BadInput, match="values go from"):
        images.decode(encoded(array, "TIFF"))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_composited_on_white(mode):
    """Alpha 0 is white whatever is hidden below it, 255 keeps the colour, 128 lies between."""
    channels = len(mode)
    picture = np.zeros((1, 3, channels), np.uint8)
    picture[0, :, -1] = [0, 255, 128]
    assert pixels(encoded(picture))[0, :, 0].tolist() == [255, 0, 127]


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(form):
    """Palettes with a transparent index."""
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    got = pixels(encoded(image, form, transparency=0))
    assert got.tolist() == [[[255, 255, 255], [0, 0, 200]]]


@pytest.mark.parametrize("mode", ["1", "L", "I;16"])
def test_a_transparent_gray_value_is_white(mode):
    """A PNG may name one value as transparent; in 1, 8 and 16 bits."""
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), {"1": 1, "L": 90, "I;16": 90 << 8}[mode])
    got = pixels(encoded(image, transparency=0))
    assert got.ravel().tolist() == [255, 255 if mode == "1" else 90]


def test_cmyk_and_palette_become_colour():
    """Three channels, near the colours that went in."""
    smooth = _smooth(40, 50)
    cmyk = pixels(encoded(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - smooth).mean() < 6
    palette = Image.fromarray(smooth).quantize(64)
    np.testing.assert_array_equal(pixels(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_an_animation_gives_its_first_picture():
    """GIF and multi-page TIFF."""
    frames = [Image.fromarray(GRAY), Image.fromarray(255 - GRAY)]
    for form in ("GIF", "TIFF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        np.testing.assert_array_equal(pixels(data)[..., 0], GRAY)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(orientation, form):
    """All eight, so that the picture stands as its camera saw it; width and height are the upright ones."""
    upright = _smooth(40, 64)
    undo = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[::-1],
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p.swapaxes(0, 1)[:, ::-1],
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {"quality": 98} if form == "JPEG" else {}
    decoded = images.decode(encoded(np.ascontiguousarray(undo[orientation](upright)), form, exif=exif, **options))
    assert (decoded.width, decoded.height) == (64, 40)
    assert np.abs(decoded.pixels.astype(int) - upright).max() <= (12 if form == "JPEG" else 0)
    assert decoded.pixels.flags.c_contiguous


# ---- one policy, two paths ----------------------------------------------------------------------


def _both(data):
    plain, general = decode_plain.decode(data, images.MAX_PIXELS), decode_any.decode(data, images.MAX_PIXELS)
    assert plain is not None
    np.testing.assert_array_equal(plain.pixels, general.pixels)
    assert (plain.format, plain.mode, plain.width, plain.height) == (
        general.format,
        general.mode,
        general.width,
        general.height,
    )
    return plain


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    colour=st.booleans(),
    noise=st.integers(0, 255),
    level=st.integers(0, 9),
)
def test_a_plain_png_has_the_same_pixels_by_both_paths(height, width, colour, noise, level):
    """The fast path is an economy, not another decoder: every size, filter and compression."""
    picture = _smooth(height, width) ^ np.random.default_rng(noise).integers(0, noise + 1, (height, width, 3), np.uint8)
    picture = picture if colour else picture[..., 0]
    decoded = _both(encoded(picture, compress_level=level))
    np.testing.assert_array_equal(decoded.pixels.reshape(picture.shape), picture)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["L", "RGB"]), height=st.integers(1, 9), width=st.integers(1, 9))
def test_pillows_decoder_by_itself_says_what_pillow_says(data, mode, height, width):
    """Rows unpacked without Pillow's wrapping are its pixels, filters included, or refused where it refuses them."""
    line = st.tuples(st.integers(0, 5), st.binary(min_size=width * len(mode), max_size=width * len(mode)))
    lines = data.draw(st.lists(line, min_size=max(0, height - 1), max_size=height + 1))
    rows = bytearray(zlib.compress(b"".join(bytes([kind]) + pixels for kind, pixels in lines)))
    if data.draw(st.booleans()):
        del rows[data.draw(st.integers(0, len(rows) - 1)) :]
    if rows and data.draw(st.booleans()):
        rows[data.draw(st.integers(0, len(rows) - 1))] ^= data.draw(st.integers(1, 255))

    def told(unpacked):
        try:
            return unpacked(mode, (width, height), bytes(rows))
        except ValueError:
            return None
        except OSError:
            return None

    assert told(decode_plain.unpacked_by_core) == told(decode_plain.unpacked_by_pillow)


def test_pillows_decoder_is_where_it_was():
    """The short way to it is in use with the Pillow that is installed; with one that moved it nothing else changes."""
    assert decode_plain._unpacked is decode_plain.unpacked_by_core


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}, {"quality": 30}, {"restart_marker_blocks": 2}],
)
def test_a_jpeg_has_the_pixels_that_pillow_gives(mode, options):
    """libjpeg-turbo directly and through Pillow agree to the bit, on odd sizes too."""
    for height, width in ((1, 1), (37, 53), (64, 64)):
        data = encoded(Image.fromarray(_smooth(height, width)).convert(mode), "JPEG", **options)
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image).reshape(height, width, -1)
        np.testing.assert_array_equal(_both(data).pixels, expected)


def test_what_needs_thought_is_not_plain():
    """Transparency, orientation, interlacing, palettes, 16 bits: all left to the general path."""
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = [
        encoded(GRAY, transparency=0),
        encoded(GRAY, exif=exif),
        encoded(GRAY, "JPEG", exif=exif),
        encoded(GRAY.astype(np.uint16)),
        encoded(Image.fromarray(GRAY).convert("P")),
        encoded(Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
        encoded(GRAY, "TIFF"),
    ]
    assert [decode_plain.decode(data, images.MAX_PIXELS) for data in cases] == [None] * len(cases)


# ---- refusals -----------------------------------------------------------------------------------


def _chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "no image"),
        (b"\x00" * 5000, "no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"\xff\xd8\xff", "."),
    ],
)
def test_what_is_no_image_is_refused_in_words(data, words):
    """Nothing is run on it either: EPS would be Ghostscript's."""
    with pytest.raises(BadInput, match=words):
        images.decode(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "AVIF", "JPEG2000"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_truncation_is_refused(form, mode):
    """Cut anywhere, the last byte included: never a picture with a gray lower half."""
    data = encoded(Image.fromarray(_smooth(24, 24)).convert(mode), form)
    whole = pixels(data)
    for length in {*range(min(len(data), 400)), *range(400, len(data), 7), *range(len(data) - 24, len(data))}:
        try:
            kept = pixels(data[:length])
        except BadInput:
            continue
        assert form == "BMP"  # its header may promise two bytes of padding that hold nothing
        np.testing.assert_array_equal(kept, whole)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), form=st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]))
def test_damage_is_refused_or_harmless_and_never_anything_else(data, form):
    """Any bytes changed, cut or put in: a picture or BadInput; where the format has checksums, the right picture."""
    whole = encoded(_smooth(16, 20), form)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        match data.draw(st.sampled_from(["change", "cut", "insert"])):
            case "change":
                damaged[position] = data.draw(st.integers(0, 255))
            case "cut":
                del damaged[position : position + data.draw(st.integers(1, 9))]
            case "insert":
                damaged[position:position] = data.draw(st.binary(min_size=1, max_size=9))
        if not damaged:
            return
    try:
        got = images.decode(bytes(damaged), max_pixels=100_000)
    except BadInput:
        return
    assert got.pixels.dtype == np.uint8
    assert got.pixels.shape[:2] == (got.height, got.width)
    if form == "PNG" and got.format == "PNG":
        np.testing.assert_array_equal(got.pixels, pixels(whole))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_that_its_decoder_only_warns_of_is_refused(mode):
    """Scans in an order that can't be: Pillow goes on without a word, and keeps other pixels."""
    picture = Image.fromarray(_smooth(48, 40)).convert(mode)
    data = bytearray(encoded(picture, "JPEG", progressive=True))
    scan = data.index(b"\xff\xda")  # marker, length, count, 2 bytes per component, first, last, and this one
    data[scan + 5 + 2 * data[scan + 4] + 2] = 0x21
    with pytest.raises(BadInput, match="damaged: Inconsistent progression"):
        images.decode(bytes(data))


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:1:1"])
def test_what_libjpegs_simple_interface_does_not_do_is_left_to_pillow(subsampling):
    """CMYK, and a sampling that has no name there, are no damage."""
    data = encoded(Image.fromarray(_smooth(48, 40)).convert("CMYK"), "JPEG", subsampling=subsampling)
    with Image.open(io.BytesIO(data)) as opened:
        assert (pixels(data) == np.asarray(opened.convert("RGB"))).all()


def test_a_png_with_a_wrong_checksum_is_refused_by_chunk():
    """Pillow skips the checksums of pixel data."""
    data = bytearray(encoded(GRAY))
    data[data.index(b"IDAT") + 9] ^= 1
    with pytest.raises(BadInput, match="chunk 'IDAT'"):
        images.decode(bytes(data))


def test_a_bomb_is_refused_by_its_header():
    """30000 x 30000 pixels in a few bytes: nothing is decoded, nothing warned."""
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    with warnings.catch_warnings(record=True) as caught, pytest.raises(BadInput, match="30000 x 30000"):
        images.decode(data)
    assert caught == []


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF"])
def test_the_pixel_limit_is_exact(form):
    """As many as allowed pass; one more does not."""
    data = encoded(GRAY, form)
    assert images.decode(data, max_pixels=21 * 34).width == 34
    with pytest.raises(BadInput, match=str(21 * 34 - 1)):
        images.decode(data, max_pixels=21 * 34 - 1)


def test_an_image_within_an_image_is_bounded_too():
    """An icon may claim 16 x 16 and hold a PNG of another size."""
    icon = bytearray(encoded(Image.fromarray(_smooth(256, 256)), "ICO", sizes=[(256, 256)]))
    icon[6:8] = bytes([16, 16])
    with pytest.raises(BadInput, match=r"65536 pixels; at most 5000 are allowed \(--max-image-pixels\)"):
        images.decode(bytes(icon), max_pixels=5000)


def test_odd_metadata_warns_nobody():
    """Pillow's warnings about broken EXIF stay inside; the pixels are good."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jpeg = encoded(GRAY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0")
        assert images.decode(jpeg).width == 34


# ---- by the header alone ------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_a_size_by_the_header(form):
    """Upright, as `decode` will have it."""
    assert images.claimed_size(encoded(COLOUR, form)) == (21, 34)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_a_size_heeds_the_orientation(form):
    """A picture on its side is told as it will stand."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(COLOUR, form, exif=exif)
    assert images.claimed_size(data) == images.decode(data).pixels.shape[:2] == (34, 21)


def test_a_size_decodes_nothing(monkeypatch):
    """Neither a PNG whose pixels are garbage, nor one whose orientation may come after them, is decoded for it."""
    whole = encoded(COLOUR)
    broken = whole[: whole.index(b"IDAT") + 8] + b"garbage"
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    for data in (whole, broken):
        assert images.claimed_size(data) == (21, 34)
        assert images.claimed_pixels(data) == 21 * 34
    assert images.claimed_size(b"no image") is None
