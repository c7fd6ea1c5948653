"""A folder becomes a snapshot, and stays one through changes of the folder."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from pipelines import manifest
from pipelines.commands import session, tables
from pipelines.config import DataRecipe, Recipe
from pipelines.dataset import Snapshot
from pipelines.errors import BadRecipe, BadSource, EmptyFolder, PipelineError
from pipelines.identity import content_hash
from pipelines.ingest import ingest, split_and_seal
from pipelines.ledger import Dataset, current, dataset_held, locked
from pipelines.scan import scan_and_decode
from serving.images import decode
from tests.pipelines.image_folders import labelled, picture, put, state

RECIPE = DataRecipe()


@pytest.fixture
def source(tmp_path):
    return labelled(tmp_path / "photos", {"cat": 20, "dog": 10, "owl": 3})


@pytest.fixture
def home(tmp_path):
    return tmp_path / "workspace" / "datasets" / "photos"


def rows(result):
    return manifest.read(result.path / "manifest.parquet").to_pylist()


def by_path(result):
    return {row["path"]: row for row in rows(result)}


def unreadable(folder):
    folder.mkdir(parents=True)
    (folder / "x.png").write_text("x")


def test_first_ingest(source, home):
    """Every file has its row, every used row its pixels and label, every class its share."""
    before = state(source)
    result = ingest(str(source), home, RECIPE)
    assert result.labels == ("cat", "dog", "owl")
    assert result.images == {
        "train": 22, "validation": 6, "test": 5,
        "quarantined": 0, "duplicates": 0, "conflicts": 0, "ignored": 0, "files": 33,
    }  # fmt: skip
    assert (result.new, result.unchanged, result.removed) == (33, 0, 0)
    assert manifest.read(result.path / "manifest.parquet").schema.equals(manifest.SCHEMA)
    assert result.path.name == result.snapshot
    assert result.path == current(home)
    assert not (home / ".journal").exists()
    assert state(source) == before
    assert set(result.seconds) == {"ingest", "split"}


def test_pixels_are_those_of_the_files(source, home):
    """A row's pixels, label and path belong together, in every part."""
    snapshot = Snapshot.open(ingest(str(source), home, RECIPE).path)
    seen = 0
    for name in manifest.PARTS:
        part = snapshot.part(name)
        pixels, paths = part.pixels, part.paths
        assert pixels.shape == (part.rows, 8, 8, 1)
        for row in range(part.rows):
            decoded = decode((source / paths[row]).read_bytes())
            assert (decoded.pixels == pixels[row]).all()
            assert snapshot.labels[part.labels[row]] == paths[row].split("/")[0]
            assert part.content_hashes[row] == content_hash(decoded.pixels)
        seen += part.rows
    assert seen == 33


def test_again_nothing_is_new(source, home):
    """An unchanged folder gives the same snapshot, and no file of it is opened."""
    first = ingest(str(source), home, RECIPE)
    written = state(home)
    for path in source.rglob("*.png"):
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        path.write_bytes(b"?" * path.stat().st_size)  # would be quarantined, if it were read
        os.utime(path, ns=times)
    again = ingest(str(source), home, RECIPE)
    assert (again.snapshot, again.images, again.new, again.unchanged, again.removed) == (
        first.snapshot, first.images, 0, 33, 0,
    )  # fmt: skip
    assert state(home) == written


def test_verify_reads_everything(source, home):
    """A change that size and time don't show is found with verify."""
    ingest(str(source), home, RECIPE)
    path = source / "cat" / "0003.png"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(b"?" * path.stat().st_size)
    os.utime(path, ns=times)
    assert ingest(str(source), home, RECIPE).new == 0
    result = ingest(str(source), home, RECIPE, verify=True)
    assert (result.new, result.unchanged, result.images["quarantined"]) == (1, 32, 1)


