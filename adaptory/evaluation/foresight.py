"""What the next comparison with the champion can show, given the test rows and what was spent of the budget."""

from adaptory.gate.power import Power, power
from adaptory.registry import decisions, ledger, spending
from adaptory.run import Run
from adaptory.storage import ObjectStore


def foresee(run: Run, store: ObjectStore) -> tuple[Power, ...]:
    """The power of every criterion that wants a gain over the champion; nothing before there is one."""
    recipe = run.recipe
    if ledger.head(store, recipe.name) is None:
        return ()
    rows = run.dataset.rows("test")
    if recipe.evaluation.max_rows:
        rows = min(rows, recipe.evaluation.max_rows)
    budget, number = recipe.gate.budget, len(spending.spent(store, recipe)) + 1
    level = (1 - recipe.evaluation.confidence) / 2 if budget is None else spending.level(number, budget)
    past = (evidence for _, evidence in decisions.decisions(store, recipe.name))
    known = [evidence for evidence in past if evidence.difference("champion", recipe.metrics[0])]
    return power(recipe.gate, rows, level, known[-1] if known else None)
