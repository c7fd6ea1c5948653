"""The registry over real folders and a fake loader: what is served, when, and until when."""

import threading
import time

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.bundle import TensorSpec
from serving.errors import BadBundle, BadInput, BadRepository, Draining, ModelNotFound, ModelNotReady
from serving.loading import Loaded
from serving.model_config import ALL_VERSIONS, Tuning, VersionPolicy
from serving.plan import decide, hold, stamp
from serving.registry import Registry
from serving.repository import Model, Version
from serving.row_queue import BatchLimits
from serving.telemetry import Telemetry

X = np.array([[1.0], [2.0]], np.float32)


class Rig:
    """A repository whose models multiply by the number in their file; `bad` in it doesn't load."""

    def __init__(self, models):
        self.models = models
        self.tried = []
        self.tunings = []
        self.gate = None  # an Event that loading waits for
        self.loading = threading.Event()
        self.telemetry = Telemetry()
        self.registry = Registry(
            models,
            load=self.load,
            tuning=Tuning(limits=BatchLimits()),
            poll_seconds=3600,
            telemetry=self.telemetry,
        )
        self.heard = []
        self.registry.watch(lambda name, ready: self.heard.append((name, ready)))

    def load(self, version, tuning):
        self.tried.append((version.name, version.number))
        self.tunings.append(tuning)
        text = (version.path / "model.onnx").read_text()
        if self.gate is not None:
            self.loading.set()
            assert self.gate.wait(10)
        if text == "bad":
            raise BadBundle("it is bad")
        if text == "bug":
            raise ZeroDivisionError("a bug")
        factor = float(text)
        return Loaded(
            run=lambda feeds, outputs: {"y": feeds["x"] * factor},
            inputs=(TensorSpec("x", "float32", (None, 1)),),
            outputs=(TensorSpec("y", "float32", (None, 1)),),
            bundle=None,
            joins=True,
        )

    def put(self, name, number, text):
        folder = self.models / name / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_text(text)

    def put_bundle(self, name, number, text):
        self.put(name, number, text)
        for file in ("bundle.json", "checksums"):
            (self.models / name / str(number) / file).touch()

    def withdraw(self, name, number):
        (self.models / name / str(number)).rename(self.models / name / f".withdrawn-{number}")

    def start(self):
        self.registry.start()
        assert self.registry.wait_ready(10)

    def ask(self, name="m", version=0):
        with self.registry.acquire(name, version) as handle:
            answer = handle.infer({"x": X})
            number = handle.version
        return number, float(answer.result(10)["y"][1, 0])

    def states(self):
        return {(status.name, status.version): status.state for status in self.registry.models()}

    def wait_for_end(self):
        for thread in threading.enumerate():
            if thread.name.startswith("unload-"):
                thread.join(10)


@pytest.fixture
def rig(tmp_path):
    rig = Rig(tmp_path)
    yield rig
    if rig.gate is not None:
        rig.gate.set()
    rig.registry.stop(10)


def test_the_newest_version_is_served_and_only_that_one_is_loaded(rig):
    rig.put("m", 1, "10")
    rig.put("m", 10, "30")
    rig.put("m", 9, "20")
    rig.start()
    assert rig.ask() == (10, 60.0)
    assert rig.tried == [("m", 10)]


def test_an_empty_repository_is_ready_and_a_missing_one_is_an_error(rig, tmp_path):
    rig.start()
    assert rig.registry.ready()
    assert rig.registry.models() == []
    missing = Rig(tmp_path / "missing")
    with pytest.raises(BadRepository):
        missing.registry.start()


def test_a_new_version_is_picked_up_and_the_old_one_ends(rig):
    rig.put("m", 1, "10")
    rig.start()
    rig.put("m", 2, "20")
    rig.registry.poll()
    assert rig.ask() == (2, 40.0)
    rig.wait_for_end()
    assert rig.states() == {("m", 2): "Available"}


def test_the_old_version_serves_while_the_new_one_loads_and_readiness_does_not_flap(rig):
    rig.put("m", 1, "10")
    rig.put("other", 1, "7")
    rig.start()
    rig.gate = threading.Event()
    rig.put("m", 2, "20")
    polling = threading.Thread(target=rig.registry.poll)
    polling.start()
    assert rig.loading.wait(10)
    assert rig.states()["m", 2] == "Loading"
    assert rig.ask() == (1, 20.0)
    assert rig.ask("other") == (1, 14.0)
    with pytest.raises(ModelNotReady, match="Loading"):
        rig.registry.acquire("m", 2)
    assert rig.registry.ready()
    rig.gate.set()
    polling.join(10)
    assert rig.ask() == (2, 40.0)
    assert rig.heard == [("m", True), ("other", True)]


