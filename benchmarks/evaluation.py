"""Scoring beside what transformers offers: same models, same rows, same answers, processes of their own, alternating.

    python -m benchmarks.evaluation classes [--rows 1000] [--runs 3]     pipeline("text-classification")
    python -m benchmarks.evaluation answers [--rows 24] [--runs 2]       generate, one prompt at a time

Needs a trained `sentiment` (adaptory retrain sentiment), and for answers prepared data of `localise`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

CONTESTANTS = {
    "classes": ("pipeline, a row at a time", "pipeline, batches of 32", "adaptory"),
    "answers": ("generate, a prompt at a time", "generate, batches of 8", "adaptory"),
}
LONGEST = 48


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("set", choices=CONTESTANTS)
    words.add_argument("--rows", type=int)
    words.add_argument("--runs", type=int, default=3)
    words.add_argument("--contestant", help=argparse.SUPPRESS)
    told = words.parse_args()
    rows = told.rows or {"classes": 1000, "answers": 24}[told.set]
    if told.contestant:
        print(json.dumps({"classes": _classes, "answers": _answers}[told.set](told.contestant, rows)))
        return
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS[told.set]}
    for _ in range(told.runs):
        for name, runs in found.items():
            command = [sys.executable, "-m", "benchmarks.evaluation", told.set, "--rows", str(rows), "--contestant", name]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {name}: {runs[-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    first = next(iter(found))
    ours, base = found["adaptory"][0]["said"], statistics.median(run["seconds"] for run in found[first])
    print(f"\n{told.set}: {rows:,} rows, medians of {told.runs} alternating runs")
    for name, runs in found.items():
        took = statistics.median(run["seconds"] for run in runs)
        same = sum(one == other for one, other in zip(runs[0]["said"], ours, strict=True))
        print(f"{name:32}{took:8.1f} s{base / took:8.2f} x   {same:,} of {rows:,} answers as adaptory's")


def _classes(name: str, rows: int) -> dict[str, Any]:
    from adaptory import run, workspace
    from adaptory.data import read_split, some_rows
    from adaptory.evaluation import respond
    from adaptory.training.candidate import finished

    place = workspace.find()
    place.activate()
    now = run.current(place, "sentiment")
    table = some_rows(read_split(place, "sentiment", "test"), rows)
    candidate = finished(now)
    loaded = respond.load(now.candidate_folder, place.data("sentiment") / "base", candidate)
    if name == "adaptory":
        began = time.monotonic()
        picked = respond.respond("", "", loaded, now.recipe, table).picked
        assert picked is not None
        return {"seconds": time.monotonic() - began, "said": picked.tolist()}
    from transformers import pipeline

    asked = pipeline("text-classification", model=loaded.model, tokenizer=loaded.made.tokenizer)
    texts = list(table["text"])
    more = {"batch_size": 32} if "32" in name else {}
    began = time.monotonic()
    told = asked(texts, truncation=True, max_length=loaded.made.max_tokens, **more)
    took = time.monotonic() - began
    number = {label: place for place, label in loaded.model.config.id2label.items()}
    return {"seconds": took, "said": [int(number[one["label"]]) for one in told]}


def _answers(name: str, rows: int) -> dict[str, Any]:
    import torch

    from adaptory import params, workspace
    from adaptory.data import read_split, some_rows
    from adaptory.evaluation import baselines, respond
    from adaptory.training import answers

    place = workspace.find()
    place.activate()
    recipe = params.load(place.recipes_file, "localise")
    train, test = (read_split(place, "localise", split) for split in ("train", "test"))
    one = respond.untuned(place.data("localise") / "base", recipe)
    shown = baselines.shown_chats(baselines.Ask(recipe, train, test, place.data("localise") / "base", lambda done: None))
    prompts = [one.made.prompt([*shown, *json.loads(chat)[:-1]]) for chat in some_rows(test, rows)["messages"]]
    stops = answers._stops(one.model, one.made, random=False)
    began = time.monotonic()
    if name == "adaptory":
        said = answers.generate(one.model, one.made, prompts, LONGEST)[0]
        return {"seconds": time.monotonic() - began, "said": said}
    said = []
    size = 8 if "batches" in name else 1
    with torch.inference_mode():
        for start in range(0, len(prompts), size):
            some = prompts[start : start + size]
            width = max(map(len, some))
            ids = torch.tensor([[one.made.pad] * (width - len(prompt)) + prompt for prompt in some])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in some])
            out = one.model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=LONGEST)[:, width:].tolist()
            for tokens in out:
                end = next((at for at, token in enumerate(tokens) if token in stops), None)
                said.append(one.made.decode(tokens[:end]))
    return {"seconds": time.monotonic() - began, "said": said}


if __name__ == "__main__":
    main()
