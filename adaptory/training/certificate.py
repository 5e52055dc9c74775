"""Is the model that was loaded the one that was trained? It must render rows and answer them as it did then."""

import json
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptory.errors import StageError
from adaptory.run import Run
from adaptory.training import adapter, devices, forward, network, objectives, render
from adaptory.training.candidate import Candidate
from adaptory.training.work import Work

GOLDEN, CERTIFICATE = "golden.json", "certificate.json"
_ROWS = 8
HALF = 0.1  # a base in bf16 has eight binary digits: asked in another way, or elsewhere, it answers so differently on average
_PISSA = 1e-2  # PiSSA's adapter is written as one of the untouched base: equal up to rounding of the whole weight


def golden(work: Work) -> list[list[float]]:
    """What the trained model says of a few rows."""
    return golden_answers(work.goal, work.model, work.validation[:_ROWS])


def write_golden(work: Work, golden: list[list[float]], folder: Path, base: Path, digest: str, run: Run) -> None:
    """Keeps what the trained model says of a few rows beside its adapter, and gives its weights up for those of a fresh one.

    Raises StageError unless the saved adapter, loaded into that, says exactly the same.
    """
    rows = work.validation[:_ROWS]
    device, precision = work.device, run.settings.precision
    rough = network.rounds(run.settings)
    told = {
        "rows": [asdict(row) for row in rows], "answers": golden, "half": rough,
        "computed": devices.all_in_bf16(device, precision),
    }  # fmt: skip
    (folder / GOLDEN).write_text(json.dumps(told), encoding="utf-8")
    _empty(work.model)  # makes room for the second one
    devices.give_back()
    again = adapter.load(folder, base, digest, run.recipe.task, run.settings, run.recipe.data.classes)
    exact = 0.0 if device.type == "cpu" else 1e-3  # a GPU may add in another order
    limit = _PISSA if run.settings.method == "pissa" else exact
    apart, limit = difference(golden, golden_answers(work.goal, again, rows), limit, half=rough and device.type != "cpu")
    if not apart <= limit:
        raise StageError(f"the saved adapter answers otherwise than the trained one (difference {apart:.3g}, limit {limit:g})")


def _empty(model: Any) -> None:
    """Takes the weights out of a model that is not asked any more; those of 4 bits cannot be moved to nowhere."""
    for part in model.modules():
        part._parameters.clear()
        part._buffers.clear()
        part.__dict__.pop("quant_state", None)


def golden_answers(goal: Any, model: Any, rows: Sequence[Any]) -> list[list[float]]:
    """What a model says of a few rows, as it must say again wherever it is loaded."""
    import torch

    model.eval()
    found: list[list[float]] = []
    device = next(model.parameters()).device
    settings = goal.settings
    half = devices.computing(device, settings.precision) if network.holds_bf16(settings) else nullcontext()
    with torch.inference_mode(), half:
        for row in rows:  # one at a time: what stands beside a row in a batch changes the last digits
            batch = objectives.prepared(goal, [row], (goal.settings.seed,)).to(device)
            own = goal.name in ("classes", "value", "reward")
            said = forward.row_logits(model, batch) if own else forward.label_losses(model, batch)[0]
            found.append([float(one) for one in said.reshape(-1).tolist()])
    return found


def certify(folder: Path, candidate: Candidate, goal: Any, model: Any) -> None:
    """The round-trip certificate: this model, loaded in this process, answers as the trained one did in its own.

    Raises StageError when it does not. On another kind of processor the last digits may differ.
    """
    from adaptory.training.render import Example

    golden, half = json.loads((folder / GOLDEN).read_bytes()), network.rounds(candidate.training)
    rows = [Example(**row) for row in golden["rows"]]
    now, then = golden_answers(goal, model, rows), bool(golden.get("half"))
    limit = _PISSA if candidate.training.method == "pissa" else 1e-3
    apart, limit = difference(golden["answers"], now, limit, half=half or then)
    if not apart <= limit:
        raise StageError(
            f"the saved adapter, loaded in a fresh process, answers otherwise than the trained one (difference "
            f"{apart:.3g}, limit {limit:g}); it is not evaluated. Remove {folder} and train again"
        )
    text = json.dumps({"adapter": candidate.digest, "rows": len(rows), "difference": apart, "limit": limit})
    (folder / CERTIFICATE).write_text(text + "\n", encoding="utf-8")


def rendered_with(folder: Path, base: Path, candidate: Candidate) -> Any:
    """The renderer of a candidate or release in `folder`. Raises StageError when it is not the one it was trained with."""
    made = render.renderer(folder, candidate.task, candidate.training, network.config_of(base))
    if made.digest != candidate.rendering:
        raise StageError(
            f"{folder}: tokenizer, template or library renders rows otherwise than in training "
            f"({made.digest} instead of {candidate.rendering}); answers would be wrong in silence, so it is refused"
        )
    return made


def difference(first: list[list[float]], second: list[list[float]], limit: float, *, half: bool) -> tuple[float, float]:
    """How far two lists of answers are apart and may be: the worst of them; the mean, where one was given by a base in bf16
    or 4 bits: asked in another way (rows padded, or in a tree) a token's loss moves by 0.36 (SmolLM2-135M), the mean by 0.04."""
    if not half:
        return worst(first, second), limit
    apart = [worst([one], [other]) for one, other in zip(first, second, strict=True)]
    every = [abs(a - b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return (sum(every) / len(every) if all(map(math.isfinite, apart)) else math.inf), HALF


def worst(first: list[list[float]], second: list[list[float]]) -> float:
    """The largest difference between two lists of answers; of numbers that are not finite it is infinite."""
    pairs = [(a, b) for one, other in zip(first, second, strict=True) for a, b in zip(one, other, strict=True)]
    return max(abs(a - b) if math.isfinite(a - b) else math.inf for a, b in pairs)
