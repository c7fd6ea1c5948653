"""Reading a snapshot: any rows, in any order, of any part."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.config import DataRecipe
from pipelines.contact import draw_sheet
from pipelines.dataset import Snapshot
from pipelines.decode import commonest_size
from pipelines.errors import BadSource
from pipelines.ingest import ingest
from pipelines.ledger import Dataset, Ledger, current
from pipelines.manifest import PARTS
from tests.pipelines.image_folders import labelled, picture, put
from tests.pipelines.small_snapshots import make_snapshot

CONTENTS = st.text("0123456789abcdef", min_size=4, max_size=8)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """Gray and colour images from two ingests: rows in several files of pixels."""
    base = tmp_path_factory.mktemp("dataset")
    source = labelled(base / "photos", {"a": 20, "b": 20})
    put(source / "a" / "colour.png", picture(900, channels=3))
    home = base / "w" / "datasets" / "photos"
    ingest(str(source), home, DataRecipe())
    labelled(source, {"b": 9, "c": 5}, first_seed=100, channels=3)
    return Snapshot.open(ingest(str(source), home, DataRecipe()).path)


@given(data=st.data())
def test_gather_is_indexing(snapshot, data):
    """Gathered rows are those of the whole part at these places, repeated and in any order."""
    part = snapshot.part("train")
    index = np.array(data.draw(st.lists(st.integers(0, part.rows - 1), max_size=50)), dtype=np.int64)
    gathered = part.gather(index)
    assert gathered.dtype == np.uint8
    assert (gathered == part.pixels[index]).all()
    assert gathered.shape == (len(index), *snapshot.image.shape)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_batches_are_the_part(snapshot, size):
    """All rows come once, in order, with their labels; the last batch is the rest."""
    part = snapshot.part("train")
    batches = list(part.batches(size))
    assert [len(labels) for _, labels in batches][:-1] == [size] * (len(batches) - 1)
    assert (np.concatenate([pixels for pixels, _ in batches]) == part.pixels).all()
    assert (np.concatenate([labels for _, labels in batches]) == part.labels).all()


def test_a_part_travels(snapshot):
    """A part pickles as a reference: no pixels go with it."""
    part = snapshot.part("validation")
    data = pickle.dumps(part)
    assert len(data) < 1000
    assert (pickle.loads(data).pixels == part.pixels).all()


def test_an_empty_part(tmp_path):
    """A part whose fraction is zero is there and empty."""
    source = labelled(tmp_path / "photos", {"a": 5, "b": 5})
    recipe = DataRecipe(split=(0.8, 0.0, 0.2))
    part = Snapshot.open(ingest(str(source), tmp_path / "w" / "d" / "x", recipe).path).part("validation")
    assert (part.rows, list(part.paths), part.pixels.shape, list(part.batches(8))) == (0, [], (0, 8, 8, 1), [])


def test_no_snapshot(tmp_path):
    """A folder that is no snapshot, and one that holds no dataset, are refused by name."""
    with pytest.raises(BadSource, match="no whole snapshot"):
        Snapshot.open(tmp_path)
    with pytest.raises(BadSource, match="no dataset in"):
        current(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(BadSource, match="can't be read"):
        Dataset.read(tmp_path)


def test_the_contact_sheet(snapshot):
    """The sheet shows each label's pixels."""
    with Image.open(draw_sheet(snapshot)) as sheet:
        shown = np.asarray(sheet.convert("RGB"))
    part = snapshot.part("train")
    first = part.gather(np.flatnonzero(part.labels == 2)[:1])[0]
    row = shown[2 * 78 + 6 : 2 * 78 + 78, 170 : 170 + 72]
    assert (row[4::9, 4::9] == first).all()


