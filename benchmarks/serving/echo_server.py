"""The yardstick: an empty grpc.aio server that answers any unary call with 40 bytes. Prints its port."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

_ANSWER = bytes(40)


class _AnyMethod(grpc.GenericRpcHandler):
    def service(self, _details: Any) -> Any:
        async def echo(_request: bytes, _context: Any) -> bytes:
            return _ANSWER

        return grpc.unary_unary_rpc_method_handler(echo)


async def main() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_AnyMethod(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
