"""Every family is what the catalogue and its docstring say."""

from __future__ import annotations

import pytest

from pipelines import backend
from pipelines.models.catalogue import ARCHITECTURES, Architecture

FAMILIES = pytest.mark.parametrize("family", ARCHITECTURES.values(), ids=lambda family: family.name)


def _build(family: Architecture, shape, **options):
    backend.start()
    if family.task == "reconstruct":
        return family.function()(shape, units=shape[2], activation="sigmoid", **options)
    return family.function()(shape, units=10, activation="softmax", **options)


@pytest.mark.slow
@FAMILIES
def test_the_catalogue_knows_the_parameters(family):
    """The table that is printed without TensorFlow is true, and the docstring says the same."""
    model = _build(family, (28, 28, 1))
    assert model.count_params() == family.parameters
    assert f"{family.parameters:,} parameters" in " ".join(family.function().__doc__.split())


@pytest.mark.slow
@FAMILIES
def test_the_smallest_size_is_the_smallest(family):
    """A model for it can be built, and one for a pixel less can't."""
    side = family.smallest
    assert _build(family, (side, side, 1)).count_params() > 0
    if family.name in {"lenet5", "conv_pool"}:
        with pytest.raises(ValueError, match=r"[Nn]egative|[Ss]hape|zero"):
            _build(family, (side - 1, side - 1, 1))


@pytest.mark.slow
@FAMILIES
def test_the_catalogues_options_are_the_builders(family):
    """Each can be given, and leaving it out means the default that is listed."""
    plain = _build(family, (28, 28, 1))
    same = _build(family, (28, 28, 1), **family.options)
    assert [layer.get_config().get("activation") for layer in plain.layers] == [
        layer.get_config().get("activation") for layer in same.layers
    ]
    assert plain.count_params() == same.count_params()
    if "pooling" in family.options:
        kinds = {pooling: str(_build(family, (28, 28, 1), pooling=pooling).layers) for pooling in ("max", "average")}
        assert ("MaxPooling2D" in kinds["max"], "AveragePooling2D" in kinds["average"]) == (True, True)


@pytest.mark.slow
def test_a_model_of_ones_own_is_built_from_its_module(tmp_path, monkeypatch):
    """`module:function` needs no entry in the catalogue."""
    (tmp_path / "own_models.py").write_text(
        "import keras\n"
        "def build(shape, *, units, activation, width=3):\n"
        "    layers = [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(width)]\n"
        "    return keras.Sequential([*layers, keras.layers.Dense(units, activation=activation)])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = Architecture(name="own_models:build", task="classify", builder="own_models:build", summary="")
    assert _build(own, (4, 4, 1), width=5).count_params() == 17 * 5 + 6 * 10
