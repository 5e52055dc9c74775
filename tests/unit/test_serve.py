"""The service's own loop around a model that only pretends (with a real one: tests/pipeline/test_registry_line.py)."""

import asyncio
import gc
import json
from pathlib import Path
from typing import Any, cast

import pytest

from adaptory.errors import DataError, IntegrityError
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


class Broken(Refusing):
    """Follows nobody, and its model fails."""

    def _answer(self, questions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_question_that_could_not_be_answered_is_counted_and_told_to_whoever_watches() -> None:
    following = Broken()
    app = serve.application(following)

    async def watched() -> list[int]:
        with pytest.raises(RuntimeError, match="illegal memory access"):
            await asked(app, 2)
        return []

    asyncio.run(watched())
    assert following.trouble == "a question was not answered: RuntimeError"


def test_a_service_that_starts_while_the_store_holds_something_wrong_answers_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, kept = [], []
    (tmp_path / "last").write_text(f"3 sha256:{'3' * 64}")

    def pull(store: Any, name: str, folder: Path, *, keep: str | None) -> None:
        kept.append(keep)
        raise IntegrityError("a byte is not as promised")

    monkeypatch.setattr(serve, "pull", pull)
    monkeypatch.setattr(serve, "check_pulled", lambda folder, digest: None)
    following = serve.Following(cast(Any, None), "tiny", tmp_path, tmp_path, tmp_path, 1.0)
    monkeypatch.setattr(following, "_take", lambda version, digest, folder: taken.append((version, folder.name)))
    following.begin()
    assert taken == [(3, "3" * 64)] and following.trouble == "IntegrityError"
    assert kept == [f"sha256:{'3' * 64}"], "what was served last is not forgotten for a new one that may not answer"
    (tmp_path / "last").unlink()
    with pytest.raises(IntegrityError):
        following.begin()