def test_names_and_times_are_not_content(source, home, tmp_path):
    """Another folder with the same pictures under other names, formats and times gives the same snapshot."""
    first = ingest(str(source), home, RECIPE)
    other = tmp_path / "other"
    for number, path in enumerate(sorted(source.rglob("*.png"), reverse=True)):
        pixels = decode(path.read_bytes()).pixels[..., 0]
        put(other / path.parent.name / f"sub{number % 3}" / f"{number}.tif", pixels, "TIFF")
    assert ingest(str(other), home.with_name("other"), RECIPE).snapshot == first.snapshot


def test_renamed_files(source, home):
    """A renamed file is read anew, its row has the new path, and the snapshot is the same."""
    first = ingest(str(source), home, RECIPE)
    (source / "cat" / "0000.png").rename(source / "cat" / "zzz.png")
    again = ingest(str(source), home, RECIPE)
    assert again.snapshot == first.snapshot
    assert (again.new, again.unchanged, again.removed) == (1, 32, 1)
    assert "cat/zzz.png" in by_path(again)
    assert "cat/0000.png" not in by_path(again)


def test_added_and_removed_files(source, home):
    """Nobody moves when images come and go; going back to a former state is the former snapshot."""
    first = ingest(str(source), home, RECIPE)
    labelled(source, {"cat": 15, "emu": 5}, first_seed=500)
    grown = ingest(str(source), home, RECIPE)
    assert (grown.new, grown.unchanged, grown.removed) == (20, 33, 0)
    assert grown.snapshot != first.snapshot
    assert all(by_path(grown)[row["path"]]["split"] == row["split"] for row in rows(first))
    assert {row["split"] for row in rows(grown) if row["label"] == "emu"} == set(manifest.PARTS)
    for path in [*(source / "emu").iterdir(), *(source / "cat").glob("05*")]:
        path.unlink()
    back = ingest(str(source), home, RECIPE)
    assert (back.snapshot, back.new, back.removed) == (first.snapshot, 0, 20)
    assert Snapshot.open(grown.path).part("train").pixels.any()


def test_the_ledger_remembers_the_gone(source, home):
    """An image that was away for several ingests comes back into its own part."""
    first = ingest(str(source), home, RECIPE)
    gone = {path: path.read_bytes() for path in sorted((source / "cat").iterdir())[::2]}
    for path in gone:
        path.unlink()
    for seed in (700, 800):
        labelled(source, {"cat": 6}, first_seed=seed)
        ingest(str(source), home, RECIPE)
    for path, data in gone.items():
        path.write_bytes(data)
    splits = by_path(ingest(str(source), home, RECIPE))
    assert all(splits[row["path"]]["split"] == row["split"] for row in rows(first))


def test_pixels_after_many_ingests(source, home):
    """Rows gathered from the shards of several ingests are still those of their files."""
    for seed in (100, 200, 300):
        ingest(str(source), home, RECIPE)
        next(iter((source / "cat").iterdir())).unlink()
        labelled(source, {"dog": 4}, first_seed=seed)
    snapshot = Snapshot.open(ingest(str(source), home, RECIPE).path)
    assert len(snapshot.shards) == 4
    part = snapshot.part("train")
    for pixels, path in zip(part.pixels, part.paths, strict=True):
        assert (decode((source / path).read_bytes()).pixels == pixels).all()


def test_duplicates(source, home):
    """Of equal pictures under one label one is used, whatever their encoding; the others say whose copies they are."""
    put(source / "cat" / "copy.bmp", picture(0), "BMP")
    colour = np.repeat(picture(1)[..., None], 3, axis=2)
    put(source / "cat" / "colour.png", colour)
    result = ingest(str(source), home, RECIPE)
    assert result.images["duplicates"] == 2
    assert by_path(result)["cat/copy.bmp"]["reason"] == "the same pixels as cat/0000.png"
    assert by_path(result)["cat/colour.png"]["status"] == "duplicate"
    assert Snapshot.open(result.path).image.channels == 1


def test_a_duplicate_takes_over(source, home):
    """When the used file goes, its copy is used instead: same content, same snapshot."""
    put(source / "cat" / "copy.png", picture(0))
    first = ingest(str(source), home, RECIPE)
    (source / "cat" / "0000.png").unlink()
    result = ingest(str(source), home, RECIPE)
    assert (result.snapshot, result.images["duplicates"]) == (first.snapshot, 0)
    assert by_path(result)["cat/copy.png"]["status"] == "used"


