"""Ports on this host that nobody has."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack


def free_ports(wanted: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Each name with the port it wants, or a free one; SeaweedFS also takes the one 10,000 higher."""
    with ExitStack() as held:
        for name, port in wanted.items():
            while not _bind(held, port, port + 10_000 if name.startswith("S3") else None):
                port = _ephemeral()
            yield name, port


def _bind(held: ExitStack, *ports: int | None) -> bool:
    for port in filter(None, ports):
        probe = held.enter_context(socket.socket())
        try:
            probe.bind(("", port))  # SeaweedFS names sockets by port alone, so that two on one host need different ones
        except (OSError, OverflowError):
            return False
    return True


def _ephemeral() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        return port if port + 10_000 < 65_536 else port - 20_000
