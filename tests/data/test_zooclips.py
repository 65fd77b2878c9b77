"""The drawn clips: made from seeds alone, captions true of one clip, boxes around what was drawn."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.zooclips import ACTIONS, GROUNDS, SPLITS, TOPS, Person, Pose, film, plan_clip, pose, render, tight_box


def alone(person: Person, seen: Pose, side: int = 64):
    """One frame without grain, and where the person was drawn."""
    frames, drawn = render("grass", [person], [[seen]], side, np.random.default_rng(0))
    return frames[0], drawn[0, 0]


SOMEBODY = Person("red", "navy", 0.5, 0.9, 0.4)


@given(seed=st.integers(0, 2**31))
def test_a_plan_follows_the_protocol(seed):
    plan = plan_clip(seed)
    assert plan == plan_clip(seed)
    assert len(plan.people) == len(plan.actions) == len(plan.captions) in (2, 3)
    assert len({person.top for person in plan.people}) == len(plan.people)
    assert plan.ground in GROUNDS
    for person, action, caption in zip(plan.people, plan.actions, plan.captions, strict=True):
        assert 0.34 <= person.height <= 0.46
        assert 0.80 <= person.feet <= 0.96
        assert caption == (
            f"a person in {person.top} and {person.trousers} trousers {ACTIONS[action]} on {plan.ground}"
        )


def test_a_film_is_the_same_every_time_and_of_the_size_asked_for():
    plan = plan_clip(SPLITS["test"][0])
    pixels = film(plan, 8, 96)
    assert pixels.shape == (8, 96, 96, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, film(plan, 8, 96))
    assert (pixels != film(plan_clip(SPLITS["test"][1]), 8, 96)).any()


def test_the_gallery_has_queries_that_are_true_of_one_clip():
    plans = [plan_clip(seed) for seed in SPLITS["test"]]
    times = Counter(caption for plan in plans for caption in set(plan.captions))
    assert len(plans) == 200
    assert 150 < sum(count == 1 for count in times.values()) < 300
    assert not set(SPLITS["train"]) & set(SPLITS["test"])


@given(
    x=st.floats(-0.3, 1.3),
    feet=st.floats(0.5, 1.2),
    height=st.floats(0.2, 0.6),
    action=st.sampled_from([None, *ACTIONS]),
    progress=st.floats(0.01, 1),
)
def test_a_box_touches_what_was_drawn_on_all_sides(x, feet, height, action, progress):
    _, drawn = alone(Person("blue", "gray", x, feet, height), pose(action, progress))
    box = tight_box(drawn)
    if box is None:
        assert not drawn.any()
        return
    left, top, right, bottom = box
    assert drawn.sum() == drawn[top:bottom, left:right].sum()
    assert all(edge.any() for edge in (drawn[top], drawn[bottom - 1], drawn[:, left], drawn[:, right - 1]))


def test_actions_move_what_they_say():
    still = tight_box(alone(SOMEBODY, Pose(), 256)[1])
    assert still[3] == pytest.approx(0.9 * 256, abs=1)
    assert still[1] == pytest.approx((0.9 - 0.4 * 0.99) * 256, abs=1)  # the disc of the head begins at .01 h
    boxes = {
        action: [tight_box(alone(SOMEBODY, pose(action, u), 256)[1]) for u in (0.25, 0.5, 1)] for action in ACTIONS
    }
    middles = {action: [(box[0] + box[2]) / 2 for box in seen] for action, seen in boxes.items()}
    assert middles["walk_right"][2] - middles["walk_right"][0] == pytest.approx(0.225 * 256, abs=3)
    assert middles["walk_left"][0] - middles["walk_left"][2] == pytest.approx(0.225 * 256, abs=3)
    assert still[3] - boxes["jump"][0][3] == pytest.approx(0.3 * 0.4 * 256, abs=1)
    assert boxes["jump"][1][3] == still[3]
    assert boxes["wave"][0][1] < still[1]
    lower = 0.45 * 0.4 * (1 - 0.12) * 256  # of the head's middle; it stays round
    assert boxes["bend"][1][1] - still[1] == pytest.approx(lower, abs=2)
    assert boxes["bend"][2] == still
    assert boxes["spin"][0][2] - boxes["spin"][0][0] < still[2] - still[0]
    assert pose("spin", 0.5).is_back
    assert not pose("spin", 1.0).is_back


def test_colours_are_those_of_the_words():
    for top, colour in TOPS.items():
        pixels, _ = alone(Person(top, "navy", 0.5, 0.9, 0.4), Pose(), 128)
        chest = pixels[round(0.64 * 128) : round(0.7 * 128), 60:68].reshape(-1, 3).mean(0)
        np.testing.assert_allclose(chest, np.clip(colour, 0, 255), atol=4)  # the mean of 56 pixels of grain


def test_who_stands_nearer_hides_who_stands_behind():
    near, far = Person("red", "navy", 0.5, 0.95, 0.4), Person("blue", "navy", 0.5, 0.85, 0.4)
    for people in ([near, far], [far, near]):
        frames, drawn = render("sand", people, [[Pose()]] * 2, 128, np.random.default_rng(0))
        both = drawn[0, 0] & drawn[1, 0]
        mask = drawn[people.index(near), 0]
        alone_there, _ = alone(near, Pose(), 128)
        assert both.any()
        assert np.abs(frames[0].astype(int) - alone_there)[mask].mean() < 8  # only another grain


def test_an_unknown_action_is_named():
    with pytest.raises(ValueError, match="'fly'"):
        pose("fly", 0.5)
