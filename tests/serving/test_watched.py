"""Files that change under whoever read them."""

from serving.errors import BadSetting
from serving.watched import Watched


class Rig:
    def __init__(self, path, *, pause_seconds=0.0):
        self.path = path
        self.now = 0.0
        self.reads = 0
        path.write_text("one")
        self.watched = Watched((path,), self.read, pause_seconds=pause_seconds, clock=lambda: self.now)

    def read(self):
        self.reads += 1
        text = self.path.read_text()
        if text == "bad":
            raise BadSetting("it is bad")
        return text


def test_a_file_is_read_again_when_it_changed_and_only_then(tmp_path):
    rig = Rig(tmp_path / "file")
    assert [rig.watched.get() for _ in range(3)] == ["one"] * 3
    assert rig.reads == 1
    rig.path.write_text("other")
    assert rig.watched.get() == "other"


def test_what_cannot_be_read_leaves_what_was_and_is_tried_once(tmp_path):
    """A typing error must not lock everybody out, nor cost every call a read."""
    rig = Rig(tmp_path / "file")
    rig.path.write_text("bad")
    assert [rig.watched.get() for _ in range(3)] == ["one"] * 3
    assert rig.reads == 2
    rig.path.write_text("mended")
    assert rig.watched.get() == "mended"


def test_nobody_looks_during_a_pause(tmp_path):
    rig = Rig(tmp_path / "file", pause_seconds=5)
    rig.path.write_text("other")
    assert rig.watched.get() == "one"
    rig.now = 5.0
    assert rig.watched.get() == "other"
