"""Drawn people: the same in any order, in the layouts that they claim, and with cues where they should be."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.data.crops import open_crops
from zoo.data.people import INFRARED, PLACES, VISIBLE, person, picture
from zoo.data.people_sets import PRESETS, Preset, write_people
from zoo.data.reid_sets import regdb_test, sysu_test, vcm_test
from zoo.errors import InputError, UsageError

SIZE = (64, 32)


@pytest.fixture(scope="module")
def sysu(tmp_path_factory):
    out = tmp_path_factory.mktemp("people")
    write_people(out, "tiny")
    return out


def test_pictures_are_the_same_in_any_order():
    wanted = [(pid, camera, number) for pid in (1, 7) for camera in (1, 3) for number in (1, 2)]
    first = {at: picture(5, *at, SIZE) for at in wanted}
    again = random.Random(0).sample(wanted, len(wanted))
    for at in again:
        for one, two in zip(first[at], picture(5, *at, SIZE), strict=True):
            assert np.array_equal(one, two)
    assert len({one.tobytes() for one, _ in first.values()}) == len(wanted)


def test_a_set_is_the_same_in_any_number_of_processes_and_goes_on_where_it_was_stopped(sysu, tmp_path):
    write_people(tmp_path, "tiny", workers=2)
    paths = sorted(path.relative_to(sysu) for path in sysu.rglob("*") if path.is_file())
    assert paths == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert all((sysu / path).read_bytes() == (tmp_path / path).read_bytes() for path in paths)
    gone, kept = tmp_path / "SYSU-MM01/cam1/0001/0001.jpg", tmp_path / "SYSU-MM01/cam1/0001/0002.jpg"
    content = gone.read_bytes()
    gone.unlink()
    kept.write_bytes(b"kept")
    write_people(tmp_path, "tiny")
    assert gone.read_bytes() == content
    assert kept.read_bytes() == b"kept"


@pytest.mark.parametrize("renderer", ["thermal", "nir"])
def test_infrared_is_grey_and_both_maps_lie_where_the_person_is(renderer):
    for camera in (*VISIBLE, *INFRARED):
        pixels, shape = picture(1, 3, camera, 1, (96, 48), renderer)
        assert pixels.shape == (96, 48, 3)
        assert (np.ptp(pixels, axis=2) == 0).all() == (camera in INFRARED)
        share = (shape > 127).mean()
        assert 0.05 < share < 0.5, camera
        assert shape[:, :3].mean() < 5


def test_a_mixed_set_has_pictures_of_both_kinds(tmp_path):
    monochrome = Preset(1, 0, 1, (1, 1), (2, 2), (64, 32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.data.people_sets.PRESETS", {"one": monochrome})
        for renderer in ("thermal", "nir", "mixed"):
            write_people(tmp_path / renderer, "one", renderer=renderer)
    for number, kind in ((1, "thermal"), (2, "nir")):
        path = f"SYSU-MM01/cam3/0001/000{number}.jpg"
        assert (tmp_path / "mixed" / path).read_bytes() == (tmp_path / kind / path).read_bytes()
    path = "SYSU-MM01/cam1/0001/0001.jpg"
    assert len({(tmp_path / kind / path).read_bytes() for kind in ("thermal", "nir", "mixed")}) == 1


def test_thermal_people_are_warmer_than_their_surroundings():
    pixels, shape = picture(1, 3, 3, 1, (96, 48), "thermal")
    assert pixels[shape > 200].mean() > pixels[shape < 20].mean() + 40


def test_only_near_infrared_sees_reflectances_and_only_colour_sees_colours():
    colours = np.stack([person(1, pid).colours[3] for pid in range(40)]).mean(1)
    reflectance = np.array([person(1, pid).reflectance[3] for pid in range(40)])
    assert abs(np.corrcoef(colours, reflectance)[0, 1]) < 0.5  # of 40 independent pairs, 0.5 is beyond three deviations
    nir, thermal = (picture(1, 3, 6, 1, SIZE, renderer)[0] for renderer in ("nir", "thermal"))
    assert not np.array_equal(nir, thermal)


@given(st.integers(0, 10**6), st.integers(1, 10**4))
@settings(max_examples=20)
def test_factors_stay_in_their_ranges(seed, pid):
    who = person(seed, pid)
    assert 0.84 <= who.sizes["stature"] <= 1.16
    assert 0.5 <= who.depth <= 0.75
    assert who.shared_factors().sum() == len(who.shared)
    assert who.shape_factors().shape == person(0, 1).shape_factors().shape
    assert (who.colours >= 0).all()
    assert (who.colours <= 255).all()


def test_cameras_2_and_3_share_a_place_and_no_others_do():
    assert PLACES[2] == PLACES[3]
    assert len(set(PLACES.values())) == 5


def test_the_sysu_layout_is_read_as_the_set_itself(sysu):
    test = sysu_test(sysu)
    sizes = PRESETS["tiny"]
    assert len(test.queries) == sizes.test * 2 * sizes.infrared[1]
    assert len(test.gallery) == sizes.test * 4
    assert {portrait.pid for portrait in test.queries} == set(range(101, 109))
    learnt = open_crops("sysu-mm01", "train+val", sysu)
    assert len(learnt) == 16 * (4 * 2 + 2 * 2)
    assert set(learnt.cameras[learnt.infrared]) == set(INFRARED)
    with Image.open(learnt.shapes[5]) as shape:
        assert shape.size == (32, 64)
    assert not set(open_crops("sysu-mm01", "train", sysu).ids) & set(open_crops("sysu-mm01", "val", sysu).ids)


def test_regdb_pairs_have_one_pose_and_trials_halves_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.people_sets.PRESETS", {"two": small(4, 0, 2)})
    write_people(tmp_path, "two", layout="regdb")
    test = regdb_test(tmp_path, trial=1)
    assert len(test.queries) == len(test.gallery) == 3 * 10
    visible, thermal = (
        Image.open(tmp_path / "RegDB_shape" / name) for name in ("Visible/001/v_04.bmp", "Thermal/001/t_04.bmp")
    )
    both = np.stack([np.asarray(visible), np.asarray(thermal)]) > 127
    assert both.all(0).sum() / both.any(0).sum() > 0.6  # the parser may have lost a part of either
    train, held = (open_crops("regdb", f"2/{half}", tmp_path) for half in ("train", "test"))
    assert len(train) == len(held) == 60
    names = [{path.parent.name for path in crops.photographs} for crops in (train, held)]
    assert not names[0] & names[1]


def test_vcm_tracklets_walk_on(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.people_sets.PRESETS", {"one": small(1, 0, 1)})
    write_people(tmp_path, "one", layout="vcm")
    test = vcm_test(tmp_path)
    assert len(test.queries) == 2
    assert len(test.gallery) == 4
    folder = tmp_path / "HITSZ-VCM/Test/0101/rgb/D1"
    frames = sorted(folder.iterdir())
    assert 12 <= len(frames) <= 24
    assert len({path.read_bytes() for path in frames}) == len(frames)


def small(train, val, test):
    return Preset(train, val, test, (1, 1), (1, 1), (48, 24))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"preset": "huge"}, "no preset 'huge'"),
        ({"layout": "market"}, "no layout 'market'"),
        ({"renderer": "xray"}, "no renderer 'xray'"),
        ({"seed": -1}, "not negative"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, arguments, says):
    with pytest.raises(UsageError, match=says):
        write_people(tmp_path, **{"preset": "tiny", **arguments})
    assert not list(tmp_path.iterdir())


def test_two_sets_do_not_mix(sysu):
    with pytest.raises(UsageError, match="other settings"):
        write_people(sysu, "tiny", seed=2)
    assert json.loads((sysu / "people.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("name", "split", "error", "says"),
    [
        ("market", "train", UsageError, "no set of crops 'market'"),
        ("sysu-mm01", "training", UsageError, "no part 'training'"),
        ("regdb", "11/train", UsageError, "no part '11/train'"),
        ("regdb", "1/train", InputError, "RegDB"),
    ],
)
def test_parts_that_are_not_there(sysu, name, split, error, says):
    with pytest.raises(error, match=says):
        open_crops(name, split, sysu)
