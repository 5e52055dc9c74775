"""What was tried, what came of it, and what was chosen: the record that everything later refers to."""

from pathlib import Path

from adaptory import whole
from adaptory.frozen import Frozen
from adaptory.recipe.training import Training

CHOICE = "choice.json"


class Trial(Frozen):
    """One way to make the candidate. Without settings nothing is trained: the base is prompted, or asked as it is."""

    number: int
    name: str
    training: Training | None
    baseline: str | None = None

    @property
    def settings(self) -> Training:
        """What it trains with."""
        assert self.training is not None, "this trial only asks"
        return self.training


class Tried(Frozen):
    """What came of a trial."""

    trial: Trial
    share: float  # of its training that was done
    score: float | None  # on the validation rows, better when higher; None: it failed
    low: float | None = None  # its interval, where one was drawn
    high: float | None = None
    behind: tuple[float, float] | None = None  # interval of what the best is ahead, on the same rows
    failed: str | None = None
    seconds: float = 0.0  # of training
    flops: float = 0.0
    trainable: int = 0  # parameters
    latency: float | None = None  # milliseconds a row; with loading the base, where nothing is trained


class Choice(Frozen):
    """The settings that the candidate is trained with, and why."""

    schema_version: str = "choice/v1"
    measured: str  # the name of the score
    rows: int  # that it was measured on
    tried: tuple[Tried, ...]
    chosen: int  # the trial's number
    training: Training
    reason: str


def read(folder: Path) -> Choice | None:
    """The choice that was made in this folder, or None."""
    path = folder / CHOICE
    return Choice.model_validate_json(path.read_bytes()) if path.is_file() else None


def write(folder: Path, choice: Choice) -> None:
    """Keeps the choice, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    whole.write(folder / CHOICE, choice.model_dump_json(indent=1) + "\n")
