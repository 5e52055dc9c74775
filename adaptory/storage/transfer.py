"""Objects from S3 to files: bounded retries with jitter, a deadline for the whole, and no half file under a name."""

import hashlib
import re
import secrets
import time
from pathlib import Path
from typing import Any

from adaptory.errors import DataError, ServerError
from adaptory.storage.objects import PIECE, deadline, s3_client
from adaptory.storage.references import S3

_ATTEMPTS = 6
BACKOFF = 0.5  # seconds; doubled with every attempt
_MD5 = re.compile(r"[0-9a-f]{32}")  # an ETag of one part; of what a key of the user's encrypts it says nothing of the bytes
_LISTED = re.compile(r"etag:(\S*) size:(\d+) key:(.+)", re.DOTALL)


def listing(place: S3) -> dict[str, str]:
    """The object with exactly this key, or else every object below it as a folder: name, and ETag, size and key."""
    found: dict[str, str] = {}
    try:
        pages = s3_client().get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=place.prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                key, about = item["Key"], f"etag:{item['ETag'].strip(chr(34))} size:{item['Size']} key:{item['Key']}"
                if key == place.prefix:
                    return {key.rpartition("/")[2]: about}
                if item["Size"] and (not place.prefix or key.startswith(f"{place.prefix}/")):
                    found[key.removeprefix(f"{place.prefix}/")] = about
    except _faults() as fault:
        raise _told(fault, f"s3://{place.bucket}/{place.prefix} cannot be listed") from None
    return found


def download(place: S3, state: str, target: Path) -> None:
    """Writes an object of the listing to `target`, which appears whole or not at all.

    Raises ServerError (worth another try later) when the server does not deliver within the attempts and the deadline,
    DataError when the object is gone, forbidden, or not the one that was listed.
    """
    etag, size, key = _LISTED.fullmatch(state).groups()  # type: ignore[union-attr]
    what = f"s3://{place.bucket}/{key}"
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    end = time.monotonic() + deadline()
    try:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                _copy(place.bucket, key, etag, part, end)
                if part.stat().st_size != int(size):
                    raise OSError(f"{part.stat().st_size} of {size} bytes came")
                part.replace(target)
                return
            except _Late:
                raise ServerError(f"{what}: not here within the deadline; run again when the store is faster") from None
            except _faults() as fault:
                if not _worth_retrying(fault) or attempt == _ATTEMPTS:
                    raise _told(fault, f"{what} cannot be fetched ({attempt} attempts)") from None
            # Full jitter (Brooker, "Exponential backoff and jitter", 2015), and never past the deadline.
            time.sleep(min(secrets.SystemRandom().uniform(0, BACKOFF * 2**attempt), max(0.0, end - time.monotonic())))
    finally:
        part.unlink(missing_ok=True)


class _Late(Exception):  # noqa: N818
    """The deadline has passed."""


def _copy(bucket: str, key: str, etag: str, part: Path, end: float) -> None:
    answer = s3_client(attempts=1).get_object(Bucket=bucket, Key=key, IfMatch=f'"{etag}"')
    body = answer["Body"]
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("wb") as file:
        for piece in body.iter_chunks(PIECE):
            file.write(piece)
            digest.update(piece)
            if time.monotonic() > end:
                raise _Late
    keyed = answer.get("ServerSideEncryption", "").startswith("aws:kms") or answer.get("SSECustomerAlgorithm")
    if _MD5.fullmatch(etag) and not keyed and digest.hexdigest() != etag:
        raise OSError(f"its bytes have md5 {digest.hexdigest()}, the store says {etag}")


def _faults() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    return BotoCoreError, ClientError, HTTPError, OSError


def _code(fault: Exception) -> str:
    answer: dict[str, Any] = getattr(fault, "response", {})
    return str(answer.get("Error", {}).get("Code", ""))


def _worth_retrying(fault: Exception) -> bool:
    status = getattr(fault, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 503)
    return bool(status >= 500 or status == 429)


def _told(fault: Exception, what: str) -> Exception:
    code = _code(fault)
    if code in {"PreconditionFailed", "412"}:
        return DataError(f"{what}: it was replaced after it was listed; run the command again")
    if code in {"NoSuchKey", "NoSuchBucket", "404"}:
        return DataError(f"{what}: there is no such object or bucket")
    if code in {"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch"}:
        return DataError(f"{what}: the store refuses ({code}); check AWS_ACCESS_KEY_ID and the bucket's policy")
    return ServerError(f"{what}: {code or fault}; run the command again when the store answers")
