"""The command line: one command per verb. Everything heavy is imported by the command that needs it."""

import argparse
import os
import signal
import sys
from pathlib import Path

from adaptory import __version__
from adaptory.errors import UserError

STAGES = ("fetch", "validate", "split", "base", "profile", "drift", "choose", "train", "weigh", "evaluate", "explain")
_EPILOG = """\
examples:
  adaptory retrain sentiment                    new data to promoted adapter
  adaptory pull sentiment@champion ./model      what is in production now, verified
  adaptory predict ./model "what a film!"       ask it
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 a fault the user can mend, 130 interrupted."""
    words = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        code: int = words.command(words)
        return code
    except UserError as error:
        from adaptory.process import tell

        return tell(error)
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] == "adaptory":
            raise
        extra = "predict" if words.command is _predict else "train"
        print(f"error: this command needs {missing.name}; run: pip install 'adaptory[{extra}]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was promoted by this command, run it again to go on", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, verbs = _parser()
    if arguments and arguments[0] in verbs:
        # Lets options stand anywhere: `predict ./model --json "text"`.
        return verbs[arguments[0]].parse_intermixed_args(arguments[1:])
    return parser.parse_args(arguments)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(
        prog="adaptory",
        description="Retrains a model on new data and promotes it only when it has proved to be better.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"adaptory {__version__}")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def verb(name: str, command: object, about: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=about, description=about)
        one.set_defaults(command=command)
        return one

    one = verb("retrain", _retrain, "prepare, train, evaluate, gate and promote; stops early if nothing is new")
    one.add_argument("recipe")
    one.add_argument("--accept-drift", action="store_true", help="train although the data drifted away from the champion's")
    one = verb("prepare", _prepare, "bring a recipe's data and base up to date (dvc)")
    one.add_argument("recipe")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="make everything again, even if nothing changed")
    how.add_argument("--pull", action="store_true", help="bring what dvc.lock names from the DVC remote; make nothing")
    one = verb("pull", _pull, "bring a promoted release to a folder, verified, in one step")
    one.add_argument("name", help="NAME, NAME@champion or NAME@v7")
    one.add_argument("folder", type=Path)
    one.add_argument("--store", help="folder or s3://bucket/prefix (default: ADAPTORY_STORE or .adaptory/store)")
    one = verb("predict", _predict, "answer texts with a pulled release")
    one.add_argument("folder", type=Path)
    one.add_argument("texts", nargs="*", help="one text each; none: one per line of standard input")
    one.add_argument("--json", action="store_true", help="one JSON object per line")
    one = verb("history", _history, "who was champion, since when, and why")
    one.add_argument("recipe")
    one = verb("report", _report, "show the result of the last run again")
    one.add_argument("recipe")
    one = verb("gate", _gate, "decide past runs again under another gate, or say what the next one can show")
    one.add_argument("action", choices=["replay", "power"])
    one.add_argument("recipe")
    one.add_argument(
        "--policy", type=Path, help="replay: a file with `gate:` (and `evaluation:`) as in a recipe (default: the recipe's)"
    )
    one.add_argument("--since", default="", help="replay: only decisions from this date on, e.g. 2026-11-01")
    one = verb("reconcile", _reconcile, "make MLflow's versions and aliases follow the ledger")
    one.add_argument("recipe")
    verb("ui", _ui, "open the MLflow and Prefect pages on this machine, until Ctrl-C")
    one = verb("stage", _stage, "run one stage on the output of the one before (what flows and dvc call)")
    one.add_argument("stage", choices=STAGES)
    one.add_argument("recipe")
    one.add_argument("--trial", type=int, help="train: this trial of the recipe's search")
    one.add_argument("--rung", type=int, help="train: the trial only as far as this rung of the search")
    one.add_argument("--seed", type=int, help="train: the candidate again, with this seed")
    return parser, verbs.choices


def _retrain(words: argparse.Namespace) -> int:
    from adaptory import retrain

    return retrain.command(words.recipe, accept_drift=words.accept_drift)


def _prepare(words: argparse.Namespace) -> int:
    from adaptory import data, params, workspace

    place = workspace.find()
    recipe = params.load(place.recipes_file, words.recipe)
    dataset = data.pull(place, recipe) if words.pull else data.prepare(place, recipe, force=words.force)
    card = dataset.card
    for split, counts in card.counts.items():
        print(f"{split:<11}{sum(counts.values()):>8,} rows   " + ", ".join(f"{n:,} {label}" for label, n in counts.items()))
    for reason, count in card.quarantined.items():
        print(f"quarantined{count:>8,} rows   {reason}")
    print(f"dataset {dataset.digest}")
    return 0


def _pull(words: argparse.Namespace) -> int:
    from adaptory import release, workspace
    from adaptory.storage.objects import open_store

    store = open_store(words.store or workspace.find().store)
    done = release.pull(store, words.name, words.folder)
    moved = f"{done.bytes_moved / 1e6:.1f} MB moved and verified" if done.bytes_moved else "unchanged, nothing moved"
    print(f"{done.model} v{done.version} is in {done.folder} ({moved})")
    return 0


def _predict(words: argparse.Namespace) -> int:
    import json

    from adaptory import workspace
    from adaptory.release import serving

    texts = words.texts or [line.rstrip("\n") for line in sys.stdin]
    place = workspace.find()
    place.activate()
    predictor = serving.load(words.folder, place.root, place.cache)
    asked = [predictor.read(text) for text in texts]
    for text, question, answer in zip(texts, asked, predictor(asked), strict=True):
        if words.json:
            print(json.dumps(question | answer, ensure_ascii=False))
        elif "chances" in answer:
            chances = "  ".join(f"{name} {chance:.3f}" for name, chance in answer["chances"].items())
            print(f"{answer['label']:<10} {chances}   {text}")
        else:
            print("\t".join(one if isinstance(one, str) else f"{one:.3f}" for one in answer.values()))
    return 0


def _history(words: argparse.Namespace) -> int:
    from adaptory import registry, workspace
    from adaptory.storage.objects import open_store

    records = registry.history(open_store(workspace.find().store), words.recipe)
    if not records:
        print(f"{words.recipe}: nothing was promoted yet")
    for record in records:
        print(f"{record.number:>4}  {record.time}  {record.kind} v{record.version}  by {record.approved_by}: {record.reason}")
    return 0


def _report(words: argparse.Namespace) -> int:
    from adaptory import retrain

    return retrain.show_last(words.recipe)


def _gate(words: argparse.Namespace) -> int:
    from adaptory import params, run, workspace
    from adaptory.storage import open_store

    place = workspace.find()
    store, recipe = open_store(place.store), params.load(place.recipes_file, words.recipe)
    if words.action == "power":
        from adaptory.evaluation.foresight import foresee

        for one in foresee(run.current(place, words.recipe), store):
            print(("" if one.enough else "warning: ") + one.said)
        return 0
    from adaptory.evaluation import replay

    told = list(replay.replay(store, replay.policy(words.policy, recipe) if words.policy else recipe, words.since))
    for line in told:
        change = f"{line.then} -> {line.now}" if line.then != line.now else f"{line.then}, as then"
        print(f"{line.time[:16].replace('T', ' ')}  {line.candidate[7:19]}  {change}")
        print(f"    {line.reason}" + (f"\n    {line.later}" if line.later else ""))
    more = sum(one.now == "PASS" and one.then != "PASS" for one in told)
    fewer = sum(one.then == "PASS" and one.now != "PASS" for one in told)
    print(f"{len(told)} decisions, each against the champion of its day: {more} more would be promoted, {fewer} fewer")
    return 0


def _reconcile(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.registry import projection
    from adaptory.storage import open_store

    place = workspace.find()
    place.activate()
    for line in projection.project(place, open_store(place.store), words.recipe).changes or ["nothing to change"]:
        print(line)
    return 0


def _ui(words: argparse.Namespace) -> int:
    from adaptory import ui, workspace

    return ui.serve(workspace.find())


def _stage(words: argparse.Namespace) -> int:
    from adaptory import stage
    from adaptory.training import preemption

    preemption.listen()
    stage.perform(words.stage, words.recipe, words.trial, words.rung, words.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
