"""Checkout: where a worker's copy of the code and the recipes lies, said by the worker itself."""

import os

from adaptory.errors import UserError


def enter() -> dict[str, str]:
    """The pull step of every deployment: works in the folder that ADAPTORY_CHECKOUT names on this worker.

    Prefect's own step resolves the variable when it deploys, and then every worker would have to have the same folder.
    """
    place = os.environ.get("ADAPTORY_CHECKOUT", "")
    if not os.path.isdir(place):
        raise UserError(f"ADAPTORY_CHECKOUT of this worker is {place!r}, which is no folder; set it to a checkout of the project")
    os.chdir(place)
    return {"directory": place}
