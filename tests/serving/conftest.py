"""The two forms of the transport: whatever is true of the wire is true of both."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module", params=["aio", "core"])
def form(request):
    """The name of a transport's form."""
    return request.param
