"""The dashboard and the alerts ask for what is really exported, and the tools that they are made for take them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest
import yaml
from PIL import Image
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.meter import Meter
from pipelines.timetable import Result
from serving.client import Client
from serving.mirror import Mirror
from serving.server import Server
from serving.settings import ServeSettings
from tests.serving import fake_models

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus"
BOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "calotype.json").read_text())
RULES = [rule for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
SELECTOR = re.compile(r"\b((?:calotype|process)_\w+|up)\b(?:\{([^}]*)\})?")
GIVEN_BY_PROMETHEUS = {"job", "instance"}


def panels():
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def expressions():
    """Every query of the dashboard and condition of an alert, with where it stands."""
    found = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    found += [(one["name"], one["expr"]) for one in BOARD["annotations"]["list"]]
    found += [(one["name"], one["definition"]) for one in BOARD["templating"]["list"] if one["type"] == "query"]
    return found + [(rule["alert"], rule["expr"]) for rule in RULES]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Label names by metric, as a server that answered a call, its bucket's mirror and a schedule export them."""
    models = tmp_path_factory.mktemp("models")
    fake_models.publish_classifier(models)
    settings = ServeSettings(models=models, port=0, http_port=0, poll_seconds=3600)
    mirror = Mirror(models.as_uri(), tmp_path_factory.mktemp("mirror") / "copy", poll_seconds=3600)
    mirror.start()
    mirror.stop()
    png = io.BytesIO()
    Image.fromarray(fake_models.pixels(1)[0, ..., 0]).save(png, "PNG")
    with Server(settings) as server:
        with Client(server.addresses[0].removeprefix("grpc://")) as client:
            client.classify([png.getvalue()], model="digits")
        server.telemetry.rejected(model="digits", version=1, reason="queue_full")
        with urllib.request.urlopen(server.addresses[1] + "/metrics", timeout=10) as response:
            texts = [response.read().decode(), mirror.exposition().decode()]
    meter = Meter("digits")
    values = {"seconds": {"train": 1.0}, "version": 1, "metrics": {"accuracy": 0.9}}
    meter.ended(Result(end="published", seconds=2.0, values=values))
    meter.source(5, 10**18)
    meter.began()
    meter.prefect(up=True)
    texts.append(generate_latest(meter.registry).decode())
    found = {"up": set()}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=lambda value: value[:60])
def test_every_metric_asked_for_is_exported(exported, where, expression):
    """By this name, and with the labels that the question selects by."""
    selectors = SELECTOR.findall(expression)
    assert selectors, f"{where} asks for nothing of ours"
    for name, labels in selectors:
        assert name in exported, f"{where} asks for {name}"
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))
        assert asked <= exported[name] | GIVEN_BY_PROMETHEUS, f"{where} selects {name} by {asked}"


def test_every_metric_exported_has_its_place_on_the_dashboard(exported):
    """Whatever is counted can be looked at; of a histogram one of its three series is enough."""
    text = " ".join(expression for _, expression in expressions())
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if not name.endswith("_created")}
    unseen = {base for base in bases if base not in text}
    assert unseen <= {"process_virtual_memory_bytes"}


def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap():
    """Grafana shows one of two panels with the same id, and lays panels over each other without a word."""
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_asks_the_source_that_is_chosen_on_it():
    """A variable of kind datasource, and every panel, query and variable uses it."""
    kinds = {one["name"]: one["type"] for one in BOARD["templating"]["list"]}
    assert kinds["datasource"] == "datasource"
    asked = [panel["datasource"] for panel in panels()]
    asked += [target["datasource"] for panel in panels() for target in panel["targets"]]
    asked += [one["datasource"] for one in BOARD["templating"]["list"] if one["type"] == "query"]
    assert {one["uid"] for one in asked} == {"${datasource}"}
    variables = set(re.findall(r"\$(\w+)", " ".join(expression for _, expression in expressions())))
    assert variables <= set(kinds) | {"__rate_interval", "labels", "value"}


def test_jobs_are_those_that_prometheus_scrapes():
    """A dashboard or alert for another job's name would be silent for ever."""
    scraped = {job["job_name"] for job in yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]}
    asked = set(re.findall(r'job="([^"]+)"', " ".join(expression for _, expression in expressions())))
    assert asked <= scraped


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_section_in_the_runbook_and_its_test(rule):
    """The address that whoever is woken up follows ends at a heading; and some test makes the alert speak."""
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert anchor in {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
    tests = "".join(path.read_text() for path in PROMETHEUS.glob("*_test.yml"))
    assert re.search(rf"\b{rule['alert']}\b", tests)
    assert rule["labels"]["severity"] in {"warning", "critical"}


def promtool(*arguments, where=PROMETHEUS):
    program = shutil.which("promtool")
    if program is None:
        assert not os.environ.get("CI"), "CI has promtool, from Debian's package prometheus: .ci/run installs it"
        pytest.skip("promtool is not here; Debian's package prometheus brings it")
    done = subprocess.run([program, *arguments], cwd=where, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_its_configuration_and_the_alerts():
    """By promtool: prometheus.yml and the rules that it names."""
    promtool("check", "config", "--syntax-only", "prometheus.yml")
    promtool("check", "rules", "--lint-fatal", "alerts.yml")


def test_the_alerts_speak_when_they_should_and_not_before():
    """By promtool, on series written by hand."""
    promtool("test", "rules", "alerts_test.yml", "alerts_days_test.yml")


def test_prometheus_understands_every_question_of_the_dashboard(tmp_path):
    """Each query, its variables filled in, as a recording rule."""
    rules = []
    for number, (panel, target) in enumerate((one, target) for one in panels() for target in one["targets"]):
        text = target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*").replace("$model", ".*")
        assert "$" not in text, panel["title"]
        rules.append({"record": f"question:{number}", "expr": text})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "rules.yml", where=tmp_path)
