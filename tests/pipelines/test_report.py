"""The page of a run: whole in itself, and it says what came of the run, from records made by hand."""

from __future__ import annotations

import dataclasses
import json
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest

from pipelines import charts, features, report
from pipelines.gate import GateResult
from pipelines.paired import Comparison
from pipelines.runs import RECIPE
from tests.pipelines.exported_runs import exporter

COMPARED = Comparison(
    metric="accuracy",
    challenger=0.91,
    champion=0.9,
    worse=3,
    better=4,
    test="exact McNemar test, one-sided",
    p_value=0.77,
)
SHRUNK = {
    "scheme": "int8 weights",
    "is_kept": False,
    "reason": "int8 is 1.01 times as fast as float32, which is no gain",
    "speedup": 1.01,
    "accuracy": 0.5,
    "accuracy_float32": 0.6,
    "images": 30,
}


class Page(HTMLParser):
    """What a page holds: its words, images and links."""

    def __init__(self, text):
        super().__init__()
        self.images, self.addresses, self.words = [], [], []
        self.text = text
        self.feed(text)
        self.said = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "srcset", "href") if name in found]
        if tag == "img":
            self.images.append(found)

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def make(tmp_path):
    return exporter(tmp_path)


def written(run):
    return Page(report.write(*run).read_text(encoding="utf-8"))


@pytest.mark.parametrize("task", ["classify", "reconstruct"])
def test_the_page_is_whole_in_itself(make, task):
    """No address leads out of it, every picture has words in its place, and it is no larger than a mail may be."""
    run = make(task=task)
    kernels = np.random.default_rng(0).normal(size=(6, 5, 5, 1)).astype(np.float32)
    maps = np.random.default_rng(0).normal(size=(2, 6, 28, 28)).astype(np.float32)
    kept = features.Features(np.array([0, 3]), (features.Layer("conv", "convolution 5x5", 6, kernels, maps),))
    arrays = {"rows": kept.rows, "about": json.dumps([{"name": "conv", "kind": "convolution 5x5", "units": 6}])}
    np.savez(run[0] / features.FEATURES, **arrays, filters0=kernels, maps0=maps)
    page = written(run)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert all(image["alt"] for image in page.images)
    assert "conv: convolution 5x5, 6 filters" in page.said
    assert sum(image["alt"].startswith("weights of filter") for image in page.images) == 6
    assert sum(image["alt"].startswith("map of filter") for image in page.images) == 12
    assert len(page.text) < 2_000_000
    assert report.again(run[1], run[0], source="/pictures/my digits") in page.said
    assert "not published (yet): calotype publish r1" in page.said
    assert not list(run[0].glob(".*")), "what was written beside it is gone"


AGAINST = GateResult(
    passed=True, reason="Not worse.", champion=4, images=30, left_out={"label": 2}, comparison=COMPARED
)


@pytest.mark.parametrize(
    ("changes", "gate", "shrunk", "words"),
    [
        (
            {"state": "published", "version": 1},
            GateResult(passed=True, reason="There is no champion to beat."),
            {"is_kept": False, "reason": "there is no matrix product"},
            ["Published as version 1 of digits . There was no champion", "Kept in float32: there is no matrix product"],
        ),
        (
            {"state": "published", "version": 5},
            dataclasses.replace(AGAINST, forced=True),
            {**SHRUNK, "is_kept": True, "reason": "faster"},
            [
                ", by --force . Not worse.",
                "0.91000 0.90000",
                "does better 4 3",
                "p = 0.77; a worse run is refused below 0.05",
                "2 of labels that one doesn't know.",
                "Published with its large matrices in int8: faster",
                "0.6000 0.5000",
            ],
        ),
        (
            {"state": "refused", "reason": "Worse than <script>alert(4)</script>."},
            dataclasses.replace(AGAINST, passed=False),
            SHRUNK,
            ["digits refused run r1", "Worse than <script>alert(4)</script>.", "Kept in float32: int8 is 1.01 times"],
        ),
    ],
)
def test_the_page_says_what_came_of_the_run(make, changes, gate, shrunk, words):
    """Published as which version and against whom, or refused and why; what int8 did; markup in words is words."""
    page = written(make(gate=gate, made_by={"quantize": shrunk}, **changes))
    assert [one for one in words if one not in page.said] == []
    assert "<script" not in page.text


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("/pictures/my digits", "/pictures/my digits"),
        ("known:digits", "digits"),
        ("s3://bucket/a b", "s3://bucket/a b"),
    ],
)
def test_the_command_names_the_source_as_run_takes_it(make, source, word):
    """Quoted for a shell, with the run's own recipe, and in another workspace."""
    folder, record = make(source=source)
    words = shlex.split(report.again(record, folder, source=source))
    assert words[:3] == ["calotype", "run", word]
    assert words[words.index("--recipe") + 1] == str(folder / RECIPE)


def test_samples_are_of_different_labels():
    """One of each label first, then whatever is left; never more rows than there are."""
    assert features.samples(np.array([2, 2, 2, 0, 1])).tolist() == [0, 1, 3, 4]
    assert features.samples(np.array([0, 0])).tolist() == [0, 1]
    assert features.samples(np.zeros(0, np.int32)).tolist() == []


def test_charts_are_drawn_for_light_and_dark():
    """Two pictures of one size that are not the same."""
    chart = charts.curve({"loss": [1.0, 0.5], "val_loss": [1, 0.7], "val_accuracy": [0.1, 0.2]}, best_epoch=2)
    assert chart.light[:8] == chart.dark[:8] == b"\x89PNG\r\n\x1a\n"
    assert chart.light[16:24] == chart.dark[16:24]
    assert chart.light != chart.dark
