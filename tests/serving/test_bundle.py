"""Bundles: published in one step, never a number twice, and no damage goes unnoticed."""

from __future__ import annotations

import concurrent.futures
import errno
import hashlib
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving import bundle as bundles
from serving.errors import BadBundle, BadInput, BadRepository
from tests.serving import fake_models

FILES = {bundles.MODEL, bundles.JSON, bundles.CHECKSUMS}


@pytest.fixture
def published(tmp_path):
    """The folder of a freshly published version 1."""
    fake_models.publish_classifier(tmp_path)
    return tmp_path / "digits" / "1"


def _visible(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


# ---- publish ------------------------------------------------------------------------------------


def test_what_is_published_is_what_is_read(tmp_path):
    """A bundle survives the disk unchanged, but for its version."""
    for make in (fake_models.classifier, fake_models.reconstructor):
        bundle, model = make()
        version = bundles.publish(tmp_path, bundle, model)
        folder = tmp_path / bundle.name / str(version)
        assert bundles.read(folder) == replace(bundle, version=1)
        assert _visible(folder) == FILES
        bundles.verify(folder)


def test_checksums_are_those_of_sha256sum(published):
    """The file is what the tool of that name writes, so that it can check a bundle too."""
    lines = [
        f"{hashlib.sha256((published / name).read_bytes()).hexdigest()}  {name}\n"
        for name in (bundles.MODEL, bundles.JSON)
    ]
    assert (published / bundles.CHECKSUMS).read_text() == "".join(lines)


def test_others_may_read_what_is_published(published):
    """A server under another user reads it: no private folder, as temporary ones are."""
    umask = os.umask(0)
    os.umask(umask)
    assert published.stat().st_mode & 0o777 == 0o777 & ~umask


def test_versions_count_up_and_gaps_are_kept(tmp_path):
    """1, 2, 3; after somebody's own version 7 comes 8; broken and foreign folders are no versions."""
    assert [fake_models.publish_classifier(tmp_path) for _ in range(3)] == [1, 2, 3]
    fake_models.write_plain(tmp_path, "digits", 7)
    (tmp_path / "digits" / "007").mkdir()
    assert fake_models.publish_classifier(tmp_path) == 8
    assert bundles.versions(tmp_path, "digits") == [1, 2, 3, 8]


def test_a_number_is_never_given_twice(tmp_path):
    """Neither after a rollback nor after somebody deleted the newest folders, withdrawn ones included."""
    for _ in range(3):
        fake_models.publish_classifier(tmp_path)
    assert bundles.withdraw(tmp_path, "digits", 3) == 2
    assert fake_models.publish_classifier(tmp_path) == 4
    shutil.rmtree(tmp_path / "digits" / "4")
    shutil.rmtree(tmp_path / "digits" / ".withdrawn-3")
    assert fake_models.publish_classifier(tmp_path) == 5


def test_a_repository_without_memory_still_counts_what_is_withdrawn(tmp_path):
    """The remembered number may be lost or damaged (a copied repository): the folders still count."""
    for _ in range(2):
        fake_models.publish_classifier(tmp_path)
    bundles.withdraw(tmp_path, "digits", 2)
    (tmp_path / "digits" / ".last-version").write_bytes(b"\xff\xff")
    assert fake_models.publish_classifier(tmp_path) == 3


def test_leftovers_of_the_dead_are_harmless_and_cleaned_up(tmp_path):
    """A publisher that died half-way leaves a dot-folder; the next one removes it."""
    leftover = tmp_path / "digits" / ".publishing-1"
    leftover.mkdir(parents=True)
    (leftover / bundles.MODEL).write_bytes(b"half")
    (tmp_path / "digits" / ".publishing-config.pbtxt").write_text("half")
    assert bundles.versions(tmp_path, "digits") == []
    assert fake_models.publish_classifier(tmp_path) == 1
    assert not list((tmp_path / "digits").glob(".publishing*"))


def test_a_config_of_the_users_own_is_kept(tmp_path):
    """config.pbtxt is written only when absent."""
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / bundles.CONFIG).write_text("max_batch_size: 5")
    fake_models.publish_classifier(tmp_path)
    assert (tmp_path / "digits" / bundles.CONFIG).read_text() == "max_batch_size: 5"


