"""A copy under way is no failure; what is damaged and rests is one, once."""

from __future__ import annotations

import itertools
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import bundle as bundles
from serving.doubts import looks_at_rest
from serving.errors import ModelNotReady
from serving.loading import load
from serving.model_config import Tuning
from serving.registry import Registry
from serving.row_queue import BatchLimits
from serving.telemetry import Telemetry
from tests.serving import fake_models

FILES = (bundles.MODEL, bundles.JSON, bundles.CHECKSUMS)


class Repository:
    """A registry over a folder into which a published bundle is copied; every look is asked for."""

    def __init__(self, home, caplog):
        fake_models.publish_classifier(home / "published")
        self.source = home / "published" / "digits" / "1"
        self.target = home / "models" / "digits" / "1"
        (home / "models").mkdir()
        self.caplog = caplog
        self.telemetry = Telemetry()
        self.registry = Registry(
            home / "models",
            load=lambda version, _: load(version, threads=1, max_batch_rows=2),
            tuning=Tuning(limits=BatchLimits()),
            poll_seconds=3600,
            telemetry=self.telemetry,
        )

    def start(self):
        self.registry.start()
        assert self.registry.wait_ready(30)

    def copy(self, name, part=1.0):
        self.target.mkdir(parents=True, exist_ok=True)
        content = (self.source / name).read_bytes()
        (self.target / name).write_bytes(content[: int(len(content) * part)])

    def logged(self, name):
        return [record for record in self.caplog.records if record.getMessage() == name]

    def reloads(self):
        families = text_string_to_metric_families(self.telemetry.exposition().decode())
        reloads = next(family for family in families if family.name == "calotype_reloads")
        return {sample.labels["outcome"]: sample.value for sample in reloads.samples}

    def serves(self):
        return [status.version for status in self.registry.models() if status.state == "Available"]


@pytest.fixture
def models(tmp_path, caplog):
    caplog.set_level("INFO", "calotype")
    repository = Repository(tmp_path, caplog)
    yield repository
    repository.registry.stop(10)


@pytest.mark.parametrize("order", list(itertools.permutations(FILES)), ids="-".join)
def test_a_bundle_copied_file_by_file_in_any_order_is_served_and_never_failed(models, order):
    models.start()
    for name in order:
        for part in (0.3, 0.6, 1.0):
            models.copy(name, part)
            models.registry.poll()
    models.registry.poll()  # what didn't load is tried again when two looks found it the same
    assert models.serves() == [1]
    assert models.reloads() == {"loaded": 1}
    assert models.logged("load_failed") == []
    assert len(models.logged("not_whole_yet")) == 1


@pytest.mark.parametrize("left_out", FILES)
def test_what_is_not_whole_and_rests_has_failed_once(models, left_out):
    models.start()
    for name in FILES:
        models.copy(name, 0.5 if name == left_out == bundles.MODEL else 1.0 if name != left_out else 0.0)
    if left_out != bundles.MODEL:
        (models.target / left_out).unlink()
    models.registry.poll()
    assert (models.reloads(), len(models.logged("not_whole_yet"))) == ({}, 1)
    with pytest.raises(ModelNotReady):
        models.registry.acquire("digits")
    for _ in range(4):
        models.registry.poll()
    assert models.reloads() == {"failed": 1}
    [failed] = models.logged("load_failed")
    assert (failed.levelno, len(models.logged("not_whole_yet"))) == (logging.ERROR, 1)
    assert str(models.target) in failed.fields["error"]
    models.copy(left_out)
    models.registry.poll()
    assert (models.serves(), models.reloads()) == ([1], {"failed": 1, "loaded": 1})


def test_what_is_damaged_at_the_start_or_when_somebody_orders_it_has_failed_at_once(models):
    models.copy(bundles.JSON)
    models.start()
    assert models.reloads() == {"failed": 1}
    models.copy(bundles.MODEL)
    with pytest.raises(ModelNotReady, match="failed to load"):
        models.registry.load("digits")
    assert (models.reloads(), models.logged("not_whole_yet")) == ({"failed": 2}, [])


def test_a_copy_that_is_given_up_leaves_nothing(models):
    models.start()
    models.copy(bundles.MODEL, 0.5)
    models.registry.poll()
    (models.target / bundles.MODEL).unlink()
    models.target.rmdir()
    for _ in range(3):
        models.registry.poll()
    assert models.reloads() == {}
    assert 'calotype_model_state{model="digits"' not in models.telemetry.exposition().decode()


@pytest.mark.parametrize(("poll_seconds", "looks"), [(3600, 2), (10, 2), (2, 6), (0.5, 21)])
def test_a_rest_is_two_looks_and_ten_seconds(poll_seconds, looks):
    assert looks_at_rest(poll_seconds) == looks
