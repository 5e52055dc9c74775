"""The command line: one command per verb. Everything heavy is imported by the command that needs it."""

import argparse
import os
import signal
import sys
from pathlib import Path

from adaptory import __version__, commands
from adaptory.errors import UserError
from adaptory.garbage import collect_seldom

STAGES = (
    "fetch", "validate", "split", "base", "profile", "drift", "choose", "train", "weigh", "evaluate", "explain", "monitor",
)  # fmt: skip
FORMS = ("merged", "vllm", "gguf", "onnx")
_EPILOG = """\
examples:
  adaptory retrain sentiment                    new data to promoted adapter
  adaptory pull sentiment@champion ./model      what is in production now, verified
  adaptory predict ./model "what a film!"       ask it
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code: 0 done, 2 a fault the user can mend, 130 interrupted."""
    words = _parse(sys.argv[1:] if arguments is None else arguments)
    if words.command not in (commands.serve, commands.ui):  # they stay
        collect_seldom()
    try:
        code: int = words.command(words)
        return code
    except UserError as error:
        from adaptory.process import tell

        return tell(error)
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] == "adaptory":
            raise
        extra = {commands.predict: "predict", commands.smoke: "predict", commands.export: "export"}.get(words.command, "train")
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

    one = verb("retrain", commands.retrain, "prepare, train, evaluate, gate and promote; stops early if nothing is new")
    one.add_argument("recipe")
    one.add_argument("--accept-drift", action="store_true", help="train although the data drifted away from the champion's")
    one = verb("prepare", commands.prepare, "bring a recipe's data and base up to date (dvc)")
    one.add_argument("recipe")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="make everything again, even if nothing changed")
    how.add_argument("--pull", action="store_true", help="bring what dvc.lock names from the DVC remote; make nothing")
    one = verb("pull", commands.pull, "bring a promoted release to a folder, verified, in one step")
    one.add_argument("name", help="NAME, NAME@champion or NAME@v7")
    one.add_argument("folder", type=Path)
    one.add_argument("--store", help="folder or s3://bucket/prefix (default: ADAPTORY_STORE or .adaptory/store)")
    one.add_argument("--watch", type=float, metavar="SECONDS", help="go on, and look again every so many seconds")
    one.add_argument("--strict", action="store_true", help="hash again what is there, and take only what a gate let pass")
    one = verb("smoke", commands.smoke, "ask a pulled release its own example; exit code 1 if it answers otherwise")
    one.add_argument("folder", type=Path)
    one = verb("export", commands.export, "write a pulled release for another runtime, checked to answer as it does")
    one.add_argument("folder", type=Path)
    one.add_argument("out", type=Path, help="a folder that does not exist yet")
    one.add_argument("--as", dest="form", choices=FORMS, required=True, help="merged weights, vLLM, llama.cpp, or ONNX")
    one = verb("predict", commands.predict, "answer texts with a pulled release")
    one.add_argument("folder", type=Path)
    one.add_argument("texts", nargs="*", help="one text each; none: one per line of standard input")
    one.add_argument("--json", action="store_true", help="one JSON object per line")
    one = verb("serve", commands.serve, "answer over HTTP, following the champion: POST /predict, GET /health, GET /metrics")
    one.add_argument("name", help="NAME, NAME@champion or NAME@v7")
    one.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1; ADAPTORY_TOKEN asks for a bearer token)")
    one.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    one.add_argument("--every", type=float, default=10.0, help="seconds between looks for another champion (default: 10)")
    one = verb("history", commands.history, "who was champion, since when, and why")
    one.add_argument("recipe")
    one = verb("promote", commands.promote, "approve the candidate that waits; or overrule the gate, with a reason")
    one.add_argument("recipe")
    one.add_argument("--override", action="store_true", help="make the last candidate champion although the gate did not")
    one.add_argument("--reason", default="", help="why; it stands in the ledger (an override needs one)")
    one.add_argument("--days", type=int, default=30, help="override: after so many days the audit calls it overdue (default: 30)")
    one = verb("reject", commands.reject, "turn down the candidate that waits for approval")
    one.add_argument("recipe")
    one.add_argument("--reason", required=True, help="why; whoever trained it will read it")
    one = verb("rollback", commands.rollback, "make an earlier champion champion again, at once")
    one.add_argument("recipe")
    one.add_argument("--to", metavar="VERSION", help="e.g. v7 (default: the champion before this one)")
    one.add_argument("--reason", default="", help="why; it stands in the ledger")
    one = verb("retire", commands.retire, "bar a version: nobody goes back to it or pulls it again")
    one.add_argument("recipe")
    one.add_argument("version", help="e.g. v7")
    one.add_argument("--reason", required=True, help="why; whoever asks for the version is told")
    one = verb("why", commands.why, "from a version or a pulled folder back to data, code and people, every digest verified")
    one.add_argument("what", help="NAME, NAME@v7, or a folder that pull filled")
    one = verb("rebuild", commands.rebuild, "train a version again from its record alone; exit code 1 if its bytes differ")
    one.add_argument("what", help="NAME@v7")
    one = verb("audit", commands.audit, "find what does not agree with the ledger; exit code 1 if anything")
    one.add_argument("recipe")
    one = verb("report", commands.report, "show the result of the last run again")
    one.add_argument("recipe")
    one = verb("gate", commands.gate, "decide past runs again under another gate, or say what the next one can show")
    one.add_argument("action", choices=["replay", "power"])
    one.add_argument("recipe")
    one.add_argument(
        "--policy", type=Path, help="replay: a file with `gate:` (and `evaluation:`) as in a recipe (default: the recipe's)"
    )
    one.add_argument("--since", default="", help="replay: only decisions from this date on, e.g. 2026-11-01")
    one = verb("notify", commands.notify, "tell Prefect that a recipe's sources hold something new; an automation retrains")
    one.add_argument("recipe")
    one = verb("reconcile", commands.reconcile, "make MLflow's versions and aliases follow the ledger")
    one.add_argument("recipe")
    one = verb("doctor", commands.doctor, "look at everything a run needs, and at what was left behind; exit code 1 if anything")
    one.add_argument("--abort-uploads", action="store_true", help="end uploads to the store that began more than a day ago")
    verb("ui", commands.ui, "open the MLflow and Prefect pages on this machine, until Ctrl-C")
    one = verb("stage", commands.stage, "run one stage on the output of the one before (what flows and dvc call)")
    one.add_argument("stage", choices=STAGES)
    one.add_argument("recipe")
    one.add_argument("--trial", type=int, help="train: this trial of the recipe's search")
    one.add_argument("--rung", type=int, help="train: the trial only as far as this rung of the search")
    one.add_argument("--seed", type=int, help="train: the candidate again, with this seed")
    return parser, verbs.choices


if __name__ == "__main__":
    sys.exit(main())