def test_the_config_is_tritons(tmp_path):
    """Dimensions come without the rows; a number per row is reshaped, because Triton wants a dimension."""
    fake_models.publish_reconstructor(tmp_path)
    head, _, text = (tmp_path / "digits-ae" / bundles.CONFIG).read_text().partition("platform")
    assert all(line.startswith("#") for line in head.splitlines())
    assert "platform" + text == (
        'platform: "onnxruntime_onnx"\n'
        "max_batch_size: 64\n"
        'input [ { name: "image" data_type: TYPE_UINT8 dims: [ 6, 5, 1 ] } ]\n'
        'output [ { name: "reconstruction" data_type: TYPE_FP32 dims: [ 6, 5, 1 ] } ]\n'
        'output [ { name: "error" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]\n'
        "dynamic_batching { }\n"
    )


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "-flag", "a/b", "../up", "a b", "a\n", "ä", "x" * 129, "a\0"]
)
def test_names_cannot_leave_the_repository(tmp_path, name):
    """A name that is a path, a flag or hidden is refused, and nothing is written."""
    bundle, model = fake_models.classifier(name)
    with pytest.raises(BadInput, match="A model's name"):
        bundles.publish(tmp_path / "models", bundle, model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "metrics",
    [{"loss": float("nan")}, {"loss": float("inf")}, {"loss": {1, 2}}, {"loss": object()}, {"loss": "\ud800"}],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_written(tmp_path, metrics):
    """bundle.json is strict JSON: other readers than Python's choke on NaN."""
    bundle, model = fake_models.classifier()
    with pytest.raises(BadBundle, match="JSON"):
        bundles.publish(tmp_path / "models", replace(bundle, metrics=metrics), model)
    assert not list(tmp_path.iterdir())


def test_a_repository_that_is_a_file_is_refused(tmp_path):
    """One sentence with the path."""
    (tmp_path / "models").write_text("")
    with pytest.raises(BadRepository, match="models/digits can't be written"):
        fake_models.publish_classifier(tmp_path / "models")


def _publish_under_a_file_size_limit(models, limit_bytes):
    """In a child: every write beyond the limit fails, as on a full disk. Returns the error's cause."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
    try:
        fake_models.publish_classifier(models)
    except BadRepository as error:
        cause = error.__cause__
        return cause.errno if isinstance(cause, OSError) else None
    return 0


@pytest.mark.parametrize("limit_bytes", [0, 1, 100, 1000])
@pytest.mark.parametrize("before", [0, 1])
def test_a_disk_that_takes_no_more_leaves_the_old_state(tmp_path, limit_bytes, before):
    """Whatever file it fails at: an error, the old versions, no half version, no config without a version."""
    for _ in range(before):
        fake_models.publish_classifier(tmp_path)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(_publish_under_a_file_size_limit, tmp_path, limit_bytes).result() == errno.EFBIG
    assert bundles.versions(tmp_path, "digits") == [1] * before
    assert _visible(tmp_path / "digits") == ({"1", bundles.CONFIG} if before else set())
    assert fake_models.publish_classifier(tmp_path) == before + 1


def _publish_some(models, count):
    return [fake_models.publish_classifier(models) for _ in range(count)]


@pytest.mark.slow
def test_publishers_at_once_get_different_numbers(tmp_path):
    """Four processes, five bundles each: the numbers 1 to 20, each once, every version whole."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(4, mp_context=spawn) as pool:
        jobs = [pool.submit(_publish_some, tmp_path, 5) for _ in range(4)]
        numbers = [number for job in jobs for number in job.result()]
    assert sorted(numbers) == list(range(1, 21))
    for number in numbers:
        bundles.verify(tmp_path / "digits" / str(number))
        assert bundles.read(tmp_path / "digits" / str(number)).version == number


_KILLED = """
import os, sys
from pathlib import Path
from tests.serving import fake_models

calls = 0
def step(event, args):
    global calls
    if event in ("open", "os.mkdir", "os.rename", "shutil.rmtree"):
        if str(args[0]).startswith(sys.argv[1]):
            calls += 1
            if calls == int(sys.argv[2]):
                os.kill(os.getpid(), 9)
bundle, model = fake_models.classifier()
sys.addaudithook(step)
from serving import bundle as bundles
bundles.publish(Path(sys.argv[1]), bundle, model)
print(calls)
"""


@pytest.mark.slow
def test_a_publisher_killed_at_any_step_leaves_the_old_state_or_the_new(tmp_path):
    """SIGKILL before every opening, making and renaming of a file: a reader sees whole versions only."""
    for step in range(1, 100):
        models = tmp_path / str(step)
        fake_models.publish_classifier(models)
        command = [sys.executable, "-c", _KILLED, str(models), str(step)]
        root = Path(__file__).parents[2]
        child = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
        for version in bundles.versions(models, "digits"):
            bundles.verify(models / "digits" / str(version))
        assert _visible(models / "digits") <= {"1", "2", bundles.CONFIG}, child.stderr
        assert fake_models.publish_classifier(models) in (2, 3)
        assert not list((models / "digits").glob(".publishing*"))
        if child.returncode == 0:
            break
    assert child.returncode == 0
    assert step > 8


_FAILS_AFTER_RENAME = """
import errno, os, sys
from pathlib import Path
from serving import bundle as bundles
from tests.serving import fake_models

models, what = Path(sys.argv[1]), sys.argv[2]
renamed = False
def fail(event, args):
    global renamed
    renamed = renamed or (event == "os.rename" and Path(os.fsdecode(args[1])).name in ("2", ".withdrawn-2"))
    if renamed and event == "open" and Path(os.fsdecode(args[0])) in (models, models / "digits"):
        raise OSError(errno.EIO, "Input/output error")
bundle, model = fake_models.classifier()
if what == "withdraw":
    bundles.publish(models, bundle, model)
sys.addaudithook(fail)
print(bundles.publish(models, bundle, model) if what == "publish" else bundles.withdraw(models, "digits", 2))
"""


@pytest.mark.parametrize(("what", "returned", "versions"), [("publish", 2, [1, 2]), ("withdraw", 1, [1])])
def test_what_fails_after_the_rename_does_not_deny_it(tmp_path, what, returned, versions):
    """A folder that can't be synced: the version is published, or withdrawn, and its caller is told so."""
    fake_models.publish_classifier(tmp_path)
    command = [sys.executable, "-c", _FAILS_AFTER_RENAME, str(tmp_path), what]
    child = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert child.stdout == f"{returned}\n", child.stderr
    assert bundles.versions(tmp_path, "digits") == versions


# ---- withdraw -----------------------------------------------------------------------------------


def test_withdrawing_keeps_the_folder_under_a_dot(tmp_path):
    """Withdrawn is renamed, not deleted: the proof stays, nobody serves it."""
    for _ in range(2):
        fake_models.publish_classifier(tmp_path)
    assert bundles.withdraw(tmp_path, "digits", 2) == 1
    assert bundles.versions(tmp_path, "digits") == [1]
    bundles.verify(tmp_path / "digits" / ".withdrawn-2")


def test_the_only_version_cannot_be_withdrawn(tmp_path):
    """A broken neighbour does not count: there must be one to go back to."""
    fake_models.publish_classifier(tmp_path)
    fake_models.publish_classifier(tmp_path)
    (tmp_path / "digits" / "1" / bundles.CHECKSUMS).unlink()
    with pytest.raises(BadInput, match="only one of 'digits'"):
        bundles.withdraw(tmp_path, "digits", 2)
    assert bundles.versions(tmp_path, "digits") == [2]


@pytest.mark.parametrize(("name", "words"), [("digits", "no version 9"), ("letters", "no model 'letters'")])
def test_what_is_not_there_cannot_be_withdrawn(tmp_path, name, words):
    """Unknown names and versions are told, and nothing appears."""
    fake_models.publish_classifier(tmp_path)
    with pytest.raises(BadInput, match=words):
        bundles.withdraw(tmp_path, name, 9)
    assert _visible(tmp_path) == {"digits"}


# ---- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(published, name):
    """Whichever of the three is gone, both `read` and `verify` name its path."""
    (published / name).unlink()
    for look in (bundles.read, bundles.verify):
        with pytest.raises(BadBundle, match=re.escape(f"{published / name} is missing")):
            look(published)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_any_changed_byte_is_noticed_and_its_file_named(published, name, data):
    """Flip any bit, cut anywhere: `verify` refuses, and names the damaged file or the list of checksums."""
    path = published / name
    whole = path.read_bytes()
    position = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        bit = data.draw(st.sampled_from([1, 2, 4, 8, 16, 64, 128]))
        damaged = whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :]
    else:
        damaged = whole[:position]
    path.write_bytes(damaged)
    try:
        if name == bundles.CHECKSUMS and damaged in (whole[:-1], whole.replace(b"  ", b" *")):
            return
        with pytest.raises(BadBundle, match=re.escape(str(published))) as refusal:
            bundles.verify(published)
        assert name in str(refusal.value) or name == bundles.CHECKSUMS
    finally:
        path.write_bytes(whole)


