"""A workspace with a small dataset of bright lines, and runs that exported tiny graphs, for tests of the gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines.config import DataRecipe, Recipe
from pipelines.dataset import SCHEMA_VERSION, Snapshot
from pipelines.export import DRAFT, ONNX
from pipelines.gate import judge_run
from pipelines.ingest import ingest
from pipelines.publish import publish_run
from pipelines.workspace import Workspace
from tests.pipelines.image_folders import put
from tests.serving import fake_models

if TYPE_CHECKING:
    from pathlib import Path

LABELS = fake_models.LABELS
DATA = DataRecipe(height=6, width=5, split=(0.3, 0.2, 0.5), seed=0)
PER_LABEL = 30
RECIPE = Recipe(data=DATA)


@dataclass
class Place:
    """A workspace with one dataset in it, and whoever asks to be published there."""

    workspace: Workspace
    source: Path
    snapshot: Snapshot
    runs: int = 0

    def ingest(self, *, dataset="lines", **changes):
        """Bring the dataset up to date, or make another one of the same files."""
        recipe = DATA.model_copy(update=changes)
        result = ingest(str(self.source), self.workspace.datasets / dataset, recipe, workers=0)
        self.snapshot = Snapshot.open(result.path)

    def run(self, bundle, model, **changes):
        """The folder of a run that exported this model, trained on the snapshot unless told."""
        self.runs += 1
        folder = self.workspace.runs / f"run-{self.runs}"
        folder.mkdir(parents=True)
        said = {"name": "lines", "snapshot": self.snapshot.id, "source": self.snapshot.source}
        said["schema_version"] = SCHEMA_VERSION
        bundle = replace(bundle, **({"dataset": said, "recipe": RECIPE.to_dict()} | changes))
        (folder / DRAFT).write_text(bundle.to_json())
        (folder / ONNX).write_bytes(model)
        return folder

    def judge(self, folder, *, name="lines", recipe=RECIPE, force=False):
        return judge_run(
            folder, name=name, snapshot=self.snapshot.path, recipe=recipe, workspace=self.workspace, force=force
        )

    def publish(self, folder, name="lines"):
        return publish_run(folder, self.workspace.models, name=name, run=folder.name)


def lines(root, labels=LABELS, *, per_label=PER_LABEL, seed=0):
    """Noise with one bright line each, at the row that the fake classifier takes for the label."""
    random = np.random.default_rng(seed)
    for at, label in enumerate(labels):
        for number in range(per_label):
            pixels = random.integers(0, 60, (6, 5), np.uint8)
            pixels[at] = 255
            put(root / label / f"{seed}-{number:03d}.png", pixels)
    return root


def good(**options):
    return fake_models.classifier("", **options)


def bad(**options):
    """Takes every line for another label."""
    return fake_models.classifier("", gain=-4.0, **options)


def make_place(root):
    """A workspace in `root` with the dataset `lines`: 45 test images."""
    place = Place(Workspace(root / "workspace"), lines(root / "lines"), None)
    place.ingest()
    return place