@pytest.mark.parametrize("policy", ["drop", "keep-first"])
def test_conflicts(source, home, policy):
    """Equal pictures under two labels are in no part, or count for the first label only, and are reported."""
    put(source / "dog" / "not-a-dog.png", picture(0))
    result = ingest(str(source), home, DataRecipe(conflicts=policy))
    assert [sorted(conflict["paths"]) for conflict in result.conflicts] == [["cat/0000.png", "dog/not-a-dog.png"]]
    found = by_path(result)
    assert found["dog/not-a-dog.png"]["status"] == "conflict"
    assert found["cat/0000.png"]["status"] == ("conflict" if policy == "drop" else "used")
    assert result.images["conflicts"] == (2 if policy == "drop" else 1)
    assert "which has another label" in found["dog/not-a-dog.png"]["reason"]


def test_a_conflict_that_ends(source, home):
    """When one side of a conflict goes, the other is used, with its pixels."""
    put(source / "dog" / "not-a-dog.png", picture(0))
    ingest(str(source), home, RECIPE)
    (source / "dog" / "not-a-dog.png").unlink()
    result = ingest(str(source), home, RECIPE)
    assert by_path(result)["cat/0000.png"]["status"] == "used"
    assert result.images["files"] == 33
    assert sum(Snapshot.open(result.path).part(name).rows for name in manifest.PARTS) == 33


def test_relabelled_images_keep_their_part(source, home):
    """An image that moves to another label's folder stays in the part where it was."""
    before = by_path(ingest(str(source), home, RECIPE))
    for path in sorted((source / "cat").iterdir())[:8]:
        path.rename(source / "dog" / path.name)
    after = by_path(ingest(str(source), home, RECIPE))
    for name in [f"{number:04d}.png" for number in range(8)]:
        assert after[f"dog/{name}"]["split"] == before[f"cat/{name}"]["split"]
        assert after[f"dog/{name}"]["label"] == "dog"


def test_presplit_is_honoured(tmp_path, home):
    """Folders of parts, under any of their usual names, decide; a copy in two parts is reported and used once."""
    source = tmp_path / "set"
    for part, seed in (("Training", 0), ("val", 100), ("eval", 200)):
        labelled(source / part, {"a": 4, "b": 4}, first_seed=seed)
    put(source / "eval" / "a" / "leak.png", picture(0))
    result = ingest(str(source), home, RECIPE)
    found = by_path(result)
    assert result.labels == ("a", "b")
    assert {row["split"] for path, row in found.items() if path.startswith("val/")} == {"validation"}
    assert found["eval/a/leak.png"]["split"] == "test"
    assert found["Training/a/0000.png"]["status"] == "duplicate"
    assert found["Training/a/0000.png"]["reason"] == "the same pixels as eval/a/leak.png, which is in test"
    assert [list(leak["paths"]) for leak in result.leaks] == [["eval/a/leak.png", "Training/a/0000.png"]]
    assert any("more than one part" in warning for warning in result.warnings)


def test_presplit_without_validation(tmp_path, home):
    """A part that a pre-split source lacks is cut from its train; its test is left alone."""
    source = tmp_path / "set"
    labelled(source / "train", {"a": 20, "b": 20})
    labelled(source / "test", {"a": 5, "b": 5}, first_seed=100)
    result = ingest(str(source), home, RECIPE)
    assert [result.images[name] for name in manifest.PARTS] == [32, 8, 10]
    assert all((row["split"] == "test") == row["path"].startswith("test/") for row in rows(result))


def test_groups(tmp_path, home):
    """With group-by, all images of a patient are in one part, also those that come later."""
    source = tmp_path / "scans"
    for number in range(90):
        put(source / "ab"[number % 2] / f"patient{number // 3:02d}-{number}.png", picture(number))
    recipe = DataRecipe(group_by=r"patient(\d+)")

    def parts_of_patients():
        found = rows(ingest(str(source), home, recipe))
        return {row["path"].split("patient")[1][:2]: row["split"] for row in found}, found

    first, _ = parts_of_patients()
    assert set(Counter(first.values())) == set(manifest.PARTS)
    for number in range(30):
        put(source / "a" / f"patient{number:02d}-late.png", picture(1000 + number))
    _, found = parts_of_patients()
    assert all(row["split"] == first[row["path"].split("patient")[1][:2]] for row in found)


