"""The gate: who may be published, and who may not, with real files and real graphs, and no TensorFlow."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import learned, originals, walk
from pipelines.config import LARGER_IS_BETTER, SMALLER_IS_BETTER, Recipe
from pipelines.dataset import SCHEMA_VERSION, SNAPSHOT
from pipelines.errors import BadRecipe, Refused, UsageError
from pipelines.evaluate import CLASSIFY_METRICS, RECONSTRUCT_METRICS
from pipelines.export import DRAFT
from pipelines.gate import GATE
from pipelines.ingest import ingest
from pipelines.publish import publish_run, refuse_withdrawn, version_of
from pipelines.workspace import Workspace
from serving import bundle as bundles
from serving.images import ImageSpec
from tests.pipelines.image_folders import put
from tests.pipelines.small_contests import DATA, LABELS, RECIPE, Place, bad, good, lines, make_place
from tests.serving import fake_models


@pytest.fixture
def place(tmp_path):
    return make_place(tmp_path)


# ---- champions ----------------------------------------------------------------------------------


def test_the_first_version_has_nobody_to_beat(place):
    """Without a champion a run passes, whatever its answers; the gate's finding lies in the run's folder."""
    folder = place.run(*bad())
    found = place.judge(folder)
    assert found.passed
    assert found.champion is None
    assert json.loads((folder / GATE).read_text())["passed"] is True


def test_a_first_version_that_learned_nothing_passes_with_a_warning(place):
    """Nobody set a floor, so it is published; that it always gives one answer is said, and kept in `gate.json`."""
    folder = place.run(*bad())
    for matrix, words in (([[45, 0], [0, 45]], None), ([[45, 0], [45, 0]], "always answering 'top' gets 45")):
        report = {"confusion": {"labels": ["top", "bottom"], "matrix": matrix}}
        (folder / "report.json").write_text(json.dumps(report))
        found = place.judge(folder)
        assert found.passed
        assert (found.warning is None) is (words is None)
        assert words is None or words in json.loads((folder / GATE).read_text())["warning"]


def test_a_copy_of_the_champion_passes_and_a_worse_model_does_not(place):
    """As good as the champion is good enough; worse on the same images is refused, with the numbers in words."""
    place.publish(place.run(*good()))
    copy = place.judge(place.run(*good()))
    assert copy.passed
    assert copy.champion == 1
    assert copy.images == place.snapshot.counts["test"] == 45
    assert copy.comparison.challenger == copy.comparison.champion == 1.0

    refused = place.judge(place.run(*bad()))
    assert not refused.passed
    assert refused.comparison.challenger == 0.0
    assert refused.comparison.worse == 45
    assert "Worse than version 1, beyond chance: accuracy 0.0000 against 1.0000 on 45 images" in refused.reason
    assert not place.judge(place.run(*bad()), force=True).passed, "--force is for what can't be told"


def test_a_withdrawn_version_is_no_champion(place):
    """After a rollback the version before is the one to beat."""
    place.publish(place.run(*bad()))
    place.publish(place.run(*good()))
    assert not place.judge(place.run(*bad())).passed
    bundles.withdraw(place.workspace.models, "lines", 2)
    found = place.judge(place.run(*bad()))
    assert found.passed
    assert found.champion == 1


def test_a_damaged_version_is_no_champion(place):
    """The version being served is the newest that is whole: so is the champion."""
    place.publish(place.run(*good()))
    for damage in (b"", b"no graph"):
        version = place.publish(place.run(*bad()))
        (place.workspace.models / "lines" / str(version) / "model.onnx").write_bytes(damage)
    assert place.judge(place.run(*good())).champion == 1


def test_each_model_reads_the_files_its_own_way(place):
    """A challenger of another image size is shown the same files, and the champion still gets all of them right."""
    place.publish(place.run(*good()))
    found = place.judge(place.run(*bad(image=ImageSpec(9, 11, 3))))
    assert found.images == 45
    assert found.comparison.champion == 1.0


def test_autoencoders_are_compared_by_their_errors(place):
    """One that comes nearer to every image passes, one that stays farther off doesn't."""
    recipe = Recipe(task="reconstruct", data=DATA)
    place.publish(place.run(*fake_models.reconstructor("", factor=0.6)))
    for factor, passed in ((0.7, True), (0.6, True), (0.5, False)):
        found = place.judge(place.run(*fake_models.reconstructor("", factor=factor)), recipe=recipe)
        assert found.passed is passed
        assert found.images == 45
        assert found.comparison.test.startswith("sign-flip permutation test and Wilcoxon")


