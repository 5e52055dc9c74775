"""A small service that follows a champion: questions in, answers out, each by exactly one version.

Questions of several requests are answered together; where rows are read whole (no answer is written), as many batches at a time
as there are processors, each on one of them. A new champion is pulled, verified, loaded and asked its own example
beside the one that answers; then the next batch goes to it. No request is dropped, and none meets two versions. When the store
is gone, or a release does not answer its example, what answers goes on.
"""

import asyncio
import hmac
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptory import fingerprint, whole
from adaptory.errors import ReleaseError, UserError
from adaptory.release import serving
from adaptory.release.prepacked import prepack
from adaptory.release.pull import check_pulled, pull
from adaptory.storage import ObjectStore

BODY = 1 << 20  # bytes of a request
QUESTIONS = 256  # in a request, and in a batch
_MOST = 4  # batches at a time
_QUIET = 0.002  # seconds without another request after which a batch begins
_WAIT = 0.01  # seconds after which it begins in any case
VERSION = "X-Adaptory-Version"
TOKEN = "ADAPTORY_TOKEN"
_LAST = "last"  # version and digest of what was served last, for a start without the store


@dataclass(frozen=True)
class Served:
    """One loaded release."""

    version: int
    digest: str
    answer: Sequence[Callable[[list[dict[str, Any]]], list[dict[str, Any]]]]  # one for each batch that is computed at a time


