"""Machines on one host: network namespaces on a bridge, each with only its own disk."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HIDE = 'for folder in $HIDDEN; do mount -t tmpfs none "$folder"; done; unset HIDDEN; exec "$@"'


def possible() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


@contextmanager
def network(names: list[str]) -> Iterator[str]:
    """A bridge with one namespace per name; yields the address that all of them reach, which is this host's."""
    tag = f"{os.getpid() % 100_000}"
    bridge, third = f"ad{tag}", os.getpid() % 250
    address = f"10.199.{third}.1"
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{address}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for number, name in enumerate(names, start=2):
            space, ours, theirs = f"{name}-{tag}", f"v{tag}{number}", f"w{tag}{number}"
            _ip("netns", "add", space)
            _ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            _ip("link", "set", ours, "master", bridge, "up")
            _ip("link", "set", theirs, "netns", space)
            _ip("-n", space, "address", "add", f"10.199.{third}.{number}/24", "dev", theirs)
            _ip("-n", space, "link", "set", theirs, "up")
            _ip("-n", space, "link", "set", "lo", "up")
        yield address
    finally:
        for name in names:
            _ip("netns", "delete", f"{name}-{tag}", check=False)
        _ip("link", "delete", bridge, check=False)


def on(name: str, hidden: list[Path]) -> list[str]:
    """The command that starts another one on the machine `name`, from which these folders cannot be seen."""
    folders = " ".join(map(str, hidden))
    return ["ip", "netns", "exec", f"{name}-{os.getpid() % 100_000}", "env", f"HIDDEN={folders}", "sh", "-c", _HIDE, "sh"]
