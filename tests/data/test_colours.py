"""Colours of classes differ for every eye, and a background has none."""

import numpy as np
import pytest

from involution.data.colours import BACKGROUND, OKABE_ITO, hexadecimal, is_background, palette, seen


def test_the_first_are_okabe_and_itos_and_a_background_is_black_wherever_it_stands():
    names = ["a", "Background", *"bcdefg"]
    colours = palette(names)
    assert colours[1] == BACKGROUND
    assert [hexadecimal(colour).upper() for place, colour in enumerate(colours) if place != 1] == list(OKABE_ITO)


@pytest.mark.parametrize("name", ["background", "_background_", "__background__", "BG", "unlabeled", "void"])
def test_names_of_backgrounds(name):
    assert is_background(name)
    assert not is_background(f"{name} cars")


# differences of CIELAB; 2.3 is the least that is seen at all
@pytest.mark.parametrize(("count", "least"), [(7, 15), (11, 15), (21, 14), (80, 7)])
def test_colours_differ_for_every_eye(count, least):
    found = seen(palette([str(number) for number in range(count)]))
    for eye in found:
        distances = np.linalg.norm(eye[:, None] - eye, axis=-1) + 1000 * np.eye(count)
        assert distances.min() > least


def test_every_class_has_its_own_and_more_classes_change_none():
    names = [str(number) for number in range(256)]
    colours = palette(names)
    assert len(set(colours)) == 256
    assert palette(names[:30]) == colours[:30]


def test_lightness_is_that_of_cielab():
    grey, red = seen([(119, 119, 119), (255, 0, 0)])[0]
    assert grey == pytest.approx([50, 0, 0], abs=0.2)
    assert red == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
    # without the cones for long waves, red and a dark yellow are much alike
    protan = seen([(255, 0, 0), (110, 95, 0)])[1]
    assert np.linalg.norm(protan[0] - protan[1]) < 15
