"""Files decoded while their source is still listed: nobody can tell from the snapshot."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipelines import ahead, journal, listing, pool
from pipelines.config import DataRecipe
from pipelines.dataset import Snapshot
from pipelines.errors import BadSource
from pipelines.ingest import ingest
from pipelines.journal import published
from pipelines.walk import walk
from tests.pipelines.fatal_decoder import fatal
from tests.pipelines.image_folders import labelled, picture, put


@pytest.fixture
def begun(monkeypatch):
    """Threads for processes, small chunks, and the names of the files that were begun ahead."""
    names = []
    begin = pool.Staff.begin

    def noted(self, chunk):
        names.extend(chunk.names)
        return begin(self, chunk)

    monkeypatch.setattr(pool, "_executor", ThreadPoolExecutor)
    monkeypatch.setattr(pool.Staff, "begin", noted)
    monkeypatch.setattr(ahead, "CHUNK_FILES", 8)
    monkeypatch.setattr(listing, "SEEN_FILES", 8)
    return names


def same(source, tmp_path, *, recipe=None, task="classify"):
    """The result with files begun ahead, after comparing it with one of an ingest by this process alone."""
    recipe = recipe or DataRecipe()
    one, two = (
        ingest(str(source), tmp_path / "w" / "datasets" / name, recipe, task=task, workers=workers)
        for name, workers in (("ahead", 2), ("alone", 0))
    )
    assert (one.snapshot, one.images, one.per_label) == (two.snapshot, two.images, two.per_label)
    assert (one.quarantined, one.image) == (two.quarantined, two.image)
    return one


def test_begun_while_listed(tmp_path, begun):
    """Files are begun before the listing ends, bad ones among them, and each is decoded once."""
    source = labelled(tmp_path / "photos", {"a": 40, "b": 40})
    (source / "a" / "broken.png").write_bytes(b"no image")
    result = same(source, tmp_path)
    assert len(begun) >= 8
    assert len(set(begun)) == len(begun)
    assert [one["path"] for one in result.quarantined] == ["a/broken.png"]
    assert result.new == 81


def test_what_may_not_be_an_image_waits(tmp_path, begun):
    """A file outside any label's folder, or in one that may be a part's, isn't begun before all is listed."""
    source = labelled(tmp_path / "photos", {"train/a": 20, "train/b": 20, "test/a": 20, "test/b": 20})
    for name in ("stray.png", "train/stray.png", ".hidden.png"):
        put(source / name, picture(7))
    result = same(source, tmp_path)
    assert begun
    assert not [name for name in begun if "stray" in name or "hidden" in name]
    assert result.ignored == {"lies outside any label's folder": 2, "a hidden file": 1}


def test_reconstruct_takes_all(tmp_path, begun):
    """Where labels don't matter, every file is begun."""
    source = tmp_path / "photos"
    for number in range(40):
        put(source / f"{number}.png", picture(number))
    same(source, tmp_path, task="reconstruct")
    assert begun


def test_a_wrong_guess(tmp_path, begun):
    """The first files have another size than most: what was begun for it is thrown away, and nothing of it stays."""
    source = tmp_path / "photos"
    for number in range(20):
        put(source / "a" / f"{number}.png", picture(number, height=4, width=4))
    for number in range(60):
        put(source / "b" / f"{number}.png", picture(100 + number, height=9, width=9))
    result = same(source, tmp_path)
    assert begun
    assert (result.image["height"], result.image["width"]) == (9, 9)


def test_verify_reads_ahead(tmp_path, begun):
    """With `verify` every file is read again, ahead of the listing too; the snapshot stays."""
    source = labelled(tmp_path / "photos", {"a": 30, "b": 30})
    home = tmp_path / "w" / "datasets" / "photos"
    first = ingest(str(source), home, DataRecipe(), workers=2)
    begun.clear()
    assert ingest(str(source), home, DataRecipe(), workers=2).snapshot == first.snapshot
    assert not begun
    assert ingest(str(source), home, DataRecipe(), workers=2, verify=True).snapshot == first.snapshot
    assert begun


