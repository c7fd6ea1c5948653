"""Whether a source has changed and come to rest."""

from __future__ import annotations

import os
import threading

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import firing
from pipelines.errors import BadRecipe, BadSource
from pipelines.walk import walk
from pipelines.watch import Listing, Watcher, look, patiently


def test_a_look_sees_names_sizes_and_times_and_nothing_that_is_hidden(tmp_path):
    """A new, grown, touched or removed file makes another digest; a hidden one, as rsync writes, does not."""
    source = str(tmp_path / "inbox")
    assert look(source) is None
    (tmp_path / "inbox" / "cats").mkdir(parents=True)
    assert look(source) is None
    (tmp_path / "inbox" / "cats" / "one.png").write_bytes(b"1")
    seen = [look(source)]
    (tmp_path / "inbox" / "cats" / ".two.png.x8").write_bytes(b"22")
    assert look(source) == seen[0]
    (tmp_path / "inbox" / "cats" / "two.png").write_bytes(b"22")
    seen.append(look(source))
    (tmp_path / "inbox" / "cats" / "two.png").write_bytes(b"222")
    seen.append(look(source))
    os.utime(tmp_path / "inbox" / "cats" / "two.png", ns=(1, 4_000_000_000_000_000_000))
    seen.append(look(source))
    assert seen[-1].newest_ns == 4_000_000_000_000_000_000
    (tmp_path / "inbox" / "cats" / "one.png").unlink()
    seen.append(look(source))
    assert len({listing.digest for listing in seen}) == 5
    assert [listing.files for listing in seen] == [1, 2, 2, 2, 1]


def test_a_folder_that_goes_while_its_source_is_listed_takes_nothing_with_it(tmp_path):
    """Somebody sorts the inbox just now: the rest is found, and the source isn't called empty."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "dogs").mkdir()
    (tmp_path / "dogs" / "one.png").write_bytes(b"1")
    (tmp_path / "z.png").write_bytes(b"1")
    walker = walk(str(tmp_path))
    assert next(walker).name == "z.png"  # both folders are known by now
    (tmp_path / "cats").rmdir()
    gone, found = walker
    assert (gone.name, gone.trouble) == ("cats", "the folder can't be listed: No such file or directory")
    assert found.name == "dogs/one.png"


def test_a_file_is_no_source(tmp_path):
    """What can never become a folder is refused with a sentence."""
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(BadSource, match="is a file"):
        look(str(tmp_path / "file"))


def test_an_empty_bucket_is_waited_for_like_an_empty_folder():
    """There is nothing in it yet: that is no failure that somebody is woken for."""
    memory = fsspec.filesystem("memory")
    memory.mkdir("/inbox-of-a-schedule")
    assert look("memory://inbox-of-a-schedule") is None
    memory.pipe("/inbox-of-a-schedule/cats/one.png", b"1")
    found = look("memory://inbox-of-a-schedule")
    memory.rm("/inbox-of-a-schedule", recursive=True)
    assert found is not None
    assert found.files == 1


def test_a_source_that_cannot_be_reached_is_tried_again_and_a_wrong_one_is_not():
    """A bucket that is away while a firing lists it may be back in a moment; a single label stays one."""
    away = BadSource("The source s3://photos can't be listed: nobody answers.")
    away.__cause__ = ConnectionError("refused")
    assert firing._may_pass(away)
    assert not firing._may_pass(BadSource("a single label"))
    assert not firing._may_pass(BadRecipe("no such optimizer"))
    assert firing._may_pass(OSError(28, "No space left on device"))


def test_a_long_look_is_told_of_all_along():
    """A bucket of millions takes minutes to list: the scheduler is alive, and has the listing, or the error."""
    beats, enough = [], threading.Event()

    def beat():
        beats.append(1)
        if len(beats) == 3:
            enough.set()

    def listed():
        assert enough.wait(60.0)
        return Listing("x", 1, 0)

    def refused():
        raise TimeoutError("the file server said so itself")

    assert patiently(listed, meanwhile=beat, every_seconds=0.01) == Listing("x", 1, 0)
    assert len(beats) >= 3
    with pytest.raises(TimeoutError, match="said so itself"):
        patiently(refused, meanwhile=beat, every_seconds=0.01)


def test_a_known_set_never_changes():
    """`digits` names a set; it is there, and always the same."""
    assert look("digits") is not None
    assert look("digits") == look("digits")


@given(st.lists(st.tuples(st.floats(0.1, 20), st.sampled_from(["a", "b", None])), max_size=40))
def test_only_what_rested_is_ready_and_nothing_is_taken_twice(looks):
    """Whatever comes in whatever order: ready means unchanged for the settle time, and other than what was taken."""
    watcher, now, since, last, taken = Watcher(10.0), 0.0, 0.0, None, None
    for passed, digest in looks:
        now += passed
        if digest != last:
            last, since = digest, now
        ready = watcher.ready(None if digest is None else Listing(digest, 1, 0), now)
        assert ready == (digest is not None and digest != taken and now - since >= 10.0)
        if ready:
            watcher.take()
            taken = digest