def test_a_champion_of_another_task_is_a_refusal(place):
    """Whoever calls a classifier is never answered by an autoencoder, not even by force."""
    place.publish(place.run(*good()))
    run = place.run(*fake_models.reconstructor(""))
    for force in (False, True):
        found = place.judge(run, recipe=Recipe(task="reconstruct", data=DATA), force=force)
        assert not found.passed
        assert "is there to classify, and this run to reconstruct" in found.reason


# ---- the images that count ----------------------------------------------------------------------


def test_images_that_the_champion_learned_are_left_out(place, tmp_path):
    """A champion trained on another split of the same files is judged only where it never looked."""
    other = ingest(
        str(place.source), place.workspace.datasets / "other", DATA.model_copy(update={"seed": 7}), workers=0
    )
    said = {"name": "other", "snapshot": other.snapshot, "source": str(place.source)}
    place.publish(place.run(*good(), dataset=said))
    theirs = learned.of_manifest(other.path / "manifest.parquet")
    new_to_both = [content for content in place.snapshot.part("test").content_hashes if content not in theirs]
    assert 0 < len(new_to_both) < 30

    found = place.judge(place.run(*good()))
    assert not found.passed
    assert found.images == len(new_to_both)
    assert found.left_out == {"learned": 45 - len(new_to_both)}
    assert f"{len(new_to_both)} test images are left for it, and at least 30 are needed" in found.reason
    forced = place.judge(place.run(*good()), force=True)
    assert forced.passed
    assert forced.forced


def test_labels_that_only_one_of_them_knows_are_left_out(tmp_path):
    """Where the labels differ, both choose among the shared ones, on images of those."""
    four = (*LABELS, "three")
    place = Place(Workspace(tmp_path / "workspace"), lines(tmp_path / "lines", four), None)
    place.ingest()
    # Row 3 is the first label's for the champion, which knows no fourth.
    place.publish(place.run(*good()))
    found = place.judge(place.run(*good(labels=("three", *LABELS[::-1]))))
    assert found.images == 45
    assert found.left_out == {"label": 15}
    assert found.comparison.champion == 1.0
    assert found.comparison.challenger < 1.0


@pytest.mark.parametrize("labels", [("cats", "dogs"), ("one", "dogs")])
def test_models_with_nothing_to_tell_apart_in_common_are_not_compared(place, labels):
    """One shared label would always be right, so it is no comparison: refused, unless by force."""
    bundle, model = good(labels=labels)
    place.publish(place.run(bundle, model))
    found = place.judge(place.run(*good()))
    assert not found.passed
    assert found.images == 0
    assert found.comparison is None
    assert place.judge(place.run(*good()), force=True).passed


def test_files_that_are_gone_or_changed_are_left_out(place):
    """The images are those of the snapshot or none: a file overwritten since is not judged by its old label."""
    place.publish(place.run(*good()))
    gone, changed, *_ = (place.source / path for path in place.snapshot.part("test").paths)
    gone.unlink()
    put(changed, np.full((6, 5), 9, np.uint8))
    found = place.judge(place.run(*good()))
    assert found.passed
    assert found.images == 43
    assert found.left_out == {"unreadable": 2}

    shutil.rmtree(place.source)
    found = place.judge(place.run(*good()))
    assert not found.passed
    assert "45 can't be read from the source any more" in found.reason


