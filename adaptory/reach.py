"""Are the configured servers there? Asked before any work, so that a dead one costs seconds and names itself."""

import re
import urllib.error
import urllib.request

from adaptory.errors import ServerError
from adaptory.workspace import Workspace

_PATIENCE = 5.0  # seconds


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
    except OSError as fault:
        place = re.sub(r"//[^/@]*@", "//", url)  # without a password
        reason = getattr(fault, "reason", fault)
        raise ServerError(
            f"no {name} server answers at {place} ({reason}); start it, correct {variable}, or unset it to use the embedded one"
        ) from None