def test_torn_groups(tmp_path, home):
    """A newcomer that joins groups of two parts moves nobody: it is a conflict."""
    source = tmp_path / "scans"
    for number in range(60):
        put(source / "ab"[number % 2] / f"p{number // 2:02d}" / f"{number}.png", picture(number))
    recipe = DataRecipe(group_by=r"p\d\d")
    first = {row["path"].split("/")[1]: row["split"] for row in rows(ingest(str(source), home, recipe))}
    one = next(name for name, part in first.items() if part == "train")
    other = next(name for name, part in first.items() if part == "test")
    put(source / "a" / one / "same.png", picture(2000))
    put(source / "a" / other / "same.png", picture(2000))
    result = ingest(str(source), home, recipe)
    assert by_path(result)[f"a/{min(one, other)}/same.png"]["status"] == "conflict"
    assert "different parts" in by_path(result)[f"a/{min(one, other)}/same.png"]["reason"]
    assert {row["path"].split("/")[1]: row["split"] for row in rows(result) if row["status"] == "used"} == first


def smooth(number: int, size: int = 64) -> np.ndarray:
    """A picture of a few waves; its neighbours of other numbers look quite different."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[0:size, 0:size] / size
    waves = sum(rng.normal() * np.cos(np.pi * (rng.integers(0, 8) * y + rng.integers(0, 8) * x)) for _ in range(12))
    return np.interp(waves, (waves.min(), waves.max()), (10, 240)).astype(np.uint8)


def test_near_duplicates(tmp_path, home):
    """Re-encoded pictures across parts are counted and listed; grouped, none is left across parts."""
    source = tmp_path / "scans"
    for number in range(40):
        put(source / "ab"[number % 2] / f"{number}.png", smooth(number))
        put(source / "ab"[number % 2] / f"{number}-again.jpg", smooth(number), "JPEG", quality=80)
    counted = ingest(str(source), home, DataRecipe(near_duplicates=True))
    crossing = {
        number
        for number in range(40)
        if by_path(counted)[f"{'ab'[number % 2]}/{number}.png"]["split"]
        != by_path(counted)[f"{'ab'[number % 2]}/{number}-again.jpg"]["split"]
    }
    assert crossing
    assert counted.near_duplicates["count"] == len(crossing) == len(counted.near_duplicates["pairs"])
    grouped = ingest(
        str(source), home.with_name("grouped"), DataRecipe(near_duplicates=True, group_near_duplicates=True)
    )
    assert grouped.near_duplicates["count"] == 0
    assert grouped.images["train"] == 56


def test_choices_that_stay(source, home, tmp_path):
    """Another source, seed or split under a taken name is refused, and changes nothing."""
    ingest(str(source), home, RECIPE)
    written = state(home)
    other = labelled(tmp_path / "other", {"a": 3, "b": 3})
    with pytest.raises(BadSource, match="another --dataset"):
        ingest(str(other), home, RECIPE)
    for recipe in (DataRecipe(seed=1), DataRecipe(split=(0.8, 0.1, 0.1)), DataRecipe(group_by="x")):
        with pytest.raises(BadRecipe, match="another --dataset"):
            ingest(str(source), home, recipe)
    assert state(home) == written


def test_the_seed_of_a_run_splits_a_new_dataset_only(source, home):
    """A new dataset's split has the run's seed, if no other is told; from then on the dataset keeps its own."""
    first = ingest(str(source), home, RECIPE, seed=3)
    told = ingest(str(source), home.with_name("told"), DataRecipe(seed=3))
    assert first.snapshot == told.snapshot
    assert first.snapshot != ingest(str(source), home.with_name("other"), RECIPE).snapshot
    again = ingest(str(source), home, RECIPE, seed=4)
    assert (again.snapshot, again.new) == (first.snapshot, 0)
    assert ingest(str(source), home, DataRecipe(seed=3)).new == 0
    with pytest.raises(BadRecipe, match="another --dataset"):
        ingest(str(source), home, DataRecipe(seed=0))


def test_size_is_the_commonest_and_stays(tmp_path, home):
    """The commonest size is chosen, at most 224 a side; later images are fitted to it."""
    source = labelled(tmp_path / "photos", {"a": 6, "b": 6}, height=12, width=10)
    labelled(source, {"a": 5, "b": 5}, first_seed=50, height=20, width=20, channels=3)
    image = Snapshot.open(ingest(str(source), home, RECIPE).path).image
    assert image.shape == (12, 10, 3)
    labelled(source, {"a": 50}, first_seed=100, height=30, width=30)
    assert Snapshot.open(ingest(str(source), home, RECIPE).path).image == image
    told = ingest(str(source), home, DataRecipe(height=16, width=16, channels=1))
    assert Snapshot.open(told.path).image.shape == (16, 16, 1)
    assert Snapshot.open(ingest(str(source), home, RECIPE).path).image.shape == (16, 16, 1)


def test_a_wrong_guess_of_the_size_is_mended(tmp_path, home):
    """The commonest size is that of all images, also where a sample shows another."""
    source = tmp_path / "photos"
    for number in range(1000):
        sampled = number % 9 == 0  # the sample is of every ninth file: more than half of it is of the rarer size
        height = (6 if number % 18 else 4) if sampled else 4 + number % 2
        put(source / "a" / f"{number:04d}.bmp", picture(number, height=height, width=4), "BMP")
    labelled(source, {"b": 9}, first_seed=2000, height=4, width=4)
    assert Snapshot.open(ingest(str(source), home, RECIPE).path).image.shape == (4, 4, 1)


def test_large_images_become_224(tmp_path, home):
    """Chosen, a side is at most 224 pixels; told, it is what was told."""
    source = labelled(tmp_path / "photos", {"a": 3, "b": 3}, height=300, width=100)
    assert Snapshot.open(ingest(str(source), home, RECIPE).path).image.shape == (224, 100, 1)


def test_a_gray_dataset_stays_gray(source, home):
    """Colour images that join a gray dataset are stored as gray, and that is said."""
    ingest(str(source), home, RECIPE)
    put(source / "cat" / "colour.png", picture(999, channels=3))
    result = ingest(str(source), home, RECIPE)
    assert Snapshot.open(result.path).image.channels == 1
    assert any("colour" in warning for warning in result.warnings)


def test_gray_and_colour(tmp_path, home):
    """One colour image makes a dataset colour; gray ones have three equal channels then."""
    source = labelled(tmp_path / "photos", {"a": 10, "b": 10})
    put(source / "a" / "colour.png", picture(999, channels=3))
    snapshot = Snapshot.open(ingest(str(source), home, RECIPE).path)
    assert snapshot.image.channels == 3
    for name in manifest.PARTS:
        part = snapshot.part(name)
        for path, pixels in zip(part.paths, part.pixels, strict=True):
            assert (pixels == decode((source / path).read_bytes()).pixels).all()


def test_reconstruct_needs_no_labels(tmp_path, home):
    """Files directly in the source are images with an empty label; hidden ones are not."""
    source = tmp_path / "flat"
    for number in range(10):
        put(source / f"{number}.png", picture(number))
    (source / ".hidden").write_bytes(b"")
    result = ingest(str(source), home, RECIPE, task="reconstruct")
    assert result.labels == ("",)
    assert (result.images["train"], result.images["ignored"]) == (7, 1)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda _: None, BadSource, "There is no folder"),
        (lambda path: path.write_text("x"), BadSource, "is a file"),
        (lambda path: path.mkdir(), EmptyFolder, "holds no image"),
        (lambda path: (path / "a" / "b").mkdir(parents=True), EmptyFolder, "holds no image"),
        (lambda path: put(path / "a.png", picture(0)), EmptyFolder, "holds no image"),
        (lambda path: labelled(path, {"only": 5}), BadSource, "at least two labels"),
        (lambda path: [unreadable(path / name) for name in "ab"], EmptyFolder, "of the first, 'a/x.png', the reason"),
    ],
    ids=["missing", "file", "empty", "empty-labels", "loose", "one-label", "unreadable"],
)
def test_sources_that_cannot_be(tmp_path, home, make, error, says):
    """A source that can't be is refused in one sentence, and no half dataset is left behind."""
    make(tmp_path / "photos")
    with pytest.raises(error, match=says) as caught:
        ingest(str(tmp_path / "photos"), home, RECIPE)
    assert "\n" not in str(caught.value)
    assert not home.parents[1].exists()


