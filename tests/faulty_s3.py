"""A bad line to a good server: an HTTP proxy on loopback that fails, delays, cuts or alters what passes."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Line:
    """What is wrong with the line now, and what has passed."""

    url: str
    fail: int = 0  # so many GETs of objects are answered 503
    cut: int = 0  # so many are cut off in the middle
    alter: int = 0  # so many have one byte altered
    delay: float = 0.0  # seconds before every 16 KiB
    busy: int = 0  # every so-manieth request is answered 503, by turns before and after the server did what it asks
    asked: int = 0  # requests in all
    answered: int = 0  # with 503 because it was busy
    passed: list[str] = field(default_factory=list)  # paths of objects that were asked for with GET

    def is_busy(self) -> bool:
        self.asked += 1
        found = bool(self.busy) and self.asked % self.busy == 0
        self.answered += found
        return found

    def take(self, name: str) -> bool:
        left: int = getattr(self, name)
        setattr(self, name, max(0, left - 1))
        return left > 0


@contextmanager
def bad_line(upstream: str) -> Iterator[Line]:
    """Yields the line; its `url` stands in for the server's."""
    there = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            busy = line.is_busy()
            if busy and line.answered % 2:
                return self._refuse()
            of_object = self.command == "GET" and "?" not in self.path
            if of_object:
                line.passed.append(self.path)
                if line.take("fail"):
                    return self._refuse()
            server = http.client.HTTPConnection(there.hostname or "", there.port, timeout=60)
            server.request(self.command, self.path, body, {name: value for name, value in self.headers.items()})
            answer = server.getresponse()
            content = answer.read()
            server.close()
            if busy:
                return self._refuse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            if of_object and answer.status in (200, 206):
                self._spoil(content)
            else:
                self.wfile.write(content)

        def _refuse(self) -> None:
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _spoil(self, content: bytes) -> None:
            if line.take("cut"):
                self.wfile.write(content[: len(content) // 2])
                self.wfile.flush()
                self.connection.close()
                self.close_connection = True
                return
            if line.take("alter"):
                middle = len(content) // 2
                content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            for start in range(0, len(content), 1 << 14):
                time.sleep(line.delay)
                self.wfile.write(content[start : start + (1 << 14)])

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]
    line = Line(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
