"""Bundles of any content, as hypothesis thinks them up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from serving import bundle as bundles
from serving.images import ImageSpec

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_objects = st.dictionaries(st.text(), _json, max_size=3)
_numbers = st.floats(0, 1)
_tensors = st.lists(
    st.builds(
        bundles.TensorSpec,
        st.text(min_size=1),
        st.sampled_from(["uint8", "float32", "string", "int64"]),
        st.lists(st.none() | st.integers(0, 2**31), min_size=1, max_size=4).map(tuple),
    ),
    max_size=3,
).map(tuple)
_bundles = st.builds(
    bundles.Bundle,
    schema_version=st.just(bundles.SCHEMA_VERSION),
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,30}", fullmatch=True),
    version=st.just(1),
    task=st.sampled_from(["classify", "reconstruct"]),
    image=st.builds(
        ImageSpec,
        st.integers(1, 4096),
        st.integers(1, 4096),
        st.sampled_from([1, 3]),
        st.sampled_from(["stretch", "pad", "crop"]),
    ),
    inputs=_tensors,
    outputs=_tensors,
    labels=st.lists(st.text()).map(tuple),
    threshold=st.none() | st.builds(bundles.Threshold, _numbers, _numbers),
    metrics=_objects,
    parity=st.none() | st.builds(bundles.Parity, _numbers, st.integers(0, 1000)),
    recipe=_objects,
    dataset=_objects,
    made_by=_objects,
)


@settings(max_examples=25, deadline=None)
@given(bundle=_bundles, model=st.binary(max_size=300))
def test_any_bundle_comes_back_from_disk_as_it_went(tmp_path_factory, bundle, model):
    """Labels in any script, metrics of any depth, files of any length: read equals what was published."""
    models = tmp_path_factory.mktemp("models")
    folder = models / bundle.name / str(bundles.publish(models, bundle, model))
    bundles.verify(folder)
    assert bundles.read(folder) == bundle
    assert (folder / bundles.MODEL).read_bytes().startswith(model)
