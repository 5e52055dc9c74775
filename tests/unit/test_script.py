"""A flow as a script: what of a fault reaches the terminal."""

import logging

import pytest

from adaptory import errors
from tasks.script import _UserFaultsAreToldOnce

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_users_fault_is_left_to_the_panel_however_prefect_tells_it(kind: type[errors.UserError]) -> None:
    quiet = _UserFaultsAreToldOnce()
    fault = kind("rank 0 is below 1")
    for said in (f"Finished in state Failed({fault!r})", f"Flow run encountered an exception: {kind.__name__}: {fault}"):
        assert not quiet.filter(logging.makeLogRecord({"msg": said}))
    assert not quiet.filter(logging.makeLogRecord({"msg": "it failed", "exc_info": (kind, fault, None)}))


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    fault = KeyError("lost")
    told = logging.makeLogRecord({"msg": f"Finished in state Failed({fault!r})", "exc_info": (KeyError, fault, None)})
    assert _UserFaultsAreToldOnce().filter(told)
