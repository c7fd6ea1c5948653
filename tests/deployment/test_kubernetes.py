"""The manifests in deploy/kubernetes, against Kubernetes' own schemas and the project's names; no cluster is asked."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
# Patches are parts of manifests, kustomizations and KEDA's kinds have no schema in Kubernetes, values are a chart's.
WHOLE = sorted(path for part in ("serving", "training") for path in (FOLDER / part).glob("*.yaml"))
MANIFESTS = {
    f"{path.parent.name}/{path.name}: {manifest['kind']}": manifest
    for path in WHOLE
    if path.name != "kustomization.yaml"
    for manifest in yaml.safe_load_all(path.read_text(encoding="utf-8"))
}
DEPLOYMENTS = {name: manifest for name, manifest in MANIFESTS.items() if manifest["kind"] == "Deployment"}
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())

each_deployment = pytest.mark.parametrize("name", DEPLOYMENTS)


def one(kind, name="calotype-serving"):
    """The manifest of that kind and name."""
    return next(each for each in MANIFESTS.values() if each["kind"] == kind and each["metadata"]["name"] == name)


def pod(deployment):
    return deployment["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_what_kubernetes_takes(name, version):
    """Each passes the strict schema, which knows every field, of an older Kubernetes and of the newest."""
    kubernetes_validate.validate(MANIFESTS[name], version, strict=True)


@pytest.mark.parametrize("part", ["serving", "training", "bucket"])
def test_a_kustomization_names_files_that_are_there(part):
    """Every resource and patch exists, and no manifest beside it is forgotten."""
    folder = FOLDER / part
    content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    named = [*content["resources"], *(patch["path"] for patch in content.get("patches", []))]
    assert all((folder / name).exists() for name in named)
    assert {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"} == {
        name for name in named if not name.startswith("..")
    }


def test_a_patch_of_the_bucket_fits_what_it_patches():
    """Each names a kind and a thing of serving/, and takes the volume of models out of it."""
    for path in (FOLDER / "bucket").glob("*.yaml"):
        patch = yaml.safe_load(path.read_text(encoding="utf-8"))
        if patch["kind"] == "Kustomization":
            continue
        assert one(patch["kind"], patch["metadata"]["name"])["apiVersion"] == patch["apiVersion"]
    patch = yaml.safe_load((FOLDER / "bucket/models.yaml").read_text(encoding="utf-8"))
    mounts = {mount["mountPath"] for mount in pod(one("Deployment"))["containers"][0]["volumeMounts"]}
    assert {mount["mountPath"] for mount in pod(patch)["containers"][0]["volumeMounts"]} <= mounts


@each_deployment
def test_a_pod_has_no_more_rights_than_it_needs(name):
    """A plain user, a read-only root, no capability, no privilege, no token of the cluster."""
    spec = pod(DEPLOYMENTS[name])
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert set(container["resources"]) == {"requests", "limits"}


@each_deployment
def test_probes_and_mounts_name_what_is_there(name):
    """Ports of probes are ports of the container; each mount has its volume, each volume its mount."""
    spec = pod(DEPLOYMENTS[name])
    for container in spec["containers"]:
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert "/tmp" in paths


def test_the_server_has_time_to_drain():
    """PreStop and the drain together fit in the time that Kubernetes gives, as they do in compose."""
    spec = pod(one("Deployment"))
    pause = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = 30  # the default of --drain-seconds
    assert spec["terminationGracePeriodSeconds"] > pause + drain
    assert int(COMPOSE["services"]["serving"]["stop_grace_period"].removesuffix("s")) > drain


def test_what_selects_pods_selects_the_servers():
    """Service, disruption budget, autoscaler and network policy mean the deployment's own pods."""
    deployment = one("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    target = one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"]  # the autoscaler's business


def test_a_client_finds_every_pod():
    """The service is headless: a name for all pods, so that clients balance calls and not connections."""
    assert one("Service")["spec"]["clusterIP"] == "None"


def test_the_autoscaler_asks_for_a_metric_that_the_server_has():
    """The same gauge in the autoscaler, in the adapter's rule, in KEDA's query and in the server."""
    metric = one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    adapter = yaml.safe_load((FOLDER / "metrics/prometheus-adapter.yaml").read_text(encoding="utf-8"))
    rule = adapter["rules"]["custom"][0]
    assert rule["name"]["as"] == metric
    assert rule["seriesQuery"].startswith(f"{metric}{{")
    keda = yaml.safe_load((FOLDER / "metrics/keda.yaml").read_text(encoding="utf-8"))
    assert metric in keda["spec"]["triggers"][0]["metadata"]["query"]
    assert f'"{metric}"' in (ROOT / "serving/telemetry.py").read_text(encoding="utf-8")


def test_compose_and_kubernetes_start_the_same_prefect():
    """The settings of Prefect's server that are no addresses are the same in both."""
    environment = COMPOSE["services"]["prefect"]["environment"]
    container = pod(one("Deployment", "calotype-prefect"))["containers"][0]
    assert {variable["name"] for variable in container["env"]} == set(environment)
    same = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert same["PREFECT_SERVER_DATABASE_DRIVER"] == environment["PREFECT_SERVER_DATABASE_DRIVER"]
