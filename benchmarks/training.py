"""Training beside its peers, and the methods beside one another: speed, processor time, memory, and what was learned.

    python -m benchmarks.training sentiment [--rows 1500] [--runs 2]     transformers' Trainer
    python -m benchmarks.training localise  [--rows 200] [--runs 2]      TRL's SFTTrainer, as documented and tuned by hand
    python -m benchmarks.training sentiment-methods | localise-methods   what trains how many parameters (docs/training.md)

Needs prepared data (adaptory prepare sentiment, adaptory prepare localise) and, for TRL, pip install 'adaptory[bench]'.
Every run is a process of its own; runs of the contestants alternate, and medians are shown.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

LORA = {"method": "lora", "rank": 16, "alpha": 32, "top_layers": None, "cache_trunk": False, "epochs": 1}
PEERS = ("Trainer", "SFTTrainer as documented, fp32", "SFTTrainer, no checkpointing, packing")


def _methods(rate: float, top: int) -> dict[str, dict[str, Any]]:
    """Every method with the rate that suits its kind: weights of the base move a tenth as fast as adapters."""
    upper = {"top_layers": top, "cache_trunk": True}
    return {
        "full": LORA | {"method": "full", "learning_rate": rate / 10},
        f"freeze, top {top}, trunk kept": LORA | upper | {"method": "freeze", "learning_rate": rate / 10},
        "lora": LORA | {"learning_rate": rate},
        f"lora, top {top}, trunk kept": LORA | upper | {"learning_rate": rate},
        "rslora": LORA | {"method": "rslora", "learning_rate": rate / 2},
        "dora": LORA | {"method": "dora", "learning_rate": rate},
        "pissa": LORA | {"method": "pissa", "learning_rate": rate / 5},
        "ia3": LORA | {"method": "ia3", "learning_rate": rate * 10},
        "prompt_tuning": LORA | {"method": "prompt_tuning", "learning_rate": rate * 30},
    }


CONTESTANTS: dict[str, dict[str, dict[str, Any]]] = {
    "sentiment": {
        "Trainer": LORA,
        "adaptory": LORA,
        "adaptory, top 2, trunk kept": LORA | {"top_layers": 2, "cache_trunk": True},
        "adaptory, top 1, trunk kept, 3 epochs": LORA | {
            "top_layers": 1, "cache_trunk": True, "learning_rate": 3e-3, "epochs": 3
        },
    },
    "localise": {
        "SFTTrainer as documented, fp32": LORA,
        "adaptory": LORA,
        "SFTTrainer, no checkpointing, packing": LORA,
        "adaptory, top 10, trunk kept": LORA | {"top_layers": 10, "cache_trunk": True},
    },
    "sentiment-methods": {
        "head, trunk kept": LORA | {"method": "head", "cache_trunk": True, "learning_rate": 5e-3}, **_methods(1.5e-3, 2),
    },
    "localise-methods": _methods(1e-3, 10),
}  # fmt: skip
TEST_ROWS = 1500


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("set", choices=CONTESTANTS)
    words.add_argument("--rows", type=int, default=None)
    words.add_argument("--runs", type=int, default=2)
    words.add_argument("--only", nargs="*", help="some contestants")
    words.add_argument("--contestant", help=argparse.SUPPRESS)
    told = words.parse_args()
    rows = told.rows or {"sentiment": 1500, "localise": 200, "sentiment-methods": 3000, "localise-methods": 200}[told.set]
    if told.contestant:
        print(json.dumps(_measured(told.set, told.contestant, rows)))
        return
    names = [name for name in CONTESTANTS[told.set] if not told.only or name in told.only]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(told.runs):
        for name in names:
            found[name].append(_in_a_process(told.set, name, rows))
            shown = {key: value for key, value in found[name][-1].items() if key not in ("picked", "right")}
            print(f"  {name}: {shown}", file=sys.stderr, flush=True)
    _show(told.set, rows, found)


def _in_a_process(what: str, name: str, rows: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", what, "--rows", str(rows), "--contestant", name]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_DISABLED": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _show(what: str, rows: int, found: dict[str, list[dict[str, Any]]]) -> None:
    learned = "macro F1" if what.startswith("sentiment") else "nats per label"
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0] if key not in ("picked", "right")}
        for name, runs in found.items()
    }
    first = next(iter(middle.values()))
    print(f"\n{what}: {rows:,} rows, time of one epoch; medians of {len(next(iter(found.values())))} alternating runs")
    print(f"{'':40}{'trained':>13}{'seconds':>9}{'CPU s':>8}{'tokens/s':>10}{'ratio':>7}{'GB':>6}  {learned}")
    for name, one in middle.items():
        ratio = one["tokens_per_second"] / first["tokens_per_second"]
        print(
            f"{name:40}{one['trainable']:13,.0f}{one['seconds']:9.1f}{one['cpu']:8.1f}{one['tokens_per_second']:10,.0f}{ratio:7.2f}"
            f"{one['memory']:6.1f}  {one['learned']:.4f}" + _gap(what, found, name)
            + (f"   trunk {one['trunk']:.1f} s once" if one["trunk"] else "")
        )  # fmt: skip


def _gap(what: str, found: dict[str, list[dict[str, Any]]], name: str) -> str:
    """The paired interval of the difference in macro F1 to the first contestant, on the same test rows."""
    first = next(iter(found))
    if "picked" not in found[first][0] or name == first:
        return ""
    import numpy as np

    from adaptory.evaluation import metrics
    from adaptory.evaluation.scores import Answers, Truth

    wanted = ((name, "right"), (name, "picked"), (first, "picked"))
    right, ours, theirs = (np.array(found[key][0][column]) for key, column in wanted)
    truth = Truth(tuple(map(str, range(len(right)))), ("test",) * len(right), right)
    answers = [Answers("ours", "candidate", ours), Answers("theirs", "baseline", theirs)]
    gap = metrics.compare(truth, answers, metrics.Plan(("macro_f1",), ("a", "b", "c")))[1][0].estimate
    return f"   [{gap.low:+.3f}, {gap.high:+.3f}] to {first}"


def _measured(what: str, name: str, rows: int) -> dict[str, Any]:
    """Trains once and tells how fast, and how good the result is on rows it never saw."""
    from adaptory import run, workspace
    from adaptory.training import methods, setup

    recipe = what.removesuffix("-methods")
    place = workspace.find()
    place.activate()
    now = run.current(place, recipe)
    settings = now.recipe.training.model_copy(update=CONTESTANTS[what][name] | {"max_rows": rows})
    now = now.trained_with(settings)
    with tempfile.TemporaryDirectory() as scratch:
        now = replace(now, workspace=replace(place, home=Path(scratch), cache=Path(scratch) / "cache"))
        began = time.monotonic()
        work, facts = setup.setup(now, lambda event: None, 1e9)
        trunk = time.monotonic() - began if work.trunk else 0.0
        tokens = sum(row.learned if work.goal.name == "tokens" else row.length for row in work.train)
        before = resource.getrusage(resource.RUSAGE_SELF)
        began = time.monotonic()
        if name not in PEERS:
            seconds = _ours(work)
        elif name == "Trainer":
            seconds = _trainer(work, settings, scratch)
        else:
            seconds = _trl(work, settings, scratch, tuned="packing" in name)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        found = {
            "seconds": seconds, "cpu": cpu, "tokens_per_second": tokens / seconds, "memory": after.ru_maxrss / 1e6,
            "trunk": trunk, "trainable": methods.count(work.model)[0],
        }  # fmt: skip
        return found | _learned(now, work, facts)


def _ours(work: Any) -> float:
    from adaptory.training import fit
    from adaptory.training.work import begin

    state = begin(work)
    work.model.train()
    began = time.monotonic()
    for epoch in range(work.goal.settings.epochs):
        state.epoch = epoch
        for window in work.windows(epoch):
            fit._step(work, state, window, due=False)
    return (time.monotonic() - began) / float(work.goal.settings.epochs)


def _trainer(work: Any, settings: Any, scratch: str) -> float:
    """transformers' Trainer with dynamic padding, as its course teaches it."""
    import torch
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

    rows = [{"input_ids": row.ids, "labels": int(row.target)} for row in work.train]
    arguments = TrainingArguments(
        scratch, per_device_train_batch_size=settings.batch_rows, num_train_epochs=1, learning_rate=settings.learning_rate,
        lr_scheduler_type="linear", warmup_steps=int(settings.warmup * work.planned_steps), weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip_norm, logging_strategy="no", save_strategy="no", report_to=[], seed=settings.seed,
        disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    collator = DataCollatorWithPadding(_tokenizer(settings))
    trainer = Trainer(work.model, arguments, train_dataset=rows, data_collator=collator)
    began = time.monotonic()
    trainer.train()
    return time.monotonic() - began


def _trl(work: Any, settings: Any, scratch: str, *, tuned: bool) -> float:
    """TRL's SFTTrainer on the same tokens and completion masks."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list([
        {"input_ids": row.ids, "completion_mask": [0] * row.start + [1] * row.learned} for row in work.train
    ])  # fmt: skip
    more: dict[str, Any] = {"gradient_checkpointing": False, "packing": True, "max_length": 512} if tuned else {}
    arguments = SFTConfig(
        scratch, per_device_train_batch_size=settings.batch_rows if not tuned else 2, num_train_epochs=1,
        learning_rate=settings.learning_rate, lr_scheduler_type="linear",
        warmup_steps=int(settings.warmup * work.planned_steps), max_grad_norm=settings.clip_norm, logging_strategy="no",
        save_strategy="no", report_to=[], seed=settings.seed, bf16=False, disable_tqdm=True, completion_only_loss=True,
        use_cpu=not torch.cuda.is_available(), **more,
    )  # fmt: skip
    trainer = SFTTrainer(work.model, arguments, train_dataset=data, processing_class=_tokenizer(settings))
    began = time.monotonic()
    trainer.train()
    return time.monotonic() - began


def _tokenizer(settings: Any) -> Any:
    from transformers import AutoTokenizer

    from adaptory import workspace

    name = "localise" if settings.system else "sentiment"
    return AutoTokenizer.from_pretrained(workspace.find().data(name) / "base", local_files_only=True)


def _learned(now: Any, work: Any, facts: Any) -> dict[str, Any]:
    """Macro F1 on test rows, with the classes that were picked; or the loss on validation rows."""
    from adaptory.data import read_split
    from adaptory.training import answers, render, validate

    if work.trunk:
        work.trunk.detach()
    if work.goal.name == "tokens":
        return {"learned": validate.validate(work.goal, work.model, work.validation)["validation_loss"]}
    from sklearn.metrics import f1_score

    rows, _ = render.examples(facts.renderer, now.recipe, read_split(now.workspace, now.recipe.name, "test").head(TEST_ROWS))
    picked = answers.chances(work.model, work.goal, rows).argmax(1)
    right = [int(row.target) for row in rows]
    return {"learned": float(f1_score(right, picked, average="macro")), "picked": picked.tolist(), "right": right}


if __name__ == "__main__":
    main()
