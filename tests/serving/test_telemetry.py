"""Telemetry and logs: the names of the contract, right sums, and no labels that a caller can invent."""

import io
import json
import logging
import pickle
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving import logs
from serving.telemetry import BatchSize, Statistics, Telemetry

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def telemetry():
    telemetry = Telemetry(unix_clock=lambda: 12.5)
    telemetry.model_state(model="digits", version=3, state="Available")
    return telemetry


def samples(telemetry):
    families = text_string_to_metric_families(telemetry.exposition().decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def test_the_contracts_metrics_are_there_under_their_names(telemetry):
    names = {line.split()[2] for line in telemetry.exposition().decode().splitlines() if line.startswith("# TYPE")}
    assert names == {
        "calotype_requests_total",
        "calotype_images_total",
        "calotype_images_unreadable_total",
        "calotype_request_seconds",
        "calotype_queue_seconds",
        "calotype_compute_seconds",
        "calotype_decode_seconds",
        "calotype_batch_rows",
        "calotype_queue_rows",
        "calotype_rejected_total",
        "calotype_model_state",
        "calotype_reloads_total",
    }


def test_the_docs_tell_every_metric_with_its_labels(telemetry):
    """And none that isn't there."""
    rows = re.findall(
        r"^\| `(calotype_\w+)` \|([^|]*)\|", (DOCS / "operations.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows if "_mirror_" not in name}
    call = {"model": "digits", "version": 3}
    telemetry.request_done(**call, method="Classify", code="OK", seconds=0.1, images=2, unreadable=1)
    telemetry.batch_done(**call, rows=1, queue_seconds=[0.1], compute_seconds=0.1)
    telemetry.decode_done(**call, seconds=0.1)
    telemetry.rejected(**call, reason="expired")
    telemetry.reload(model="digits", outcome="loaded")
    telemetry.queue_gauge(**call, rows=lambda: 1)
    there = {}
    for family in text_string_to_metric_families(telemetry.exposition().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        there[name] = {label for sample in family.samples for label in sample.labels} - {"le"}
    assert told == there


def test_counts_of_several_processes_are_added_and_survive_the_way_between_them(telemetry):
    """Each sees its own calls; together they are the server."""
    other = Telemetry(unix_clock=lambda: 99.0)
    other.model_state(model="digits", version=3, state="Loading")
    for each, rows in ((telemetry, 2), (other, 3)):
        each.request_done(model="digits", version=3, method="Classify", code="OK", seconds=0.25, images=rows)
        each.batch_done(model="digits", version=3, rows=rows, queue_seconds=[0.5], compute_seconds=1.0)
        each.decode_done(model="digits", version=3, seconds=0.125)
        each.rejected(model="digits", version=3, reason="expired")
        each.reload(model="digits", outcome="loaded")
        each.queue_gauge(model="digits", version=3, rows=lambda rows=rows: 10 * rows)
    total = Telemetry()
    for each in (telemetry, other):
        total.add(pickle.loads(pickle.dumps(each.counts())))
    one = {"model": "digits", "version": "3"}
    found = samples(total)
    for name, labels, value in (
        ("calotype_requests_total", {**one, "method": "Classify", "code": "OK"}, 2),
        ("calotype_images_total", {**one, "method": "Classify"}, 5),
        ("calotype_request_seconds_sum", {**one, "method": "Classify", "code": "OK"}, 0.5),
        ("calotype_batch_rows_sum", one, 5),
        ("calotype_batch_rows_bucket", {**one, "le": "2.0"}, 1),
        ("calotype_decode_seconds_count", one, 2),
        ("calotype_rejected_total", {**one, "reason": "expired"}, 2),
        ("calotype_reloads_total", {"model": "digits", "outcome": "loaded"}, 2),
        ("calotype_queue_rows", one, 50),
        ("calotype_model_state", {**one, "state": "Available"}, 1),
        ("calotype_model_state", {**one, "state": "Loading"}, 0),
    ):
        assert found[name, *sorted(labels.items())] == value, name
    counted = total.statistics(model="digits", version=3)
    assert (counted.rows, counted.batches, counted.requests_ok, counted.last_request_unix_ms) == (5, 2, 2, 99_000)
    assert [size.rows for size in counted.batch_sizes] == [2, 3]
    assert telemetry.statistics(model="digits", version=3).rows == 2


def test_of_a_process_that_ended_the_counters_last_and_the_gauges_do_not(telemetry):
    telemetry.queue_gauge(model="digits", version=3, rows=lambda: 7)
    telemetry.reload(model="digits", outcome="loaded")
    lasting = telemetry.counts().lasting()
    assert (lasting.states, lasting.queues, lasting.reloads) == ({}, {}, {("digits", "loaded"): 1})


def test_requests_and_images_are_counted_by_method_and_code(telemetry):
    for code in ("OK", "OK", "UNAVAILABLE"):
        telemetry.request_done(
            model="digits", version=3, method="Classify", code=code, seconds=0.25, images=4 if code == "OK" else 0
        )
    found = samples(telemetry)
    labels = (("method", "Classify"), ("model", "digits"), ("version", "3"))
    assert found["calotype_requests_total", ("code", "OK"), *labels] == 2
    assert found["calotype_requests_total", ("code", "UNAVAILABLE"), *labels] == 1
    assert found["calotype_images_total", *labels] == 8
    assert found["calotype_request_seconds_sum", ("code", "OK"), *labels] == 0.5


def test_buckets_are_cumulative_and_a_value_on_a_bound_is_within_it(telemetry):
    for rows in (1, 2, 3, 5000):
        telemetry.batch_done(model="digits", version=3, rows=rows, queue_seconds=[0.0], compute_seconds=0.001)
    found = samples(telemetry)
    counts = [
        found["calotype_batch_rows_bucket", ("le", bound), ("model", "digits"), ("version", "3")]
        for bound in ("1.0", "2.0", "4.0", "1024.0", "+Inf")
    ]
    assert counts == [1, 2, 3, 3, 4]


def test_names_that_the_registry_never_reported_are_counted_without_their_name(telemetry):
    for number in range(100):
        telemetry.request_done(model=f"guess-{number}", version=7, method="Classify", code="NOT_FOUND", seconds=0)
        telemetry.rejected(model="digits", version=number + 10, reason="queue_full")
    text = telemetry.exposition().decode()
    assert "guess" not in text
    found = samples(telemetry)
    key = (("code", "NOT_FOUND"), ("method", "Classify"), ("model", ""), ("version", ""))
    assert found["calotype_requests_total", *key] == 100
    assert found["calotype_rejected_total", ("model", "digits"), ("reason", "queue_full"), ("version", "")] == 100


def test_exactly_one_state_is_set_and_a_forgotten_version_has_none(telemetry):
    found = samples(telemetry)
    states = {key[2][1]: value for key, value in found.items() if key[0] == "calotype_model_state"}
    assert states == {"Start": 0, "Loading": 0, "Available": 1, "Unloading": 0, "End": 0}
    telemetry.forget(model="digits", version=3)
    assert not any(key[0] == "calotype_model_state" for key in samples(telemetry))


def test_the_queue_is_read_when_it_is_asked_for(telemetry):
    waiting = [5]
    telemetry.queue_gauge(model="digits", version=3, rows=lambda: waiting[0])
    key = ("calotype_queue_rows", ("model", "digits"), ("version", "3"))
    assert samples(telemetry)[key] == 5
    waiting[0] = 0
    assert samples(telemetry)[key] == 0


def test_no_call_waits_for_metrics_that_are_being_written_out(telemetry):
    """A scrape of many versions takes half a second."""
    telemetry.request_done(model="digits", version=1, method="Classify", code="OK", seconds=0.1)
    families = telemetry.collect()
    next(families)
    call = threading.Thread(
        target=lambda: telemetry.request_done(model="digits", version=1, method="Classify", code="OK", seconds=0.1),
        daemon=True,
    )
    call.start()
    call.join(10)
    assert not call.is_alive()
    assert list(families)


def test_statistics_are_the_sums_of_what_was_reported(telemetry):
    """Of inferences alone: who asks for metadata infers nothing."""
    telemetry.request_done(model="digits", version=3, method="Classify", code="OK", seconds=0.5, images=3)
    telemetry.request_done(model="digits", version=3, method="ModelInfer", code="INTERNAL", seconds=0.25)
    telemetry.request_done(model="digits", version=3, method="ModelMetadata", code="OK", seconds=1.0)
    telemetry.request_done(model="digits", version=3, method="ModelConfig", code="INTERNAL", seconds=1.0)
    telemetry.decode_done(model="digits", version=3, seconds=0.125)
    telemetry.batch_done(model="digits", version=3, rows=4, queue_seconds=[0.5, 0.25], compute_seconds=0.125)
    telemetry.batch_done(model="digits", version=3, rows=4, queue_seconds=[0.25], compute_seconds=0.125)
    assert telemetry.statistics(model="digits", version=3) == Statistics(
        requests_ok=1,
        requests_failed=1,
        ok_seconds=0.5,
        failed_seconds=0.25,
        rows=8,
        batches=2,
        queue_count=3,
        queue_seconds=1.0,
        compute_seconds=0.25,
        request_compute_seconds=0.375,
        decode_count=1,
        decode_seconds=0.125,
        last_request_unix_ms=12500,
        batch_sizes=(BatchSize(rows=4, batches=2, compute_seconds=0.25),),
    )
    assert telemetry.statistics(model="digits", version=99) == Statistics()


@pytest.fixture
def written():
    stream = io.StringIO()
    yield stream
    logging.getLogger(logs.ROOT).handlers = []
    logging.getLogger(logs.ROOT).propagate = True


def test_a_text_line_has_the_event_and_its_fields_and_quotes_what_would_break_it(written):
    logs.configure(form="text", level="info", stream=written)
    logs.event(logs.logger("x"), "loaded", model="digits", seconds=0.25, error=ValueError('no "x"\nhere'), empty="")
    line = written.getvalue()
    assert line.count("\n") == 1
    assert line.split(" ", 1)[1] == r'INFO loaded model=digits seconds=0.25 error="no \"x\"\nhere" empty=""' + "\n"


def test_a_json_line_is_one_object_with_the_same_fields(written):
    logs.configure(form="json", level="info", stream=written)
    logs.event(logs.logger("x"), "loaded", level=logging.WARNING, model="digits", error=ValueError("no"))
    line = json.loads(written.getvalue())
    assert line.pop("time").endswith("Z")
    assert line == {"level": "WARNING", "event": "loaded", "model": "digits", "error": "no"}


def test_events_below_the_level_are_not_written(written):
    logs.configure(form="text", level="error", stream=written)
    logs.event(logs.logger("x"), "loaded")
    assert written.getvalue() == ""


def test_an_exception_is_logged_with_its_traceback_on_the_same_line(written):
    logs.configure(form="text", level="error", stream=written)
    try:
        int("inside")
    except ValueError:
        logs.logger("x").exception("failed")
    assert written.getvalue().count("\n") == 1
    assert "ValueError: invalid literal" in written.getvalue()
