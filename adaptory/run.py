"""A run: one recipe on one dataset version, named by the digest of everything its result depends on.

The same inputs always work in the same folder, so a run that was interrupted goes on where it can, and a run
whose key was judged already has nothing to do.
"""

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path

from adaptory import fingerprint
from adaptory.data import Dataset, dataset_version
from adaptory.errors import NotFound, RecipeError, StageError
from adaptory.frozen import Frozen, Name, Sha256
from adaptory.params import load
from adaptory.recipe import Recipe
from adaptory.recipe.training import Training, plain
from adaptory.registry.judged import Judged
from adaptory.registry.ledger import Record, head
from adaptory.search.choice import read as read_choice
from adaptory.storage import ObjectStore, open_store
from adaptory.workspace import Workspace

_CODE = Path(__file__).parent
_LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


class Pin(Frozen):
    """What a process or a machine that does one stage of a run is told of it."""

    key: Sha256
    """Of recipe, data, code, libraries and the champions that the run builds on."""
    start: Sha256 | None = None
    """The release that training.start meant when the run began."""
    compared: tuple[tuple[Name, Sha256], ...] = ()
    """And those of evaluation.compare: others may be promoted meanwhile."""


@dataclass(frozen=True)
class Run:
    """What a run works on and where it leaves its files."""

    workspace: Workspace
    recipe: Recipe
    dataset: Dataset
    start: str | None = None  # digest of the release that training.start means now
    chosen: Training | None = None  # what a search, or the arbiter of methods, chose
    compared: tuple[tuple[str, str], ...] = ()  # recipes of evaluation.compare, and the releases they mean now

    @property
    def pin(self) -> Pin:
        return Pin(key=self.key, start=self.start, compared=self.compared)

    @property
    def settings(self) -> Training:
        """What the candidate is trained with. Raises StageError when that is to be chosen, and was not yet."""
        if self.chosen is None and self.recipe.chooses:
            name = self.recipe.name
            raise StageError(f"the settings of {name!r} are to be chosen first; run: adaptory stage choose {name}")
        return self.chosen or self.recipe.training

    @property
    def training_key(self) -> str:
        """The digest of what the adapter depends on: a changed gate does not train again."""
        return self._training_key(self.settings)

    @property
    def key(self) -> str:
        """The digest of what the verdict depends on."""
        return fingerprint.of_json(
            {
                "schema": "run/v1",
                "training": self._training_key(self.recipe.training),
                "recipe": self.recipe.digest,
                "compared": self.compared,
                "cases": self._cases,
                "code": [code_digest(package) for package in ("search", "evaluation", "gate")],
            }
        )

    @property
    def _cases(self) -> str | None:
        """The digest of the behavioural cases, if there are any."""
        path = self.workspace.root / (self.recipe.evaluation.cases or "")
        return fingerprint.of_file(path) if path.is_file() else None

    def _training_key(self, settings: Training) -> str:
        return fingerprint.of_json(
            {
                "schema": "training/v1",
                "data": self.dataset.digest,
                "base": self.dataset.base,
                "task": self.recipe.task,
                "training": plain(settings),
                "start": self.start,
                "code": code_digest("training"),
                "libraries": libraries(),
            }
        )

    def trained_with(self, settings: Training) -> "Run":
        """The same run, whose candidate is trained with these settings, within the recipe's limits of today."""
        limits = {name: getattr(self.recipe.training, name) for name in ("deadline", "memory")}
        return replace(self, chosen=settings.model_copy(update=limits))

    def repeats(self) -> list["Run"]:
        """The runs that train the candidate again with other seeds, as evaluation.seeds asks."""
        seeds = range(self.settings.seed + 1, self.settings.seed + 1 + self.recipe.evaluation.seeds)
        return [self.trained_with(self.settings.model_copy(update={"seed": seed})) for seed in seeds]

    @property
    def folder(self) -> Path:
        return self.workspace.runs(self.recipe.name) / fingerprint.short(self.key)

    @property
    def search_folder(self) -> Path:
        """Where the choice of the settings is kept: named by everything it depends on (a changed gate is not among that)."""
        recipe = self.recipe
        facts = {
            "training": self._training_key(recipe.training),
            "search": recipe.search.model_dump(mode="json") if recipe.search else recipe.evaluation.model_dump(mode="json"),
            "code": [code_digest(package) for package in ("search", "evaluation")],
        }
        return self.workspace.runs(self.recipe.name) / f"search-{fingerprint.short(fingerprint.of_json(facts))}"

    @property
    def candidate_folder(self) -> Path:
        return self.workspace.runs(self.recipe.name) / f"candidate-{fingerprint.short(self.training_key)}"

    @property
    def checkpoints(self) -> Path:
        """Where its training leaves off; gone when it is done."""
        return self.candidate_folder.with_name(f"{self.candidate_folder.name}.checkpoints")


