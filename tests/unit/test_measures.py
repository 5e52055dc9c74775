"""Corpus scores are sacrebleu's to the last digit, resampled ones included; a placeholder that is lost is seen."""

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sklearn.metrics import mean_absolute_error

from adaptory.evaluation import metrics
from adaptory.evaluation.measures import MEASURES, PLACEHOLDER
from adaptory.evaluation.resampling import draws
from adaptory.evaluation.scores import Answers, Truth

RIGHT = ["Le chat est sur le tapis.", "Enregistrer %(name)s", "Aucun résultat", "{count} pages", "Bonjour le monde"] * 6
SAID = ["Le chat est sur le lit.", "Enregistrer %(nom)s", "Aucun résultat", "{count} page", "Bonjour à tous"] * 6
ASKED = ["The cat is on the mat.", "Save %(name)s", "No result", "{count} pages", "Hello <b>world</b>"] * 6
ROWS = tuple(f"s/{n}" for n in range(30))


def pair() -> tuple[Truth, Answers]:
    truth = Truth(ROWS, ("s",) * 30, asked=tuple(ASKED), texts=tuple(RIGHT))
    return truth, Answers("candidate", "candidate", texts=tuple(SAID), stopped=np.arange(30) % 10 > 0)


def test_bleu_and_chrf_are_sacrebleus_and_carry_its_signature() -> None:
    truth, answers = pair()
    found = metrics.values(truth, answers, ("bleu", "chrf"), 0)
    for name, theirs in (("bleu", BLEU()), ("chrf", CHRF())):
        assert found[name] == pytest.approx(theirs.corpus_score(SAID, [RIGHT]).score, abs=1e-9)
        assert MEASURES[name].signature == str(theirs.get_signature())


def test_a_resampled_corpus_score_is_the_score_of_the_rows_that_were_drawn() -> None:
    truth, answers = pair()
    drawn = {m: np.concatenate([MEASURES[m].of(truth, answers, 0)(w) for w in draws(30, 3, seed=5)]) for m in ("bleu", "chrf")}
    for place, counts in enumerate(next(draws(30, 3, seed=5)).astype(int)):
        rows = np.repeat(np.arange(30), counts)
        said, right = [SAID[row] for row in rows], [RIGHT[row] for row in rows]
        assert drawn["bleu"][place] == pytest.approx(BLEU().corpus_score(said, [right]).score)
        assert drawn["chrf"][place] == pytest.approx(CHRF().corpus_score(said, [right]).score)


def test_placeholders_exact_matches_and_stops_are_counted() -> None:
    truth, answers = pair()
    found = metrics.values(truth, answers, ("exact_match", "placeholders", "stopped"), 0)
    assert found["exact_match"] == pytest.approx(1 / 5)
    assert found["placeholders"] == pytest.approx(1 / 4), "of %(name)s, {count}, <b> and </b> one survives"
    assert found["stopped"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%(name)s and %s", ["%(name)s", "%s"]),
        ("%(count)d of {0} in {name}", ["%(count)d", "{0}", "{name}"]),
        ('<a href="x">y</a> &amp; 100 % sure', ['<a href="x">', "</a>", "&amp;"]),
        ("a < b, 5% and { text }", []),
    ],
)
def test_a_placeholder_is_what_a_program_fills_in(text: str, found: list[str]) -> None:
    assert PLACEHOLDER.findall(text) == found


def test_the_error_of_values_is_the_librarys_and_perplexity_weighs_tokens() -> None:
    random = np.random.default_rng(0)
    values, said = random.normal(size=30), random.normal(size=30)
    truth = Truth(ROWS, ("s",) * 30, values=values)
    answers = Answers("candidate", "candidate", score=said, loss=np.arange(30.0), tokens=np.arange(30.0) + 1)
    assert metrics.values(truth, answers, ("mae",), 0)["mae"] == pytest.approx(mean_absolute_error(values, said))
    assert metrics.values(truth, answers, ("perplexity",), 0)["perplexity"] == pytest.approx(np.exp(435 / 465))


def test_a_tie_between_two_answers_is_half_a_hit() -> None:
    truth = Truth(ROWS[:4], ("s",) * 4)
    answers = Answers("candidate", "candidate", score=np.array([1.0, 0.0, -1.0, 2.0]))
    assert metrics.values(truth, answers, ("reward_accuracy",), 0)["reward_accuracy"] == pytest.approx(0.625)
