"""How one model is served: the server's own sizes, and what the model's `config.pbtxt` says instead.

Reads the text of a configuration of Triton's, whoever wrote it; what is not honoured here is named, never refused.
Knows no file and no model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from google.protobuf import text_format

from serving.errors import CalotypeError
from serving.v2 import open_inference_pb2 as v2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.row_queue import BatchLimits

ALL_VERSIONS: Final = 2**31 - 1

_MOST_BATCH_ROWS: Final = 65536
_MOST_DELAY_US: Final = 10_000_000
_MOST_EXECUTORS: Final = 256

_BATCHING: Final = "dynamic_batching"
_POLICY: Final = f"{_BATCHING}.default_queue_policy"

_HONOURED: Final = frozenset(
    (
        "max_batch_size", "instance_group", "instance_group.count",
        _BATCHING, f"{_BATCHING}.preferred_batch_size", f"{_BATCHING}.max_queue_delay_microseconds",
        _POLICY, f"{_POLICY}.max_queue_size", f"{_POLICY}.default_timeout_microseconds",
        "version_policy", "version_policy.all", "version_policy.latest", "version_policy.latest.num_versions",
        "version_policy.specific", "version_policy.specific.versions",
    )
)  # fmt: skip

# What the model's own file says as well, and is believed.
_DESCRIBED: Final = frozenset(
    (
        "input", "input.name", "input.data_type", "input.dims", "input.reshape", "input.reshape.shape",
        "output", "output.name", "output.data_type", "output.dims", "output.reshape", "output.reshape.shape",
        "instance_group.name",
    )
)  # fmt: skip

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|\#[^\n]*)|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|[0-9.](?:[eE][+-]|[\w.])*|\w+|.""", re.DOTALL
)


class BadConfig(CalotypeError):
    """A config.pbtxt that can't be what its model is served by."""


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are served.

    Args:
        most: how many, the newest first.
        only: the numbers to choose from; None: whatever there is.
    """

    most: int = 1
    only: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How one model is served.

    Args:
        limits: of its batches and queues.
        executors: calls at a time, per version; 0: as fits, found out at load.
        timeout_ms: how long rows may wait whose caller has more time; 0: as long as the caller.
        policy: which versions.
        ignored: fields of config.pbtxt that are set and not honoured, as `field.in.field`.
    """

    limits: BatchLimits
    executors: int = 0
    timeout_ms: float = 0.0
    policy: VersionPolicy = VersionPolicy()
    ignored: tuple[str, ...] = ()


def read(text: str, default: Tuning, *, model: str, where: str) -> Tuning:
    """How the model of a configuration is served.

    Args:
        text: of its config.pbtxt.
        default: for everything that it doesn't say.
        model: name of its folder.
        where: the file, for the sentence.

    Raises:
        BadConfig: no configuration, or values that can't be; the sentence names file and line.
    """
    try:
        config = text_format.Parse(_skippable(text), v2.ModelConfig(), allow_unknown_field=True)
        lines = _lines(text)
    except text_format.ParseError as error:
        reason = re.sub(r"^\d+:\d+ : ", "", str(error))
        raise BadConfig(f"{where}, line {error.GetLine() or 1}, is no configuration of a model: {reason}") from error
    except RecursionError as error:
        raise BadConfig(f"{where}, line 1, is no configuration of a model: it is nested too deeply.") from error
    return _Reading(config, lines, default, where).tuning(model)