def test_a_held_version_lives_until_its_last_handle_is_released(rig):
    rig.put("m", 1, "10")
    rig.start()
    first, second = rig.registry.acquire("m"), rig.registry.acquire("m")
    rig.put("m", 2, "20")
    rig.registry.poll()
    first.release()
    first.release()
    assert rig.states() == {("m", 1): "Unloading", ("m", 2): "Available"}
    assert second.infer({"x": X}).result(10)["y"][1, 0] == 20.0
    with pytest.raises(ModelNotReady):
        rig.registry.acquire("m", 1)
    second.release()
    rig.wait_for_end()
    assert rig.states() == {("m", 2): "Available"}
    with pytest.raises(ModelNotReady, match="released"):
        second.infer({"x": X})


def test_a_version_that_fails_never_replaces_a_good_one_and_is_tried_again_only_when_its_files_change(rig):
    rig.put("m", 1, "10")
    rig.start()
    rig.put("m", 2, "bad")
    for _ in range(3):
        rig.registry.poll()
    assert rig.tried == [("m", 1), ("m", 2)]
    assert rig.ask() == (1, 20.0)
    failed = next(status for status in rig.registry.models() if status.version == 2)
    assert (failed.state, failed.reason) == ("End", "it is bad")
    with pytest.raises(ModelNotReady, match="failed to load"):
        rig.registry.acquire("m", 2)
    rig.put("m", 2, "200.")
    rig.registry.poll()
    assert rig.ask() == (2, 400.0)
    families = text_string_to_metric_families(rig.telemetry.exposition().decode())
    reloads = next(family for family in families if family.name == "calotype_reloads")
    assert {sample.labels["outcome"]: sample.value for sample in reloads.samples} == {"loaded": 2, "failed": 1}


def test_when_the_newest_fails_at_the_start_the_one_before_is_served(rig):
    rig.put("m", 1, "10")
    rig.put("m", 2, "bad")
    rig.start()
    assert rig.ask() == (1, 20.0)


def test_one_bad_model_stops_neither_the_others_nor_the_poll(rig):
    rig.put("a", 1, "bug")
    rig.put("b", 1, "bad")
    rig.put("c", 1, "3")
    rig.start()
    assert rig.registry.ready()
    assert rig.ask("c") == (1, 6.0)
    rig.put("d", 1, "4")
    rig.registry.poll()
    assert rig.ask("d") == (1, 8.0)
    with pytest.raises(ModelNotReady, match="failed to load"):
        rig.registry.acquire("a")


def test_a_stray_folder_within_a_model_switches_off_no_other_model(rig):
    """What is ignored inside one model has a name of its own there, and means nothing elsewhere."""
    rig.put("m", 1, "10")
    (rig.models / "m" / "other").mkdir()
    rig.put("other", 1, "7")
    rig.start()
    assert rig.ask("other") == (1, 14.0)
    rig.put("other", 2, "8")
    rig.registry.poll()
    assert rig.ask("other") == (2, 16.0)


def test_a_bundle_without_checksums_is_reported_and_never_loaded(rig):
    rig.put("m", 1, "10")
    (rig.models / "m" / "1" / "bundle.json").write_text("{}")
    rig.start()
    assert rig.tried == []
    [status] = rig.registry.models()
    assert "checksums" in status.reason


def test_a_plain_version_replaces_a_bundle_only_when_two_looks_found_it_the_same(rig):
    """Beside bundles, a lone model.onnx is most likely the first file of a copy under way."""
    rig.put_bundle("m", 1, "10")
    rig.put("m", 2, "half")
    rig.start()
    assert rig.ask() == (1, 20.0)
    rig.put("m", 2, "20")
    rig.registry.poll()
    assert (rig.ask(), rig.tried) == ((1, 20.0), [("m", 1)])
    rig.registry.poll()
    assert rig.ask() == (2, 40.0)


def test_whoever_asks_for_a_plain_version_says_that_its_copy_is_done(rig):
    rig.put_bundle("m", 1, "10")
    rig.start()
    rig.put("m", 2, "20")
    rig.registry.load("m")
    assert rig.ask() == (2, 40.0)