def test_what_was_there_before_a_refusal_stays(tmp_path, home):
    """Of a refused ingest only its own folders go: not those of a person, nor of another dataset."""
    only = labelled(tmp_path / "photos", {"only": 5})
    home.parents[1].mkdir()
    with pytest.raises(BadSource, match="at least two labels"):
        ingest(str(only), home, RECIPE)
    assert list(home.parents[1].iterdir()) == []
    ingest(str(labelled(tmp_path / "more", {"a": 3, "b": 3})), home.with_name("more"), RECIPE)
    with pytest.raises(BadSource, match="at least two labels"):
        ingest(str(only), home, RECIPE)
    assert [path.name for path in home.parent.iterdir()] == ["more"]


def test_a_lock_of_a_removed_folder_is_no_lock(home):
    """Ingests that are refused while others begin leave one holder at a time, in a folder that is there."""
    holders, wrong = [], []

    def come_and_go(number):
        for _ in range(150):
            with suppress(PipelineError, BadSource), dataset_held(home, made=()):
                holders.append(number)
                if len(holders) > 1 or not (home / ".lock").exists():
                    wrong.append(list(holders))
                holders.remove(number)
                raise BadSource("no")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(come_and_go, range(4)))
    assert wrong == []


def test_a_refused_ingest_leaves_the_dataset(source, home):
    """A source that shrank to one label is refused, and the last snapshot is still the current one."""
    first = ingest(str(source), home, RECIPE)
    for label in ("dog", "owl"):
        for path in (source / label).iterdir():
            path.unlink()
    with pytest.raises(BadSource, match="at least two labels"):
        ingest(str(source), home, RECIPE)
    assert Snapshot.open(current(home)).id == first.snapshot


