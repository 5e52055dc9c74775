"""QLoRA on a CPU, in a process that has bitsandbytes: `python -m tests.training.four_bits TASK KIND FOLDER`."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adaptory import fingerprint
from adaptory.training import adapter, certificate, fused, methods
from tests.training.toys import recipe, trajectory, work


def told(task: str, kind: str, scratch: Path) -> dict[str, Any]:
    """Trains, saves, and is certified when it is loaded again; tells what is held in 4 bits and how near the answers are."""
    one = work(scratch, task, kind, method="qlora", epochs=1, precision="bf16")
    few = [name for name, part in one.model.named_modules() if type(part).__name__ == "Linear4bit"]
    losses = trajectory(one)
    fused.detach(one.model)
    folder, base = scratch / "candidate", scratch / kind
    folder.mkdir()
    digest = fingerprint.of_folder(base)
    adapter.save(one.model, one.goal.settings, folder, "./base", digest)
    made = recipe(task, method="qlora", epochs=1, precision="bf16")
    run: Any = SimpleNamespace(recipe=made, settings=made.training)
    # The same bytes say exactly the same.
    certificate.write_golden(one, certificate.golden(one), folder, base, digest, run)
    again = adapter.load(folder, base, digest, made.task, made.training, made.data.classes, merge=True)
    candidate: Any = SimpleNamespace(training=made.training, digest="sha256:x")
    certificate.certify(folder, candidate, one.goal, again)
    return {"few": few, "losses": losses, "certificate": json.loads((folder / certificate.CERTIFICATE).read_text())}


def main() -> None:
    from bitsandbytes.nn.modules import Linear4bit

    made = Linear4bit.__init__

    def plain(self: Any, *words: Any, **more: Any) -> None:
        made(self, *words, **more)
        self.support_avx512bf16_for_cpu = False  # a kernel for answers alone

    Linear4bit.__init__ = plain
    methods.check_device = lambda settings: None
    task, kind, scratch = sys.argv[1:]
    print(json.dumps(told(task, kind, Path(scratch))))


if __name__ == "__main__":
    main()
