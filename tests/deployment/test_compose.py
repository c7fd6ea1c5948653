"""What docker-compose.yml and the Dockerfile promise, read from the files; `make containers` runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)(:[-?][^}]*)?\}")
# Its entry point needs root to take possession of the volume, then gives it up.
STARTS_AS_ROOT = {"postgres"}

each_service = pytest.mark.parametrize("name", SERVICES)


def test_the_deployment_has_its_services():
    """Prefect's server on PostgreSQL, the trainer and the prediction server; Prometheus and Grafana on demand."""
    always = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert always == {"postgres", "prefect", "trainer", "serving"}
    assert {name for name in SERVICES if SERVICES[name].get("profiles") == ["observability"]} == {
        "prometheus",
        "grafana",
    }


@each_service
def test_a_service_has_no_more_rights_than_it_needs(name):
    """A plain user, a read-only root, no capability, no new privileges, never privileged."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("network_mode") is None
    if name in STARTS_AS_ROOT:
        assert "SYS_ADMIN" not in service["cap_add"]
    else:
        assert "cap_add" not in service
        assert int(service["user"].split(":")[0]) > 0


@each_service
def test_a_service_is_bounded_watched_and_brought_back(name):
    """Limits of CPU and memory, a health check, a restart policy, logs that don't fill the disk."""
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"]


@each_service
def test_an_image_is_pinned(name):
    """An image of others has a version, not `latest`; ours are built from this tree."""
    service = SERVICES[name]
    if "build" in service:
        assert service["image"] == f"calotype-{service['build']['target']}"
    else:
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?[0-9]", tag), service["image"]


@each_service
def test_ports_are_for_this_machine_only(name):
    """Every published port has an address, by default the loopback's."""
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("${CALOTYPE_BIND:-127.0.0.1}:"), port


def test_the_server_cannot_write_models_and_the_trainer_cannot_write_images():
    """The repository is the trainer's to write, the inbox the user's."""
    assert SERVICES["serving"]["volumes"] == ["models:/models:ro"]
    assert "models:/workspace/models" in SERVICES["trainer"]["volumes"]
    assert SERVICES["trainer"]["volumes"][0].endswith(":/inbox:ro")


def test_the_database_is_reached_by_prefect_only():
    """PostgreSQL has one neighbour, on a network without a way out."""
    assert COMPOSE["networks"]["database"] == {"internal": True}
    assert {name for name in SERVICES if "database" in SERVICES[name]["networks"]} == {"postgres", "prefect"}
    assert "ports" not in SERVICES["postgres"]


def test_passwords_come_from_the_environment_and_have_no_default():
    """No password is in the file, and without one nothing starts."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert re.fullmatch(r"\$\{[A-Z_]+:\?[^}]+\}", value), name


def test_every_variable_is_explained():
    """What docker-compose.yml takes from the environment is in .env.example."""
    used = {match[0] for match in VARIABLE.findall((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))}
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    explained = set(re.findall(r"^#? ?([A-Z_]+)=", example, re.MULTILINE))
    assert used == explained


def test_the_example_has_no_password():
    """Who copies .env.example must think of a password, or let `make env` think of one."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert re.findall(r"^[A-Z_]*PASSWORD=(.*)$", example, re.MULTILINE) == ["", ""]


def test_images_come_from_pinned_bases_and_hashed_locks():
    """Every stage stands on the pinned Python or on another stage, and what is installed has hashes."""
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    known = {"docker.io/library/python:3.11-slim-bookworm", *(name for _, name in stages)}
    assert {base for base, _ in stages} <= known
    assert {"serving", "pipelines"} <= {name for _, name in stages}
    install = (ROOT / "deploy/images/install").read_text(encoding="utf-8")
    assert install.count("--require-hashes") == install.count("pip install") + install.count(" install -q") - 1
    for target in ("serving", "pipelines"):
        assert f"COPY requirements/{target}.lock /opt/calotype/installed.lock" in DOCKERFILE


def test_images_run_as_a_plain_user():
    """Both targets end as user 10001, by number, so that Kubernetes can see that it isn't root."""
    for target in ("serving", "pipelines"):
        stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert "USER 10001:10001" in stage


def test_no_index_and_no_secret_is_in_what_images_are_made_of():
    """Where packages come from is the builder's business; it reaches a build as a secret."""
    for path in (ROOT / "Dockerfile", ROOT / "docker-compose.yml", *sorted((ROOT / "deploy/images").iterdir())):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"index-url|INDEX_URL|https://|PASSWORD=\S", text), path


def test_the_build_sees_only_what_it_needs():
    """.dockerignore keeps everything out but a few names, so no workspace and no .env gets into a layer."""
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert lines[0] == "*"
    assert ".env" not in " ".join(lines)
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    }
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert all(any(Path(word).match(each) or word.startswith(f"{each}/") for each in allowed) for word in copied), (
        copied
    )


def test_prometheus_and_grafana_are_configured_for_what_runs():
    """Prometheus asks the services' own ports, and Grafana finds it and the dashboards where compose puts them."""
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    targets = {
        target for job in prometheus["scrape_configs"] for each in job["static_configs"] for target in each["targets"]
    }
    assert targets == {"serving:8002", "trainer:8003", "127.0.0.1:9090"}
    assert SERVICES["trainer"]["environment"]["CALOTYPE_METRICS_PORT"] == "8003"
    for networked in ("serving", "trainer"):
        assert set(SERVICES[networked]["networks"]) & set(SERVICES["prometheus"]["networks"])
    provisioning = ROOT / "deploy/grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text(encoding="utf-8"))["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((provisioning / "dashboards/calotype.yml").read_text(encoding="utf-8"))["providers"][0]
    places = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in places
