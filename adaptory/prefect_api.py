"""The few things that are told to a Prefect server from outside a flow, over its HTTP API and with the standard library."""

import base64
import json
import os
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

from adaptory.errors import ServerError
from adaptory.reach import named, reason
from adaptory.workspace import Workspace

_PATIENCE = 10.0  # seconds


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
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            said = answer.read()
    except urllib.error.HTTPError as fault:
        told = fault.read()[:200].decode(errors="replace")
        raise ServerError(f"Prefect at {named(url)} refuses: {fault.code} {told}") from None
    except (OSError, HTTPException) as fault:
        raise ServerError(f"no Prefect server answers at {named(url)} ({reason(fault)})") from None
    return json.loads(said) if said else None
