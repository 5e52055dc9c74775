"""`dvc repro` as one call: in a subprocess, one at a time per checkout, with our own errors passed through.

DVC's own lock waits three seconds and does not keep two threads apart, hence ours (notes: dvc#10752).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from adaptory import storage
from adaptory.data import lock
from adaptory.data.dataset import CARD, Dataset, record_version, stage_names
from adaptory.data.fetching import STATE, sources_changed
from adaptory.errors import StageError
from adaptory.process import raise_what_it_said, told_errors
from adaptory.recipe import Recipe
from adaptory.workspace import Workspace

_WAIT = 3600.0  # seconds another preparation may take


def prepare(workspace: Workspace, recipe: Recipe, *, force: bool = False) -> Dataset:
    """Brings the recipe's data up to date, and returns the dataset version; what is new is put into the DVC remote.

    Raises DataError (and its kin) as the stage raised it; StageError when DVC itself fails.
    """
    from filelock import FileLock

    workspace.home.mkdir(parents=True, exist_ok=True)
    for other in _asked_of(workspace, recipe):
        _brought(workspace, other)
    with FileLock(workspace.home / "dvc.lock", timeout=_WAIT):
        names, whole = stage_names(recipe.name), workspace.root / "dvc.lock"
        before = lock.read(whole, names)
        _pushed(workspace, recipe).unlink(missing_ok=True)
        commands = [["repro", *(["--force"] if force else []), *names], _push(names)]
        if force:  # nothing that was fetched before is taken over: it may be damaged
            (workspace.data(recipe.name) / "raw" / STATE).unlink(missing_ok=True)
        if not force and sources_changed(workspace, recipe):
            commands.insert(0, ["repro", "--force", "--single-item", names[0]])
        _dvc(workspace, recipe, *commands, last_if_changed=not force)
        made = record_version(workspace, recipe.name)
        if force or lock.read(whole, names) != before:
            _pushed(workspace, recipe).touch()
        return made


def _asked_of(workspace: Workspace, recipe: Recipe) -> list[Recipe]:
    """The recipes whose champions this one draws answers from, and whose rows are not on this machine: another one retrained
    them."""
    from adaptory import params
    from adaptory.registry import head

    places = [storage.parse(source.uri, workspace.root) for source in recipe.data.sources.values()]
    names = sorted({place.recipe for place in places if isinstance(place, storage.Champion)})
    bare = [name for name in names if not (workspace.data(name) / "splits" / CARD).is_file()]
    known = [name for name in bare if name != recipe.name and head(storage.open_store(workspace.store), name)]
    return [params.load(workspace.recipes_file, name) for name in known]


def _brought(workspace: Workspace, recipe: Recipe) -> None:
    """The rows of this recipe as dvc.lock names them; made from its sources where the remote does not have them.

    What it draws from others itself is not looked for: it would be told.
    """
    try:
        pull(workspace, recipe)
    except StageError:
        from filelock import FileLock

        with FileLock(workspace.home / "dvc.lock", timeout=_WAIT):
            names = stage_names(recipe.name)
            _dvc(workspace, recipe, ["repro", *names], _push(names))
            record_version(workspace, recipe.name)


def keep(workspace: Workspace, recipe: Recipe) -> None:
    """Returns when what `prepare` made is in the DVC remote. Raises StageError.

    `prepare` has put it there if it made anything. If not, it was there once; that is looked up only when there is work to do.
    """
    from filelock import FileLock

    with FileLock(workspace.home / "dvc.lock", timeout=_WAIT):
        if not _pushed(workspace, recipe).is_file():
            _dvc(workspace, recipe, _push(stage_names(recipe.name)))
            _pushed(workspace, recipe).touch()


def _pushed(workspace: Workspace, recipe: Recipe) -> Path:
    """There, if what the last `prepare` found or made is in the remote for sure."""
    return workspace.home / "datasets" / f"{recipe.name}.pushed"


def _push(stages: list[str]) -> list[str]:
    return ["push", "--no-run-cache", *stages]


def pull(workspace: Workspace, recipe: Recipe) -> Dataset:
    """Brings exactly the data that dvc.lock names from the DVC remote, verified; makes nothing itself.

    Raises StageError, and leaves what was there, when the remote lacks an object or holds other bytes.
    """
    from filelock import FileLock

    workspace.home.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.home / "dvc.lock", timeout=_WAIT):
        names = stage_names(recipe.name)
        # First everything into the cache, where it is verified; only then into place.
        try:
            _dvc(workspace, recipe, ["fetch", *names], ["checkout", "--force", *names])
        except StageError as fault:
            told = ", ".join(f"{md5} is {name}" for md5, name in _absent(workspace, names))
            raise StageError(f"the DVC remote cannot give what dvc.lock names{': ' * bool(told)}{told} ({fault})") from None
        return record_version(workspace, recipe.name)


# The files of some folders (by the md5 of their lists) that did not arrive in the cache: missing there, or refused.
_ABSENT = """
import json, sys
from dvc.repo import Repo
repo = Repo()
remote, cache = repo.cloud.get_remote_odb(), repo.cache.local
for folder in sys.argv[1:]:
    for item in json.loads(remote.fs.cat_file(remote.oid_to_path(folder))):
        if not cache.exists(item["md5"]):
            print(folder, item["md5"], item["relpath"])
