"""The few things that are told to a Prefect server from outside a flow, over its HTTP API and with the standard library."""

import base64
import json
import os
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from adaptory.errors import ServerError
from adaptory.reach import named, reason
from adaptory.workspace import Workspace

_PATIENCE = 10.0  # seconds
_BUSY = (429, 502, 503)  # what Prefect's own client asks again after: a server on SQLite is locked now and then, and says 503
_PAUSES = (0.5, 1.0, 2.0)  # seconds


def configured(place: Workspace) -> str | None:
    """The address of the API, if a server is configured."""
    return place.environment().get("PREFECT_API_URL")


def get(place: Workspace, path: str) -> Any:
    """What the server says at `path`. Raises ServerError as `post` does."""
    return _ask(place, path, None)


def post(place: Workspace, path: str, body: Any) -> Any:
    """What the server answers to `body` at `path`. Raises ServerError when it does not answer, or refuses."""
    return _ask(place, path, json.dumps(body).encode())


def _ask(place: Workspace, path: str, body: bytes | None) -> Any:
    url = (configured(place) or "").rstrip("/") + path
    headers = {"Content-Type": "application/json"}
    if told := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(told.encode()).decode()
    request = urllib.request.Request(url, body, headers)
    try:
        said = _said(request)
    except urllib.error.HTTPError as fault:
        told = fault.read()[:200].decode(errors="replace")
        raise ServerError(f"Prefect at {named(url)} refuses: {fault.code} {told}") from None
    except (OSError, HTTPException) as fault:
        raise ServerError(f"no Prefect server answers at {named(url)} ({reason(fault)})") from None
    return json.loads(said) if said else None


def _said(request: urllib.request.Request) -> bytes:
    """The answer, asked for again while the server is busy; such an answer says that nothing was done."""
    for pause in _PAUSES:
        try:
            return _answer(request)
        except urllib.error.HTTPError as fault:
            if fault.code not in _BUSY:
                raise
            time.sleep(pause)
    return _answer(request)


def _answer(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        return bytes(answer.read())
