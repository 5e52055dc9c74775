"""A real S3 server on loopback: SeaweedFS, with keys of its own."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}


def _ports(count: int) -> list[int]:
    """Free ports whose gRPC twins (10,000 higher) are free too."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            low = held.enter_context(socket.socket())
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port + 10_000 > 65_535:
                port -= 30_000
            high = held.enter_context(socket.socket())
            try:
                high.bind(("127.0.0.1", port + 10_000))
                if port != low.getsockname()[1]:
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Yields the environment with which boto3 finds the server."""
    master, volume, filer, s3 = _ports(4)
    identity = {"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}
    actions = ["Admin", "Read", "List", "Tagging", "Write"]
    tester = {"name": "tester", "credentials": [identity], "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [tester]}))
    command = [
        str(Path(sys.executable).parent / "weed"), "server", "-s3", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=0",
        f"-s3.config={folder / 's3.json'}",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            _wait(server, s3, folder / "log")
            yield {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}"}
        finally:
            server.kill()
            server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    import boto3

    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{port}", aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1",
    )  # fmt: skip
    for _ in range(120):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            client.create_bucket(Bucket="ready")
            return
        except Exception:
            time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])
