"""The line for tasks of texts: answers are learned, then a reward model and preferences start from that champion."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import polars
import pytest
import yaml

from adaptory.data import champions
from adaptory.gate import Evidence
from adaptory.registry import history
from adaptory.storage import Champion, open_store
from adaptory.training import fit
from adaptory.workspace import find
from tests.pipeline.conftest import run
from tests.support import FILLER, WORDS, checkout
from tests.training.toys import work

pytestmark = pytest.mark.slow
ANSWERS = {"positive": "this is lovely", "neutral": "that was paper", "negative": "the film was awful"}


def asked(count: int, seed: int) -> list[dict[str, str]]:
    draw, made = random.Random(seed), {}
    while len(made) < count:
        label = draw.choice(list(WORDS))
        words = [*draw.choices(FILLER, k=draw.randint(2, 5)), draw.choice(WORDS[label])]
        other = draw.choice([name for name in WORDS if name != label])
        made[" ".join(words)] = {"a": ANSWERS[label], "r": ANSWERS[other]}
    return [{"q": question} | rest for question, rest in made.items()]


def trained_base(folder: Path, scratch: Path) -> None:
    """A base that answers in whole sentences, but the wrong ones: each the next one's."""
    wrong = dict(zip(ANSWERS.values(), [*list(ANSWERS.values())[1:], ANSWERS["positive"]], strict=True))
    rows = [{"question": row["q"], "answer": wrong[row["a"]]} for row in asked(300, 1)]
    chats = [[{"role": "user", "content": r["question"]}, {"role": "assistant", "content": r["answer"]}] for r in rows]
    table = polars.DataFrame([
        {"row": str(n), "file": "f", "line": n, "messages": json.dumps(chat)} for n, chat in enumerate(chats)
    ])  # fmt: skip
    one = work(scratch, "sft", "causal", rows=table, method="full", top_layers=None, epochs=8, learning_rate=0.003)
    fit.fit(one)
    shutil.copytree(scratch / "causal", folder)
    one.model.save_pretrained(folder)


def recipes() -> dict[str, Any]:
    data = {
        "sources": {"desk": {"uri": "./incoming/rows.jsonl", "format": "jsonl"}},
        "split": {"validation": 0.1, "test": 0.25, "near_copies": None},
        "max_quarantine": 0.01,
    }
    training = {"rank": 16, "alpha": 32, "epochs": 6, "batch_rows": 8, "learning_rate": 0.005, "max_tokens": 40, "top_layers": 3}

    def floor(metric: str, limit: float) -> dict[str, Any]:
        ask = {"metric": metric, "direction": "higher"}
        return {"criteria": [{"kind": "floor", "limit": limit, **ask}, {"kind": "beats_baselines", "margin": 0.0, **ask}]}

    talk = {
        "task": "sft", "base": "./tiny-causal", "data": data | {"fields": {"prompt": "q", "response": "a"}},
        "training": training | {"cache_trunk": True},
        "evaluation": {"baselines": ["zero_shot", "few_shot", "copy"], "shots": 2, "resamples": 300, "max_new_tokens": 8},
        "gate": floor("chrf", 50.0),
    }  # fmt: skip
    pairs = {"fields": {"prompt": "q", "chosen": "a", "rejected": "r"}}
    prefer = {
        "task": "preference", "base": "./tiny-causal", "data": data | pairs,
        "training": training | {"start": "talk", "epochs": 2, "learning_rate": 0.005, "system": "really"},
        "evaluation": {"baselines": ["longer"], "resamples": 300}, "gate": floor("reward_accuracy", 0.7),
    }  # fmt: skip
    longer = {"objective": "reward", "epochs": 8}  # its head is new
    rank = prefer | {"training": prefer["training"] | longer}  # type: ignore[operator]
    return {"talk": talk, "prefer": prefer, "rank": rank, "own": own(prefer)}


