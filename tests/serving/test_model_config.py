"""What a config.pbtxt says, field by field, and what it can't say."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving import settings
from serving.bundle_config import MAX_BATCH_ROWS, config_text
from serving.model_config import ALL_VERSIONS, BadConfig, Tuning, VersionPolicy, read
from serving.row_queue import BatchLimits
from tests.serving.fake_models import classifier, reconstructor

DEFAULT = Tuning(limits=BatchLimits(max_batch_rows=50, max_wait_ms=3, max_queue_rows=700), executors=3)

# As people write them: both kinds of lists, messages with and without a colon, comments, strings side by side.
RICH = """
# a comment with { and "
name: "m" platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "ima" "ge" data_type: TYPE_UINT8 dims: [ 28, 28, -1 ] format: FORMAT_NHWC }, { name: 'b' } ]
output [ { name: "error" data_type: TYPE_FP32 dims: [ 1 ] reshape: { shape: [ ] } } ]
dynamic_batching {
  preferred_batch_size: [ 8, 4 ];
  max_queue_delay_microseconds: 1500
  default_queue_policy < max_queue_size: 7, default_timeout_microseconds: 2500000 timeout_action: DELAY >
  priority_levels: 3
}
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0 ] }, { kind: KIND_CPU } ]
version_policy: { specific { versions: [ 1, 3 ] } }
optimization { execution_accelerators { cpu_execution_accelerator: [ { name: "openvino" } ] } }
parameters: { key: "a" value: { string_value: "x: {" } }
parameters { key: "b" value { string_value: "y" } }
model_warmup { batch_size: 1 ratio: 1.5e-3 inputs { } }
"""


def said(text, default=DEFAULT):
    return read(text, default, model="m", where="m/config.pbtxt")


def test_everything_that_is_honoured_is_read_and_everything_else_is_named_once():
    tuning = said(RICH)
    assert tuning.limits == BatchLimits(max_batch_rows=16, max_wait_ms=1.5, max_queue_rows=7, preferred_rows=(4, 8))
    assert (tuning.executors, tuning.timeout_ms) == (3, 2500.0)
    assert tuning.policy == VersionPolicy(ALL_VERSIONS, frozenset({1, 3}))
    assert tuning.ignored == (
        "input.format",
        "dynamic_batching.default_queue_policy.timeout_action",
        "dynamic_batching.priority_levels",
        "instance_group.kind",
        "instance_group.gpus",
        "optimization",
        "parameters",
        "model_warmup",
    )


# As examples of Triton's write what this server has no field for: lists of messages without a colon.
EXAMPLES = """
name: "m" platform: "onnxruntime_onnx" max_batch_size: 8
model_warmup [ { # the first call is slow
  name: "ones [ {" batch_size: 1
  inputs { key: "INPUT0" value: { data_type: TYPE_FP32 dims: [ 3, 224, 224 ] zero_data: true } }
}, { name: "random" batch_size: 8 inputs [ { key: "INPUT0" value { random_data: true dims: [ - 1 ] } } ] } ]
parameters [ { key: "enable_mem_arena" value { string_value: "0" } }, { key: "]" value: { string_value: '}' } } ]
batch_input [ { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "N" data_type: TYPE_FP32 source_input: "INPUT0" } ]
optimization { execution_accelerators {
  gpu_execution_accelerator [ < name: "tensorrt" parameters [ { key: "precision_mode" value: "FP16" } ] > ]
  cpu_execution_accelerator # none
  [ { name: "openvino" } ]
} }
batch_output []
model_repository_agents { agents [ { name: "checksum" [a.b.c/d.e] { } [f.g] [ { } ] } ] }
version_policy { all { } }
"""


def test_lists_of_messages_without_a_colon_are_skipped_and_named():
    tuning = said(EXAMPLES)
    assert (tuning.limits.max_batch_rows, tuning.policy) == (8, VersionPolicy(ALL_VERSIONS))
    named = "model_warmup parameters batch_input optimization batch_output model_repository_agents"
    assert tuning.ignored == tuple(named.split())


@pytest.mark.parametrize(
    "value",
    [
        " [ { a: 1 }, < b: 2 > ]", ": [ { a: 1 }, < b: 2 > ]", " < a: 1 >", ": < a: 1 >", " { }", ": { }", "[]", ": []",
        " [{},{}];", ": 'a' \"b\"", ": [ 'a[{' \"]\", 'b' ]", ": [ -1, - 2.5, -inf ]", ": - # minus\n 5", ": -nan",
        ": 0x1F", " # [\n[ # {\n{ } # ,\n, { } ]", " { y [ { z [ < w: [1, 2] > ] } ] }",
        " { [a.b] { c: 1 } [d.e.f/g]: { } [h] [ { } ] }",
    ],
)  # fmt: skip
def test_an_unknown_field_is_skipped_in_every_form_that_there_is(value):
    tuning = said(f"of_next_year{value} max_batch_size: 7")
    assert (tuning.ignored, tuning.limits.max_batch_rows) == (("of_next_year",), 7)


def test_the_line_of_what_cannot_be_is_right_after_what_was_skipped():
    with pytest.raises(BadConfig, match="line 4"):
        said("x [ {\n} ] y: -\n 5\nmax_batch_size: -1")


def test_what_it_does_not_say_is_as_the_server_says():
    assert said("") == DEFAULT
    assert said("dynamic_batching { default_queue_policy { } }").limits == DEFAULT.limits
    assert said("max_batch_size: 5").limits.max_wait_ms == 3
    assert said("dynamic_batching { max_queue_delay_microseconds: 0 }").limits.max_wait_ms == 0


def test_no_batch_size_is_no_batching():
    assert said("max_batch_size: 0").limits.joins is False


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest { num_versions: 2 }", VersionPolicy(2)),
        ("latest { }", VersionPolicy(1)),
        ("all { }", VersionPolicy(ALL_VERSIONS)),
    ],
)
def test_policies(text, policy):
    assert said(f"version_policy {{ {text} }}").policy == policy


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('name: "somebody"', "name"),
        ('platform: "tensorflow_graphdef"', "platform"),
        ('backend: "python"', "backend"),
        ('default_model_filename: "other.onnx"', "default_model_filename"),
        ("sequence_batching { }", "sequence_batching"),
        ("x_of_next_year { deep { er: 1 } }", "x_of_next_year"),
    ],
)
def test_what_says_that_this_is_another_kind_of_model_is_named(text, field):
    assert said(text).ignored == (field,)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("max_batch_size: many", 1, "many"),
        ("\n\nmax_batch_size: -1", 3, "`max_batch_size` must be from 0 to 65536. Received: -1"),
        ("max_batch_size: 4\ndynamic_batching {\n  preferred_batch_size: 8 }", 3, "from 1 to 4. Received: 8"),
        ("\ninstance_group { count: -1 }", 2, "`instance_group.count`"),
        ("instance_group [ { count: 200 }, { count: 200 } ]", 1, "Received: 400"),
        ("\n\n\nversion_policy { specific { } }", 4, "one version at least"),
        ("version_policy { specific { versions: 0 } }", 1, "one version at least"),
        ("dynamic_batching { max_queue_delay_microseconds: 99999999 }", 1, "99999999"),
        ("\nmax_batch_size", 2, "Expected"),
        ("\n}", 2, "}"),
        ("\ninput { data_type: TYPE_SOUND }", 2, "TYPE_SOUND"),
        ("max_batch_size: 1\nmax_batch_size: 2", 2, "multiple"),
        ("x { " * 5000 + "}" * 5000, 1, "nested"),
    ],
)
def test_what_cannot_be_is_one_sentence_with_file_and_line(text, line, words):
    with pytest.raises(BadConfig, match=rf"^m/config.pbtxt, line {line}\b.*{re.escape(words)}") as caught:
        said(text)
    assert "\n" not in str(caught.value)


# fmt: off
WORDS = st.sampled_from([
    "max_batch_size", "dynamic_batching", "preferred_batch_size", "versions", "input", "x", "1", "-", "-1", "1.5e-3",
    "0x1f", "true", ".", '"a"', "'b", "{", "}", "<", ">", "[", "]", ":", ",", ";", "#", "\n", "[a.b/c]",
])
# fmt: on


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_no_text_does_anything_but_tell_or_be_refused(text):
    """A file in a repository may hold whatever its author typed."""
    with suppress(BadConfig):
        assert said(text).executors > 0


@pytest.mark.parametrize("make", [classifier, reconstructor])
def test_a_published_configuration_changes_nothing_and_is_honoured_whole(make):
    """Publishing must not lower what the server does by itself."""
    bundle, _ = make()
    default = Tuning(limits=BatchLimits(max_batch_rows=settings.defaults()["max_batch_rows"]))
    assert said(config_text(bundle), default) == default
    assert settings.defaults()["max_batch_rows"] == MAX_BATCH_ROWS
