"""Are the configured servers there? Asked before any work, so that a dead one costs seconds and names itself."""

import re
import urllib.error
import urllib.request
from http.client import HTTPException

from adaptory.errors import ServerError
from adaptory.workspace import Workspace

_PATIENCE = 15.0  # seconds


def check_tracking(place: Workspace) -> None:
    """Returns if the MLflow server answers, or if there is none to ask. Raises ServerError."""
    if place.tracking_uri.startswith("http"):
        _ask("MLflow", "MLFLOW_TRACKING_URI", place.tracking_uri, place.tracking_uri.rstrip("/") + "/health")


def check_prefect(place: Workspace) -> None:
    """Returns if the Prefect server answers, or if there is none to ask. Raises ServerError."""
    if url := place.environment().get("PREFECT_API_URL"):
        _ask("Prefect", "PREFECT_API_URL", url, url.rstrip("/") + "/health")


def _ask(name: str, variable: str, url: str, health: str) -> None:
    try:
        urllib.request.urlopen(health, timeout=_PATIENCE)
    except urllib.error.HTTPError:
        pass  # it answers; whether it lets us in is seen at the first real call
    except (OSError, HTTPException) as fault:
        told = f"no {name} server answers at {named(url)} ({reason(fault)})"
        raise ServerError(f"{told}; start it, correct {variable}, or unset it to use the embedded one") from None


def named(url: str) -> str:
    """The address without a password."""
    return re.sub(r"//[^/@]*@", "//", url)


def reason(fault: Exception) -> str:
    """Why an address did not answer. Of one that cannot be read nothing is repeated: a password may stand in it."""
    return "it is no address that can be asked" if isinstance(fault, HTTPException) else str(getattr(fault, "reason", fault))
