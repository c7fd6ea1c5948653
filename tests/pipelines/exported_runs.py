"""Runs with everything that their page is made of, in the folder of a workspace."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from pipelines import evaluate, judge, train
from pipelines.config import Recipe
from pipelines.export import DRAFT
from pipelines.gate import GATE
from pipelines.runs import RECIPE, RunKey, RunRecord
from tests.pipelines.small_snapshots import digits, make_snapshot


def exporter(tmp_path):
    """What gives the folder and record of the run `r1` on 30 test images, with a model that guesses."""
    pixels, labels = digits(120)
    snapshot = make_snapshot(tmp_path / "data", pixels, labels, parts=(70, 20, 30))
    test = snapshot.part("test")

    def build(*, task="classify", made_by=(), gate=None, source="/pictures/my digits", **changes):
        folder = tmp_path / "runs" / "r1"
        folder.mkdir(parents=True, exist_ok=True)
        rng, paths = np.random.default_rng(0), list(test.paths)
        if task == "classify":
            said = rng.dirichlet(np.ones(10), 30).astype(np.float32)
            found = evaluate.classification(test.labels, said, names=snapshot.labels, paths=paths)
        else:
            blurred = np.clip(test.pixels / 255 + rng.normal(0, 0.1, test.pixels.shape), 0, 1).astype(np.float32)
            judged = evaluate.likeness(test.pixels, blurred)
            found = evaluate.reconstruction(judged, paths=paths, threshold_error=0.01, quantile=0.99)
            shown = np.argsort(-judged.mean_squared_error, kind="stable")[:16]
            images, answers = test.pixels[shown], np.rint(blurred[shown] * 255).astype(np.uint8)
            np.savez(folder / judge.GALLERY, images=images, reconstructions=answers)
        history = {
            "history": {"loss": [1.0, 0.5], "val_loss": [1.0, 0.6]},
            "best_epoch": 2,
            "epochs": 2,
            "parameters": 7850,
            "objective": "10 labels: softmax",
            "threads": 2,
        }
        recipe = Recipe(architecture="lenet5").to_dict()
        bundle = {
            "dataset": {"name": "small", "snapshot": snapshot.id, "source": source},
            "image": dataclasses.asdict(snapshot.image),
            "parity": {"max_abs_diff": 1e-6, "rows": 30},
            "made_by": {"git_commit": None, "libraries": {"keras": "3"}, **dict(made_by)},
            "recipe": recipe,
        }
        for name, values in ((judge.REPORT, found), (train.HISTORY, history), (DRAFT, bundle), (RECIPE, recipe)):
            (folder / name).write_text(json.dumps(values))
        if gate is not None:
            (folder / GATE).write_text(json.dumps(dataclasses.asdict(gate)))
        key = RunKey(snapshot=snapshot.id, model="digits", recipe="0" * 16)
        record = RunRecord(
            run="r1", state="trained", key=key, dataset="small", snapshot_path=str(snapshot.path), recipe=recipe,
            images={"train": 70, "test": 30}, seconds={"train": 1.25},
        )  # fmt: skip
        return folder, dataclasses.replace(record, **changes)

    return build