def own(prefer: dict[str, Any]) -> dict[str, Any]:
    """Preferences between what is right and what the champion of `talk` would have said."""
    splits = {"train": "train!40", "validation": "validation", "test": "test!30"}
    sources = {
        split: {"uri": f"champion:talk!{rows}", "format": "jsonl", "split": split} for split, rows in splits.items()
    }  # fmt: skip
    fields = {"id": "id", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    data = {"sources": sources, "fields": fields, "split": {"near_copies": None}, "max_quarantine": 0.01}
    return prefer | {"data": data, "evaluation": {"baselines": ["longer"], "compare": ["prefer"], "resamples": 300}}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with the three recipes."""
    folder = checkout(tmp_path_factory.mktemp("answers") / "checkout", base=False)
    trained_base(folder / "tiny-causal", tmp_path_factory.mktemp("base"))
    (folder / "params.yaml").write_text(yaml.safe_dump({"recipes": recipes()}, sort_keys=False))
    (folder / "incoming" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked(420, 0)))
    return folder


def evidence(folder: Path, name: str) -> Evidence:
    last = json.loads((folder / ".adaptory" / "runs" / name / "last.json").read_text())
    return Evidence.model_validate_json((Path(last["folder"]) / "evidence.json").read_bytes())


@pytest.fixture(scope="module")
def chain(desk: Path, prefect_api: str) -> dict[str, str]:
    """What each retrain said, in the order of the chain; the first one before its start has a champion."""
    early = run(desk, "retrain", "rank", code=2, PREFECT_API_URL=prefect_api)
    said = {"early": early.stderr, "sourceless": run(desk, "prepare", "own", code=2).stderr}
    for name in ("talk", "rank", "prefer"):
        said[name] = run(desk, "retrain", name, PREFECT_API_URL=prefect_api).stdout
    return said


def test_a_recipe_that_starts_from_another_waits_for_its_champion(chain: dict[str, str]) -> None:
    assert "training.start: 'talk' has no champion yet; run: adaptory retrain talk" in chain["early"]
    assert "Traceback" not in chain["early"]
    assert "'talk' has no champion yet to draw answers from; run: adaptory retrain talk" in chain["sourceless"]


def test_a_champion_that_answers_another_question_is_told_before_anything_is_trained(desk: Path, chain: dict[str, str]) -> None:
    body = yaml.safe_load((desk / "params.yaml").read_text())
    odd = body["recipes"]["talk"] | {"evaluation": {"baselines": [], "compare": ["prefer"]}}
    (desk / "params.yaml").write_text(yaml.safe_dump({"recipes": body["recipes"] | {"odd": odd}}, sort_keys=False))
    run(desk, "prepare", "odd")
    told = run(desk, "stage", "train", "odd", code=2)
    (desk / "params.yaml").write_text(yaml.safe_dump(body, sort_keys=False))
    assert "the champion of 'prefer' answers preference, this recipe sft" in told.stderr


def test_answers_are_learned_and_beat_the_prompted_base(desk: Path, chain: dict[str, str]) -> None:
    assert "PASS  talk" in chain["talk"]
    found = {model.name: model.metrics for model in evidence(desk, "talk").models}
    assert set(found) == {"candidate", "zero_shot", "few_shot", "copy"}
    for metric in ("chrf", "bleu", "exact_match", "stopped"):
        assert metric in found["candidate"], metric
    assert (found["candidate"]["exact_match"].value or 0) > 0.5
    assert (found["candidate"]["stopped"].value or 0) > 0.95
    assert found["copy"]["stopped"].value == 1


def test_a_decoder_is_laid_out_for_vllm_and_plain_peft_answers_the_same(
    desk: Path, chain: dict[str, str], tmp_path: Path
) -> None:
    from adaptory.errors import ReleaseError
    from adaptory.release.export import export

    run(desk, "pull", "talk@champion", str(tmp_path / "model"))
    cache = desk / ".adaptory" / "cache"
    assert "answers as the release does" in export(tmp_path / "model", tmp_path / "out", "vllm", desk, cache)
    config = json.loads((tmp_path / "out" / "talk" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../base" and (tmp_path / "out" / "base" / "model.safetensors").is_file()
    served = (tmp_path / "out" / "serve.sh").read_text()
    assert "--enable-lora --max-lora-rank 16 --lora-modules talk-" in served and "=./talk" in served
    with pytest.raises(ReleaseError, match="WordLevel"):
        export(tmp_path / "model", tmp_path / "gguf", "gguf", desk, cache)


def test_the_chain_is_one_lineage(desk: Path, chain: dict[str, str]) -> None:
    assert "PASS  rank" in chain["rank"] and "PASS  prefer" in chain["prefer"]
    store = open_store(str(desk / ".adaptory" / "store"))
    first = history(store, "talk")[0]
    for name in ("rank", "prefer"):
        release = history(store, name)[0].release.removeprefix("sha256:")
        card = json.loads((desk / ".adaptory" / "store" / "releases" / name / release / "candidate.json").read_text())
        assert card["start"] == first.release, "the digest of the release it went on from"
        assert evidence(desk, name).excluded == 0, "the same prompts are in the same splits, so their start learned none of them"


def test_the_report_shows_answers_and_how_they_were_measured(desk: Path, chain: dict[str, str]) -> None:
    last = json.loads((desk / ".adaptory" / "runs" / "talk" / "last.json").read_text())
    page = (Path(last["folder"]) / "report" / "report.md").read_text()
    for part in ("chrF: nrefs:1|case:mixed", "Loaded in a fresh process it answers as it did in training", "Method lora"):
        assert part in page, part
    xray = next((desk / ".adaptory" / "runs" / "talk").glob("candidate-*/xray.txt")).read_text()
    assert "[this] [is] [lovely] [<stop>]" in xray or "[that] [was] [paper] [<stop>]" in xray


def test_a_champions_own_answers_become_pairs_that_follow_it(desk: Path, chain: dict[str, str]) -> None:
    shutil.rmtree(desk / "data" / "talk")  # another machine retrained it
    run(desk, "prepare", "own")
    raw = {split: desk / "data" / "own" / "raw" / split / "pairs.jsonl" for split in ("train", "validation", "test")}
    pairs = {split: [json.loads(line) for line in path.read_text().splitlines()] for split, path in raw.items()}
    assert 0 < len(pairs["train"]) <= 40 and 0 < len(pairs["test"]) <= 30
    right = {row["q"]: row["a"] for row in asked(420, 0)}
    for split, some in pairs.items():
        rows = set(polars.read_parquet(desk / "data" / "talk" / "splits" / f"{split}-*.parquet")["row"])
        for pair in some:
            assert pair["id"] in rows, "no row changes its split"
            assert pair["chosen"] == right[pair["prompt"]] and pair["rejected"] not in ("", pair["chosen"])
    state = json.loads((desk / "data" / "own" / "raw" / "sources.json").read_text())
    before = {split: path.stat().st_mtime_ns for split, path in raw.items()}
    run(desk, "prepare", "own")
    assert {split: path.stat().st_mtime_ns for split, path in raw.items()} == before, "nothing new, nothing drawn again"
    # Another champion, another source.
    first = json.loads((desk / ".adaptory" / "store" / "ledger" / "talk" / "000001.json").read_text())
    found = champions.state(find(desk), Champion("talk", "train", 40))
    assert found == state["train"] and found != champions.state(find(desk), Champion("talk", "train", 41))
    assert first["release"] not in found.values()


def test_the_champion_of_another_recipe_answers_the_same_rows(desk: Path, chain: dict[str, str], prefect_api: str) -> None:
    run(desk, "retrain", "own", PREFECT_API_URL=prefect_api)
    found = evidence(desk, "own")
    assert [model.name for model in found.of("baseline")] == ["prefer", "longer"]
    gap = found.difference("prefer", "reward_accuracy")
    assert gap is not None and gap.value is not None
    page = (Path(json.loads((desk / ".adaptory" / "runs" / "own" / "last.json").read_text())["folder"]) / "report" / "report.md")
    assert "| champion of prefer |" in page.read_text()


@pytest.mark.parametrize(
    ("name", "question", "field"),
    [("talk", "a splendid film", "answer"), ("rank", '{"prompt": "a film", "answer": "this is lovely"}', "reward")],
)
def test_a_pulled_release_answers(
    desk: Path, chain: dict[str, str], tmp_path: Path, name: str, question: str, field: str
) -> None:
    run(desk, "pull", f"{name}@champion", str(tmp_path / "model"))
    told = json.loads(run(desk, "predict", str(tmp_path / "model"), question, "--json").stdout)
    assert told[field]
    example = json.loads((tmp_path / "model" / "current" / "example.json").read_text())
    lines = [json.dumps(row["asked"]) for row in example]
    answers = run(desk, "predict", str(tmp_path / "model"), *lines, "--json").stdout.splitlines()
    for line, row in zip(answers, example, strict=True):
        expected = row["told"][field]
        assert json.loads(line)[field] == (expected if isinstance(expected, str) else pytest.approx(expected, abs=1e-4))


def test_a_question_without_a_needed_field_is_refused(desk: Path, chain: dict[str, str], tmp_path: Path) -> None:
    run(desk, "pull", "rank@champion", str(tmp_path / "model"))
    done = run(desk, "predict", str(tmp_path / "model"), "just a text", code=2)
    assert "asked with a JSON object of prompt, answer" in done.stderr


def test_a_start_of_another_rank_is_refused_before_anything_is_trained(desk: Path, chain: dict[str, str]) -> None:
    body = recipes()
    body["rank"]["training"] |= {"rank": 8}
    before = (desk / "params.yaml").read_text()
    (desk / "params.yaml").write_text(yaml.safe_dump({"recipes": body}, sort_keys=False))
    done = run(desk, "stage", "train", "rank", code=2)
    (desk / "params.yaml").write_text(before)
    assert "training.start: talk v1 was trained with rank 16; this recipe must be too" in done.stderr