@dataclass
class Following:
    """Who answers now; looked up again every so many seconds."""

    store: ObjectStore
    name: str
    folder: Path
    root: Path
    cache: Path
    every: float
    current: Served | None = None
    trouble: str | None = None
    swaps: int = 0
    _said: str | None = None
    _loaded: dict[str, Served] = field(default_factory=dict)  # this one and the one before: a way back costs nothing
    _stop: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Takes over what is champion now, if it is another one and answers its example."""
        served = self._served_last()
        keep = self.current.digest if self.current else served[1] if served else None
        done = pull(self.store, self.name, self.folder, keep=keep)
        if self.current and done.digest == self.current.digest:
            return
        self._take(done.version, done.digest, done.folder)
        whole.write(self.folder / _LAST, f"{done.version} {done.digest}")

    def _take(self, version: int, digest: str, folder: Path) -> None:
        served = self._loaded.get(digest)
        if served is None:
            loaded = serving.load(folder, self.root, self.cache)
            reads = _reads_whole_rows(loaded)
            if reads:
                prepack(loaded.model)
            if wrong := serving.other_answers(loaded, folder):
                raise ReleaseError(f"v{version} answers its example otherwise than when it was released: {wrong[0]}")
            count = len(self.current.answer) if self.current else _side_by_side() if reads else 1
            served = Served(version, digest, loaded.twins(count))
        kept = [served, *([self.current] if self.current else [])]
        self._loaded = {one.digest: one for one in kept}
        self.current, self.swaps = served, self.swaps + 1

    def follow(self) -> None:
        """Looks until it is told to stop; what goes wrong is noted, and who answers goes on."""
        while not self._stop.wait(self.every):
            try:
                self.look()
                self.trouble = self._said = None
            except Exception as fault:  # a network, a store, a release: whatever it is, the service stays up
                self.note(fault)

    def begin(self) -> None:
        """Takes over what is champion; if it cannot be had or does not answer its example, what was served here last.

        Raises if there is neither.
        """
        try:
            self.look()
        except (UserError, OSError) as fault:  # whatever is wrong with the store or with what it holds
            if (served := self._served_last()) is None:
                raise
            version, digest = served
            folder = self.folder / fingerprint.hex_of(digest)
            check_pulled(folder, digest)
            self._take(version, digest, folder)
            self.note(fault)

    def _served_last(self) -> tuple[int, str] | None:
        """Version and digest of what was served here before."""
        last = self.folder / _LAST
        if not last.is_file():
            return None
        version, digest = last.read_text(encoding="utf-8").split()
        return int(version), digest

    def note(self, fault: Exception) -> None:
        """Keeps the kind of trouble for /health, which anyone may read, and tells the rest to whoever runs the service."""
        self.trouble, said = type(fault).__name__, f"{type(fault).__name__}: {fault}"
        if said != self._said:
            print(f"{self.name} could not be looked up or taken over: {said}", file=sys.stderr, flush=True)
        self._said = said

    def stop(self) -> None:
        self._stop.set()


def application(following: Following) -> Any:
    """The FastAPI application: POST /predict, GET /health, GET /metrics."""
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

    registry = CollectorRegistry()
    asked = Counter("adaptory_requests", "Requests by outcome", ["code"], registry=registry)
    took = Histogram("adaptory_request_seconds", "Time to an answer", registry=registry)
    version = Gauge("adaptory_version", "Version that answers", registry=registry)
    swaps = Gauge("adaptory_swaps", "How often another version took over", registry=registry)
    queue: asyncio.Queue[tuple[list[dict[str, Any]], asyncio.Future[tuple[int, Any]]]] = asyncio.Queue()
    token = os.environ.get(TOKEN)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        thread = threading.Thread(target=following.follow, daemon=True)
        thread.start()
        batches = asyncio.create_task(_batches(queue, following))
        yield
        following.stop()
        batches.cancel()

    app = FastAPI(title=f"adaptory: {following.name}", lifespan=life, docs_url=None, redoc_url=None)

    def refused(code: int, said: str) -> Any:
        asked.labels(str(code)).inc()
        return JSONResponse({"error": said}, status_code=code)

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        began = time.perf_counter()
        if token and not hmac.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {token}".encode()):
            return refused(401, "send the header Authorization: Bearer TOKEN")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > BODY:
                return refused(413, f"a request may hold {BODY:,} bytes")
        questions = _questions(body)
        if isinstance(questions, str):
            return refused(422, questions)
        future: asyncio.Future[tuple[int, Any]] = asyncio.get_running_loop().create_future()
        await queue.put((questions, future))
        try:
            who, answers = await future
        except UserError as fault:
            return refused(422, str(fault))
        except Exception as fault:
            following.trouble = f"a question was not answered: {type(fault).__name__}"
            asked.labels("500").inc()
            raise
        finally:
            del future  # which holds a fault, which holds this call: a question of a MB, until garbage is looked for
        asked.labels("200").inc()
        took.observe(time.perf_counter() - began)
        return JSONResponse(answers, headers={VERSION: f"v{who}"})

    @app.get("/health")
    async def health() -> Any:
        now = following.current
        facts = {"model": following.name, "version": now and now.version, "swaps": following.swaps, "trouble": following.trouble}
        return JSONResponse(facts, status_code=200 if now else 503)

    @app.get("/metrics")
    async def metrics() -> Any:
        version.set(following.current.version if following.current else 0)
        swaps.set(following.swaps)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _questions(body: bytes) -> list[dict[str, Any]] | str:
    """The questions of a request, or what is wrong with it."""
    import json

    try:
        found = json.loads(body)
    except ValueError:
        return 'a request is JSON: a list of questions, e.g. [{"text": "what a film!"}]'
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
        return "a request is a list of questions, each an object"
    return found if len(found) <= QUESTIONS else f"a request may hold {QUESTIONS} questions, this one has {len(found):,}"


def _reads_whole_rows(loaded: serving.Predictor) -> bool:
    """Whether it is on processors, and an answer is one pass over the row."""
    return next(loaded.model.parameters()).device.type == "cpu" and loaded.candidate.objective in ("classes", "value")


def _side_by_side() -> int:
    """How many batches are computed at a time; each gets its share of the processors.

    Small products gain little from a second processor, and a second batch nearly all of it.
    """
    import torch

    cores = len(os.sched_getaffinity(0))
    count = min(cores, _MOST)
    torch.set_num_threads(cores // count)
    return count


async def _batches(queue: Any, following: Following) -> None:
    """Hands what waits to whoever is free, many requests at a time; the version that answers is taken once for each batch."""
    assert following.current is not None, "the service begins with a version"
    loop = asyncio.get_running_loop()
    free: asyncio.Queue[int] = asyncio.Queue()
    for place in range(len(following.current.answer)):
        free.put_nowait(place)
    at_work: set[asyncio.Task[None]] = set()

    async def compute(place: int, served: Served, waiting: list[Any]) -> None:
        try:
            told = await loop.run_in_executor(None, _answered, served.answer[place], [questions for questions, _ in waiting])
            for (_, future), answers in zip(waiting, told, strict=True):
                if future.done():  # its client went away
                    continue
                if isinstance(answers, Exception):
                    future.set_exception(answers)
                else:
                    future.set_result((served.version, answers))
        finally:
            free.put_nowait(place)

    while True:
        waiting, place = [await queue.get()], await free.get()
        latest = loop.time() + _WAIT
        while loop.time() < latest:
            await asyncio.sleep(_QUIET)
            if queue.empty():
                break
            while not queue.empty() and sum(len(questions) for questions, _ in waiting) < QUESTIONS:
                waiting.append(queue.get_nowait())
        share = -(-len(waiting) // (1 + free.qsize()))
        for start in range(0, len(waiting), share):
            task = asyncio.create_task(compute(place, following.current, waiting[start : start + share]))
            at_work.add(task)
            task.add_done_callback(at_work.discard)
            place = free.get_nowait() if start + share < len(waiting) else place


def _answered(answer: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], requests: list[list[dict[str, Any]]]) -> list[Any]:
    """The answers to each request; if one of them cannot be answered, each by itself, so that only that one fails."""
    try:
        answers = iter(answer([question for questions in requests for question in questions]))
        return [[next(answers) for _ in questions] for questions in requests]
    except Exception as fault:
        if len(requests) == 1:
            # Where a user's fault came from is of no use, and would hold the thread that holds the fault.
            return [fault.with_traceback(None) if isinstance(fault, UserError) else fault]
    return [_answered(answer, [questions])[0] for questions in requests]


def serve(store: ObjectStore, name: str, place: Any, host: str, port: int, every: float) -> None:
    """Serves until it is stopped. Raises as `pull` and `load` do if there is nothing to begin with."""
    import uvicorn

    folder = place.home / "served" / name.replace("@", "-")
    following = Following(store, name, folder, place.root, place.cache, every)
    following.begin()
    assert following.current is not None
    print(f"{name}: v{following.current.version} answers at http://{host}:{port}/predict", flush=True)
    uvicorn.run(application(following), host=host, port=port, log_level="warning", access_log=False)
