"""A wild folder: every odd file is accounted for, nothing trips, nothing is touched, no wrong pixels are kept."""

from __future__ import annotations

import io
import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines import manifest
from pipelines.config import DataRecipe
from pipelines.dataset import Snapshot
from pipelines.identity import content_hash
from pipelines.ingest import ingest
from pipelines.journal import Canvas, Chunk, Shelf, decode_chunk
from serving.images import decode
from tests.pipelines.image_folders import encoded, labelled, picture, put, state


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def modes(root: Path) -> dict[str, str]:
    """One file of every mode and format that must be used; path -> mode."""
    rng = np.random.default_rng(12_345)
    made = {}

    def add(name: str, image: Image.Image, **options) -> None:
        image.save(root / name, **options)
        made[f"{root.name}/{name}"] = image.mode

    gray = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    add("bits.png", Image.fromarray(rng.integers(0, 2, (8, 8)).astype(bool)))
    add("palette.gif", colour.quantize(16))
    add("transparent.png", colour.quantize(8), transparency=3)
    add("la.png", Image.merge("LA", [gray, gray.rotate(90)]))
    add("rgba.webp", Image.merge("RGBA", [*colour.split(), gray]), lossless=True)
    add("cmyk.jpg", colour.convert("CMYK"))
    add("deep.png", Image.fromarray(rng.integers(0, 2**16, (8, 8), dtype=np.uint16)))
    add("float.tif", Image.fromarray(rng.random((8, 8), dtype=np.float32)))
    add("animated.gif", gray.convert("P"), save_all=True, append_images=[gray.rotate(90).convert("P")])
    add("pages.tif", colour, save_all=True, append_images=[colour.rotate(90)])
    add("jpeg-called.png", colour.rotate(180), format="JPEG")
    add("no-extension", colour.rotate(270), format="BMP")
    turned = Image.Exif()
    turned[0x0112] = 6
    add("turned.jpg", colour.resize((8, 6)), exif=turned)
    return made


def nasty(root: Path) -> dict[str, str]:
    """One of every file that must be quarantined or ignored; path -> a word of the reason."""
    whole = encoded(picture(1, height=64, width=64))
    photo = encoded(picture(2, height=64, width=64, channels=3), "JPEG")
    contents = {
        "empty.png": (b"", "empty"),
        "text.png": (b"not an image at all", "no image"),
        "notes.txt": (b"hello", "no image"),
        "half.png": (whole[: len(whole) // 2], "trunc"),
        "no-end.png": (whole[:-12], "trunc"),
        "half.jpg": (photo[: len(photo) // 2], "trunc"),
        "bomb.png": (png_of(60_000, 60_000), "60000 x 60000"),
        "flipped.png": (whole[:100] + bytes([whole[100] ^ 255]) + whole[101:], ""),
        "zeros.jpg": (b"\0" * 5000, "no image"),
        "script.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no image"),
        "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image"),
        ".DS_Store": (b"x", "hidden"),
        "Thumbs.db": (b"x", "operating system"),
    }
    told = {}
    for name, (data, word) in contents.items():
        (root / name).write_bytes(data)
        told[f"{root.name}/{name}"] = word
    (root / "broken").symlink_to("nowhere")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("..")
    os.mkfifo(root / "pipe.png")
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff.png")).write_bytes(whole)
    (root / "line\nbreak.png").write_bytes(whole)
    told |= {
        f"{root.name}/broken": "broken link",
        f"{root.name}/loop": "loop",
        f"{root.name}/up": "read already",
        f"{root.name}/pipe.png": "pipe",
        f"{root.name}/bad\\xff.png": "not UTF-8",
        f"{root.name}/line\nbreak.png": "line break",
    }
    return told


def test_every_nasty_file_is_accounted_for(tmp_path):
    """All odd images are used, all others set aside with their reason; the counts add up and nothing was touched."""
    source = labelled(tmp_path / "wild", {"cat": 5, "dog": 5})
    used, odd = modes(source / "cat"), nasty(source / "dog")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "dog" / "socket"))
        odd["dog/socket"] = "socket"
        before = state(source)
        result = ingest(str(source), tmp_path / "home" / "wild", DataRecipe())
        assert state(source) == before
    found = {row["path"]: row for row in manifest.read(result.path / "manifest.parquet").to_pylist()}
    assert {path: found[path]["status"] for path in used} == dict.fromkeys(used, "used")
    for path, word in odd.items():
        assert found[path]["status"] in ("quarantined", "ignored"), path
        assert word in found[path]["reason"].lower() or word in found[path]["reason"], found[path]["reason"]
    assert len(found) == 10 + len(used) + len(odd) == result.images["files"]
    assert sum(result.images.values()) == 2 * result.images["files"]
    assert (found["cat/turned.jpg"]["width"], found["cat/turned.jpg"]["height"]) == (6, 8)
    assert found["cat/jpeg-called.png"]["format"] == "JPEG"
    assert found["dog/half.png"]["file_hash"]