def _rewrite(folder, text):
    """Put another bundle.json in place, with a matching checksum, as a foreign writer would."""
    (folder / bundles.JSON).write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    lines = (folder / bundles.CHECKSUMS).read_text().splitlines()
    (folder / bundles.CHECKSUMS).write_text(f"{lines[0]}\n{digest}  {bundles.JSON}\n")


def _edited(folder, **fields):
    values = json.loads((folder / bundles.JSON).read_text())
    _rewrite(folder, json.dumps({**values, **fields}))


def test_a_newer_schema_is_refused_in_words(published):
    """Not guessed at: the sentence says newer, and what to do."""
    _edited(published, schema_version=2)
    with pytest.raises(BadBundle, match=r"schema_version 2, written by a newer Calotype.*upgrade"):
        bundles.read(published)


def test_unknown_keys_are_left_alone(published):
    """A writer of the same schema may say more."""
    before = bundles.read(published)
    _edited(published, remark="hello")
    assert bundles.read(published) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema_version", "1"),
        ("name", 5),
        ("version", -1),
        ("version", True),
        ("task", "detect"),
        ("image", None),
        ("image", {"height": 0, "width": 5, "channels": 1, "resize": "stretch"}),
        ("image", {"height": 5, "width": 5, "channels": 2, "resize": "stretch"}),
        ("image", {"height": 5, "width": 5, "channels": 1, "resize": "squeeze"}),
        ("inputs", {}),
        ("inputs", [{"name": "image", "dtype": "uint8", "shape": "all"}]),
        ("outputs", [{"name": "image", "dtype": "uint8", "shape": [None, 1.5]}]),
        ("labels", ["a", 1]),
        ("threshold", {"error": "high", "quantile": 0.9}),
        ("parity", {"max_abs_diff": 0.0}),
        ("metrics", []),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(published, field, value):
    """The path and the field are in the sentence."""
    _edited(published, **{field: value})
    with pytest.raises(BadBundle, match=re.escape(str(published / bundles.JSON))) as refusal:
        bundles.read(published)
    parts = set(re.findall(r"'(\w+)'", str(refusal.value)))
    inside = {"shape", "error", "rows", "image"}
    assert field in str(refusal.value) or parts & inside


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": NaN}', "[" * 100_000])
def test_json_that_is_none_is_refused(published, text):
    """Empty, cut, another kind, not strict, or nested without end."""
    _rewrite(published, text)
    with pytest.raises(BadBundle, match=re.escape(str(published / bundles.JSON))):
        bundles.read(published)
