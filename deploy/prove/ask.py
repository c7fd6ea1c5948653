"""Runs inside a container of calotype-serving: what the server says of itself through its published port, as JSON.

Argument: its address.
"""

from __future__ import annotations

import json
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import Client

ADDRESS = sys.argv[1]

with Client(ADDRESS) as client:
    models = [{"name": model.name, "version": model.version, "state": model.state} for model in client.models()]
with grpc.insecure_channel(ADDRESS) as channel:
    stub = health_pb2_grpc.HealthStub(channel)
    services = ("", "calotype.v1.PredictionService", *(str(model["name"]) for model in models))
    health = {
        service: health_pb2.HealthCheckResponse.ServingStatus.Name(
            stub.Check(  # type: ignore[attr-defined]  # generated without types
                health_pb2.HealthCheckRequest(service=service), timeout=10
            ).status
        )
        for service in services
    }
sys.stdout.write(json.dumps({"models": models, "health": health}))
