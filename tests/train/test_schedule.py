"""The learning rate and the estimator's power against the released loop's values."""

import json
from pathlib import Path

import pytest

from zoo.errors import UsageError
from zoo.layers.binary import reste_power
from zoo.train.recipe import Schedule, load_recipe
from zoo.train.schedule import learning_rate

GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "reste_schedules.json").read_text())
RUNS = {name: run for name, run in GOLDEN.items() if isinstance(run, dict) and "lr" in run}


@pytest.mark.parametrize("name", RUNS)
def test_paper_schedule(name):
    run = RUNS[name]
    schedule = Schedule(epochs=run["epochs"], warmup=5 if run["warm_up"] else 0, shape="epoch_cosine")
    for epoch, lr in run["lr"].items():
        # the released scheduler multiplies its way down from epoch to epoch; rounding piles up to 1e-10
        assert learning_rate(schedule, run["base_lr"], int(epoch)) == pytest.approx(lr, rel=1e-9), epoch
    for epoch, power in run["o"].items():
        # the released loop computes it in float32, whose last digit is 1.2e-7
        assert reste_power(int(epoch), run["epochs"], run["o_end"]) == pytest.approx(power, rel=3e-7), epoch


def test_paper_schedule_keeps_to_its_rate_or_is_refused():
    """It is chained onto the warm-up while rising; over a few epochs it would rise to many times the rate."""
    for epochs in (6, 8, 9, 24):
        with pytest.raises(UsageError, match=r"schedule.*no warmup, or 20 epochs and more"):
            load_recipe("reste_resnet20_cifar_paper", (f"schedule.epochs={epochs}",))
    for overrides in (("schedule.epochs=25",), ("schedule.epochs=4", "schedule.warmup=0")):
        schedule = load_recipe("reste_resnet20_cifar_paper", overrides).schedule
        # 2 / (1 + cos(4 pi / 21)), the overshoot over the fewest epochs that are allowed
        assert max(learning_rate(schedule, 1.0, epoch) for epoch in range(schedule.epochs)) < 1.1


def test_cosine_rises_then_falls_to_nothing():
    schedule = Schedule(epochs=10, warmup=2)
    rates = [learning_rate(schedule, 1.0, epoch, done) for epoch in range(10) for done in (0.0, 0.5)]
    assert rates[0] == 0
    assert rates[4] == 1
    assert rates[1:5] == sorted(rates[1:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(schedule, 1.0, 9, 0.999) < 1e-6


@pytest.mark.parametrize(("epoch", "epochs", "end"), [(-1, 10, 3), (11, 10, 3), (1, 10, 0.5)])
def test_power_refuses_what_is_outside(epoch, epochs, end):
    with pytest.raises(ValueError, match=r"epoch|end"):
        reste_power(epoch, epochs, end)


def test_line_ends_at_the_least_rate_and_steps_fall_where_told():
    line = Schedule(epochs=11, warmup=1, shape="linear", min_lr=0.1)
    assert [learning_rate(line, 1.1, epoch) for epoch in (1, 6, 11)] == pytest.approx([1.1, 0.6, 0.1])
    steps = Schedule(epochs=9, shape="step", step_epochs=(3, 6), step_rate=0.5)
    assert [learning_rate(steps, 1.0, epoch, 0.9) for epoch in (0, 2, 3, 5, 6, 8)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    assert learning_rate(Schedule(epochs=9, shape="constant"), 1.0, 8, 0.9) == 1.0
    cosine = Schedule(epochs=10, min_lr=0.2)
    assert learning_rate(cosine, 1.0, 5) == pytest.approx(0.6)
    assert learning_rate(cosine, 1.0, 10) == pytest.approx(0.2)
