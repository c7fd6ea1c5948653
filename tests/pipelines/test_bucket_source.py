"""A bucket on a real S3-speaking server as a source."""

from __future__ import annotations

import pytest

from pipelines.config import DataRecipe
from pipelines.errors import BadSource
from pipelines.ingest import ingest
from tests.pipelines.image_folders import encoded, labelled, picture
from tests.s3_server import S3Server, file_system

pytestmark = pytest.mark.slow

RECIPE = DataRecipe()


@pytest.fixture(scope="module")
def server():
    with S3Server() as running:
        yield running


@pytest.fixture
def bucket(server, monkeypatch):
    """s3fs on a server with the bucket `photos`."""
    with file_system(server, monkeypatch) as system:
        system.mkdir("photos")
        yield system
        system.rm("photos", recursive=True)


def test_a_bucket_is_a_folder(tmp_path, bucket):
    """The same snapshot as from the folder; a second run reads nothing, and then what was replaced, gone or new.

    The object is replaced by one of as many bytes within the same second: only its ETag tells.
    """
    folder = labelled(tmp_path / "photos", {"a": 10, "b": 10})
    bucket.put(str(folder), "photos/set", recursive=True)
    local = ingest(str(folder), tmp_path / "w" / "datasets" / "local", RECIPE)
    home = tmp_path / "w" / "datasets" / "remote"
    remote = ingest("s3://photos/set", home, RECIPE)
    assert (remote.snapshot, remote.images) == (local.snapshot, local.images)
    again = ingest("s3://photos/set", home, RECIPE)
    assert (again.new, again.unchanged, again.snapshot) == (0, 20, local.snapshot)
    before = bucket.info("photos/set/a/0000.png", refresh=True)
    bucket.pipe("photos/set/a/0000.png", encoded(picture(777)).ljust(before["size"], b"\0")[: before["size"]])
    bucket.rm("photos/set/b/0010.png")
    bucket.pipe("photos/set/b/0999.png", encoded(picture(999)))
    changed = ingest("s3://photos/set", home, RECIPE)
    assert (changed.new, changed.unchanged, changed.removed) == (2, 18, 1)
    assert changed.snapshot != local.snapshot


def refused(source, home):
    with pytest.raises(BadSource) as caught:
        ingest(source, home, RECIPE)
    said = str(caught.value)
    assert "\n" not in said
    assert "secret-of-the-tests" not in said
    assert not home.exists()
    return said


def test_what_cannot_be_had_is_one_sentence_with_its_cure(tmp_path, bucket, monkeypatch):
    """No such bucket, nobody there, no credentials: each is told, and leaves nothing."""
    home = tmp_path / "w" / "datasets" / "x"
    assert "there is no such bucket" in refused("s3://elsewhere/set", home)
    assert "There is nothing at s3://photos/none" in refused("s3://photos/none", home)
    type(bucket).clear_instance_cache()
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "nobody answers" in refused("s3://photos/set", home)
    type(bucket).clear_instance_cache()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in refused("s3://photos/set", home)
