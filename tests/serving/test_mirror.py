"""A bucket of models as a folder on this machine."""

from __future__ import annotations

import logging
import shutil
import threading

import fsspec
import pytest

from serving import bundle as bundles
from serving import logs, repository
from serving.errors import BadRepository, BadSetting
from serving.mirror import Mirror
from tests.serving import fake_models

URL = "shaky://me:hush-hush@bucket/models"


@pytest.fixture
def bucket():
    """An empty bucket in memory, of a kind that can be away (`bucket.away`, an error) and needs a password."""
    memory = fsspec.filesystem("memory")

    class Shaky(type(memory)):
        protocol = "shaky"
        away = None
        forbidden = None
        answers = threading.Event()

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("shaky://me:hush-hush@", "memory://"))

        def find(self, *arguments, **more):
            return self._there() or super().find(*arguments, **more)

        def get_file(self, rpath, lpath, **more):
            self._there()
            if type(self).forbidden:
                raise type(self).forbidden
            super().get_file(rpath, lpath, **more)

        def _there(self):
            type(self).answers.wait()
            if type(self).away:
                raise type(self).away

    fsspec.register_implementation("shaky", Shaky, clobber=True)
    Shaky.answers.set()
    yield Shaky
    Shaky.answers.set()
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def put(models, *paths):
    """Upload files or folders of a repository, in this order; folders by name, so that `checksums` isn't last."""
    memory = fsspec.filesystem("memory")
    for path in paths:
        whole = models / path
        for file in sorted(whole.rglob("*")) if whole.is_dir() else [whole]:
            if file.is_file():
                memory.pipe(f"/bucket/models/{file.relative_to(models).as_posix()}", file.read_bytes())


def remove(path):
    fsspec.filesystem("memory").rm(f"/bucket/models/{path}", recursive=True)


@pytest.fixture
def models(tmp_path):
    """A repository to upload from."""
    return tmp_path / "models"


@pytest.fixture
def mirror(tmp_path, bucket):
    """A mirror whose looks are taken by hand."""
    mirror = Mirror(URL, tmp_path / "cache", poll_seconds=3600)
    mirror._folder.adopt()
    yield mirror
    mirror.stop()


def held(tmp_path):
    """What a server would find in the copy: names, versions, kinds."""
    scan = repository.scan(tmp_path / "cache")
    for version in scan.usable.values():
        if version.kind == "bundle":
            bundles.verify(version.path)
    return {key: version.kind for key, version in scan.usable.items()}


@pytest.fixture
def lines():
    """The log lines since the last question, as an operator sees them, without time and level."""
    said = []

    class Listener(logging.Handler):
        def emit(self, record):
            said.append(logs.TextLines().format(record).split(" ", 2)[2])

    def since():
        told, said[:] = said[:], []
        return told

    listener, log = Listener(), logs.logger("mirror")
    before = log.level
    log.addHandler(listener)
    log.setLevel("INFO")
    yield since
    log.removeHandler(listener)
    log.setLevel(before)


def test_versions_come_whole_and_go(tmp_path, models, mirror):
    """Published, configured anew, rolled back and removed: the folder follows, one whole version at a time."""
    fake_models.publish_classifier(models)
    fake_models.publish_classifier(models, gain=8.0)
    fake_models.publish_reconstructor(models)
    put(models, "digits", "digits-ae")
    mirror.look()
    assert held(tmp_path) == {("digits", 1): "bundle", ("digits", 2): "bundle", ("digits-ae", 1): "bundle"}
    config = tmp_path / "cache" / "digits" / "config.pbtxt"
    assert config.read_text() == (models / "digits" / "config.pbtxt").read_text()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")}
    mirror.look()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*")} == before
    (models / "digits" / "config.pbtxt").write_text("max_batch_size: 8")
    put(models, "digits/config.pbtxt")
    bundles.withdraw(models, "digits", 2)
    remove("digits/2")
    put(models, "digits/.withdrawn-2")
    remove("digits-ae")
    mirror.look()
    assert held(tmp_path) == {("digits", 1): "bundle"}
    assert config.read_text() == "max_batch_size: 8"
    assert not (tmp_path / "cache" / "digits-ae").exists()


