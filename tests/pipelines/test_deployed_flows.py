"""`prefect.yaml` and the flows that it deploys."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOYED = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]

pytestmark = pytest.mark.slow  # imports Prefect


@pytest.mark.parametrize("deployment", DEPLOYED, ids=lambda deployment: deployment["name"])
def test_every_parameter_of_a_deployed_flow_has_its_field_in_prefects_form(deployment):
    """The entry point exists; each parameter, a recipe's too, says what it is; only source and name are asked for."""
    module, _, name = deployment["entrypoint"].rpartition(".")
    form = getattr(importlib.import_module(module), name).parameters.model_dump()
    assert form["required"] == ["source", "name"]
    fields = [*form["properties"].values()]
    for model in ("Recipe", "DataRecipe"):
        fields += form["definitions"][model]["properties"].values()
    assert all(field.get("description") for field in fields)


@pytest.mark.parametrize("given", [None, Path("workspace")])
def test_a_workspace_that_would_vanish_with_the_workers_folder_is_refused(given, monkeypatch):
    """A worker makes a folder for each run and removes it: a relative workspace would be lost with it."""
    from pipelines.errors import UsageError
    from pipelines.flows_deployed import _place

    monkeypatch.delenv("CALOTYPE_WORKSPACE", raising=False)
    with pytest.raises(UsageError, match="absolute path"):
        _place(given)
    monkeypatch.setenv("CALOTYPE_WORKSPACE", "/data/workspace")
    assert _place(None) == Path("/data/workspace")
