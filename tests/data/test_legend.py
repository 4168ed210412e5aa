import numpy as np

from involution.data.legend import LINE, legend


def test_names_stand_beside_their_colours_and_a_background_has_none():
    picture = legend([("road", (230, 159, 0)), ("background", None)], 500)
    assert picture.size == (500, LINE + 4)
    assert picture.getpixel((10, 8)) == (230, 159, 0)
    assert picture.getpixel((260, 8)) == (255, 255, 255)
    assert np.asarray(picture)[:, 30:200].min() == 0


def test_a_narrow_one_has_a_column_and_a_long_one_says_how_many_are_left_out():
    entries = [(f"a name that is much too long for its column {number}", (0, 0, 0)) for number in range(45)]
    assert legend(entries, 100).size == (100, 41 * LINE + 4)
    picture = np.asarray(legend(entries, 700))
    assert picture.shape == (14 * LINE + 4, 700, 3)
    # the words "and 5 more", after forty names
    assert picture[13 * LINE : 14 * LINE, 233 + 4 : 233 + 80].min() == 0
    assert picture[13 * LINE : 14 * LINE, 466:].min() == 255
