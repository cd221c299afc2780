"""The rules that end an SAE's training."""

import pytest

from dmcore.errors import SpecError
from dmcore.training.schedule import Budget, Plateau, PlateauRule


def build_rule(**overrides) -> PlateauRule:
    settings = {
        "min_tokens": 200,
        "max_tokens": 1000,
        "window": 2,
        "improvement": 0.01,
        "decay_share": 0.25,
        "warmup_tokens": 50,
    }
    return PlateauRule(**(settings | overrides))


def watch(schedule: Plateau, values: list[float], every: int = 100) -> Plateau:
    for index, value in enumerate(values, 1):
        schedule.look(index * every, value)
    return schedule


def test_training_goes_on_while_the_fvu_falls_by_more_than_the_rule_asks():
    schedule = watch(Plateau(build_rule()), [0.5, 0.4, 0.35, 0.32, 0.30, 0.29])
    assert schedule.decay_from is None
    assert not schedule.finished(10**9)


def test_training_decays_at_the_first_look_where_the_fvu_has_stopped_falling():
    schedule = watch(Plateau(build_rule()), [0.5, 0.4, 0.3, 0.2999, 0.2998, 0.1])
    assert (schedule.decay_from, schedule.stopped_by) == (500, "plateau")
    assert schedule.end == 625


def test_a_single_noisy_look_does_not_end_training():
    schedule = watch(Plateau(build_rule()), [0.5, 0.4, 0.41, 0.3])
    assert schedule.decay_from is None


def test_no_decision_is_made_before_the_minimum():
    schedule = watch(Plateau(build_rule(min_tokens=600)), [0.5] * 5)
    assert schedule.decay_from is None
    schedule.look(600, 0.5)
    assert schedule.stopped_by == "plateau"


def test_looks_at_a_sparsity_that_still_moves_neither_end_training_nor_count_later():
    schedule = Plateau(build_rule())
    for tokens in (100, 200, 300, 400, 500):
        schedule.look(tokens, 0.2, settled=False)
    assert schedule.decay_from is None
    # Now sparser, with a higher FVU that still falls.
    for tokens, fvu in ((600, 0.40), (700, 0.38), (800, 0.36)):
        schedule.look(tokens, fvu)
    assert schedule.decay_from is None
    schedule.look(900, 0.3599)
    schedule.look(950, 0.3598)
    assert (schedule.decay_from, schedule.stopped_by) == (950, "plateau")


def test_the_budget_ends_a_run_that_still_improves_and_says_so():
    schedule = watch(Plateau(build_rule()), [0.5 * 0.9**i for i in range(10)])
    assert (schedule.decay_from, schedule.stopped_by) == (1000, "token budget")


def test_the_rate_warms_up_stays_and_falls_to_zero():
    schedule = Plateau(build_rule())
    assert schedule.rate(0) == pytest.approx(1 / 50)
    assert schedule.rate(50) == schedule.rate(999) == 1.0
    schedule.start_decay(800, "plateau")
    assert schedule.rate(800) == 1.0
    assert schedule.rate(900) == pytest.approx(0.5)
    assert schedule.rate(1000) == 0.0
    assert schedule.finished(1000)
    assert not schedule.finished(999)


@pytest.mark.parametrize("wrong", [{"improvement": 0.0}, {"window": 0}, {"min_tokens": 2000}])
def test_impossible_rules_are_refused(wrong):
    with pytest.raises(SpecError):
        build_rule(**wrong)


def test_a_budget_warms_up_stays_falls_to_zero_and_ends():
    schedule = Budget(1000)
    assert schedule.rate(0) == pytest.approx(1 / 50)
    assert schedule.rate(50) == schedule.rate(800) == 1.0
    assert schedule.rate(900) == pytest.approx(0.5)
    assert not schedule.finished(999)
    assert schedule.finished(1000)
    assert Budget(10**9).rate(4_000_000) == 1.0, "the warm-up of a long training is a thousand steps"


def test_what_a_checkpoint_keeps_restores_a_schedule():
    one = watch(Plateau(build_rule()), [0.5, 0.4, 0.3, 0.2999, 0.2998])
    two = Plateau(build_rule())
    two.restore(one.state())
    assert two == one
    assert two.rate(560) == one.rate(560) < 1
