"""F14: who listens may be slow or gone; the work does not wait, and what was missed is told later, in order and once."""

import threading
import time
from typing import Any

import pytest

from adaptory.aside import Aside


def test_events_come_in_order_and_once_also_after_failures(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[int] = []
    calls = 0

    def tell(events: list[dict[str, Any]]) -> None:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            raise ConnectionError("503 from the server")
        heard.extend(event["step"] for event in events)

    aside = Aside(tell, every=0.01)
    for step in range(60):
        aside.add({"step": step})
        time.sleep(0.002)
    aside.close()
    assert heard == list(range(60))
    said = capsys.readouterr().err
    assert said.count("could not be told (ConnectionError: 503 from the server); the work goes on") == 1


def test_a_listener_that_hangs_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaptory.aside._LAST", 0.1)
    free = threading.Event()
    aside = Aside(lambda events: free.wait() and None, every=0.01)
    for step in range(1000):
        aside.add({"step": step})
    aside.close()
    free.set()


def test_what_a_listener_has_to_prepare_is_prepared_at_once() -> None:
    called = threading.Event()
    aside = Aside(lambda events: called.set() if not events else None, every=600)
    assert called.wait(10), "before there is anything to tell"
    aside.close()