def test_a_snapshot_that_is_gone_is_made_up_for_by_the_ledger(place):
    """The ledger knows what the champion learned; a dataset split by other rules, or a pre-split one, doesn't."""
    draft = json.loads((place.run(*good()) / DRAFT).read_text())
    bundle = replace(good()[0], dataset=draft["dataset"], recipe=RECIPE.to_dict())
    datasets = place.workspace.datasets
    expected = learned.contents_of(bundle, datasets=datasets)
    assert len(expected) == 45

    first = place.snapshot.path
    lines(place.source, per_label=4, seed=1)
    place.ingest()
    shutil.rmtree(first)
    known = learned.contents_of(bundle, datasets=datasets)
    assert known > expected
    assert not known & set(place.snapshot.part("test").content_hashes)

    other_rules = RECIPE.model_copy(update={"data": DATA.model_copy(update={"seed": 5})})
    for unknown in (
        replace(bundle, recipe=other_rules.to_dict()),
        replace(bundle, recipe={}),
        replace(bundle, dataset={**bundle.dataset, "source": "/elsewhere"}),
        replace(bundle, dataset={**bundle.dataset, "schema_version": 1}),
        replace(bundle, dataset={**bundle.dataset, "name": "../lines"}),
        replace(bundle, dataset={**bundle.dataset, "name": "unheard-of"}),
        replace(bundle, dataset={}),
    ):
        assert learned.contents_of(unknown, datasets=datasets) is None


def test_a_ledger_of_a_source_that_names_the_parts_is_not_trusted(tmp_path):
    """There an image moves to another part when its owner moves it, so the ledger may have forgotten."""
    place = Place(Workspace(tmp_path / "workspace"), tmp_path / "parts", None)
    for seed, part in enumerate(("train", "validation", "test")):
        lines(place.source / part, seed=seed)
    place.ingest()
    bundle = replace(
        good()[0],
        dataset={
            "name": "lines",
            "snapshot": "0" * 16,
            "source": place.snapshot.source,
            "schema_version": SCHEMA_VERSION,
        },
        recipe=RECIPE.to_dict(),
    )
    assert learned.contents_of(bundle, datasets=place.workspace.datasets) is None


def test_a_champion_whose_training_images_nobody_knows_may_have_an_advantage(place):
    """It is still beaten or equalled soundly; only a refusal is doubtful, so that --force may overrule it."""
    place.publish(place.run(*good(), dataset={"name": "lost", "snapshot": "0" * 16}))
    assert place.judge(place.run(*good())).passed
    refused = place.judge(place.run(*bad()))
    assert not refused.passed
    assert refused.champion_learned is False
    assert "may have learned some of these" in refused.reason
    assert place.judge(place.run(*bad()), force=True).passed


def test_a_snapshot_with_other_content_hashes_tells_nothing(place):
    """Hashes of an older schema are equal to none of today's: what its champion learned is unknown, not nothing."""
    place.publish(place.run(*good()))
    assert place.judge(place.run(*good())).champion_learned is True
    old = place.workspace.datasets / "old" / "snapshots" / "0123456789abcdef"
    shutil.copytree(place.snapshot.path, old)
    said = json.loads((old / SNAPSHOT).read_text())
    for text in (json.dumps({**said, "schema_version": 1}), "{}", "no JSON"):
        (old / SNAPSHOT).write_text(text)
        place.publish(place.run(*good(), dataset={"name": "old", "snapshot": old.name}))
        refused = place.judge(place.run(*bad()))
        assert not refused.passed
        assert refused.champion_learned is False
        assert place.judge(place.run(*bad()), force=True).passed


def test_a_known_set_is_read_where_it_was_written(place, tmp_path):
    """`known:digits` means the folder in the workspace, whatever lies in the current folder under that name."""
    cache = tmp_path / "cache"
    (cache / "digits").mkdir(parents=True)
    assert originals.root_of("known:digits", cache=cache) == str((cache / "digits").resolve())
    assert originals.root_of("s3://bucket/digits", cache=cache) == "s3://bucket/digits"
    with pytest.raises(UsageError, match="no known set 'unheard-of'"):
        originals.root_of("known:unheard-of", cache=cache)


@given(st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name) | st.from_regex(rb"(\\x[0-9a-f]*)+"))
def test_a_path_in_a_manifest_leads_back_to_its_file(name):
    r"""Names with `\xNN` in them, meant as escapes or typed by their owner, are found again."""
    known = os.fsdecode(name)
    assert originals.system_name(walk.printable(known)) == known


def test_files_with_awkward_names_are_judged(place):
    r"""An image whose name holds `\x41` is the file of that name, not `A`."""
    for number in range(40):
        pixels = np.full((6, 5), number, np.uint8)
        pixels[0] = 255
        put(place.source / "zero" / rf"odd \x41 {number}.png", pixels)
    place.ingest()
    place.publish(place.run(*good()))
    odd = [path for path in place.snapshot.part("test").paths if "odd" in path]
    assert odd
    found = place.judge(place.run(*good()))
    assert found.left_out == {}
    assert found.images == place.snapshot.counts["test"]


