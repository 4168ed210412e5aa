"""Masks as polygons: nothing of a mask is lost, whatever its form."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.path import Path

from involution.serve.answers import answer
from involution.serve.outlines import outlines


def filled(polygons, size):
    """Which pixels have their middles inside polygons: inside of an odd number of rings."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    middles = np.stack([x.ravel(), y.ravel()], 1)
    inside = np.zeros(len(middles), int)
    for polygon in polygons:
        for ring in polygon:
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
            inside += Path(ring).contains_points(middles)
    return (inside % 2 == 1).reshape(size)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_the_polygons_of_a_mask_give_it_back(mask):
    assert (filled(outlines(mask), mask.shape) == mask).all()


def test_a_ring_with_a_hole_and_a_part_beside_it():
    mask = np.zeros((20, 30), bool)
    mask[2:12, 3:15] = True
    mask[5:8, 6:10] = False
    mask[15:18, 20:29] = True
    found = outlines(mask)
    assert sorted(len(polygon) for polygon in found) == [1, 2]
    # an outline has as many points as corners, which are cut
    assert {len(ring) for polygon in found for ring in polygon} == {9}
    assert (filled(found, mask.shape) == mask).all()


def test_nothing_has_no_outline():
    assert outlines(np.zeros((4, 5), bool)) == []


@pytest.mark.parametrize("masks", [None, np.ones((1, 3, 4), bool)])
def test_an_answer_has_polygons_where_they_are_asked_for(masks):
    from involution.engine.tasks.detect.predictor import DetectionResult

    result = DetectionResult("a", 0.0, (3, 4), ("x",), (1,), (0.5,), ((0.0, 0.0, 4.0, 3.0),), masks)
    (found,) = json.loads(answer("a", "detect", result, masks="polygons"))["objects"]
    if masks is None:
        assert found["mask"] is None
    else:
        assert found["mask"]["size"] == [3, 4]
        ((ring,),) = found["mask"]["polygons"]
        assert [0.5, 0.0] in ring
    (found,) = json.loads(answer("a", "detect", result))["objects"]
    assert masks is None or set(found["mask"]) == {"size", "counts"}
