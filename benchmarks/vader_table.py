"""The protocol of Hutto & Gilbert (ICWSM 2014), Tables 4 and 5, with our adapters beside the paper's rows.

    python -m benchmarks.vader_table [--folder DIR] [--epochs 4] [--only all tweets ...]

Half of each domain trains, the other half tests (whole documents, and near-copies across the halves set aside, which is
harder than the paper's own halves). r: Pearson correlation with the mean rating of 20 people. Overall: precision, recall and
F1 of the three classes, weighted by their rows, with the paper's thresholds of +-0.05 on answers and ratings alike; on all
rows they give VADER the paper's F1 to within 0.02. Models that were trained before are read from the folder again.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

DOMAINS = ("tweets", "movies", "products", "news")
# r, precision, recall, F1 of Table 4, by domain in the order above.
PAPER = {
    "individual human": (
        (0.888, 0.95, 0.76, 0.84), (0.899, 0.95, 0.90, 0.92), (0.911, 0.94, 0.80, 0.85), (0.745, 0.87, 0.55, 0.65),
    ),
    "VADER": ((0.881, 0.99, 0.94, 0.96), (0.451, 0.70, 0.55, 0.61), (0.565, 0.78, 0.55, 0.63), (0.492, 0.69, 0.49, 0.55)),
}  # fmt: skip
THRESHOLD = 0.05


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--folder", type=Path, default=Path(".adaptory/vader-table"))
    words.add_argument("--epochs", type=int, default=4)
    words.add_argument("--method", default="full")
    words.add_argument("--rate", type=float, default=2e-4)
    words.add_argument("--only", nargs="*", default=["all", *DOMAINS], help="which models: all, or a domain")
    told = words.parse_args()
    prepared(told.folder)
    found = {name: answers(told.folder, name, told.method, told.epochs, told.rate) for name in told.only}
    show(told.folder, found)


def prepared(folder: Path) -> None:
    """A workspace whose recipe cuts each domain in half."""
    from adaptory import bases, data, params, workspace

    recipes = yaml.safe_load(Path("params.yaml").read_text())["recipes"]
    body = {key: recipes["sentiment"][key] for key in ("data", "base", "training")}
    body |= {"task": "regression", "evaluation": {"baselines": ["tfidf"]}}
    fields = body["data"]["fields"]
    body["data"]["fields"] = {key: fields[key] for key in ("id", "text", "group_pattern")} | {"value": "rating"}
    body["data"]["split"] = {"validation": 0.05, "test": 0.5}
    body["gate"] = {"criteria": [{"kind": "floor", "metric": "pearson_r", "direction": "higher", "limit": 0.5}]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": {"table": body}}))
    place = workspace.find(folder)
    if not (place.data("table") / "splits" / "dataset.json").is_file():
        for stage in (data.fetch, data.validate, data.split, bases.place):
            print(f"  {stage.__name__}", file=sys.stderr)
            stage(place, params.load(place.recipes_file, "table"))


def answers(folder: Path, name: str, method: str, epochs: int, rate: float) -> dict[str, float]:
    """Row -> the rating that a model trained on this domain (or all) gives it; trained now, or read again."""
    from adaptory import fingerprint, params, run, workspace
    from adaptory.data import read_split
    from adaptory.data.dataset import Card, Dataset
    from adaptory.evaluation import respond
    from adaptory.training.candidate import train

    place = workspace.find(folder)
    recipe = params.load(place.recipes_file, "table")
    card = Card.model_validate_json((place.data("table") / "splits" / "dataset.json").read_bytes())
    digest, base = fingerprint.of_json(card.model_dump(mode="json")), fingerprint.of_folder(place.data("table") / "base")
    dataset = Dataset(recipe="table", digest=digest, card=card, base=base, dvc={})
    settings = {"method": method, "epochs": epochs, "learning_rate": rate, "top_layers": None, "batch_rows": 16}
    settings["sources"] = () if name == "all" else (name,)
    now = run.on(place, recipe, dataset)
    now = now.trained_with(recipe.training.model_copy(update=settings))

    def tell(event: dict[str, Any]) -> None:
        if event["event"] != "step":
            print(f"  {name}: {json.dumps(event)[:200]}", file=sys.stderr, flush=True)

    candidate = train(now, tell)
    test = read_split(place, "table", "test")
    loaded = respond.load(now.candidate_folder, place.data("table") / "base", candidate)
    said = respond.respond(name, "candidate", replace(loaded), recipe, test).score
    assert said is not None
    return dict(zip(test["row"], said.tolist(), strict=True))


def show(folder: Path, found: dict[str, dict[str, float]]) -> None:
    """The paper's table with our rows, on the same half of the rows; and who was trained where and is asked where."""
    import numpy as np
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    from adaptory import workspace
    from adaptory.data import read_split

    scorer = SentimentIntensityAnalyzer()
    test = read_split(workspace.find(folder), "table", "test")
    tables = {domain: test.filter(test["source"] == domain) for domain in DOMAINS}
    ours: dict[str, list[tuple[float, ...]]] = {}
    lines = {
        "one model, all domains": dict.fromkeys(DOMAINS, "all"),
        "a model per domain": {domain: domain for domain in DOMAINS},
    }
    for title, chosen in lines.items():
        if set(chosen.values()) <= set(found):
            ours[title] = [
                numbers(table["value"].to_numpy(), np.array([found[chosen[domain]][row] for row in table["row"]]))
                for domain, table in tables.items()
            ]
    ours["VADER, on these rows"] = [
        numbers(table["value"].to_numpy(), np.array([scorer.polarity_scores(text)["compound"] for text in table["text"]]))
        for table in tables.values()
    ]
    print("| r; precision, recall, F1 | " + " | ".join(f"{name} ({tables[name].height:,} rows)" for name in DOMAINS) + " |")
    print("|---|" + "---:|" * len(DOMAINS))
    for title, row in (PAPER | ours).items():
        cells = [f"{r:.3f}; {p:.2f} {q:.2f} {f:.2f}" for r, p, q, f in row]
        print(f"| {title}{' (paper)' if title in PAPER else ''} | " + " | ".join(cells) + " |")
    print("\n| r, trained on | " + " | ".join(DOMAINS) + " |\n|---|" + "---:|" * len(DOMAINS))
    for name, said in found.items():
        cells = [
            f"{numbers(table['value'].to_numpy(), np.array([said[row] for row in table['row']]))[0]:.3f}"
            for table in tables.values()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def numbers(right: Any, said: Any) -> tuple[float, ...]:
    """r, and precision, recall and F1 weighted by class."""
    import numpy as np
    from scipy.stats import pearsonr
    from sklearn.metrics import precision_recall_fscore_support

    def classed(values: Any) -> Any:
        return np.where(values >= THRESHOLD, 2, np.where(values <= -THRESHOLD, 0, 1))

    table = precision_recall_fscore_support(classed(right), classed(said), average="weighted", zero_division=0)
    return (float(pearsonr(right, said).statistic), *map(float, table[:3]))


if __name__ == "__main__":
    main()
