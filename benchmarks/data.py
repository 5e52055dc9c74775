"""What preparing data costs: 1, 3 and 10 million rows, beside the same work with pandas and Hugging Face datasets.

    python -m benchmarks.data [millions ...]        (make bench-data)

The rows are pieces of sentences of the real corpus as JSONL, with dirt in known shares: broken lines, bad bytes, unknown
labels, empty texts, repeated texts. Everyone validates, drops repeated texts and splits by a hash of the document;
everyone must come to the same number of rows. Each measurement is a process of its own, A B A B, medians.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

CLASSES = ["negative", "neutral", "positive"]
FILES = 10
RECIPE = {
    "task": "classification",
    "data": {
        "sources": {"rows": {"uri": "./incoming/*.jsonl", "format": "jsonl"}},
        "fields": {"id": "id", "text": "text", "label": {"column": "label", "classes": CLASSES}},
        "split": {"validation": 0.1, "test": 0.15, "near_copies": None},
        "max_quarantine": 0.05,
    },
    "base": "./none",
    "gate": {"criteria": [{"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5}]},
}


def generate(folder: Path, rows: int, sentences: list[str]) -> None:
    """`rows` lines in FILES files: 0.3% broken, 0.1% bad bytes, 0.2% unknown labels, 0.1% empty, 3% repeated texts."""
    draw = random.Random(rows)
    words = [json.dumps(sentence, ensure_ascii=False)[1:-1].split() for sentence in sentences]
    pieces = [" ".join(sentence[at : at + 6]) for sentence in words for at in range(0, len(sentence), 6)]
    last = "a text"
    number = 0
    for part in range(FILES):
        with (folder / f"part-{part:02d}.jsonl").open("wb") as file:
            lines = []
            for _ in range(rows // FILES):
                number += 1
                fate = draw.random()
                if fate >= 0.03:
                    last = " ".join(draw.choices(pieces, k=draw.randint(2, 6)))
                text = "" if 0.03 <= fate < 0.031 else last.upper() if fate < 0.01 and "\\" not in last else last
                label = "unknown" if 0.031 <= fate < 0.033 else CLASSES[number % 3]
                line = f'{{"id": "{number}", "text": "{text}", "label": "{label}", "time": {1_700_000_000 + number}}}'.encode()
                if 0.033 <= fate < 0.036:
                    line = line[: len(line) // 2]
                elif 0.036 <= fate < 0.037:
                    line = line.replace(b'"text": "', b'"text": "\xe9', 1)
                lines.append(line)
                if len(lines) == 50_000:
                    file.write(b"\n".join(lines) + b"\n")
                    lines = []
            file.write(b"\n".join([*lines, b""]))


def adaptory(folder: Path) -> int:
    """Our stages, as DVC calls them; returns the rows in the splits."""
    from adaptory import data, params, workspace

    place = workspace.find(folder)
    recipe = params.load(place.recipes_file, "rows")
    for stage in (data.fetch, data.validate, data.split):
        began = time.monotonic()
        stage(place, recipe)
        print(f"  {stage.__name__} {time.monotonic() - began:.1f} s", file=sys.stderr)
    card = json.loads((place.data("rows") / "splits" / "dataset.json").read_text())
    return sum(sum(counts.values()) for counts in card["counts"].values())


def _key(text: str) -> str:
    import unicodedata

    return " ".join((text if text.isascii() else unicodedata.normalize("NFKC", text)).lower().split())


def _place(identity: str) -> str:
    from xxhash import xxh3_64_intdigest

    place = xxh3_64_intdigest(f"1\0rows:{identity}".encode()) / 2**64
    return "test" if place < 0.15 else "validation" if place < 0.25 else "train"


def _row(line: bytes) -> tuple[str, str, str] | None:
    """What a careful engineer writes: the row, or None for a line that cannot be used."""
    import unicodedata

    import orjson

    try:
        cells = orjson.loads(line)
        identity, text, label = cells["id"].strip(), cells["text"], cells["label"]
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        return None
    text = (text if text.isascii() else unicodedata.normalize("NFC", text)).strip()
    if not identity or not text or "\0" in text or label not in CLASSES:
        return None
    return identity, text, label


def with_pandas(folder: Path) -> int:
    """The same with pandas: parsed line by line (read_json cannot skip a broken line), then whole columns."""
    import orjson
    import pandas

    def cells(line: bytes) -> dict[str, str]:
        try:
            found: dict[str, str] = orjson.loads(line)
            return found
        except orjson.JSONDecodeError:
            return {}

    tables = []
    for path in sorted((folder / "incoming").glob("*.jsonl")):
        with path.open("rb") as file:
            tables.append(pandas.DataFrame([cells(line) for line in file], columns=["id", "text", "label"]))
    table = pandas.concat(tables, ignore_index=True)
    table["text"] = table["text"].str.normalize("NFC").str.strip()
    bad = table.isna().any(axis=1) | (table["text"] == "") | ~table["label"].isin(CLASSES)
    bad |= table["text"].str.contains("\0", regex=False, na=False) | (table["id"].str.strip() == "")
    quarantine, table = table[bad], table[~bad].copy()
    table["key"] = table["text"].str.normalize("NFKC").str.lower().str.replace(r"\s+", " ", regex=True).str.strip()
    table["split"] = table["id"].map(_place)
    table["rank"] = table["split"].map({"test": 0, "validation": 1, "train": 2})
    table = table.sort_values(["rank", "id"]).drop_duplicates("key")
    out = folder / "pandas"
    out.mkdir()
    quarantine.to_parquet(out / "quarantine.parquet")
    for name, part in table.groupby("split"):
        part[["id", "text", "label"]].to_parquet(out / f"{name}.parquet")
    return len(table)


def with_datasets(folder: Path) -> int:
    """The same with Hugging Face datasets: map and filter, with as many processes as there are cores where that is possible."""
    import datasets
    from xxhash import xxh3_64_intdigest

    datasets.disable_progress_bars()
    cores = os.cpu_count()
    files = [str(path) for path in sorted((folder / "incoming").glob("*.jsonl"))]
    # latin-1 keeps every byte: the json reader ends at the first broken line, and the text reader at the first bad byte.
    lines = datasets.load_dataset("text", data_files=files, split="train", cache_dir=str(folder / "hf"), encoding="latin-1")

    def parse(batch: dict[str, list[str]]) -> dict[str, list[str]]:
        found = [row for row in (_row(line.encode("latin-1")) for line in batch["text"]) if row]
        return {
            "id": [row[0] for row in found],
            "text": [row[1] for row in found],
            "label": [row[2] for row in found],
            "split": [_place(row[0]) for row in found],
        }

    rows = lines.map(parse, batched=True, num_proc=cores, remove_columns=["text"])
    seen: set[int] = set()

    def first(texts: list[str]) -> list[bool]:
        keep = []
        for text in texts:
            digest = xxh3_64_intdigest(_key(text).encode())
            keep.append(digest not in seen)
            seen.add(digest)
        return keep

    rows = rows.filter(first, input_columns="text", batched=True)
    total = 0
    for name in ("train", "validation", "test"):
        chosen = {"input_columns": "split", "batched": True, "num_proc": cores}
        part = rows.filter(lambda found, name=name: [one == name for one in found], **chosen)
        part.to_parquet(str(folder / f"{name}.parquet"))
        total += len(part)
    return total


def near_copies(folder: Path) -> int:
    """Our stages with near-copies looked for too."""
    recipe = json.loads(json.dumps(RECIPE))
    recipe["data"]["split"]["near_copies"] = 0.8
    (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": {"rows": recipe}}))
    return adaptory(folder)


WHO: dict[str, Callable[[Path], int]] = {
    "adaptory": adaptory, "pandas": with_pandas, "datasets": with_datasets, "near_copies": near_copies,
}  # fmt: skip


def measure(who: str, corpus: Path, home: Path) -> tuple[float, float, int]:
    """Seconds, peak GB of resident memory (its largest process) and rows kept, in a fresh process and a fresh folder."""
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        folder = Path(scratch)
        (folder / "incoming").symlink_to(corpus)
        (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": {"rows": RECIPE}}))
        code = "import sys; from benchmarks import data; data.worker(sys.argv[1], sys.argv[2])"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        command = [sys.executable, "-c", code, who, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        print(done.stderr if who in ("adaptory", "near_copies") or done.returncode else "", end="", file=sys.stderr, flush=True)
        seconds, peak, kept = done.stdout.split()[-3:]
        return float(seconds), float(peak), int(kept)


def worker(who: str, folder: str) -> None:
    began = time.monotonic()
    kept = WHO[who](Path(folder))
    seconds = time.monotonic() - began
    peak = max(resource.getrusage(whom).ru_maxrss for whom in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{seconds:.2f} {peak / 1e6:.2f} {kept}")


def sentences() -> list[str]:
    """The texts of the recipe `sentiment`, as prepared in this checkout."""
    from adaptory import data, workspace

    place = workspace.find()
    return [text for split in ("train", "validation", "test") for text in data.read_split(place, "sentiment", split)["text"]]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("millions", nargs="*", type=float, default=[1, 3, 10])
    words.add_argument("--runs", type=int, default=3)
    words.add_argument("--peers", nargs="*", default=["pandas", "datasets"])
    words.add_argument("--near", action="store_true", help="measure near-copies too")
    given = words.parse_args()
    corpus = sentences()
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for millions in given.millions:
            incoming = home / "incoming"
            incoming.mkdir()
            generate(incoming, int(millions * 1e6), corpus)
            size = sum(path.stat().st_size for path in incoming.iterdir())
            print(f"\n{int(millions * 1e6):,} rows, {size / 1e9:.2f} GB of JSONL", flush=True)
            found: dict[str, list[tuple[float, float, int]]] = {}
            for _ in range(given.runs):
                for who in ["adaptory", *given.peers]:
                    found.setdefault(who, []).append(measure(who, incoming, home))
            assert len({runs[0][2] for runs in found.values()}) == 1, f"not the same result: {found}"
            if given.near:
                found["near_copies"] = [measure("near_copies", incoming, home)]
            _print(found)
            shutil.rmtree(incoming)


def _print(found: dict[str, list[tuple[float, float, int]]]) -> None:
    ours = statistics.median(seconds for seconds, _, _ in found["adaptory"])
    for who, runs in found.items():
        seconds = [run[0] for run in runs]
        spread = f"({min(seconds):.1f}..{max(seconds):.1f}, {len(runs)} runs)"
        ratio = statistics.median(seconds) / ours
        peak = max(run[1] for run in runs)
        print(
            f"{who:<12}{statistics.median(seconds):>7.1f} s {spread:<24}{ratio:>5.1f}x{peak:>7.2f} GB  {runs[0][2]:,} rows kept",
            flush=True,
        )


if __name__ == "__main__":
    main()
