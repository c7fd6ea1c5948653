"""What is found in a folder, and what of it is a candidate."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.walk import printable, walk


def found(root):
    return {one.path: one for one in walk(str(root))}


def touch(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_files_at_any_depth(tmp_path):
    """Every file below the root is told, with its size and time."""
    touch(tmp_path / "a" / "b" / "c" / "deep.png", b"12345")
    touch(tmp_path / "top.png")
    files = found(tmp_path)
    assert set(files) == {"a/b/c/deep.png", "top.png"}
    assert files["a/b/c/deep.png"].size == 5
    assert files["top.png"].mtime_ns == (tmp_path / "top.png").stat().st_mtime_ns


def test_hidden_and_litter(tmp_path):
    """Hidden files and litter are ignored with a reason; hidden folders are nobody's."""
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._a.png"):
        touch(tmp_path / "a" / name)
    for name in (".ipynb_checkpoints", ".git", "__MACOSX", "@eaDir"):
        touch(tmp_path / name / "a.png")
    files = found(tmp_path)
    assert set(files) == {"a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/._a.png"}
    assert all(one.ignored for one in files.values())


def test_links(tmp_path):
    """Links to files and folders are followed; broken ones and loops are told, and end."""
    outside = touch(tmp_path / "elsewhere" / "x.png").parent
    root = tmp_path / "root"
    touch(root / "a" / "real.png")
    (root / "a" / "link.png").symlink_to(root / "a" / "real.png")
    (root / "a" / "broken.png").symlink_to(root / "nowhere")
    (root / "a" / "self").symlink_to("self")
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "outside").symlink_to(outside)
    (root / "0-first").symlink_to(root / "a")
    files = found(root)
    assert files["a/link.png"].trouble is None
    assert files["a/broken.png"].trouble == "a broken link"
    assert files["a/self"].trouble == "a loop of links"
    assert "read already" in files["a/up"].ignored
    assert "read already" in files["0-first"].ignored, "a real folder comes before a link to it"
    assert files["a/outside/x.png"].trouble is None
    assert len(files) == 7


def test_pipes_and_sockets(tmp_path):
    """What is no file is ignored, and never opened."""
    (tmp_path / "a").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "a" / "socket.png"))
        files = found(tmp_path)
    assert files["a/pipe.png"].ignored == "a named pipe, not a file"
    assert files["a/socket.png"].ignored == "a socket, not a file"


def test_odd_names(tmp_path):
    r"""Names with line breaks or bytes that are not UTF-8 are told as `\xNN`, with what is wrong with them."""
    folder = os.fsencode(tmp_path)
    for name in (b"bad\xff.png", b"line\nbreak.png", "größe 雪.png".encode(), b"back\\xff.png"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"x")
    files = found(tmp_path)
    assert "not UTF-8" in files[r"bad\xff.png"].trouble
    assert "line break" in files["line\nbreak.png"].trouble
    assert files["größe 雪.png"].trouble is None
    assert files[r"back\x5cxff.png"].trouble is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_listed(tmp_path):
    """A closed folder is told as one row, in place of the files that nobody can count."""
    (tmp_path / "a" / "closed").mkdir(parents=True)
    (tmp_path / "a" / "closed").chmod(0)
    try:
        assert "can't be listed" in found(tmp_path)["a/closed"].trouble
    finally:
        (tmp_path / "a" / "closed").chmod(0o700)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_no_two_names_become_one(one, other):
    """Printable names are valid UTF-8 and tell all names apart."""
    names = [printable(os.fsdecode(name)) for name in (one, other)]
    assert (names[0] == names[1]) == (one == other)
    for name in names:
        name.encode()


@given(st.text(alphabet="\\x0f5c/é", max_size=12), st.text(alphabet="\\x0f5c/é", max_size=12))
def test_escapes_are_told_from_backslashes(one, other):
    """Names that hold what looks like an escape stay apart from those that needed one."""
    assert (printable(one) == printable(other)) == (one == other)


def test_a_link_out_of_the_source_that_comes_back(tmp_path):
    """A link to a folder that holds the source, or to one that is barred, is not followed, and says so."""
    source, workspace = tmp_path / "wild", tmp_path / "elsewhere" / "workspace"
    touch(source / "bird" / "1.png")
    touch(tmp_path / "private.png")
    touch(workspace / "sheet.png")
    (source / "bird" / "up").symlink_to("../..")
    (source / "bird" / "made").symlink_to(workspace)
    told = {one.path: one.ignored for one in walk(str(source), barred=[str(workspace)])}
    reason = "a link to a folder that holds the source, or to the workspace"
    assert told == {"bird/1.png": None, "bird/up": reason, "bird/made": reason}
