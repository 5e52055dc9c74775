"""The service's own loop around a model that only pretends (with a real one: tests/pipeline/test_registry_line.py)."""

import asyncio
import gc
import json
from typing import Any

from adaptory.errors import DataError
from adaptory.release import serve


class OddError(DataError):
    """A fault that no other test makes."""


class Refusing:
    """Follows nobody, and answers with a fault."""

    name, swaps, trouble = "tiny@champion", 0, None

    def __init__(self) -> None:
        self.current = serve.Served(1, "sha256:0", [self._answer])

    def _answer(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise OddError("a question needs text")

    def follow(self) -> None: ...

    def stop(self) -> None: ...


async def asked(app: Any, times: int) -> list[int]:
    """The codes of so many requests, two at a time."""
    codes: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps([{"no": "text"}]).encode(), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        codes.append(message["status"]) if message["type"] == "http.response.start" else None

    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": [], "http_version": "1.1"}
    async with app.router.lifespan_context(app):
        for _ in range(times // 2):
            await asyncio.gather(*(app(scope | {"state": {}}, receive, send) for _ in range(2)))
    return codes


def test_a_refused_question_is_not_held_until_garbage_is_looked_for() -> None:
    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(asked(serve.application(Refusing()), 20)) == [422] * 20
        assert not [one for one in gc.get_objects() if isinstance(one, OddError)]
    finally:
        gc.enable()
