"""What a schedule tells Prometheus."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.errors import UsageError
from pipelines.meter import Meter, served
from pipelines.timetable import Result

DOCS = Path(__file__).parent.parent.parent / "docs" / "schedules.md"


def _scrape(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}


def test_figures_are_served_and_are_the_ones_in_the_docs():
    """After a published and a failed firing every figure is there, and docs/schedules.md names exactly these."""
    meter = Meter("m", clock=lambda: 1000.0)
    meter.prefect(up=True)
    meter.source(60, 5_000_000_000)
    meter.began()
    meter.webhook("sent")
    values = {"version": 3, "metrics": {"accuracy": 0.5}, "seconds": {"train": 2.0}}
    meter.ended(Result(end="published", values=values, seconds=9.0))
    meter.ended(Result(end="failed", reason="no"))
    with served(meter, host="127.0.0.1", port=0) as port:
        found = _scrape(port)
    label = ("model", "m")
    assert found["calotype_pipeline_firings_total", label, ("outcome", "published")] == 1
    assert found["calotype_pipeline_firings_total", label, ("outcome", "nothing_new")] == 0
    assert found["calotype_pipeline_last_success_timestamp_seconds", label] == 1000.0
    assert found["calotype_pipeline_last_run_duration_seconds", label] == 9.0
    assert found["calotype_pipeline_data_timestamp_seconds", label] == 5.0
    assert found["calotype_pipeline_model_version", label] == 3
    assert found["calotype_pipeline_running", label] == 1
    documented = set(re.findall(r"^\| `(calotype_pipeline_\w+)`", DOCS.read_text(), re.MULTILINE))
    assert {name for name, *_ in found} == documented


def test_livez_says_whether_the_loop_goes_round(monkeypatch):
    """200 while it does; 503 when it has stood still for longer than two minutes; anything else is 404."""
    meter = Meter("m")
    with served(meter, host="127.0.0.1", port=0) as port:
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200
        meter._beat -= 121.0
        for path, status in (("livez", 503), ("other", 404)):
            with pytest.raises(urllib.error.HTTPError) as answer:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10)
            assert answer.value.code == status
            answer.value.close()
        meter.beat()
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=10).status == 200


def test_an_idle_connection_keeps_no_probe_waiting():
    """Somebody connects and asks nothing: /livez answers all the same, so that nobody kills the scheduler for it."""
    with (
        served(Meter("m"), host="127.0.0.1", port=0) as port,
        socket.create_connection(("127.0.0.1", port)),
    ):
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=5).status == 200


def test_a_taken_port_is_a_sentence():
    """It names the option."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--metrics-port {port}"), served(Meter("m"), host="127.0.0.1", port=port):
            pass
