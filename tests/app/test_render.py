import base64
import io
import re

import pytest
import torch
from PIL import Image

from involution.app.networks import Prediction, StageKernels
from involution.app.render import data_url, enlargement, kernels_html, notice, picture, predictions_html
from involution.predict import ClassificationResult, DetectionResult, SegmentationResult

IMAGE = Image.new("L", (8, 6), 100)


def decoded(url):
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_names_are_never_markup():
    nasty = "<script>x</script>"
    results = [
        ClassificationResult("image 0", 0.01, (nasty,), (1.0,)),
        DetectionResult("image", 0.01, (6, 8), (nasty,), (1,), (0.9,), ((1.0, 1.0, 5.0, 5.0),)),
        SegmentationResult("image", 0.01, (nasty,), {nasty: 1.0}, torch.zeros(6, 8, dtype=torch.uint8)),
    ]
    html = predictions_html([(IMAGE, Prediction(nasty, 5, result)) for result in results])
    html += notice(nasty, wrong=True)
    stage = StageKernels(nasty, nasty, (0, 0), (1, 1), 1, torch.zeros(1, 3, 3), torch.ones(1, 3, 3))
    html += kernels_html(nasty, (0, 0), [stage], nasty)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 12


def test_what_is_not_listed_is_counted():
    names = tuple(f"class {number}" for number in range(20))
    shares = {name: (20 - number) / 210 for number, name in enumerate(names)}
    boxes = DetectionResult("image", 0.01, (6, 8), names, (1,) * 20, (0.9,) * 20, ((1.0, 1.0, 5.0, 5.0),) * 20)
    labels = SegmentationResult("image", 0.01, names, shares, torch.zeros(6, 8, dtype=torch.uint8))
    html = [predictions_html([(IMAGE, Prediction("net", 5, result))]) for result in (boxes, labels)]
    assert [page.count("<li>") for page in html] == [12, 12]
    assert "<p class=muted>and 8 more with lower scores</p>" in html[0]
    assert "<p class=muted>and 8 more classes, 17.1 % of the pixels together</p>" in html[1]
    assert "class 11 4.3 % and 8 more" in html[1]


def test_small_pictures_are_enlarged_pixel_by_pixel():
    assert enlargement(IMAGE) == 60
    image = Image.new("L", (8, 6))
    image.putpixel((3, 2), 255)
    shown = picture(image, None)
    assert shown.size == (480, 360)
    assert [shown.getpixel(place) for place in ((179, 120), (180, 120), (239, 179), (239, 180))] == [
        (0, 0, 0), (255, 255, 255), (255, 255, 255), (0, 0, 0),
    ]  # fmt: skip
    assert enlargement(Image.new("L", (900, 20))) == 1


def test_the_chosen_pixel_is_framed():
    shown, plain = picture(IMAGE, (2, 3)), picture(IMAGE, None)
    assert shown.getpixel((210, 150)) == plain.getpixel((210, 150))
    assert shown.getpixel((180, 150)) == (0xFF, 0xD5, 0x4A)
    # at the edge, too
    assert picture(IMAGE, (5, 7)).getpixel((420, 330)) == (0xFF, 0xD5, 0x4A)


def test_times_and_figures_can_be_read():
    rows = ClassificationResult("image 0", 0.0123, ("seven", "one"), (0.98765, 0.01))
    html = predictions_html([(IMAGE, Prediction("net", 141_130, rows)), (IMAGE, Prediction("other", 2_000_000, rows))])
    assert html.count("<b>12.3 ms</b>") == 2
    assert "0.14 M" in html
    assert "2.00 M" in html
    assert html.index("seven") < html.index("one") < html.index("98.8 %") + 500
    assert "98.8 %" in html


def test_an_image_of_another_kind_is_told_beside_the_answer():
    rows = ClassificationResult("image 0", 0.0123, ("seven",), (1.0,))
    html = predictions_html([(IMAGE, Prediction("net", 1, rows, "This network knows <b>digits</b>."))])
    assert '<p class="note" role="status">This network knows &lt;b&gt;digits&lt;/b&gt;.</p>' in html
    assert "note" not in predictions_html([(IMAGE, Prediction("net", 1, rows))])


def test_nothing_found():
    empty = DetectionResult("image", 1.5, (6, 8), (), (), (), ())
    html = predictions_html([(IMAGE, Prediction("net", 1, empty))])
    assert "Found: nothing" in html
    assert "1.5 s" in html


def test_tiles_show_the_kernel_in_both_looks():
    kernel = torch.tensor([[[-1.0, 0.0, 1.0]]])
    stage = StageKernels("Stage 2", "layer2.1.conv2", (4, 2), (8, 8), 9, kernel, None)
    html = kernels_html("net", (9, 5), [stage], None)
    assert "1 of 9 groups" in html
    assert "row 9, column 5" in html
    assert "position 4, 2 of 8×8" in html
    light, dark = (decoded(url) for url in re.findall(r'src="(.*?)"', html))
    assert light.size == (3, 1)
    low, zero, high = (light.getpixel((x, 0)) for x in range(3))
    # violet, near the paper, orange
    assert low[2] > low[1]
    assert min(zero) > 230
    assert high[0] > high[2]
    assert max(dark.getpixel((1, 0))) < 60


@pytest.mark.parametrize(("size", "kind"), [((100, 100), "PNG"), ((1600, 1200), "JPEG")])
def test_pictures_are_in_the_page(size, kind):
    assert decoded(data_url(Image.new("RGB", size))).format == kind
