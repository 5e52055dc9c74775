"""How often Python looks for garbage: objects that hold each other and nothing else does."""

import atexit
import gc


def collect_seldom() -> None:
    """Looks for garbage seldom, and not at the end, when the process gives everything back anyway.

    Large libraries make a million objects as they load, all of them to stay: looking through these again and again took a
    third of what a stage needs beside its work (docs/log.md). Steps and answers leave no garbage; a network that was trained
    does, so whoever loads the next one collects first.
    """
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)