def test_a_workspace_inside_the_source(source):
    """The source is never written to, so no workspace may lie in it."""
    before = state(source)
    with pytest.raises(BadSource, match="--workspace"):
        ingest(str(source), source / "workspace" / "datasets" / "photos", RECIPE)
    assert state(source) == before


def test_what_counts_is_on_the_disk_first(source, home, monkeypatch):
    """When dataset.json is replaced, all that it names is synced, folders too; only then old things go."""
    events = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def sync(descriptor):
        status = os.fstat(descriptor)
        events.append(("sync", status.st_ino))
        fsync(descriptor)

    def rename(old, new, **options):
        events.append(("rename", os.fspath(new)))
        replace(old, new, **options)

    def remove(path, **options):
        events.append(("remove", os.fspath(path)))
        unlink(path, **options)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", rename)
    monkeypatch.setattr(os, "unlink", remove)
    for classes in ({}, {"emu": 10}):
        labelled(source, classes, first_seed=700)
        before = Dataset.read(home)
        events.clear()
        result = ingest(str(source), home, RECIPE)
        now = Dataset.read(home)
        counts = events.index(("rename", str(home / "dataset.json")))
        needed = [*result.path.rglob("*"), result.path, result.path.parent, home / now.ledger, home, home.parent]
        synced = {what for kind, what in events[:counts] if kind == "sync"}
        assert [path for path in needed if path.stat().st_ino not in synced] == []
        assert events[counts - 1] == ("sync", (home / "dataset.json").stat().st_ino)
        assert events[counts + 1] == ("sync", home.stat().st_ino)
    assert events.index(("remove", str(home / before.ledger))) > counts