def test_a_withdrawn_version_serves_until_the_one_before_is_loaded(rig):
    rig.put("m", 1, "10")
    rig.put("m", 2, "20")
    rig.start()
    rig.withdraw("m", 2)
    rig.gate = threading.Event()
    polling = threading.Thread(target=rig.registry.poll)
    polling.start()
    assert rig.loading.wait(10)
    assert rig.ask() == (2, 40.0)
    rig.gate.set()
    polling.join(10)
    assert rig.ask() == (1, 20.0)
    assert rig.heard == [("m", True)]


def test_a_model_that_is_removed_is_unloaded_and_then_unknown(rig):
    rig.put("m", 1, "10")
    rig.start()
    rig.withdraw("m", 1)
    (rig.models / "m").rename(rig.models / ".m")
    rig.registry.poll()
    with pytest.raises(ModelNotFound, match="unknown model"):
        rig.registry.acquire("m")
    assert rig.heard == [("m", True), ("m", False)]


def test_a_repository_that_vanishes_for_a_while_costs_nothing(rig):
    rig.put("m", 1, "10")
    rig.start()
    rig.models.rename(rig.models.parent / "away")
    with pytest.raises(BadRepository):
        rig.registry.poll()
    rig.registry._keeper._try_look()  # a round of its own, which is counted for whoever watches the metrics
    assert 'outcome="unreadable"} 1.0' in rig.telemetry.exposition().decode()
    assert rig.ask() == (1, 20.0)
    (rig.models.parent / "away").rename(rig.models)


def test_an_unloaded_model_stays_unloaded_until_it_is_loaded(rig):
    rig.put("m", 1, "10")
    rig.start()
    rig.registry.unload("m")
    rig.put("m", 2, "20")
    rig.registry.poll()
    with pytest.raises(ModelNotReady, match="unloaded"):
        rig.registry.acquire("m")
    rig.registry.load("m")
    assert rig.ask() == (2, 40.0)


def test_a_model_that_came_since_the_last_look_can_be_unloaded(rig):
    rig.start()
    rig.put("m", 1, "10")
    rig.registry.unload("m")
    rig.registry.poll()
    with pytest.raises(ModelNotReady, match="unloaded"):
        rig.registry.acquire("m")
    with pytest.raises(ModelNotFound):
        rig.registry.unload("nobody")


def test_looking_again_loads_and_unloads_what_is_wished_by_now(rig):
    rig.put("m", 1, "10")
    rig.put("n", 1, "20")
    rig.registry.unwanted(["m"])
    rig.start()
    rig.registry.look_again(["n"])
    assert rig.registry.wait_ready(10)
    assert rig.ask("m") == (1, 20.0)
    with pytest.raises(ModelNotReady, match="unloaded"):
        rig.registry.acquire("n")


def test_a_version_that_is_unloaded_and_loaded_while_a_call_holds_it_ends_once(rig, caplog):
    """The one that is loaded in its place lets go of nothing that is going already."""
    rig.put("m", 1, "10")
    rig.start()
    with caplog.at_level("INFO", "calotype.registry"), rig.registry.acquire("m"):
        rig.registry.unload("m")
        rig.registry.load("m")
        assert [thread.name for thread in threading.enumerate() if thread.name == "unload-m"] == ["unload-m"]
    with caplog.at_level("INFO", "calotype.registry"):
        rig.wait_for_end()
    told = [record.fields["state"] for record in caplog.records if record.message == "model_state"]
    assert sorted(told) == ["Available", "End", "Loading", "Start", "Unloading"]
    assert rig.states() == {("m", 1): "Available"}
    assert rig.ask() == (1, 20.0)


def test_the_index_is_what_is_on_disk_with_what_is_loaded(rig):
    """Whoever unloaded a model finds it there, to load it again."""
    rig.put("m", 1, "10")
    rig.put("n", 1, "10")
    rig.put("o", 1, "bad")
    rig.start()
    rig.registry.unload("m")
    rig.wait_for_end()
    found = {(status.name, status.version): (status.state, status.reason) for status in rig.registry.index()}
    assert found.keys() == {("m", 1), ("n", 1), ("o", 1)}
    assert found["m", 1] == ("End", "unloaded")
    assert found["n", 1] == ("Available", "")
    assert found["o", 1][0] == "End"
    assert found["o", 1][1] not in ("", "unloaded")


