"""Spans of calls, as a collector receives them; and none, at no cost, where nobody asks."""

from __future__ import annotations

import queue
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving import tracer
from serving.codec import png
from serving.v1 import prediction_pb2 as v1
from serving.v1 import prediction_pb2_grpc as v1_grpc
from tests.serving.fake_models import pixels, publish_classifier
from tests.serving.server_process import running

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_calls_are_traced_where_opentelemetrys_variables_say_so(variables, wanted):
    assert tracer.wanted(variables) is wanted


def test_without_the_package_the_log_says_what_brings_it(monkeypatch, caplog):
    """And calls are answered as ever."""
    monkeypatch.setitem(sys.modules, "serving.tracing", None)
    caplog.set_level("INFO", "calotype")
    assert tracer.build(ENDPOINT) is None
    assert "calotype[tracing]" in caplog.records[0].fields["reason"]


def test_a_protocol_that_is_not_spoken_is_told(caplog):
    caplog.set_level("INFO", "calotype")
    assert tracer.build({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}) is None
    assert "http/protobuf" in caplog.records[0].fields["reason"]


def test_without_the_variables_nothing_of_opentelemetry_is_loaded():
    code = "import sys, serving.server; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == "[]"


@pytest.fixture
def collector():
    """The address of a collector of spans, and the queue where they appear as (resource, span)."""
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    received = queue.Queue()

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802 - the protocol's name
            for group in request.resource_spans:
                words = {each.key: each.value.string_value for each in group.resource.attributes}
                for scope in group.scope_spans:
                    for span in scope.spans:
                        received.put((words, span))
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", received
    server.stop(None).wait()


def request(model, *files):
    images = v1.Images(encoded=v1.EncodedImages(files=files))
    return v1.ClassifyRequest(model=model, images=images, request_id="mine")


@pytest.mark.slow
def test_a_call_is_a_span_in_its_callers_trace_with_its_parts_inside(form, collector, tmp_path):
    """Read, waited and computed, one after the other; a refusal is a span as well, and none of the server's faults."""
    endpoint, received = collector
    publish_classifier(tmp_path / "models")
    trace_id, caller = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_RESOURCE_ATTRIBUTES": "place=here"}
    with (
        running(tmp_path / "models", tmp_path / "log", "--transport", form, **variables) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = v1_grpc.PredictionServiceStub(channel)
        metadata = (("traceparent", f"00-{trace_id}-{caller}-01"),)
        stub.Classify(request("digits", png(pixels(1)[0])), metadata=metadata, timeout=20)
        with pytest.raises(grpc.RpcError):
            stub.Classify(request("nobody", b""), timeout=20)
    # The server has ended, and has sent what it had.
    found = [received.get_nowait() for _ in range(received.qsize())]
    assert all((words["service.name"], words["place"]) == ("calotype", "here") for words, _ in found)
    spans = [span for _, span in found]
    calls = [span for span in spans if span.name == "calotype.v1.PredictionService/Classify"]
    [good] = [span for span in calls if span.trace_id.hex() == trace_id]
    [bad] = [span for span in calls if span is not good]
    assert good.parent_span_id.hex() == caller
    attributes = {each.key: each.value for each in good.attributes}
    assert attributes["calotype.model"].string_value == "digits"
    assert attributes["calotype.version"].int_value == 1
    assert attributes["calotype.request_id"].string_value == "mine"
    parts = sorted(
        (span for span in spans if span.parent_span_id == good.span_id), key=lambda span: span.end_time_unix_nano
    )
    assert [span.name for span in parts] == ["decode", "queue", "compute"]
    moments = [moment for span in parts for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert [good.start_time_unix_nano, *moments, good.end_time_unix_nano] == sorted(
        [good.start_time_unix_nano, *moments, good.end_time_unix_nano]
    )
    code = {each.key: each.value.int_value for each in bad.attributes}["rpc.grpc.status_code"]
    assert code == grpc.StatusCode.NOT_FOUND.value[0]
    assert bad.status.code == 0
    assert len(spans) == 5


@pytest.mark.slow
def test_a_collector_that_is_away_holds_nobody_up(tmp_path):
    """Neither a call nor the stop, and what OpenTelemetry says of it is in the log's form."""
    publish_classifier(tmp_path / "models")
    variables = {**ENDPOINT, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with (
        running(tmp_path / "models", tmp_path / "log", "--log-format", "json", **variables) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = v1_grpc.PredictionServiceStub(channel)
        assert stub.Classify(request("digits", png(pixels(1)[0])), timeout=20).request_id == "mine"
    assert all(line.startswith("{") for line in server.log.read_text().splitlines())
