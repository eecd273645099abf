import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import TrainConfig
from trainer.schedule import START_DIVISOR, WARMUP_SHARE, learning_rates

PEAK = 0.25


def config(schedule: str) -> TrainConfig:
    return TrainConfig.model_validate({"schedule": schedule, "learning_rate": PEAK})


def test_constant_is_constant() -> None:
    np.testing.assert_array_equal(learning_rates(config("constant"), 10, 0, 10), np.float32(PEAK))


def test_cosine_falls_from_the_peak_to_nothing() -> None:
    rates = learning_rates(config("cosine"), 1000, 0, 1000)
    assert (np.diff(rates) < 0).all()
    assert rates[0] == pytest.approx(PEAK, rel=1e-4)
    assert rates[500] == pytest.approx(PEAK / 2, rel=1e-2)
    assert 0 < rates[-1] < PEAK * 1e-4


def test_one_cycle_rises_to_the_peak_and_falls_to_nothing() -> None:
    rates = learning_rates(config("one-cycle"), 1000, 0, 1000)
    top = int(WARMUP_SHARE * 1000)
    assert rates[0] == pytest.approx(PEAK / START_DIVISOR, rel=1e-2)
    assert (np.diff(rates[:top]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates.max() == pytest.approx(PEAK, rel=1e-4)
    assert 0 < rates[-1] < PEAK * 1e-4


def test_a_step_has_the_rate_of_its_middle() -> None:
    # So that a run of any length, also of one step, starts and ends alike.
    assert learning_rates(config("cosine"), 1, 0, 1).tolist() == pytest.approx([PEAK / 2])
    rates = learning_rates(config("cosine"), 7, 0, 7)
    np.testing.assert_allclose(rates + rates[::-1], PEAK, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_no_step_jumps(schedule: str) -> None:
    # The steepest cosine falls by pi / 2 of its height over its length; one-cycle's shorter
    # side takes WARMUP_SHARE of the run.
    steepest = np.pi / 2 / WARMUP_SHARE * PEAK / 1000
    rates = learning_rates(config(schedule), 1000, 0, 1000)
    assert np.abs(np.diff(rates)).max() <= steepest


@given(
    schedule=st.sampled_from(["constant", "cosine", "one-cycle"]),
    total=st.integers(1, 300),
    data=st.data(),
)
def test_a_rate_depends_on_its_step_alone(schedule: str, total: int, data: st.DataObject) -> None:
    whole = learning_rates(config(schedule), total, 0, total)
    assert whole.dtype == np.float32
    assert ((whole > 0) & (whole <= np.float32(PEAK))).all()
    first = data.draw(st.integers(0, total))
    count = data.draw(st.integers(0, total - first))
    part = learning_rates(config(schedule), total, first, count)
    np.testing.assert_array_equal(part, whole[first : first + count])
