"""Scenes for grounding: what makes each kind, boxes around what was drawn, the same film from the same seed."""

import numpy as np
import pytest

from zoo.data.zooclips import ACTIONS
from zoo.data.zooclips_ground import SPLITS, absent_sentence, film_scene, plan_scene

SCENES = [plan_scene(seed) for seed in range(700, 800)]


def does(scene, person):
    return {part.action for part in scene.parts[person]}


@pytest.mark.parametrize("kind", ["S", "D", "SD"])
def test_what_a_kind_promises(kind):
    scenes = [scene for scene in SCENES if scene.kind == kind]
    assert len(scenes) > 15
    for scene in scenes:
        top, action = scene.people[0].top, scene.span.action
        alike = [i for i in (1, 2) if scene.people[i].top == top]
        assert len(alike) == {"S": 0, "D": 2, "SD": 1}[kind]
        assert all(action not in does(scene, i) for i in alike)  # so the sentence is true of the target alone
        if kind == "SD":
            (other,) = {1, 2} - set(alike)
            assert action in does(scene, other)


def test_actions_are_two_apart_and_of_the_right_length():
    for scene in SCENES:
        for first, second in scene.parts:
            assert first.action != second.action
            assert 0 <= first.start < first.end < second.start < second.end <= scene.frames
            assert all(3 <= part.end - part.start <= 4 for part in (first, second))
        assert scene.sentence == f"the person in {scene.people[0].top} {ACTIONS[scene.span.action]}"


def test_a_film_and_its_boxes():
    scene = plan_scene(500_000)
    clip, again = film_scene(scene), film_scene(scene)
    assert clip.frames.shape == (10, 64, 64, 3)
    assert np.array_equal(clip.frames, again.frames)
    assert clip.boxes.shape == (3, 10, 4)
    assert np.all((clip.boxes >= 0) & (clip.boxes <= 1))
    assert np.all(clip.boxes[..., 2:] > clip.boxes[..., :2])
    still = film_scene(scene, only=4)
    np.testing.assert_array_equal(still.boxes[:, 0], clip.boxes[:, 4])


def test_the_sets_are_apart_and_hold_all_kinds():
    train, val, test = (set(SPLITS[name]) for name in ("train", "val", "test"))
    assert train.isdisjoint(val | test)
    assert val.isdisjoint(test)
    kinds = [plan_scene(seed).kind for seed in SPLITS["test"]]
    assert {kind: kinds.count(kind) for kind in ("S", "D", "SD")} == {"S": 108, "D": 98, "SD": 94}


def test_an_absent_sentence_is_true_of_nobody():
    rng = np.random.default_rng(0)
    for scene in SCENES:
        sentence = absent_sentence(scene, rng)
        assert all(scene.sentence_of(person, part) != sentence for person in range(3) for part in range(2))


def test_the_networks_vocabulary_holds_every_sentence():
    from zoo.models.stvgformer import WORDS

    spoken = {word for scene in SCENES for word in scene.sentence.split()}
    assert spoken <= set(WORDS)