"""


def _absent(workspace: Workspace, stages: list[str]) -> list[tuple[str, str]]:
    """md5 and name of every file that the remote did not give."""
    known = lock.read(workspace.root / "dvc.lock", stages)
    outs = {out["md5"]: out["path"] for section in known.values() for out in section.get("outs", ())}
    command = [sys.executable, "-c", _ABSENT, *outs]
    environment = workspace.environment()
    done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True, check=False)
    found = (line.split(" ", 2) for line in done.stdout.splitlines())
    return [(md5, f"{outs[folder]}/{name}") for folder, md5, name in found]


def pending(workspace: Workspace, recipe: Recipe) -> bool:
    """Whether anything the data depends on has changed since it was prepared."""
    if sources_changed(workspace, recipe) or not (workspace.root / "dvc.lock").is_file():
        return True
    return _dvc(workspace, recipe, ["status", "--quiet", *stage_names(recipe.name)], check=False) != 0


def _point_at(workspace: Workspace, remote: str) -> None:
    """Makes the remote `default` of this checkout the one of the environment; committed settings stay as they are."""
    file = workspace.root / ".dvc" / "config.local"
    told = f"['remote \"default\"']\n    url = {remote}\n"
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        told += f"    endpointurl = {endpoint}\n"
    if not file.is_file() or file.read_text(encoding="utf-8") != told:
        file.write_text(told, encoding="utf-8")


# Importing DVC takes most of a second, so commands that follow one another share a process. DVC has no setting for where its lock
# lies; dvc 3.67 asks this property.
_IN_TURN = """
import json, os, pathlib, sys
from adaptory.garbage import collect_seldom
collect_seldom()
from dvc import dvcfile
from dvc.cli import main
class Lockfile(dvcfile.Lockfile):
    def exists(self):
        return os.path.exists(self.path)
    def _check_gitignored(self):
        pass
own = sys.argv[2]
dvcfile.ProjectFile._lockfile = property(lambda file: Lockfile(file.repo, own))
*commands, last = json.loads(sys.argv[1])
before = pathlib.Path(own).read_bytes()
code = next(filter(None, map(main, commands)), 0)
if not code and (sys.argv[3] != "if changed" or pathlib.Path(own).read_bytes() != before):
    code = main(last)
sys.exit(code)
"""


def _dvc(workspace: Workspace, recipe: Recipe, *commands: list[str], check: bool = True, last_if_changed: bool = False) -> int:
    """Runs DVC commands in turn until one fails; returns its exit code, or 0. The last only if the others changed the lock."""
    environment = workspace.environment()
    # The stages call `adaptory`: the one that belongs to this interpreter.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    environment["DVC_SITE_CACHE_DIR"] = str(workspace.home / "dvc")
    if remote := environment.get("ADAPTORY_DVC_REMOTE"):
        _point_at(workspace, remote)
    whole, own = workspace.root / "dvc.lock", workspace.home / "dvc-locks" / f"{recipe.name}.lock"
    lock.take(whole, stage_names(recipe.name), own)
    with told_errors(environment) as told:
        words = [json.dumps(commands), str(own), "if changed" if last_if_changed else "always"]
        command = [sys.executable, "-c", _IN_TURN, *words]
        done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode >= 0:  # killed, it may have left half of it
            lock.give_back(own, whole)
        if done.returncode and check:
            raise_what_it_said(told)
            last = [line for line in done.stderr.splitlines() if line.strip() and "dvc.org/support" not in line][-3:]
            done_words = " or ".join(one[0] for one in commands)
            raise StageError(f"dvc {done_words} failed: {' '.join(last) or done.stdout[-500:]}")
    return done.returncode