def test_load_tries_a_failed_version_again_and_fails_if_it_fails(rig):
    rig.put("m", 1, "bad")
    rig.start()
    with pytest.raises(ModelNotReady):
        rig.registry.load("m")
    assert rig.tried == [("m", 1), ("m", 1)]
    with pytest.raises(ModelNotFound):
        rig.registry.load("nobody")
    with pytest.raises(ModelNotFound):
        rig.registry.unload("nobody")


def test_an_older_version_on_disk_and_one_that_never_was_are_not_found(rig):
    rig.put("m", 1, "10")
    rig.put("m", 2, "20")
    rig.start()
    for version in (1, 3):
        with pytest.raises(ModelNotFound, match=f"Version {version} .* served is 2"):
            rig.registry.acquire("m", version)
    assert rig.ask(version=2) == (2, 40.0)


def test_wrong_inputs_are_refused_before_the_queue_so_that_neighbours_do_not_fail(rig):
    rig.put("m", 1, "10")
    rig.start()
    with rig.registry.acquire("m") as handle:
        for feeds in ({}, {"z": X}, {"x": X, "z": X}, {"x": X.astype(np.float64)}, {"x": np.ones((2, 3), np.float32)}):
            with pytest.raises(BadInput):
                handle.infer(feeds)
        with pytest.raises(BadInput, match="outputs"):
            handle.infer({"x": X}, outputs=("nothing",))


def test_stop_finishes_what_was_accepted_and_loads_nothing_any_more(rig):
    rig.put("m", 1, "10")
    rig.start()
    with rig.registry.acquire("m") as handle:
        answers = [handle.infer({"x": X}) for _ in range(20)]
    rig.registry.stop(10)
    assert all(answer.result(0)["y"][1, 0] == 20.0 for answer in answers)
    assert not rig.registry.ready()
    with pytest.raises(Draining):
        rig.registry.load("m")


def test_calls_never_fail_while_versions_come_and_go(rig):
    rig.put("m", 1, "1")
    rig.start()
    stop, seen, failures = threading.Event(), set(), []

    def call():
        while not stop.is_set():
            try:
                number, value = rig.ask()
                assert value == 2.0 * number
                seen.add(number)
            except Exception as error:  # noqa: BLE001 - collected, and shown by the assertion below
                failures.append(error)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for thread in callers:
        thread.start()
    for number in range(2, 30):
        rig.put("m", number, str(number))
        rig.registry.poll()
        assert rig.ask()[0] == number
    stop.set()
    for thread in callers:
        thread.join(10)
    assert failures == []
    assert len(seen) > 1


class Config(Rig):
    """A rig whose models have configurations."""

    def configure(self, name, text):
        (self.models / name / "config.pbtxt").write_text(text)


@pytest.fixture
def configured(tmp_path):
    rig = Config(tmp_path)
    rig.put("m", 1, "10")
    rig.put("m", 2, "20")
    yield rig
    if rig.gate is not None:
        rig.gate.set()
    rig.registry.stop(10)


def test_a_configuration_takes_the_place_of_the_servers_sizes_for_its_model_alone(configured):
    configured.put("other", 1, "7")
    configured.configure("m", "max_batch_size: 5 instance_group { count: 3 }")
    configured.start()
    with configured.registry.acquire("m") as handle:
        assert (handle.tuning.limits.max_batch_rows, handle.tuning.executors) == (5, 3)
        assert [thread.name for thread in threading.enumerate()].count("m-2-2") == 1
    with configured.registry.acquire("other") as handle:
        assert handle.tuning == Tuning(limits=BatchLimits(), executors=1)


def test_several_versions_are_served_at_once_and_0_is_the_newest_of_them(configured):
    configured.put("m", 3, "30")
    configured.configure("m", "version_policy { latest { num_versions: 2 } }")
    configured.start()
    assert [configured.ask(version=number) for number in (0, 2, 3)] == [(3, 60.0), (2, 40.0), (3, 60.0)]
    with pytest.raises(ModelNotFound, match="served is 2, 3"):
        configured.registry.acquire("m", 1)
    configured.put("m", 4, "40")
    configured.registry.poll()
    assert configured.ask() == (4, 80.0)
    configured.wait_for_end()
    assert configured.states() == {("m", 3): "Available", ("m", 4): "Available"}
    configured.withdraw("m", 4)
    configured.registry.poll()
    assert configured.ask() == (3, 60.0)
    assert configured.heard == [("m", True)]