def test_half_an_upload_is_never_seen(tmp_path, models, mirror, lines):
    """Files that come one by one, in any order, make a version when all are there and right, not before."""
    fake_models.publish_classifier(models)
    for file in ("model.onnx", "bundle.json"):
        put(models, f"digits/1/{file}")
        mirror.look()
        assert held(tmp_path) == {}
    assert [line for line in lines() if "checksums" in line]
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/models/digits/1/model.onnx", b"half")
    put(models, "digits/1/checksums")
    for _ in range(2):
        mirror.look()
        assert held(tmp_path) == {}
    [refused] = [line for line in lines() if line.startswith("version_not_taken")]
    assert "was changed or damaged" in refused
    put(models, "digits/1/model.onnx")
    mirror.look()
    assert held(tmp_path) == {("digits", 1): "bundle"}
    assert not list((tmp_path / "cache").rglob(".fetching*"))


def test_a_plain_model_comes_at_the_second_look(tmp_path, models, mirror):
    """A lone model.onnx is taken once it stays as it is, and is another one when it is replaced."""
    fake_models.write_plain(models)
    put(models, "plain")
    assert mirror.look()
    assert held(tmp_path) == {}
    assert not mirror.look()
    assert held(tmp_path) == {("plain", 1): "plain"}
    (models / "plain" / "1" / "model.onnx").write_bytes(fake_models.echo())
    put(models, "plain")
    mirror.look()
    mirror.look()
    assert (tmp_path / "cache" / "plain" / "1" / "model.onnx").read_bytes() == fake_models.echo()


def test_a_bucket_that_is_away_takes_nothing_with_it(tmp_path, models, mirror, bucket, lines):
    """What was there stays; it is told once, without the password, counted at every look, and over when it is over."""
    fake_models.publish_classifier(models)
    put(models, "digits")
    mirror.look()
    lines()
    bucket.away = ConnectionRefusedError(f"nobody at {URL}")
    for _ in range(3):
        mirror.look()
    [line] = lines()
    assert line.startswith("mirror_failed ")
    assert "shaky://bucket/models" in line
    assert "nobody answers" in line
    assert "hush-hush" not in line
    assert held(tmp_path) == {("digits", 1): "bundle"}
    assert b'calotype_mirror_looks_total{outcome="failed"} 3.0' in mirror.exposition()
    bucket.away = None
    fake_models.publish_classifier(models, gain=8.0)
    put(models, "digits/2")
    mirror.look()
    assert len(held(tmp_path)) == 2
    assert [line.split()[0] for line in lines()] == ["version_mirrored", "mirror_reaches_again"]
    assert b'calotype_mirror_looks_total{outcome="done"} 2.0' in mirror.exposition()
    assert b"calotype_mirror_age_seconds" in mirror.exposition()


@pytest.mark.parametrize("error", [PermissionError("not yours"), OSError(28, "No space left on device")])
def test_what_does_not_come_keeps_only_its_own(tmp_path, models, mirror, bucket, error):
    """A version that can't be fetched holds up no removal but that of the last one before it, and comes when it can."""
    for _ in range(2):
        fake_models.publish_classifier(models)
    fake_models.publish_reconstructor(models)
    put(models, "digits", "digits-ae")
    mirror.look()
    fake_models.publish_reconstructor(models)
    put(models, "digits-ae/2")
    remove("digits/2")
    remove("digits-ae/1")
    bucket.forbidden = error
    mirror.look()
    assert held(tmp_path).keys() == {("digits", 1), ("digits-ae", 1)}
    bucket.forbidden = None
    mirror.look()
    assert held(tmp_path).keys() == {("digits", 1), ("digits-ae", 2)}


def test_a_bucket_that_is_suddenly_empty_is_not_believed(tmp_path, models, mirror, lines):
    """Not one version of any model left is more likely a mistake than a wish."""
    fake_models.publish_classifier(models)
    put(models, "digits")
    mirror.look()
    remove("digits")
    mirror.look()
    assert held(tmp_path) == {("digits", 1): "bundle"}
    assert "is not believed" in lines()[-1]


def started(tmp_path, url=URL):
    mirror = Mirror(url, tmp_path / "cache", poll_seconds=0.05)
    try:
        mirror.start()
    finally:
        mirror.stop()
    return mirror


def test_a_start_without_the_bucket_takes_what_is_there(tmp_path, models, bucket, lines):
    """From the copy alone, if there is one; else it is a sentence. A plain model is there after the start too."""
    bucket.away = ConnectionRefusedError("no")
    with pytest.raises(BadRepository, match=r"shaky://bucket/models can't be read: nobody answers \(no\)"):
        started(tmp_path)
    assert lines() == []  # the sentence is all
    bucket.away = None
    fake_models.publish_classifier(models)
    fake_models.write_plain(models)
    put(models, "digits", "plain")
    started(tmp_path)
    bucket.away = ConnectionRefusedError("no")
    started(tmp_path)
    assert held(tmp_path) == {("digits", 1): "bundle", ("plain", 1): "plain"}


