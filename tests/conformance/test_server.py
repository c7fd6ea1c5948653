"""What a server says of itself and of its models."""

from __future__ import annotations

import contextlib

import grpc
import pytest
from tensors import KINDS

DATATYPES = {*KINDS, "BF16"}


def test_a_server_that_answers_is_live(server):
    assert server.ServerLive().live


def test_a_server_that_takes_calls_is_ready(server):
    assert server.ServerReady().ready


def test_a_server_tells_its_name_and_version(server):
    told = server.ServerMetadata()
    assert told.name
    assert told.version
    assert all(told.extensions)


def test_a_model_that_can_be_called_is_ready_in_each_version_that_it_names(server, metadata, named):
    told = metadata(named)
    assert server.ModelReady(name=named).ready
    assert all(server.ModelReady(name=named, version=version).ready for version in told.versions)


def test_a_model_that_nobody_knows_is_not_ready(server):
    """Whether that is an answer or a refusal, the protocol leaves open."""
    with contextlib.suppress(grpc.RpcError):
        assert not server.ModelReady(name="no-such-model").ready


def test_a_models_metadata_names_its_tensors_their_datatypes_and_shapes(metadata, named):
    told = metadata(named)
    assert told.name == named
    assert told.platform
    assert told.inputs
    assert told.outputs
    for tensors in (told.inputs, told.outputs):
        assert len({tensor.name for tensor in tensors}) == len(tensors)
        for tensor in tensors:
            assert tensor.name
            assert tensor.datatype in DATATYPES
            assert all(size >= -1 for size in tensor.shape)


def test_metadata_can_be_asked_for_each_version(server, metadata, named):
    told = metadata(named)
    for version in told.versions:
        again = server.ModelMetadata(name=named, version=version)
        assert [tensor.name for tensor in again.inputs] == [tensor.name for tensor in told.inputs]


@pytest.mark.parametrize("datatype", KINDS)
def test_a_models_datatype_is_told_as_it_is(metadata, datatype):
    told = metadata(f"identity_{datatype.lower()}")
    assert [(tensor.name, tensor.datatype) for tensor in told.inputs] == [("INPUT0", datatype)]
    assert [(tensor.name, tensor.datatype) for tensor in told.outputs] == [("OUTPUT0", datatype)]


def test_several_inputs_and_outputs_are_told(metadata):
    told = metadata("simple")
    assert sorted(tensor.name for tensor in told.inputs) == ["INPUT0", "INPUT1"]
    assert sorted(tensor.name for tensor in told.outputs) == ["OUTPUT0", "OUTPUT1"]
    assert all(list(tensor.shape)[1:] == [16] for tensor in (*told.inputs, *told.outputs))