# ---- floors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("floors", "words"),
    [
        ({"accuracy": 0.98}, "accuracy is 0.97 and must be at least 0.98"),
        ({"log_loss": 0.1}, "log_loss is 0.2 and may be at most 0.1"),
        ({"macro_f1": 0.1}, "macro_f1 is nan and must be at least 0.1"),
        ({"accuracy": 0.97, "log_loss": 0.2}, None),
    ],
)
def test_a_run_below_its_floors_is_refused(place, floors, words):
    """Minimum or maximum as the metric is; a metric that isn't known reaches no floor; force changes nothing."""
    run = place.run(*good(), metrics={"accuracy": 0.97, "log_loss": 0.2})
    for force in (False, True):
        found = place.judge(run, recipe=Recipe(floors=floors), force=force)
        assert found.passed is (words is None)
        assert (words or "no champion") in found.reason


def test_floors_are_known_metrics_of_the_task():
    """Each metric that a bundle carries can have a floor, of the right kind; others, and other tasks', are refused."""
    for task, metrics in (("classify", CLASSIFY_METRICS), ("reconstruct", RECONSTRUCT_METRICS)):
        assert sorted((*LARGER_IS_BETTER[task], *SMALLER_IS_BETTER[task])) == sorted(metrics)
    assert list(Recipe.from_dict({"floors": {"macro_f1": 0.5, "accuracy": 0.9}}).floors) == ["accuracy", "macro_f1"]
    for values in ({"floors": {"psnr": 20}}, {"floors": {"accuracy": "high"}}, {"floors": {"accuracy": float("nan")}}):
        with pytest.raises(BadRecipe, match="floor"):
            Recipe.from_dict(values)


# ---- publishing ---------------------------------------------------------------------------------


def test_only_the_champion_that_was_judged_is_replaced(place):
    """Whoever publishes or withdraws between the gate and the publishing makes the gate judge again."""
    place.publish(place.run(*good()))
    first, second = place.run(*good()), place.run(*good(gain=5.0))
    seen = {folder: place.judge(folder).versions for folder in (first, second)}
    models = place.workspace.models

    def publish(folder):
        return publish_run(folder, models, name="lines", run=folder.name, expected=seen[folder])

    assert publish(first) == 2
    assert publish(second) is None
    assert bundles.versions(models, "lines") == [1, 2]
    seen[second] = place.judge(second).versions
    bundles.withdraw(models, "lines", 2)
    assert publish(second) is None
    seen[second] = place.judge(second).versions
    assert publish(second) == 3


def test_of_publishers_at_once_one_wins(place):
    """Runs judged against the same champion: the first replaces it, the others have another champion to beat."""
    models = place.workspace.models
    place.publish(place.run(*good()))
    folders = [place.run(*good()) for _ in range(6)]

    def publish(folder):
        return publish_run(folder, models, name="lines", run=folder.name, expected=(1,))

    with ThreadPoolExecutor(len(folders)) as pool:
        published = list(pool.map(publish, folders))
    assert sorted(published, key=str) == [2, *[None] * 5]
    assert bundles.versions(models, "lines") == [1, 2]


def test_a_run_is_published_once(place):
    """Killed between publishing and writing it down, a run is told its version; withdrawn since, it stays withdrawn."""
    models = place.workspace.models
    place.publish(place.run(*good()))
    run = place.run(*good())
    assert place.publish(run) == place.publish(run) == 2
    assert version_of(models, name="lines", run=run.name) == 2
    refuse_withdrawn(models, name="lines", run=run.name)
    bundles.withdraw(models, "lines", 2)
    assert version_of(models, name="lines", run=run.name) is None
    with pytest.raises(Refused, match="as version 2, and withdrawn since"):
        refuse_withdrawn(models, name="lines", run=run.name)


def test_a_run_without_an_exported_model_is_a_usage_error(place):
    """A run that was killed before its export is told so."""
    folder = place.workspace.runs / "killed"
    folder.mkdir(parents=True)
    with pytest.raises(UsageError, match="has no exported model"):
        place.judge(folder)
