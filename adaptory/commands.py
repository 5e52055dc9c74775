"""What each command does. Everything heavy is imported by the command that needs it."""

import argparse
import sys

from adaptory.errors import UserError


def retrain(words: argparse.Namespace) -> int:
    from adaptory import retrain

    return retrain.command(words.recipe, accept_drift=words.accept_drift)


def prepare(words: argparse.Namespace) -> int:
    from adaptory import data, params, retrain, workspace

    place = workspace.find()
    recipe = params.load(place.recipes_file, words.recipe)
    with retrain.alone(place, words.recipe):
        dataset = data.pull(place, recipe) if words.pull else data.prepare(place, recipe, force=words.force)
        if not words.pull:
            data.keep(place, recipe)
    card = dataset.card
    for split, counts in card.counts.items():
        print(f"{split:<11}{sum(counts.values()):>8,} rows   " + ", ".join(f"{n:,} {label}" for label, n in counts.items()))
    for reason, count in card.quarantined.items():
        print(f"quarantined{count:>8,} rows   {reason}")
    print(f"dataset {dataset.digest}")
    return 0


def pull(words: argparse.Namespace) -> int:
    from adaptory import release, workspace
    from adaptory.storage.objects import open_store

    store = open_store(words.store or workspace.find().store)
    if words.watch:
        release.watch(store, words.name, words.folder, words.watch, lambda said: print(said, flush=True), strict=words.strict)
    done = release.pull(store, words.name, words.folder, strict=words.strict)
    moved = f"{done.bytes_moved / 1e6:.1f} MB moved and verified" if done.bytes_moved else "unchanged, nothing moved"
    print(f"{done.model} v{done.version} is in {done.folder} ({moved})")
    return 0


def smoke(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.release import serving

    place = workspace.find()
    place.activate()
    wrong = serving.smoke(words.folder, place.root, place.cache)
    for line in wrong:
        print(line)
    print(f"{words.folder}: answers its example {'otherwise than' if wrong else 'as'} when it was released")
    return 1 if wrong else 0


def export(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.release.export import export as exported

    place = workspace.find()
    place.activate()
    print(exported(words.folder, words.out, words.form, place.root, place.cache))
    return 0


def predict(words: argparse.Namespace) -> int:
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


def serve(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.release.serve import serve as served
    from adaptory.storage import open_store

    place = workspace.find()
    place.activate()
    served(open_store(place.store), words.name, place, words.host, words.port, words.every)
    return 0


def history(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.registry import ledger
    from adaptory.storage.objects import open_store

    records = ledger.history(open_store(workspace.find().store), words.recipe)
    if not records:
        print(f"{words.recipe}: nothing was promoted yet")
    for record in records:
        print(f"{record.number:>4}  {record.time}  {record.kind} v{record.version}  by {record.approved_by}: {record.reason}")
    if records and (notice := ledger.by_hand(records)):
        print(notice)
    return 0


def promote(words: argparse.Namespace) -> int:
    from datetime import UTC, datetime, timedelta

    from adaptory.registry import by_hand

    if not words.override:
        print(by_hand.decide(words.recipe, "approve", words.reason))
        return 0
    ends = (datetime.now(UTC) + timedelta(days=words.days)).date().isoformat()
    print(by_hand.override(words.recipe, words.reason, ends))
    return 0


def reject(words: argparse.Namespace) -> int:
    from adaptory.registry import by_hand

    print(by_hand.decide(words.recipe, "reject", words.reason))
    return 0


def rollback(words: argparse.Namespace) -> int:
    from adaptory.registry import by_hand

    print(by_hand.rollback(words.recipe, _version(words.to) if words.to else None, words.reason))
    return 0


def retire(words: argparse.Namespace) -> int:
    from adaptory.registry import by_hand

    print(by_hand.retire(words.recipe, _version(words.version), words.reason))
    return 0


def _version(text: str) -> int:
    number = text.removeprefix("v")
    if not number.isascii() or not number.isdigit():
        raise UserError(f"{text!r} is no version; write v7")
    return int(number)


def why(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.registry.why import why
    from adaptory.storage import open_store

    place, sound = workspace.find(), True
    for step in why(place, open_store(place.store), words.what):
        mark = {True: "✓", False: "✗", None: " "}[step.verified]
        print(f"{mark} {step.what:<12} {step.told}")
        sound = sound and step.verified is not False
    return 0 if sound else 1


def rebuild(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.registry.rebuild import rebuild as made_again
    from adaptory.storage import open_store

    place = workspace.find()
    place.activate()
    same = made_again(place, open_store(place.store), words.what, lambda said: print(said, flush=True))
    print(f"{words.what}: the same bytes" if same else f"{words.what}: other bytes; is this the same kind of processor?")
    return 0 if same else 1


def audit(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.registry.audit import audit
    from adaptory.storage import open_store

    place = workspace.find()
    place.activate()
    found = list(audit(place, open_store(place.store), words.recipe))
    for line in found:
        print(line)
    print(f"{words.recipe}: {len(found)} found" if found else f"{words.recipe}: everything agrees with the ledger")
    return 1 if found else 0


def report(words: argparse.Namespace) -> int:
    from adaptory import retrain

    return retrain.show_last(words.recipe)


def gate(words: argparse.Namespace) -> int:
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


def doctor(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.doctor import as_text, examine

    place = workspace.find()
    place.activate()
    found = list(examine(place, abort_uploads=words.abort_uploads))
    for one in found:
        print(as_text(one))
    return 1 if any(one.wrong for one in found) else 0


def notify(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.arrivals import notify as tell

    place = workspace.find()
    digest, told = tell(place, words.recipe)
    print(f"{words.recipe}: {digest} {'was told to Prefect' if told else 'was told before; nothing new'}")
    return 0


def reconcile(words: argparse.Namespace) -> int:
    from adaptory import workspace
    from adaptory.registry import projection
    from adaptory.storage import open_store

    place = workspace.find()
    place.activate()
    for line in projection.project(place, open_store(place.store), words.recipe).changes or ["nothing to change"]:
        print(line)
    return 0


def ui(words: argparse.Namespace) -> int:
    from adaptory import ui, workspace

    return ui.serve(workspace.find())


def stage(words: argparse.Namespace) -> int:
    from adaptory import stage
    from adaptory.training import preemption

    preemption.listen()
    stage.perform(words.stage, words.recipe, words.trial, words.rung, words.seed)
    return 0
