"""A proxy in front of an S3 server that injects the faults of networks and object stores into chosen requests."""

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal[
    "503", "403", "expired", "no-bucket", "reset", "lost", "short", "corrupt", "slow", "late", "torn", "stall"
]
"""An error answer; a reset before the request reaches the server, or after the server has acted; a body that is cut,
has a wrong byte, is slow, begins late, ends in a reset, or never ends."""

_ANSWERS = {
    "503": ("503 Slow Down", "SlowDown"),
    "403": ("403 Forbidden", "AccessDenied"),
    "expired": ("400 Bad Request", "ExpiredToken"),
    "no-bucket": ("404 Not Found", "NoSuchBucket"),
}


@dataclass
class Fault:
    """Hits the next `times` requests of a method whose path and query end with `target`, a regular expression."""

    kind: Kind
    method: str
    target: str
    times: int = 1

    def hits(self, method: str, target: str) -> bool:
        if self.times and method == self.method and re.search(f"{self.target}$", target):
            self.times -= 1
            return True
        return False


@dataclass
class FaultProxy:
    """Forwards to `server`; one request per connection. If no listed fault hits, `choose` may give one."""

    server: str
    faults: list[Fault] = field(default_factory=list)
    choose: Callable[[str, str], Kind | None] = lambda _method, _target: None
    late_s: float = 5.0
    endpoint_url: str = ""

    async def run(self, ready: threading.Event) -> None:
        """Serve until `stop` is called from another thread."""
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.endpoint_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        await self._stopped.wait()
        server.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if re.search(rb"\r\nexpect: 100-continue\r\n", head, re.IGNORECASE):
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            listed = next((fault.kind for fault in self.faults if fault.hits(method, target)), None)
            fault = listed or self.choose(method, target)
            await self._answer(fault, head, body, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()

    async def _answer(self, fault: Kind | None, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        if fault in _ANSWERS:
            status, code = _ANSWERS[fault]
            xml = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            close = f"HTTP/1.1 {status}\r\nContent-Length: {len(xml)}\r\nConnection: close\r\n\r\n"
            writer.write(close.encode() + xml)
            return
        if fault == "late":
            await asyncio.sleep(self.late_s)
        answer = b"" if fault == "reset" else await self._forward(head, body)
        middle = (answer.find(b"\r\n\r\n") + 4 + len(answer)) // 2
        if fault == "torn":
            writer.write(answer[:middle])
            await writer.drain()
        if fault in ("reset", "lost", "torn"):
            # Linger of zero seconds: closing sends RST instead of FIN.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return
        if fault == "corrupt" and middle < len(answer):
            answer = answer[:middle] + bytes([answer[middle] ^ 1]) + answer[middle + 1 :]
        writer.write(answer[:middle])
        if fault == "stall":
            await asyncio.sleep(60)
        if fault == "slow":
            for start in range(middle, len(answer), 2000):
                await asyncio.sleep(0.05)
                writer.write(answer[start : start + 2000])
        elif fault != "short":
            writer.write(answer[middle:])

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        address = urlsplit(self.server)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        try:
            for hop_by_hop in (rb"\r\nexpect:[^\r]*", rb"\r\nconnection:[^\r]*"):
                head = re.sub(hop_by_hop, b"", head, flags=re.IGNORECASE)
            writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            return await reader.read()
        finally:
            writer.close()


@contextlib.contextmanager
def fault_proxy(server: str) -> Iterator[FaultProxy]:
    """A running proxy in front of the S3 server at this URL."""
    proxy, ready = FaultProxy(server), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run(ready)))
    thread.start()
    assert ready.wait(10)
    yield proxy
    proxy.stop()
    thread.join()