def test_one_ingest_at_a_time(source, home):
    """A second ingest of a dataset is told to wait; nothing gets mixed up."""
    with locked(home), pytest.raises(PipelineError, match="under way"):
        ingest(str(source), home, RECIPE)
    assert ingest(str(source), home, RECIPE).new == 33


def test_stages_travel(source, home):
    """What goes between the stages, and what comes out, pickles; progress ends at the total."""
    seen = []
    staged = scan_and_decode(str(source), home, RECIPE, progress=lambda *said: seen.append(said))
    result = split_and_seal(pickle.loads(pickle.dumps(staged)))
    assert pickle.loads(pickle.dumps(result)) == result
    assert ("decode", 33, 33) in seen
    json.dumps({"warnings": result.warnings, "conflicts": result.conflicts})


def test_a_stage_without_its_table(source, home):
    """When another ingest came between the stages, the second says so instead of guessing."""
    staged = scan_and_decode(str(source), home, RECIPE)
    ingest(str(source), home, RECIPE)
    with pytest.raises(PipelineError, match="came between"):
        split_and_seal(staged)


def test_a_stage_with_the_table_of_another(source, home):
    """Between the stages lies the table of one ingest: another's, with other options, is never sealed for it."""
    large = scan_and_decode(str(source), home, RECIPE)
    small = scan_and_decode(str(source), home, DataRecipe(height=4, width=4))
    with pytest.raises(PipelineError, match="came between"):
        split_and_seal(large)
    assert Snapshot.open(split_and_seal(small).path).image.shape == (4, 4, 1)


def test_a_stage_with_nothing_new_and_another_snapshot(source, home):
    """Also when there was nothing to do, a snapshot that another ingest made is not told as this one's."""
    ingest(str(source), home, RECIPE)
    unchanged = scan_and_decode(str(source), home, RECIPE)
    ingest(str(source), home, DataRecipe(height=4, width=4))
    with pytest.raises(PipelineError, match="came between"):
        split_and_seal(unchanged)


def test_processes_give_the_same(tmp_path, home):
    """With worker processes the snapshot is the same as without."""
    source = labelled(tmp_path / "photos", {"a": 150, "b": 150})
    one = ingest(str(source), home, RECIPE, workers=1)
    two = ingest(str(source), home.with_name("other"), RECIPE, workers=2)
    assert one.snapshot == two.snapshot


def test_a_newer_schema_is_refused(source, home):
    """A dataset or snapshot of a later calotype is refused with a sentence that says so."""
    result = ingest(str(source), home, RECIPE)
    said = json.loads((result.path / "snapshot.json").read_text())
    (result.path / "snapshot.json").write_text(json.dumps(said | {"schema_version": 99}))
    with pytest.raises(BadSource, match="schema version 99"):
        Snapshot.open(result.path)
    said = json.loads((home / "dataset.json").read_text())
    (home / "dataset.json").write_text(json.dumps(said | {"schema_version": 99}))
    with pytest.raises(BadSource, match="schema version 99"):
        Dataset.read(home)


