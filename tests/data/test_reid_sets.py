"""Readers of the published layouts, and what a path gives away."""

import random
from pathlib import Path

import numpy as np
import pytest

from tests.data import people_trees
from zoo.data.reid_check import check_set
from zoo.data.reid_sets import (
    Clue,
    clue,
    layout_of,
    market_test,
    read_labels,
    regdb_test,
    sysu_test,
    table_test,
    vcm_test,
)
from zoo.errors import InputError, UsageError


def short(portraits):
    return [("/".join(Path(one.path).parts[-3:]), one.pid, one.camera) for one in portraits]


def test_sysu_draws_as_published_code_does(tmp_path):
    people_trees.sysu(tmp_path)
    test = sysu_test(tmp_path, trial=4)
    assert {(one.camera, one.modality) for one in test.queries} == {(3, "infrared"), (6, "infrared")}
    assert len(test.queries) == 2 * 2 * 3
    random.seed(4)  # the published loop: identities, then cameras, one choice each
    expected = [
        (f"cam{camera}/{pid:04d}/{random.choice(['0001', '0002', '0003'])}.jpg", pid, camera)
        for pid in (3, 4)
        for camera in (1, 2, 4, 5)
    ]
    assert short(test.gallery) == expected
    assert {one.camera for one in sysu_test(tmp_path, mode="indoor").gallery} == {1, 2}


def test_sysu_takes_ten_shots_or_all_there_are(tmp_path):
    people_trees.sysu(tmp_path, count=12)
    assert len(sysu_test(tmp_path, shots=10).gallery) == 2 * 4 * 10
    few = people_trees.sysu(tmp_path / "few")
    assert len(sysu_test(few, shots=10).gallery) == 2 * 4 * 3  # no picture twice where there are fewer
    (few / "cam1/0003/0001.jpg").rename(few / "cam1/0003/.hidden.jpg")
    assert len(sysu_test(few, shots=10).gallery) == 2 * 4 * 3 - 1


def stored(path, orders):
    """A file in the form of the authors': a cell a camera, in it a cell an identity, ten permutations each."""
    from scipy.io import savemat

    cells = np.empty((6, 1), object)
    for camera in range(6):
        inner = np.empty((4, 1), object)
        for pid in range(4):
            inner[pid, 0] = orders(camera + 1, pid + 1)
        cells[camera, 0] = inner
    savemat(path, {"rand_perm_cam": cells})
    return path


def test_sysu_follows_the_authors_file(tmp_path):
    pytest.importorskip("scipy")
    people_trees.sysu(tmp_path)
    rng = np.random.default_rng(0)
    table = {(c, p): np.stack([rng.permutation(3) + 1 for _ in range(10)]) for c in range(1, 7) for p in range(1, 5)}
    path = stored(tmp_path / "rand_perm_cam.mat", lambda camera, pid: table[camera, pid])
    test = sysu_test(tmp_path, trial=7, permutations=path)
    expected = [(f"cam{c}/{p:04d}/{table[c, p][7][0]:04d}.jpg", p, c) for p in (3, 4) for c in (1, 2, 4, 5)]
    assert short(test.gallery) == expected
    other = stored(tmp_path / "other.mat", lambda camera, pid: np.tile(np.arange(1, 6), (10, 1)))
    with pytest.raises(InputError, match="orders 5 pictures of identity 3"):
        sysu_test(tmp_path, permutations=other)
    with pytest.raises(InputError, match=r"no rand_perm_cam\.mat"):
        sysu_test(tmp_path, permutations=tmp_path / "people.json")


def test_regdb_gives_a_split(tmp_path):
    people_trees.regdb(tmp_path)
    test = regdb_test(tmp_path, trial=2)
    assert [(one.pid, one.modality) for one in test.queries] == [
        (1, "visible"),
        (1, "visible"),
        (3, "visible"),
        (3, "visible"),
    ]
    assert {one.modality for one in test.gallery} == {"infrared"}
    assert all(Path(one.path).is_file() for one in (*test.queries, *test.gallery))