def test_a_wild_folder_again(tmp_path):
    """A second ingest of a wild folder finds the same, and only reads anew what it couldn't read before."""
    source = labelled(tmp_path / "wild", {"cat": 5, "dog": 5})
    modes(source / "cat"), nasty(source / "dog")
    first = ingest(str(source), tmp_path / "home" / "wild", DataRecipe())
    again = ingest(str(source), tmp_path / "home" / "wild", DataRecipe())
    assert (again.snapshot, again.new) == (first.snapshot, 0)
    assert (again.images, again.quarantined) == (first.images, first.quarantined)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    """Permission denied is a reason; once granted, the file is used though its size and time are the same."""
    source = labelled(tmp_path / "wild", {"cat": 5, "dog": 5})
    closed = source / "cat" / "0000.png"
    closed.chmod(0)
    first = ingest(str(source), tmp_path / "home" / "wild", DataRecipe())
    assert [problem["path"] for problem in first.quarantined] == ["cat/0000.png"]
    closed.chmod(0o600)
    assert ingest(str(source), tmp_path / "home" / "wild", DataRecipe()).images["quarantined"] == 0


def _photo() -> bytes:
    y, x = np.mgrid[0:48, 0:48]
    colour = np.stack([y * 5, x * 5, (y + x) * 2], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colour).save(file, "JPEG", quality=90)
    return file.getvalue()


WHOLE = {"png": encoded(picture(3, height=24, width=24)), "jpg": _photo()}
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 10**6), st.just(0)),
    st.tuples(st.just("flip"), st.integers(0, 10**6), st.integers(0, 7)),
    st.tuples(st.just("set"), st.integers(0, 10**6), st.integers(0, 255)),
    st.tuples(st.just("drop"), st.integers(0, 10**6), st.integers(1, 40)),
    st.tuples(st.just("insert"), st.integers(0, 10**6), st.integers(0, 255)),
)


def damaged(data: bytes, hits: list[tuple[str, int, int]]) -> bytes:
    for kind, where, how in hits:
        at = where % max(1, len(data))
        if kind == "cut":
            data = data[:at]
        elif kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << how)]) + data[at + 1 :]
        elif kind == "set" and data:
            data = data[:at] + bytes([how]) + data[at + 1 :]
        elif kind == "drop":
            data = data[:at] + data[at + how :]
        elif kind == "insert":
            data = data[:at] + bytes([how]) + data[at:]
    return data


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.lists(DAMAGE, min_size=1, max_size=4))
def test_damaged_bytes(tmp_path_factory, kind, hits):
    """No damage to real files crashes or hangs; of a damaged PNG no pixels are kept that aren't the whole file's."""
    folder = tmp_path_factory.mktemp("damaged")
    data = damaged(WHOLE[kind], hits)
    (folder / "x").write_bytes(data)
    canvas = Canvas(24, 24, None, "stretch", 10**6)
    chunk = Chunk(root=str(folder), names=("x",), paths=("x",), stamps=((0, 0),), canvas=canvas, journal=folder)
    shelf = Shelf.read(decode_chunk(chunk))
    row, reason = shelf.outcomes.rows[0], shelf.outcomes.reasons.get(0)
    assert row["decoded"] == (reason is None)
    assert sum(shelf.rows.values()) == row["decoded"]
    if kind == "png" and row["decoded"]:
        assert row["content_hash"].tobytes().hex() == content_hash(decode(WHOLE["png"]).pixels)


def test_pixels_of_odd_images(tmp_path):
    """What a snapshot holds of every odd image is what the server would see in it."""
    source = labelled(tmp_path / "wild", {"dog": 5})
    (source / "cat").mkdir()
    modes(source / "cat")
    put(source / "dog" / "colour.png", picture(77, channels=3))
    snapshot = Snapshot.open(ingest(str(source), tmp_path / "home" / "wild", DataRecipe(height=8, width=8)).path)
    seen = set()
    for name in manifest.PARTS:
        part = snapshot.part(name)
        for path, pixels in zip(part.paths, part.pixels, strict=True):
            decoded = decode((source / path).read_bytes())
            if decoded.pixels.shape[:2] == (8, 8):
                assert (decoded.pixels == pixels).all(), path
                seen.add(path)
    assert len(seen) == 18