def test_a_listing_that_fails(tmp_path, begun, monkeypatch):
    """A source that vanishes in mid-listing is refused, and nothing is left behind, whatever was begun."""
    source = labelled(tmp_path / "photos", {"a": 40, "b": 40})

    def vanishing(root, **how):
        for number, found in enumerate(walk(root, **how)):
            if number == 48:
                raise OSError(2, "No such file or directory")
            yield found

    monkeypatch.setattr(listing, "walk", vanishing)
    with pytest.raises(BadSource, match="can't be listed"):
        ingest(str(source), tmp_path / "w" / "datasets" / "photos", DataRecipe(), workers=2)
    assert begun
    assert not (tmp_path / "w").exists()


def test_places_are_those_of_the_listing(tmp_path, begun):
    """Every row of the snapshot holds the pixels of the file that its manifest names."""
    source = tmp_path / "photos"
    for number in range(60):
        put(source / "zyx"[number % 3] / f"{59 - number}.png", np.full((5, 5), number, np.uint8))
    result = ingest(str(source), tmp_path / "w" / "datasets" / "photos", DataRecipe(), workers=2)
    assert begun
    train = Snapshot.open(result.path).part("train")
    for path, pixels in zip(train.paths, train.pixels, strict=True):
        assert (pixels == 59 - int(path.split("/")[1].split(".")[0])).all()


def test_what_is_begun_is_kept(tmp_path, begun):
    """A chunk begun while the source is listed is published at once: a kill before the listing ends loses nothing."""
    source = labelled(tmp_path / "photos", {"a": 12})
    kept = tmp_path / "journal"
    kept.mkdir()
    with pool.Staff(workers=2) as staff:
        staff.expect(1, 1)
        one = ahead.Ahead(str(source), DataRecipe(), task="classify", canvas=None, journal=kept, staff=staff)
        one.see(list(walk(str(source))), 1)
        staff.recall()
        assert len(begun) == 8
        assert [len(shelf.outcomes.rows) for _, shelf in published(kept)] == [8]
    assert not [path for path in kept.iterdir() if path.name.startswith(".")]


def test_a_disk_that_fails_while_publishing(tmp_path, begun, monkeypatch):
    """A chunk that can't be brought to the disk ends the ingest, is no more, and costs no other chunk."""
    source = labelled(tmp_path / "photos", {"a": 40, "b": 40})
    home = tmp_path / "w" / "datasets" / "photos"
    synced = []

    def failing(path):
        synced.append(path)
        if len(synced) == 3:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal, "sync", failing)
    with pytest.raises(OSError, match="Input/output"):
        ingest(str(source), home, DataRecipe(), workers=2)
    assert not synced[2].exists()
    assert not [path for path in (home / ".journal").iterdir() if path.name.startswith(".")]
    kept = sum(len(shelf.outcomes.rows) for _, shelf in published(home / ".journal"))
    assert kept >= 16
    assert ingest(str(source), home, DataRecipe(), workers=2).images["files"] == 80


@pytest.mark.slow
def test_a_worker_that_dies_at_what_was_begun(tmp_path, monkeypatch):
    """Processes that die on a file begun ahead cost nothing but time: every file is decoded by others."""
    monkeypatch.setattr(ahead, "CHUNK_FILES", 8)
    monkeypatch.setattr(listing, "SEEN_FILES", 8)
    monkeypatch.setattr(pool, "write_chunk", fatal)
    rescued = []
    carefully = pool._carefully
    monkeypatch.setattr(pool, "_carefully", lambda chunk, **how: rescued.append(chunk) or carefully(chunk, **how))
    source = labelled(tmp_path / "photos", {"a": 20, "b": 20})
    put(source / "a" / "0000-fatal.png", picture(999))
    result = ingest(str(source), tmp_path / "w" / "datasets" / "photos", DataRecipe(), workers=2)
    assert any("a/0000-fatal.png" in chunk.names for chunk in rescued)
    assert sum(result.images[part] for part in ("train", "validation", "test")) == 41