def test_a_changed_policy_loads_and_unloads_what_it_must(configured):
    configured.configure("m", "version_policy { all { } }")
    configured.start()
    configured.configure("m", "version_policy { specific { versions: [ 1 ] } }")
    configured.registry.poll()
    assert configured.ask() == (1, 20.0)
    configured.wait_for_end()
    assert configured.states() == {("m", 1): "Available"}
    assert configured.heard == [("m", True)]


def test_a_changed_configuration_reloads_its_model_while_the_old_state_serves(configured):
    configured.configure("m", "max_batch_size: 5")
    configured.put("other", 1, "7")
    configured.start()
    configured.gate = threading.Event()
    configured.configure("m", "max_batch_size: 6")
    polling = threading.Thread(target=configured.registry.poll)
    polling.start()
    assert configured.loading.wait(10)
    assert configured.ask() == (2, 40.0)
    with configured.registry.acquire("m") as handle:
        assert handle.tuning.limits.max_batch_rows == 5
    configured.gate.set()
    polling.join(10)
    with configured.registry.acquire("m") as handle:
        assert handle.tuning.limits.max_batch_rows == 6
    assert configured.tried == [("m", 2), ("other", 1), ("m", 2)]
    assert configured.heard == [("m", True), ("other", True)]
    configured.registry.poll()
    assert len(configured.tried) == 3


def test_a_broken_configuration_makes_its_model_not_loadable_and_no_other(configured):
    configured.configure("m", "max_batch_size: 4\nmax_batch_size: many")
    configured.put("other", 1, "7")
    configured.start()
    assert configured.registry.ready()
    assert configured.ask("other") == (1, 14.0)
    with pytest.raises(ModelNotReady, match="failed to load"):
        configured.registry.acquire("m")
    assert configured.tried == [("other", 1)]
    [failed] = [status for status in configured.registry.models() if status.name == "m"]
    assert "config.pbtxt, line 2" in failed.reason
    configured.configure("m", "max_batch_size: 4")
    configured.registry.poll()
    assert configured.ask() == (2, 40.0)


@pytest.mark.parametrize("broken", [b"max_batch_size: many", b"\xff\xfe"])
def test_a_configuration_that_breaks_while_serving_leaves_the_good_state_and_says_so(configured, broken):
    configured.configure("m", "max_batch_size: 4")
    configured.start()
    (configured.models / "m" / "config.pbtxt").write_bytes(broken)
    configured.put("m", 3, "30")
    for _ in range(2):
        configured.registry.poll()
    assert configured.ask() == (2, 40.0)
    assert configured.tried == [("m", 2)]
    [told] = [status for status in configured.registry.models() if status.reason]
    assert (told.version, "config.pbtxt" in told.reason) == (3, True)
    configured.withdraw("m", 3)
    configured.configure("m", "max_batch_size: 4")
    configured.registry.poll()
    assert [(status.version, status.reason) for status in configured.registry.models()] == [(2, "")]
    assert configured.tried == [("m", 2)]


def test_rows_wait_no_longer_than_the_configuration_says(configured):
    """However much time their caller has; a caller with less is given up earlier."""
    configured.configure("m", "dynamic_batching { default_queue_policy { default_timeout_microseconds: 9000000 } }")
    configured.start()
    with configured.registry.acquire("m") as handle:
        start = time.monotonic()
        waits = [
            handle.infer({"x": X}, deadline=deadline).request.deadline - start
            for deadline in (None, start + 60, start + 5)
        ]
    assert waits[0] == pytest.approx(9, abs=1)
    assert waits[1] == pytest.approx(9, abs=1)
    assert waits[2] == pytest.approx(5)


def version(number, *, kind="plain", files=(("model.onnx", 1, 1, 1),)):
    return Version(name="m", number=number, path=None, kind=kind, reason="" if kind == "plain" else "why", files=files)


def model(*versions, config=None, reason=""):
    return Model(name="m", path=None, versions=versions, config=config, reason=reason)


FILES = version(1).files
CHANGED = (("model.onnx", 2, 2, 2),)


def stamps(files):
    """What versions were loaded from, when there was no configuration."""
    return {number: (each, None, "") for number, each in files.items()}