def test_vcm_cuts_tracklets_into_parts(tmp_path):
    people_trees.vcm(tmp_path)
    test = vcm_test(tmp_path, frames=4)
    assert [(one.path, one.pid, one.camera, one.modality) for one in test.queries] == [
        ("tracklet 1", 1, 1, "infrared"),
        ("tracklet 3", 2, 3, "infrared"),
    ]
    assert [one.path for one in test.gallery] == ["tracklet 2"]  # the fourth is shorter than twelve frames
    # 13 frames in four parts of four: the first of each
    assert [Path(frame).name for frame in test.queries[0].frames] == ["0000.jpg", "0004.jpg", "0008.jpg", "0012.jpg"]
    # 12 in 8 parts of two: the last frame stands in for the parts beyond the end
    numbers = [int(Path(frame).stem) for frame in vcm_test(tmp_path, frames=8).queries[1].frames]
    assert numbers == [0, 2, 4, 6, 8, 10, 11, 11]
    assert all(Path(frame).is_file() for one in (*test.queries, *test.gallery) for frame in one.frames)


def test_market_leaves_boxes_without_a_person_out(tmp_path):
    test = market_test(people_trees.market(tmp_path))
    assert [(one.pid, one.camera) for one in test.queries] == [(1, 1), (2, 2)]
    assert sorted((one.pid, one.camera) for one in test.gallery) == [(0, 1), (1, 2), (2, 1)]


def test_a_table_of_ones_own(tmp_path):
    table = tmp_path / "people.csv"
    table.write_text("path,pid,cam,modality,role\na.png,1,1,rgb,gallery\nsub/b.png,1,2,Thermal,query\n")
    test = table_test(table)
    assert [(one.path, one.modality) for one in test.queries] == [(str(tmp_path / "sub/b.png"), "infrared")]
    table.write_text("path,pid\na.png,1\n")
    with pytest.raises(InputError, match="line 2"):
        table_test(table)
    assert read_labels(table) == {str(tmp_path / "a.png"): Clue("1", None, None)}
    table.write_text("path,pid\nlists/../a.png,1\n")
    assert read_labels(table) == {str(tmp_path / "a.png"): Clue("1", None, None)}
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/d/SYSU-MM01/cam3/0007/0001.jpg", Clue("7", "3", "infrared")),
        ("/d/SYSU-MM01/cam4/0007/0001.jpg", Clue("7", "4", "visible")),
        ("/d/market/query/0002_c3s1_000151_01.jpg", Clue("2", "3", None)),
        ("/d/VCM/Test/0012/ir/D5/0003.jpg", Clue("12", "5", "infrared")),
        ("/d/RegDB/Thermal/12/x.bmp", Clue(None, None, "infrared")),
        ("/d/night/Infrared/x.png", Clue(None, None, "infrared")),
        ("/d/thermal/colour/x.png", Clue(None, None, "visible")),
        ("/d/Air/holiday.jpg", Clue()),
        ("x.png", Clue()),
    ],
)
def test_what_a_path_gives_away(path, expected):
    assert clue(path) == expected


@pytest.mark.parametrize("layout", ["sysu", "regdb", "vcm", "market"])
def test_a_whole_set_is_found_whole(layout, tmp_path):
    getattr(people_trees, layout)(tmp_path)
    assert layout_of(tmp_path) == layout
    kind, findings = check_set(tmp_path)
    assert kind == layout
    assert not [one for one in findings if one.is_fault]


def test_what_is_missing_is_found(tmp_path):
    folder = people_trees.regdb(tmp_path)
    (folder / "Thermal/1/0.bmp").unlink()
    (folder / "idx/test_visible_9.txt").unlink()
    faults = [one for one in check_set(tmp_path)[1] if one.is_fault]
    assert any("listed and missing" in one.what for one in faults)
    assert any("test_visible_9.txt" in one.what for one in faults)
    people_trees.sysu(tmp_path / "s")
    shapes = tmp_path / "s/SYSU_MM01_SHAPE/cam1/0001"
    shapes.mkdir(parents=True)
    (faults,) = [one for one in check_set(tmp_path / "s")[1] if one.is_fault]
    assert (faults.what, faults.found) == ("photographs without a shape map", 72)


def test_the_published_counts_are_known(tmp_path):
    people_trees.sysu(tmp_path)
    (tmp_path / "people.json").unlink()  # not drawn, then
    findings = {one.what: one for one in check_set(tmp_path)[1]}
    assert (findings["queries"].found, findings["queries"].expected) == (12, 3803)
    assert findings["queries"].is_fault


def test_a_set_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="layout of none"):
        check_set(tmp_path)
    _, (fault,) = check_set(tmp_path, "sysu")
    assert fault.is_fault
    assert "signed agreement" in fault.expected
    with pytest.raises(InputError, match="no SYSU-MM01"):
        sysu_test(tmp_path)
