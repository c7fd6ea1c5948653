"""A look at a repository: what it takes for a model, and what it says changed."""

from __future__ import annotations

import os
import shutil
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import bundle as bundles
from serving import repository
from serving.errors import BadRepository
from serving.repository import EMPTY, Model, Scan, Version
from tests.serving import fake_models


def _names(versions):
    return [(version.name, version.number) for version in versions]


def test_an_empty_folder_is_a_repository(tmp_path):
    """Nothing in it, nothing wrong with it."""
    assert repository.scan(tmp_path) == EMPTY


def test_a_missing_path_is_no_repository(tmp_path):
    """The sentence names the path and the cure."""
    with pytest.raises(BadRepository, match=r"no model repository at .*nowhere"):
        repository.scan(tmp_path / "nowhere")


def test_a_file_is_no_repository(tmp_path):
    """The sentence says that it is a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(BadRepository, match="is a file"):
        repository.scan(tmp_path / "file")


def test_bundles_and_plain_models_are_told_apart(tmp_path):
    """A bundle has checksums; a lone model.onnx is plain; both may be loaded; the newest is by number."""
    for _ in range(2):
        fake_models.publish_classifier(tmp_path)
    for number in (9, 10):
        fake_models.write_plain(tmp_path, "plain", number)
    models = repository.scan(tmp_path).models
    assert [(v.number, v.kind) for v in models["digits"].versions] == [(1, "bundle"), (2, "bundle")]
    assert [(v.number, v.kind) for v in models["plain"].versions] == [(9, "plain"), (10, "plain")]
    assert models["plain"].newest.number == 10
    assert models["plain"].config is None
    assert "max_batch_size" in models["digits"].config


@pytest.mark.parametrize("missing", [bundles.CHECKSUMS, bundles.JSON, bundles.MODEL])
def test_an_incomplete_version_is_broken_and_the_one_before_stays_newest(tmp_path, missing):
    """Any of the three files missing: not to be loaded, with a reason that names the file."""
    fake_models.publish_classifier(tmp_path)
    fake_models.publish_classifier(tmp_path)
    (tmp_path / "digits" / "2" / missing).unlink()
    model = repository.scan(tmp_path).models["digits"]
    assert model.versions[1].kind == "broken"
    assert missing in model.versions[1].reason
    assert model.newest.number == 1


def test_dot_folders_files_and_odd_names_are_nobodys(tmp_path):
    """Dots are silent, odd folders are reported, files are no models."""
    fake_models.publish_classifier(tmp_path)
    for folder in (".hidden/1", "with space/1", "digits/01", "digits/best", "digits/0", "digits/-1", "digits/.x"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "README").write_text("")
    (tmp_path / "digits" / "3").write_text("a file, not a version")
    scan = repository.scan(tmp_path)
    assert list(scan.models) == ["digits"]
    assert _names(scan.models["digits"].versions) == [("digits", 1)]
    said = {path.relative_to(tmp_path).as_posix() for path, _ in scan.ignored}
    assert said == {"with space", "digits/01", "digits/best", "digits/0", "digits/-1"}


def test_a_rollback_is_seen_as_gone(tmp_path):
    """What is withdrawn may not be loaded; the version before is newest again."""
    fake_models.publish_classifier(tmp_path)
    fake_models.publish_classifier(tmp_path)
    before = repository.scan(tmp_path)
    bundles.withdraw(tmp_path, "digits", 2)
    after = repository.scan(tmp_path)
    assert _names(repository.changes(before, after).gone) == [("digits", 2)]
    assert after.models["digits"].newest.number == 1


def test_a_copy_that_goes_on_is_seen_as_touched(tmp_path):
    """A plain model that is still growing shows at every look, so that a failed load is tried again."""
    folder = fake_models.write_plain(tmp_path, model=b"half")
    before = repository.scan(tmp_path)
    (folder / bundles.MODEL).write_bytes(fake_models.classifier()[1])
    changes = repository.changes(before, repository.scan(tmp_path))
    assert (_names(changes.touched), changes.new, changes.gone) == ([("plain", 1)], (), ())


def test_a_version_that_becomes_whole_is_new(tmp_path):
    """Broken versions count as absent: the last file makes the version appear."""
    fake_models.publish_classifier(tmp_path)
    checksums = tmp_path / "digits" / "1" / bundles.CHECKSUMS
    text = checksums.read_text()
    checksums.unlink()
    before = repository.scan(tmp_path)
    assert not repository.changes(EMPTY, before)
    checksums.write_text(text)
    assert _names(repository.changes(before, repository.scan(tmp_path)).new) == [("digits", 1)]


def test_a_changed_config_is_told_without_touching_versions(tmp_path):
    """Config edits are told by name."""
    fake_models.publish_classifier(tmp_path)
    before = repository.scan(tmp_path)
    (tmp_path / "digits" / bundles.CONFIG).write_text("max_batch_size: 8")
    changes = repository.changes(before, repository.scan(tmp_path))
    assert changes.configs == ("digits",)
    assert (changes.new, changes.gone, changes.touched) == ((), (), ())


def test_a_config_that_is_no_text_is_told_and_the_versions_stay(tmp_path):
    """An unreadable config has a reason; the model is still there."""
    fake_models.publish_classifier(tmp_path)
    (tmp_path / "digits" / bundles.CONFIG).write_bytes(b"\xff\xfe")
    model = repository.scan(tmp_path).models["digits"]
    assert model.config is None
    assert "config.pbtxt" in model.reason
    assert model.newest is not None


def test_a_removed_model_is_gone(tmp_path):
    """A folder deleted whole takes all its versions along."""
    fake_models.publish_classifier(tmp_path)
    before = repository.scan(tmp_path)
    shutil.rmtree(tmp_path / "digits")
    assert _names(repository.changes(before, repository.scan(tmp_path)).gone) == [("digits", 1)]


def test_a_link_to_a_folder_is_followed(tmp_path):
    """Kubernetes mounts volumes through links."""
    fake_models.publish_classifier(tmp_path / "real")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "digits").symlink_to(tmp_path / "real" / "digits")
    assert repository.scan(tmp_path / "models").models["digits"].newest.number == 1


def test_a_thousand_versions_are_looked_at_in_a_fraction_of_a_second(tmp_path):
    """Polling every second costs little; the bound is loose, for slow machines."""
    for number in range(1, 1001):
        folder = tmp_path / "digits" / str(number)
        folder.mkdir(parents=True)
        for name in (bundles.MODEL, bundles.JSON, bundles.CHECKSUMS):
            (folder / name).touch()
    start = time.process_time()
    scan = repository.scan(tmp_path)
    assert time.process_time() - start < 0.5
    assert len(scan.usable) == 1000


_kinds = st.sampled_from(["bundle", "plain", "broken"])
_looks = st.dictionaries(
    st.sampled_from(["a", "b"]), st.dictionaries(st.integers(1, 5), st.tuples(_kinds, st.integers(0, 1)), max_size=5)
)


def _scan_of(tmp_path, look):
    def model(name, versions):
        found = tuple(
            Version(name, number, tmp_path / name / str(number), kind, "", (("model.onnx", size, 0, 0),))
            for number, (kind, size) in sorted(versions.items())
        )
        return Model(name, tmp_path / name, found, None, "")

    return Scan({name: model(name, versions) for name, versions in look.items()}, ())


@given(before=_looks, after=_looks)
def test_changes_lead_from_one_look_to_the_other(tmp_path_factory, before, after):
    """Taking away what is gone and adding what is new turns one look's usable set into the other's, always."""
    old, new = (_scan_of(tmp_path_factory.getbasetemp(), look) for look in (before, after))
    changes = repository.changes(old, new)
    gone, added = (set(_names(versions)) for versions in (changes.gone, changes.new))
    assert gone <= old.usable.keys()
    assert (old.usable.keys() - gone) | added == new.usable.keys()
    assert not added & old.usable.keys()
    assert not repository.changes(old, old)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_may_not_be_read_is_told(tmp_path):
    """No permission: the model is ignored with a reason, the others stay."""
    fake_models.publish_classifier(tmp_path, "open")
    (tmp_path / "closed").mkdir(mode=0)
    scan = repository.scan(tmp_path)
    assert list(scan.models) == ["open"]
    assert "closed" in str(scan.ignored)


def test_the_wrong_folder_is_recognized(tmp_path):
    """One step too deep, or one too high; an empty folder is nothing but empty."""
    models = tmp_path / "workspace" / "models"
    models.mkdir(parents=True)
    assert [repository.hint(models), repository.hint(models.parent)] == ["", ""]
    fake_models.publish_classifier(models)
    assert repository.hint(models / "digits").endswith(f"the repository is the folder that it is in: {models}.")
    assert repository.hint(models.parent) == f"{models} looks like the repository."
    assert repository.hint(tmp_path) == ""