def outcome(decision, *, loads=()):
    """The numbers tried, and those that take calls afterwards, when exactly `loads` can be loaded."""
    tried, kept = [], []
    for step in decision.steps:
        if len(kept) == decision.most:
            break
        number = step.version.number
        if step.load:
            tried.append(number)
        if step.held or (step.load and number in loads):
            kept.append(number)
    return tried, kept


@pytest.mark.parametrize(
    ("found", "loaded", "failed", "loads", "tried", "kept"),
    [
        (model(version(1), version(2)), {}, {}, [1, 2], [2], [2]),
        (model(version(1), version(2)), {}, {}, [1], [2, 1], [1]),
        (model(version(1), version(2)), {2: FILES}, {}, [], [], [2]),
        (model(version(1), version(2), version(3)), {2: FILES}, {}, [3], [3], [3]),
        (model(version(1), version(2), version(3)), {2: FILES}, {}, [], [3], [2]),
        (model(version(1), version(2), version(3)), {2: FILES}, {3: FILES}, [], [], [2]),
        (model(version(1), version(3, files=CHANGED)), {1: FILES}, {3: FILES}, [3], [3], [3]),
        (model(version(1)), {2: FILES}, {}, [1], [1], [1]),
        (model(version(1), version(2, kind="broken")), {2: FILES}, {}, [], [], [2]),
        (model(version(1), version(2, files=CHANGED)), {2: FILES}, {}, [], [2], [2]),
        (model(version(1), version(2, files=CHANGED)), {2: FILES}, {2: CHANGED}, [], [], [2]),
        (model(version(1), config="new"), {1: FILES}, {}, [1], [1], [1]),
        (model(), {1: FILES}, {}, [], [], []),
        (None, {1: FILES}, {}, [], [], []),
    ],
    ids=[
        "first", "first, newest bad", "unchanged", "newer", "newer bad", "newer failed", "failed one changed",
        "rolled back", "damaged while loaded", "exchanged in place", "exchange failed", "configuration changed",
        "no version left", "model gone",
    ],
)  # fmt: skip
def test_decisions(found, loaded, failed, loads, tried, kept):
    """The newest version that loads is served; a failed one waits for a change; a damaged copy harms nobody."""
    decision = decide(found, policy=VersionPolicy(), loaded=stamps(loaded), failed=stamps(failed), unloaded=False)
    assert outcome(decision, loads=loads) == (tried, kept)


@pytest.mark.parametrize(
    ("policy", "loads", "kept"),
    [
        (VersionPolicy(2), [1, 2, 3, 4], [4, 3]),
        (VersionPolicy(2), [1, 2, 4], [4, 2]),
        (VersionPolicy(9), [1, 2, 3, 4], [4, 3, 2, 1]),
        (VersionPolicy(ALL_VERSIONS), [1, 3], [3, 1]),
        (VersionPolicy(ALL_VERSIONS, frozenset({1, 3, 7})), [1, 2, 3, 4], [3, 1]),
        (VersionPolicy(ALL_VERSIONS, frozenset({7})), [1, 2, 3, 4], []),
    ],
)
def test_policies(policy, loads, kept):
    """Latest n counts versions that load; specific ones need not exist."""
    found = model(*(version(number) for number in (1, 2, 3, 4)))
    decision = decide(found, policy=policy, loaded={}, failed={}, unloaded=False)
    assert outcome(decision, loads=loads)[1] == kept


def test_what_somebody_unloaded_is_not_loaded():
    found = model(version(1))
    assert decide(found, policy=VersionPolicy(), loaded=stamps({1: FILES}), failed={}, unloaded=True).steps == ()


def test_a_broken_version_is_reported_once_per_state_of_its_files():
    broken = version(1, kind="broken")
    new = decide(model(broken), policy=VersionPolicy(), loaded={}, failed={}, unloaded=False)
    assert new.broken == ((broken, "why"),)
    known = stamps({1: FILES})
    assert decide(model(broken), policy=VersionPolicy(), loaded={}, failed=known, unloaded=False).broken == ()


def test_a_broken_configuration_is_reported_once_and_what_is_loaded_is_held():
    found = model(version(1), version(2), config="}")
    decision = hold(found, "why", loaded=stamps({1: FILES}), failed={})
    assert outcome(decision, loads=[1, 2]) == ([], [1])
    assert decision.broken == ((version(2), "why"),)
    assert hold(found, "why", loaded={}, failed={2: stamp(found, version(2))}).broken == ()
