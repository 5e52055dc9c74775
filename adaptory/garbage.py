"""How often Python looks for garbage: objects that hold each other and nothing else does."""

import atexit
import gc
from functools import cache


def collect_seldom() -> None:
    """For a process that ends soon: looks for garbage seldom, and not at the end, when all is given back anyway.

    Large libraries make a million objects as they load, all of them to stay: looking through these again and again took
    the toy recipe's training 1.2 of 7.4 s, its evaluation 1.9 of 7.4 (docs/log.md). Steps and answers leave no garbage; a
    network that was trained does: `make_room`.
    """
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)


def make_room() -> None:
    """Frees the networks that this process had before: the layers of one that was trained hold themselves."""
    _passes_over_libraries()
    gc.collect()


@cache
def _passes_over_libraries() -> None:
    """From now on what is loaded already is not looked through: it stays, and makes up nearly all of the time."""
    gc.freeze()