def test_a_cut_shard_is_found(source, home):
    """A snapshot whose pixels were cut short is no snapshot."""
    path = ingest(str(source), home, RECIPE).path
    shard = next((path / "pixels").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(BadSource, match="no whole snapshot"):
        Snapshot.open(path)


def test_size_and_colour_are_told(source, home):
    """The result says what images become and which file made the dataset a colour one; so does the second."""
    put(source / "cat" / "colourful.png", picture(999, channels=3))
    for _ in range(2):
        result = ingest(str(source), home, RECIPE)
        assert result.image == {"height": 8, "width": 8, "channels": 3, "resize": "stretch"}
        assert result.colour == {"images": 1, "first": "cat/colourful.png"}


def test_a_gray_dataset_has_no_colour(source, home):
    """Where no image has colour, none is named."""
    result = ingest(str(source), home, RECIPE)
    assert (result.image["channels"], result.colour) == (1, {"images": 0, "first": None})


def test_empty_labels_are_warned_of(source, home):
    """A label's folder that holds no candidate is told by each ingest as long as it is there, hidden ones never."""
    for name in ("bird", "fish", ".hidden"):
        (source / name).mkdir()
    (source / "fish" / ".DS_Store").write_bytes(b"?")
    told = "Folders of labels without a file that could be an image: 'bird', 'fish'."
    assert [told in ingest(str(source), home, RECIPE).warnings for _ in range(2)] == [True, True]
    (source / "bird").rmdir()
    assert any(line.endswith("image: 'fish'.") for line in ingest(str(source), home, RECIPE).warnings)


def test_a_label_that_one_part_lacks_is_not_empty(tmp_path, home):
    """In a pre-split source only a label without a file in any part is empty."""
    source = tmp_path / "parts"
    for number, part in enumerate(("train", "test")):
        labelled(source / part, {"a": 4, "b": 4}, first_seed=100 * number)
    labelled(source / "train", {"c": 4}, first_seed=300)
    for empty in ("test/c", "test/d"):
        (source / empty).mkdir()
    told = [line for line in ingest(str(source), home, RECIPE).warnings if line.startswith("Folders")]
    assert told == ["Folders of labels without a file that could be an image: 'd'."]


def test_what_an_ingest_prints(source, home):
    """Size, conflicts with their paths and reasons to ignore are on the screen; a name is one line and no markup."""
    put(source / "dog" / "not-a-dog.png", picture(0))
    put(source / "cat" / "[red]colourful.png", picture(999, channels=3))
    (source / "cat" / "two\nrows.png").write_bytes(b"?")
    (source / "cat" / "odd[").mkdir()
    (source / "cat" / "odd[" / "red].png").write_bytes(b"?")
    (source / "outside.png").write_bytes(b"?")
    console = Console(width=200, file=io.StringIO(), record=True)
    result = ingest(str(source), home, RECIPE)
    for table in tables.ingested(result):
        console.print(table)
    said = console.export_text()
    assert "Images become 8x8, colour (1 has colour, the first: cat/[red]colourful.png)" in said
    assert any("cat/0000.png" in line and "dog/not-a-dog.png" in line for line in said.splitlines())
    assert r"cat/two\nrows.png" in said
    assert "cat/odd[/red].png" in said
    assert result.ignored == {"lies outside any label's folder": 1}
    assert "lies outside any label's folder" in said


def test_near_duplicates_are_on_the_screen(source, home):
    """Who asks for them sees how many there are, and which."""
    console = Console(width=200, file=io.StringIO(), record=True)
    result = ingest(str(source), home, DataRecipe(near_duplicates=True))
    found = {"count": 12, "pairs": [["cat/1.png", f"dog/{n}.png"] for n in range(12)], "distance_bits": 4}
    for told in (result, replace(result, near_duplicates=found)):
        for table in tables.ingested(told):
            console.print(table)
    said = console.export_text()
    assert "Near-duplicates in different parts: 0 pairs" in said
    assert "Near-duplicates in different parts: 12 pairs, the first 10" in said
    assert "dog/9.png" in said
    assert "dog/10.png" not in said


def test_a_bad_name_makes_nothing_new(source, home):
    """A file that isn't read because of its name is no reason to do anything again; one that is broken otherwise is."""
    put(source / "dog" / "not-a-dog.png", picture(0))
    (source / "cat" / "two\nrows.png").write_bytes(b"?")
    ingest(str(source), home, RECIPE)
    stages = []
    ingest(str(source), home, RECIPE, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"list"}


def test_what_a_dataset_cannot_become_is_refused_at_once(source, home, tmp_path):
    """Another source and another split are refused before any flow; a new dataset, and the same again, are not."""
    session.check_dataset(home, source=str(source), recipe=Recipe())
    ingest(str(source), home, RECIPE)
    session.check_dataset(home, source=str(source), recipe=Recipe())
    other = labelled(tmp_path / "other", {"a": 1, "b": 1})
    with pytest.raises(BadSource, match=r"was made from .*photos.*Received: .*other"):
        session.check_dataset(home, source=str(other), recipe=Recipe())
    with pytest.raises(BadRecipe, match="seed=7"):
        session.check_dataset(home, source=str(source), recipe=Recipe.from_dict({"data": {"seed": 7}}))