def test_a_small_pixel_limit_is_no_limit_for_the_sheet(snapshot, monkeypatch):
    """What the decoder left in Pillow bounds images, not the letters beside them."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert draw_sheet(snapshot).exists()
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_of_photos(tmp_path, channels):
    """Pictures larger than their squares are smoothed to size, in the snapshot's colours, on a mat."""
    shades = np.linspace(0, 255, 4 * 100 * 150 * channels).reshape(4, 100, 150, channels).astype(np.uint8)
    snapshot = make_snapshot(tmp_path, shades, np.array([0, 1, 0, 1]), parts=(2, 1, 1))
    with Image.open(draw_sheet(snapshot)) as sheet:
        sheet.load()
        assert sheet.mode == ("L" if channels == 1 else "RGB")
        shown = np.asarray(sheet.convert("RGB")).astype(int)
    tile = shown[6 : 6 + 72, 170 : 170 + 72]
    assert (tile[:11] == 235).all()
    assert (tile[-11:] == 235).all()
    small = np.asarray(Image.fromarray(shades[0].squeeze()).convert("RGB").resize((72, 48), Image.Resampling.BOX))
    assert np.abs(tile[12:-12] - small).max() <= 3
    assert (shown[:6] == 255).all()


@settings(deadline=None)
@given(st.dictionaries(CONTENTS, st.sampled_from(PARTS), max_size=20), st.data())
def test_a_ledger_is_read_as_written(tmp_path_factory, parts, data):
    """Parts, groups with any name, and hashes come back; the same content has the same file name."""
    folder = tmp_path_factory.mktemp("ledger")
    some = data.draw(st.sets(st.sampled_from(sorted(parts)))) if parts else set()
    names = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3)
    groups = {content: tuple(data.draw(names)) for content in some}
    ledger = Ledger.of(parts, groups=groups, likeness=dict.fromkeys(some, 2**64 - 1))
    name = ledger.write(folder)
    again = Ledger.read(folder / name)
    assert again.parts == parts
    assert (again.groups, again.likeness) == (ledger.groups, ledger.likeness)
    assert ledger.write(folder) == name


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ([], None),
        ([(28, 28)] * 3 + [(32, 32)] * 2, (28, 28)),
        ([(28, 28), (32, 32)], (32, 32)),
        ([(480, 640), (1000, 900), (28, 28), (28, 28)], (224, 224)),
        ([(100, 640)], (100, 224)),
    ],
)
def test_the_commonest_size(sizes, chosen):
    """The commonest, each side at most 224 before counting; of equally common ones the larger."""
    assert commonest_size(sizes) == chosen


def test_the_name_of_a_ledger(tmp_path):
    """The same content has the same name in any later version: these very names."""
    numbers = {f"{n:032x}": n for n in range(20_000)}
    parts = {content: PARTS[n % 3] for content, n in numbers.items()}
    first = list(numbers)[:3]
    groups = {content: ('p"ö', f"q{numbers[content]}") for content in first}
    likeness = {content: numbers[content] * 2**40 for content in first[:2]}
    ledgers = [Ledger.of(parts, groups=groups, likeness=likeness), Ledger.of(parts), Ledger.empty()]
    assert [ledger.write(tmp_path) for ledger in ledgers] == [
        "ledger-dcd107d2ca7f12da.parquet",
        "ledger-ee1ee6d6c4fa861c.parquet",
        "ledger-85feb8e50743ff5b.parquet",
    ]


@given(st.dictionaries(CONTENTS, st.sampled_from(PARTS)), st.dictionaries(CONTENTS, st.sampled_from(PARTS)))
def test_a_ledger_forgets_nobody(old, new):
    """Extended, it knows the old parts as they were and the new ones; restricted, only what it knew of those told."""
    names = np.array(list(new), dtype=np.bytes_)
    numbers = np.array([PARTS.index(part) for part in new.values()], dtype=np.int64)
    book = Ledger.of(old, groups=dict.fromkeys(old, ("g",)), likeness=dict.fromkeys(old, 1))
    assert book.extended(names, numbers).parts == new | old
    among = book.restricted(names)
    assert among.parts == {content: part for content, part in old.items() if content in new}
    assert among.groups.keys() == among.likeness.keys() == among.parts.keys()
    assert book.parts_of(names).tolist() == [PARTS.index(old[content]) if content in old else -1 for content in new]
