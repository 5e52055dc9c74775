"""The ObjectStore protocol and its two homes: a folder, and an S3 bucket.

Keys are relative POSIX paths. `create` is the primitive everything safe is built on: of any number of
callers, on any number of machines, exactly one succeeds.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from adaptory.errors import AlreadyExists, NotFound, ServerError, UserError

PIECE = 1 << 14  # bytes read at once: small, or a trickle would not be noticed at the deadline


def deadline() -> float:
    """Seconds that one object may take to come, retries included: ADAPTORY_S3_DEADLINE, or an hour."""
    return float(os.environ.get("ADAPTORY_S3_DEADLINE", "3600"))


class ObjectStore(Protocol):
    """Whole objects under keys. Every method is safe to repeat."""

    url: str

    def get(self, key: str) -> bytes:
        """The object's bytes; NotFound if there is none."""

    def put(self, key: str, data: bytes) -> None:
        """Puts or replaces the object; a reader sees the old bytes or the new ones."""

    def create(self, key: str, data: bytes) -> None:
        """Puts the object only if there is none; AlreadyExists for everyone but the winner."""

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin with the prefix, sorted."""

    def download(self, key: str, path: Path) -> None:
        """Writes the object to a file; NotFound if there is none."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """So many bytes of the object from there on, fewer only at its end; NotFound if there is none."""

    def upload(self, path: Path, key: str) -> None:
        """Puts a file's bytes."""


def open_store(url: str) -> ObjectStore:
    """The store at `s3://bucket/prefix` or in a local folder. Nothing is created before the first write."""
    if url.startswith("s3://"):
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        return S3Store(bucket, prefix.strip("/"))
    if "://" in url:
        raise UserError(f"ADAPTORY_STORE={url!r}: only a folder or s3://bucket/prefix can be a store")
    return LocalStore(Path(url))


class LocalStore:
    """Objects as files below a folder; O_EXCL links make `create` have one winner."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()  # a linked folder is where it leads: keys are told below it
        self.url = str(self.root)

    def get(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{self.url}/{key}") from None

    def put(self, key: str, data: bytes) -> None:
        self._written(key, data).replace(self._path(key))
        _sync_folder(self._path(key).parent)

    def create(self, key: str, data: bytes) -> None:
        # A hard link appears whole or not at all, and fails if the name is taken.
        whole = self._written(key, data)
        try:
            os.link(whole, self._path(key))
        except FileExistsError:
            raise AlreadyExists(f"{self.url}/{key}") from None
        finally:
            whole.unlink()
        _sync_folder(self._path(key).parent)

    def keys(self, prefix: str) -> list[str]:
        folder = self._path(prefix.rpartition("/")[0] or ".")
        below = (path.relative_to(self.root).as_posix() for path in folder.rglob("*") if path.is_file())
        return sorted(key for key in below if key.startswith(prefix) and not key.endswith(".part"))

    def download(self, key: str, path: Path) -> None:
        path.write_bytes(self.get(key))

    def read(self, key: str, start: int, length: int) -> bytes:
        try:
            with self._path(key).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except FileNotFoundError:
            raise NotFound(f"{self.url}/{key}") from None

    def upload(self, path: Path, key: str) -> None:
        self.put(key, path.read_bytes())

    def _path(self, key: str) -> Path:
        path = (self.root / key).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise UserError(f"key {key!r} leaves the store {self.url}")
        return path

    def _written(self, key: str, data: bytes) -> Path:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return part


def _sync_folder(folder: Path) -> None:
    """A rename is durable only when the folder is; some file systems cannot sync one, and need not."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class S3Store:
    """Objects below a prefix of a bucket; `If-None-Match: *` makes `create` have one winner."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.url = f"s3://{bucket}/{prefix}"

    @property
    def client(self) -> Any:
        return s3_client()

    def get(self, key: str) -> bytes:
        with self._told("get", key):
            return b"".join(self._pieces(key))

    def put(self, key: str, data: bytes) -> None:
        with self._told("put", key):
            self.client.put_object(**self._place(key), Body=data)

    def create(self, key: str, data: bytes) -> None:
        with self._told("create", key):
            self.client.put_object(**self._place(key), Body=data, IfNoneMatch="*")

    def keys(self, prefix: str) -> list[str]:
        with self._told("list", prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            found = [item["Key"] for page in pages for item in page.get("Contents", ())]
        return sorted(key.removeprefix(self.prefix) for key in found)

    def download(self, key: str, path: Path) -> None:
        with self._told("get", key), path.open("wb") as file:
            for piece in self._pieces(key):
                file.write(piece)

    def read(self, key: str, start: int, length: int) -> bytes:
        with self._told("get", key):
            return b"".join(self._pieces(key, Range=f"bytes={start}-{start + length - 1}"))

    def upload(self, path: Path, key: str) -> None:
        from boto3.exceptions import S3UploadFailedError
        from boto3.s3.transfer import S3Transfer

        with self._told("put", key):
            try:
                S3Transfer(self.client).upload_file(str(path), self.bucket, self.prefix + key)
            except S3UploadFailedError as fault:
                raise (fault.__context__ or fault) from None  # what botocore said

    def _pieces(self, key: str, **more: str) -> Iterator[bytes]:
        """The object's bytes as they come; ServerError when they come so slowly that the deadline for all of them passes."""
        end = time.monotonic() + deadline()
        for piece in self.client.get_object(**self._place(key), **more)["Body"].iter_chunks(PIECE):
            yield piece
            if time.monotonic() > end:
                raise ServerError(f"{self.url}/{key}: not here within the deadline; run again when the store is faster")

    def _place(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + key}

    @contextlib.contextmanager
    def _told(self, verb: str, key: str) -> Iterator[None]:
        """The library's faults in our words: ServerError where the same call may work later, UserError where it will not."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

        what = f"{self.url}/{key}"
        try:
            yield
        except ClientError as fault:
            answer = fault.response
            code, status = answer.get("Error", {}).get("Code", ""), answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in {"NoSuchKey", "404"}:
                raise NotFound(what) from None
            if code in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}:
                raise AlreadyExists(what) from None
            kind = ServerError if status >= 500 or status == 429 else UserError
            raise kind(f"{what}: the store refuses to {verb} it: {code or fault}") from None
        except (NoCredentialsError, PartialCredentialsError) as fault:
            raise UserError(f"{what}: {fault}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") from None
        except BotoCoreError as fault:
            raise ServerError(f"{what}: the store does not answer: {fault}") from None


def s3_client(attempts: int = 6) -> Any:
    """A client with bounded retries and timeouts; AWS_ENDPOINT_URL and the usual keys apply.

    It is botocore's own: boto3, which adds transfers in parts, takes as long to import as a whole pull. Threads share it; it is
    made once for every set of keys.
    """
    return _s3_client(attempts, frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))


@cache
def _s3_client(attempts: int, environment: frozenset[tuple[str, str]]) -> Any:
    from botocore.config import Config
    from botocore.session import Session

    settings = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": attempts},
        s3={"addressing_style": "path"},
    )
    return Session().create_client("s3", config=settings)
