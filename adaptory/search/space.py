"""The trials of a `search:`: drawn by Optuna before any is trained, so that they are a function of the recipe."""

import warnings
from typing import Any

from adaptory.errors import RecipeError
from adaptory.recipe import Recipe
from adaptory.recipe.search import Range, Search, changed
from adaptory.recipe.training import Training
from adaptory.search.choice import Trial

_DRAWS = 8  # for each trial that is wanted


def trials(recipe: Recipe) -> tuple[Trial, ...]:
    """The recipe's own settings, then drawn ones, each once, as many as `search.trials` asks and the space has.

    Raises RecipeError for a draw whose settings cannot go together.
    """
    import optuna

    search, own = recipe.search, recipe.training
    assert search is not None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Quasi-random points fill a space more evenly than random ones (Bergstra & Bengio 2012, section 5).
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=search.seed, warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)
    kinds = {name: _distribution(search, name) for name in sorted(search.space)}
    begin = {name: _inside(kind) for name, kind in kinds.items()}
    study.add_trial(optuna.create_trial(params=begin, distributions=kinds, value=0))
    found, impossible = [Trial(number=0, name="as the recipe says", training=own)], None
    for _ in range(_DRAWS * search.trials):
        if len(found) == search.trials:
            break
        values = study.ask(kinds).params
        try:
            made = _settings(own, values, recipe, len(found))
        except RecipeError as fault:  # these values do not go together; others of the space do
            impossible = fault
            continue
        if made not in [one.training for one in found]:  # a small space has fewer settings than were asked for
            found.append(Trial(number=len(found), name=_name(values), training=made))
    if len(found) == 1 and impossible:
        raise impossible
    return tuple(found)


def _distribution(search: Search, name: str) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    values = search.space[name]
    if not isinstance(values, Range):
        return CategoricalDistribution(values)
    if search.whole(name):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _inside(kind: Any) -> Any:
    """A value of the distribution: Optuna learns what the space is from a first trial."""
    return kind.choices[0] if hasattr(kind, "choices") else kind.low


def _settings(own: Training, values: dict[str, Any], recipe: Recipe, number: int) -> Training:
    try:
        made = changed(own, values)
        made.check(recipe.task)
    except ValueError as fault:
        raise RecipeError(f"search: trial {number} ({_name(values)}) cannot be trained: {fault}; narrow search.space") from None
    return made


def _name(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items())