class Outcome(Frozen):
    """How a retrain ended, for whoever asked for it."""

    recipe: str
    outcome: str  # a verdict, NOTHING_NEW or NEEDS_APPROVAL
    reason: str
    version: int | None  # the champion now
    folder: str  # evidence, verdict and report
    registry_version: str | None = None  # MLflow's number for it

    @classmethod
    def nothing_new(cls, run: Run, judged: Judged) -> "Outcome":
        """The outcome when exactly these inputs were judged before."""
        since = f"since v{judged.champion_version}" if judged.champion_version else "since the last run"
        reason = f"nothing new {since}: these inputs were judged {judged.outcome} on {judged.time[:16].replace('T', ' at ')} UTC"
        return cls(
            recipe=run.recipe.name, outcome="NOTHING_NEW", reason=reason, version=judged.champion_version, folder=str(run.folder)
        )


def on(workspace: Workspace, recipe: Recipe, dataset: Dataset) -> Run:
    """The run of a recipe on this dataset. Raises RecipeError when training.start has no champion to go on from."""
    name, start = recipe.training.start, None
    if name is not None:
        champion = head(open_store(workspace.store), name)
        if champion is None:
            raise RecipeError(f"training.start: {name!r} has no champion yet; run: adaptory retrain {name}")
        start = champion.release
    compared = []
    for other in recipe.evaluation.compare:
        record = head(open_store(workspace.store), other)
        if record is None:
            raise RecipeError(f"evaluation.compare: {other!r} has no champion yet; run: adaptory retrain {other}")
        _check_comparable(open_store(workspace.store), record, recipe)
        compared.append((other, record.release))
    if recipe.evaluation.cases:
        from adaptory.evaluation import cases

        cases.read(workspace.root / recipe.evaluation.cases, recipe)  # a fault in them is told before anything is trained
    return _chosen(Run(workspace, recipe, dataset, start, None, tuple(compared)))


def _chosen(made: Run) -> Run:
    """The run with the settings that were chosen for it, if they were."""
    if made.recipe.chooses and (choice := read_choice(made.search_folder)):
        return made.trained_with(choice.training)
    return made


def _check_comparable(store: ObjectStore, record: Record, recipe: Recipe) -> None:
    """Raises RecipeError for a champion that answers another question: said before anything is trained."""
    try:
        card = json.loads(store.get(f"releases/{record.model}/{fingerprint.hex_of(record.release)}/candidate.json"))
    except (NotFound, ValueError):
        return  # the evaluation tells of what cannot be had
    theirs, ours = [card["task"], *card["classes"]], [recipe.task, *recipe.data.classes]
    if recipe.task == "preference":
        theirs, ours = [*theirs, card["objective"]], [*ours, recipe.training.objective]
    if theirs != ours:
        said = f"the champion of {record.model!r} answers {' '.join(theirs)}, this recipe {' '.join(ours)}"
        raise RecipeError(f"evaluation.compare: {said}; compare with one that answers the same")


def current(workspace: Workspace, name: str, pin: Pin | None = None) -> Run:
    """The run on the data that lies in the workspace. Raises RecipeError or DataError.

    With a pin, the run that it names: StageError unless data, recipe, code and libraries are still those.
    """
    recipe, dataset = load(workspace.recipes_file, name), dataset_version(workspace, name)
    if pin is None:
        return on(workspace, recipe, dataset)
    made = _chosen(Run(workspace, recipe, dataset, pin.start, None, pin.compared))
    if made.key != pin.key:
        raise StageError(
            f"data, recipe, code or libraries of {name!r} are others than when this run began, so it ends here; "
            f"run it again: adaptory retrain {name}"
        )
    return made


def libraries() -> dict[str, str]:
    """The versions of the libraries that numbers depend on; torch is the same for a CPU (2.13.0+cpu) as for a GPU: where a
    candidate was trained stands on its card."""
    return {name: version(name).partition("+")[0] for name in _LIBRARIES}


@cache
def code_digest(package: str) -> str:
    """The digest of one package's source: results may change when it does. Of this process's, that is, whatever comes later."""
    folder = _CODE / package
    return fingerprint.of_files(folder, [n for n in fingerprint.files_below(folder) if n.endswith(".py")])