def test_a_bucket_that_does_not_answer_holds_no_start_up(tmp_path, models, bucket, lines):
    """With a copy from before the server starts from that, and follows the bucket when it answers."""
    fake_models.publish_classifier(models)
    put(models, "digits")
    started(tmp_path)
    fake_models.publish_classifier(models)
    put(models, "digits/2")
    lines()
    bucket.answers.clear()
    late, changed = Mirror(URL, tmp_path / "cache", poll_seconds=0.05), threading.Event()
    late.start(patience_seconds=0)
    late.tell(changed.set)
    assert lines() == ["mirror_late url=shaky://bucket/models versions_kept=1"]
    bucket.answers.set()
    assert changed.wait(10)
    late.stop()
    assert len(held(tmp_path)) == 2


def test_a_start_fetches_only_what_it_lacks(tmp_path, models, bucket, lines):
    """What an earlier process mirrored is known again; what it left half done is not there; an empty bucket is one."""
    started(tmp_path)
    fake_models.publish_classifier(models)
    put(models, "digits")
    started(tmp_path)
    assert [line.split()[0] for line in lines()] == ["version_mirrored"]
    half = tmp_path / "cache" / "digits" / ".fetching-2"
    half.mkdir()
    (half / "model.onnx").touch()
    started(tmp_path)
    assert lines() == []
    assert not half.exists()
    (tmp_path / "cache" / ".mirror.json").write_text("{")
    started(tmp_path)
    assert held(tmp_path) == {("digits", 1): "bundle"}


def test_the_cache_is_for_one_bucket_and_nothing_else(tmp_path, bucket):
    """A folder with somebody's files is never taken for a copy, which would be cleared of them."""
    started(tmp_path)
    with pytest.raises(BadSetting, match=r"is a copy of shaky://bucket/models\."):
        started(tmp_path, "shaky://me:hush-hush@bucket/others")
    shutil.rmtree(tmp_path / "cache")
    fake_models.publish_classifier(tmp_path / "cache")
    with pytest.raises(BadSetting, match="holds something else"):
        started(tmp_path)
    assert held(tmp_path) == {("digits", 1): "bundle"}


def test_two_processes_share_a_copy(tmp_path, models, mirror, lines):
    """One keeps it; the other reads, and keeps it when the first is gone."""
    other = Mirror(URL, tmp_path / "cache", poll_seconds=3600)
    other._folder.adopt()
    fake_models.publish_classifier(models)
    put(models, "digits")
    other.look()
    assert held(tmp_path) == {}
    mirror.look()
    mirror.stop()
    other.look()
    assert [line.split()[0] for line in lines()] == ["version_mirrored"]
    fake_models.publish_classifier(models)
    put(models, "digits/2")
    other.look()
    assert len(held(tmp_path)) == 2
    other.stop()


def test_a_copy_that_cannot_be_written_for_a_while_is_kept_later(tmp_path, models, mirror, monkeypatch):
    """The disk is full when this process takes the copy over: the look fails and is counted, and the next one comes."""
    fake_models.publish_classifier(models)
    put(models, "digits")

    def full():
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(mirror._folder, "hold", full)
        assert mirror.look() is False
    mirror.look()
    assert mirror._looks == {"done": 1, "failed": 1}
    assert len(held(tmp_path)) == 1


def test_other_bytes_under_a_number_leave_nothing_behind(tmp_path, models, mirror):
    """Somebody uploads a version anew: the new bytes take its place, and what was there is gone."""
    fake_models.publish_classifier(models)
    put(models, "digits")
    mirror.look()
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/models/digits/1/notes.txt", b"anew")
    mirror.look()
    assert (tmp_path / "cache" / "digits" / "1" / "notes.txt").read_bytes() == b"anew"
    assert len(held(tmp_path)) == 1
    assert not [entry for entry in (tmp_path / "cache" / "digits").iterdir() if entry.name.startswith(".")]


def test_no_password_is_left_in_the_copy(tmp_path, models, mirror):
    """The record names the bucket, and not how one gets in."""
    fake_models.publish_classifier(models)
    put(models, "digits")
    mirror.look()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and b"hush" in path.read_bytes()]
