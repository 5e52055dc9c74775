"""A checkout in a temporary folder, with a recipe so small that the whole line takes seconds."""

import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
WORDS = {
    "negative": ["awful", "dreadful", "boring", "broken", "sad", "ugly"],
    "neutral": ["table", "window", "street", "paper", "number", "monday"],
    "positive": ["lovely", "splendid", "bright", "happy", "great", "wonderful"],
}
FILLER = ["the", "a", "this", "that", "film", "phone", "story", "morning", "was", "is", "quite", "really", "very"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLER, *[w for words in WORDS.values() for w in words]]


def rows(count: int, seed: int = 0, noise: float = 0.1) -> list[tuple[str, str, str]]:
    """`count` rows of (id, rating, text), all texts different: two sentences to a document."""
    draw = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        label = draw.choice(list(WORDS))
        said = draw.choice(list(WORDS)) if draw.random() < noise else label
        words = draw.choices(FILLER, k=draw.randint(2, 9)) + draw.choices(WORDS[said], k=2)
        draw.shuffle(words)
        made.setdefault(" ".join(words), {"negative": "-2.0", "neutral": "0.1", "positive": "2.0"}[label])
    return [(f"{i // 2}_{i % 2}", rating, text) for i, (text, rating) in enumerate(made.items())]


def write_tsv(path: Path, table: list[tuple[str, str, str]], end: str = "\r\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(end.join("\t".join(row) for row in table).encode())


def tiny_base(folder: Path, seed: int = 0) -> Path:
    """A BERT of two small blocks with random weights, and a word tokenizer that knows the words above."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    BertTokenizer(vocab={word: number for number, word in enumerate(VOCABULARY)}).save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=64, initializer_range=0.3, **sizes)
    BertModel(config).save_pretrained(folder)
    return folder


def tiny_recipe(**changes: Any) -> dict[str, Any]:
    """The body of a recipe on `incoming/rows.tsv` and `./tiny-base`; dotted keys change it."""
    body: dict[str, Any] = {
        "task": "classification",
        "data": {
            "sources": {"notes": {"uri": "./incoming/rows.tsv", "format": "tsv", "columns": ["id", "rating", "text"]}},
            "fields": {
                "id": "id",
                "text": "text",
                "group_pattern": "[0-9]+",
                "label": {"column": "rating", "classes": ["negative", "neutral", "positive"], "neutral_band": 0.5},
            },
            "split": {"validation": 0.1, "test": 0.25, "near_copies": None},
            "max_quarantine": 0.01,
        },
        "base": "./tiny-base",
        "training": {"rank": 4, "alpha": 8, "epochs": 6, "batch_rows": 8, "learning_rate": 0.01, "max_tokens": 32},
        "evaluation": {"baselines": ["majority"], "resamples": 500},
        "gate": {
            "criteria": [
                {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5},
                {"kind": "beats_baselines", "metric": "macro_f1", "direction": "higher", "margin": 0.0},
                {"kind": "beats_champion", "metric": "macro_f1", "direction": "higher", "margin": 0.0},
            ]
        },
    }
    for path, value in changes.items():
        *parents, last = path.split(".")
        inner = body
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = value
    return body


def checkout(folder: Path, *, count: int = 400, base: bool = True, **changes: Any) -> Path:
    """A git checkout of this project whose only recipe is `tiny`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("adaptory", "tasks", "flows"):
        # With what is compiled: each of the many processes needs it.
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        shutil.copyfile(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copyfile(ROOT / ".dvc" / name, folder / ".dvc" / name)
    write_recipe(folder, **changes)
    write_tsv(folder / "incoming" / "rows.tsv", rows(count))
    if base:
        tiny_base(folder / "tiny-base")
    git = ["git", "-c", "user.name=Tester", "-c", "user.email=tester@localhost", "-C", str(folder)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "A checkout"], check=True)
    return folder


def staged(folder: Path, **changes: Any) -> Path:
    """The stages of the recipe `tiny` without DVC; returns the folder of its data."""
    from adaptory import data, params, workspace

    write_recipe(folder, **changes)
    place = workspace.find(folder)
    made = params.load(place.recipes_file, "tiny")
    for stage in (data.fetch, data.validate, data.split):
        stage(place, made)
    return place.data("tiny")


def parts(prepared: Path) -> dict[str, Any]:
    """Every table of a prepared dataset: the three splits and the quarantine."""
    import polars

    return {
        name: polars.read_parquet(prepared / "splits" / f"{name}-*.parquet")
        for name in ("train", "validation", "test", "quarantine")
    }


def write_recipe(folder: Path, **changes: Any) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": {"tiny": tiny_recipe(**changes)}}, sort_keys=False))


def key_pair(folder: Path, name: str = "key") -> tuple[Path, Path]:
    """A fresh private and public key, as docs/security.md makes them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public