class _Reading:
    """One configuration, looked at field by field."""

    def __init__(self, config: v2.ModelConfig, lines: Mapping[str, int], default: Tuning, where: str) -> None:
        self._config = config
        self._lines = lines
        self._default = default
        self._where = where

    def tuning(self, model: str) -> Tuning:
        """All of it."""
        return Tuning(
            limits=self._limits(),
            executors=self._executors(),
            timeout_ms=self._config.dynamic_batching.default_queue_policy.default_timeout_microseconds / 1000
            or self._default.timeout_ms,
            policy=self._version_policy(),
            ignored=self._ignored(model),
        )

    def _limits(self) -> BatchLimits:
        limits, batching = self._default.limits, self._config.dynamic_batching
        if "max_batch_size" in self._lines:
            rows = self._within("max_batch_size", self._config.max_batch_size, 0, _MOST_BATCH_ROWS)
            limits = replace(limits, max_batch_rows=max(1, rows), joins=rows > 0)
        delay = f"{_BATCHING}.max_queue_delay_microseconds"
        if delay in self._lines:
            wait_us = self._within(delay, batching.max_queue_delay_microseconds, 0, _MOST_DELAY_US)
            limits = replace(limits, max_wait_ms=wait_us / 1000)
        if limits.joins and batching.preferred_batch_size:
            name = f"{_BATCHING}.preferred_batch_size"
            sizes = [self._within(name, size, 1, limits.max_batch_rows) for size in batching.preferred_batch_size]
            limits = replace(limits, preferred_rows=tuple(sorted(set(sizes))))
        waiting = batching.default_queue_policy.max_queue_size
        return replace(limits, max_queue_rows=waiting) if waiting else limits

    def _executors(self) -> int:
        groups = self._config.instance_group
        if not groups:
            return self._default.executors
        # A group that doesn't say how many has one, as in Triton.
        counts = [self._within("instance_group.count", group.count, 0, _MOST_EXECUTORS) or 1 for group in groups]
        return self._within("instance_group", sum(counts), 1, _MOST_EXECUTORS)

    def _version_policy(self) -> VersionPolicy:
        said = self._config.version_policy
        choice = said.WhichOneof("policy_choice")
        if choice == "all":
            return VersionPolicy(ALL_VERSIONS)
        if choice == "latest":
            return VersionPolicy(min(said.latest.num_versions or 1, ALL_VERSIONS))
        if choice is None:
            return self._default.policy
        if not said.specific.versions or min(said.specific.versions) < 1:
            self._refuse("version_policy.specific", "one version at least, from 1", list(said.specific.versions))
        return VersionPolicy(ALL_VERSIONS, frozenset(said.specific.versions))

    def _ignored(self, model: str) -> tuple[str, ...]:
        """Fields that are set to no effect; of a group of them only the group."""
        config, gpu_or_model = self._config, (v2.ModelInstanceGroup.KIND_GPU, v2.ModelInstanceGroup.KIND_MODEL)
        agreed = {
            "name": config.name == model,
            "platform": config.platform in ("", "onnxruntime_onnx"),
            "backend": config.backend in ("", "onnxruntime"),
            "default_model_filename": config.default_model_filename in ("", "model.onnx"),
            "instance_group.kind": all(group.kind not in gpu_or_model for group in config.instance_group),
        }
        ignored: list[str] = []
        for path in self._lines:
            known = path in _HONOURED or path in _DESCRIBED or agreed.get(path, False)
            if not known and path.rpartition(".")[0] not in ignored:
                ignored.append(path)
        return tuple(path for path in ignored if not _inside(path, ignored))

    def _within(self, name: str, value: int, low: int, high: int) -> int:
        if not low <= value <= high:
            self._refuse(name, f"from {low} to {high}", value)
        return value

    def _refuse(self, name: str, expected: str, received: object) -> None:
        raise BadConfig(
            f"{self._where}, line {self._lines.get(name, 1)}: `{name}` must be {expected}. Received: {received}"
        )


def _inside(path: str, groups: list[str]) -> bool:
    return any(path.startswith(group + ".") for group in groups)


def _skippable(text: str) -> str:
    """The same configuration, line by line, as protobuf's Python skips it in a field that it doesn't know.

    There it takes a list of messages, or of nothing, only after a colon, and a minus only right before its number.
    """
    words = [match for match in _TOKEN.finditer(text) if match["blank"] is None]
    lists = {
        word.start()
        for before, word, after in zip(words, words[1:], words[2:], strict=False)
        if word[0] == "[" and after[0] in ("{", "<", "]") and (before[0] == "]" or before[0][0].isidentifier())
    }
    written, minus = [], ""
    for match in _TOKEN.finditer(text):
        if match[0] == "-":
            minus += "-"
        elif match["blank"] is not None:
            written.append(match[0])
        else:
            written.append(minus + (":" if match.start() in lists else "") + match[0])
            minus = ""
    return "".join(written) + minus


def _lines(text: str) -> dict[str, int]:
    """Every field that a configuration sets, as `field.in.field`, and the line where it is first set.

    Protobuf tells neither which fields it skipped nor which numbers were written; the text, once it is known to be in
    form, tells both.
    """
    tokens, line = [], 1
    for match in _TOKEN.finditer(text):
        if match["blank"] is None:
            tokens.append((match[0], line))
        line += match[0].count("\n")
    tokens.reverse()
    found: dict[str, int] = {}
    while tokens:
        _fields(tokens, "", found)
    return found


def _fields(tokens: list[tuple[str, int]], prefix: str, found: dict[str, int]) -> None:
    """The fields up to the end of their message; takes its closing brace too."""
    while tokens:
        word, line = tokens.pop()
        if word in "}>":
            return
        if word in ",;":
            continue
        while word[0] == "[" and word[-1] != "]":  # the name of an extension, or of what an Any holds
            word += tokens.pop()[0]
        found.setdefault(prefix + word, line)
        if tokens and tokens[-1][0] == ":":
            tokens.pop()
        _value(tokens, prefix + word, found)


def _value(tokens: list[tuple[str, int]], path: str, found: dict[str, int]) -> None:
    word = tokens.pop()[0]
    if word in "{<":
        _fields(tokens, f"{path}.", found)
    elif word == "[":
        while tokens[-1][0] != "]":
            if tokens[-1][0] == ",":
                tokens.pop()
            else:
                _value(tokens, path, found)
        tokens.pop()
    elif word == "-":
        tokens.pop()
    else:
        while word[0] in "\"'" and tokens and tokens[-1][0][0] in "\"'":  # strings side by side are one
            tokens.pop()
