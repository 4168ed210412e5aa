"""The page in a real browser, served by the command: what a user does with it, and what nobody should."""

import io
import re
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from app_checkpoints import uploaded
from pictures import huge_png
from PIL import Image

from involution.app import limits
from involution.app.checkpoints import Checkpoint
from involution.app.networks import stage_kernels
from involution.app.render import kernels_html, picture
from involution.predict import ClassificationPredictor, DetectionPredictor, SegmentationPredictor

KERNELS, RESULTS, MESSAGE = "#kernels", "#results", "#message .note"


def noise(seed, size=(12, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def as_file(image, name="photo.png"):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": buffer.getvalue()}


def choose(page, file):
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose an image").click()
    chooser.value.set_files(file)


def select(page, label, option):
    page.get_by_label(label).click()
    page.get_by_role("option", name=option).click()


def wait_text(page, selector, text):
    page.locator(selector, has_text=text).first.wait_for()


def rows(page, card=0):
    """(name, share) of a result's bars."""
    items = page.locator(f"{RESULTS} .card").nth(card).locator("li").all_inner_texts()
    return [tuple(item.split("\n")) for item in items]


def wait_rows(page, expected, card=0):
    deadline = time.monotonic() + 20
    while (found := rows(page, card)) != expected and time.monotonic() < deadline:
        page.wait_for_timeout(50)
    assert found == expected


def expected_rows(server, run, image):
    found = ClassificationPredictor.from_checkpoint(server.runs / run / "best.ckpt", "cpu").predict([image])[0]
    return [(label, f"{100 * score:.1f} %") for label, score in zip(found.labels, found.scores, strict=True)]


def expected_tiles(server, image, pixel, runs=("demo/rednet", "demo/twin")):
    first, second = (Checkpoint.read(server.runs / run / "best.ckpt") for run in runs)
    title, stages = stage_kernels(first, second, uploaded(image), pixel)
    return re.findall('src="(.*?)"', kernels_html(title, pixel, stages, second.title))


def tiles(page, kind=".tile"):
    return page.locator(f"{KERNELS} {kind} img").evaluate_all("images => images.map(image => image.src)")


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_an_example_is_there_at_once(server, open_page):
    page = open_page()
    assert page.title() == "Involution: a kernel for every pixel"
    assert page.locator(f"{RESULTS} h2").all_inner_texts() == ["rednet_nano", "rednet_nano_conv"]
    assert page.get_by_label("Checkpoint").input_value() == "rednet_nano · demo/rednet"
    assert page.get_by_label("Compare with").input_value() == "rednet_nano_conv · demo/twin"
    wait_text(page, KERNELS, "row 4, column 4")


def test_upload_is_predicted_compared_and_not_kept(server, open_page):
    page = open_page()
    image = noise(1)
    choose(page, as_file(image))
    wait_text(page, KERNELS, "row 5, column 6")
    wait_rows(page, expected_rows(server, "demo/rednet", image))
    wait_rows(page, expected_rows(server, "demo/twin", image), card=1)
    times = page.locator(f"{RESULTS} .card p b").all_inner_texts()
    assert len(times) == 2
    assert all(re.fullmatch(r"[\d.]+ m?s", text) for text in times)
    assert not files_below(server.temporary)
    # without a twin, one is left and no fixed filters
    select(page, "Compare with", "nothing")
    page.locator(f"{RESULTS} .card").nth(1).wait_for(state="detached")
    wait_text(page, KERNELS, "Choose a convolution network")
    assert not tiles(page, ".fixed")


def test_drop_on_a_picture_replaces_it(server, open_page):
    page = open_page()
    image = noise(2)
    page.evaluate(
        """bytes => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
            const target = document.querySelector("#picture .upload-container");
            for (const kind of ["dragenter", "dragover", "drop"])
                target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
        }""",
        list(as_file(image)["buffer"]),
    )
    wait_rows(page, expected_rows(server, "demo/rednet", image))
    wait_text(page, KERNELS, "row 5, column 6")
    assert not files_below(server.temporary)


def test_click_shows_the_kernels_of_that_pixel(server, open_page):
    page = open_page()
    image = noise(3)
    choose(page, as_file(image))
    wait_text(page, KERNELS, "row 5, column 6")
    assert tiles(page) == expected_tiles(server, image, (5, 6))
    before, fixed = tiles(page, ".generated"), tiles(page, ".fixed")
    shown = page.locator("#picture img")
    box = shown.bounding_box()
    # the picture keeps its shape within its frame
    scale = min(box["width"] / 12, box["height"] / 10)
    left, top = (box["width"] - 12 * scale) / 2, (box["height"] - 10 * scale) / 2
    shown.click(position={"x": left + 9.5 * scale, "y": top + 2.5 * scale})
    wait_text(page, KERNELS, "row 2, column 9")
    assert tiles(page) == expected_tiles(server, image, (2, 9))
    assert tiles(page, ".generated") != before
    assert tiles(page, ".fixed") == fixed
    assert page.get_by_label("Row", exact=True).input_value() == "2"
    assert page.get_by_label("Column", exact=True).input_value() == "9"
    source = shown.get_attribute("src")
    with urllib.request.urlopen(source) as drawn:
        assert Image.open(io.BytesIO(drawn.read())).tobytes() == picture(image, (2, 9)).tobytes()


def test_positions_can_be_touched(open_page):
    page = open_page()
    stage = page.locator("#touch .touch-stage")
    stage.wait_for()
    for kind in ("involution", "convolution"):
        assert page.locator(f"#touch .touch-side.{kind} canvas").count() == 4
    stage.focus()
    before = page.locator("#touch .touch-text").first.inner_text()
    page.keyboard.press("Home")
    page.wait_for_function("before => document.querySelector('#touch .touch-text').innerText != before", arg=before)
    # another image is another picture to touch
    shown = stage.locator("img").get_attribute("src")
    choose(page, as_file(noise(9)))
    page.wait_for_function("before => document.querySelector('#touch img')?.src != before", arg=shown)


def test_places_outside_are_told(open_page):
    page = open_page()
    page.get_by_label("Row", exact=True).fill("99")
    page.get_by_label("Row", exact=True).press("Enter")
    wait_text(page, "#kernels .wrong", "wanted a row from 0 to 7 and a column from 0 to 7; got 99 and 4")


def test_boxes_masks_and_maps(server, open_page):
    page = open_page()
    image = noise(4, (40, 32))
    choose(page, as_file(image))
    select(page, "Checkpoint", "mask_rcnn on rednet_nano · scenes")
    wait_text(page, RESULTS, "mask_rcnn")
    found = DetectionPredictor.from_checkpoint(server.runs / "scenes/best.ckpt", "cpu").predict(image)
    assert set(found.labels) == {"<b>two</b>"}
    expected = [(label, f"{100 * score:.1f} %") for label, score in zip(found.labels, found.scores, strict=True)]
    wait_rows(page, expected[:12])
    alt = page.locator(f"{RESULTS} img.drawn").get_attribute("alt")
    assert alt.startswith("The image with boxes and masks: ")
    # names of classes are text, never markup
    assert page.locator(f"{RESULTS} .card b").count() == 1
    select(page, "Checkpoint", "semantic_fpn on rednet_nano · segments")
    shares = SegmentationPredictor.from_checkpoint(server.runs / "segments/best.ckpt", "cpu").predict(image).shares
    wait_rows(page, [(name, f"{100 * share:.1f} %") for name, share in shares.items()])
    assert page.locator(f"{RESULTS} .swatch").count() == len(shares)
    wait_text(page, KERNELS, "backbone.body.layer3.1.conv2")


HOSTILE = {
    "text.png": (b"no picture at all", "text.png: not an image in a known format"),
    "empty.png": (b"", "empty.png: the file is empty"),
    "broken.png": (as_file(noise(5))["buffer"][:80], "broken.png: broken or truncated image"),
    "bomb.png": (huge_png(), "bomb.png: too large to decode"),
    "script.svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>document.title = "owned"</script></svg>',
        "script.svg: not an image in a known format",
    ),
    "large.png": (b"\x89PNG" + bytes(limits.MAX_BYTES), "exceed the maximum allowed size of 20"),
    "page.html": (b"<script>document.title = 'owned'</script>", "Invalid file type: page.html"),
}


def test_hostile_uploads_are_refused_in_the_page(server, open_page, tmp_path):
    page = open_page()
    for name, (content, refusal) in HOSTILE.items():
        file = tmp_path / name
        file.write_bytes(content)
        choose(page, file)
        wait_text(page, f"{MESSAGE}, .toast-wrap", refusal)
    assert page.title() == "Involution: a kernel for every pixel"
    assert not files_below(server.temporary)
    # and it still works
    choose(page, as_file(noise(6)))
    wait_rows(page, expected_rows(server, "demo/rednet", noise(6)))
    page.locator(MESSAGE).wait_for(state="detached")


def test_two_users_see_their_own(server, open_page):
    pages = [open_page(), open_page()]
    images = [noise(7), noise(8, (16, 9))]
    for page, image in zip(pages, images, strict=True):
        # of one name, and at the same time
        choose(page, as_file(image))
    for page, image in zip(pages, images, strict=True):
        wait_rows(page, expected_rows(server, "demo/rednet", image))
        wait_text(page, KERNELS, f"row {image.height // 2}, column {image.width // 2}")
        assert tiles(page) == expected_tiles(server, image, (image.height // 2, image.width // 2))


@pytest.mark.parametrize("run", ["rednet_nano · demo/rednet", "mask_rcnn", "semantic_fpn"])
def test_phone_has_no_sideways_scrolling(open_page, run):
    page = open_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    if "demo" not in run:
        select(page, "Checkpoint", run)
        wait_text(page, RESULTS, run)
        page.locator(f"{RESULTS} img.drawn").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#picture img").tap(position={"x": 150, "y": 50})
    page.locator(f"{KERNELS} h2", has_not_text="row 4, column 4").wait_for()


def test_keyboard_alone(server, open_page):
    page = open_page()

    def tab_to(name):
        for _ in range(30):
            page.keyboard.press("Tab")
            focused = page.evaluate("(e => e.getAttribute('aria-label') || e.innerText || '')(document.activeElement)")
            if focused.strip() == name:
                # the focus can be seen
                assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
                return
        pytest.fail(f"no way by Tab to {name}")

    wait_text(page, KERNELS, "row 4, column 4")
    before = page.locator("#picture img").get_attribute("src")
    tab_to("Digit 5")
    page.keyboard.press("Enter")
    # what is typed before the answer is there would be overwritten by it
    page.wait_for_function("before => document.querySelector('#picture img').getAttribute('src') != before", arg=before)
    wait_text(page, KERNELS, "row 4, column 4")
    tab_to("Row")
    page.keyboard.press("Control+A")
    page.keyboard.type("1")
    tab_to("Column")
    page.keyboard.press("Control+A")
    page.keyboard.type("7")
    tab_to("Show kernels")
    page.keyboard.press("Enter")
    wait_text(page, KERNELS, "row 1, column 7")
    tab_to("Checkpoint")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    wait_text(page, f"{RESULTS} h2", "rednet_nano_conv")
    tab_to("Choose an image")


@pytest.mark.parametrize(
    ("scheme", "seen", "hidden"), [("light", "on-light", "on-dark"), ("dark", "on-dark", "on-light")]
)
def test_kernels_follow_light_and_dark(open_page, scheme, seen, hidden):
    page = open_page(color_scheme=scheme)
    assert page.locator(f"{KERNELS} img.{seen}").first.is_visible()
    assert not page.locator(f"{KERNELS} img.{hidden}").first.is_visible()


def get(url):
    with urllib.request.urlopen(url) as answer:
        return answer.read(), answer.headers


def test_the_server_keeps_the_page_to_itself(server):
    body, headers = get(server.url)
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"cdn" not in body.split(b"gradio_config")[0].lower()
    for path in ("gradio_api/file=/etc/passwd", f"gradio_api/file={server.runs}/demo/rednet/best.ckpt"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(server.url + path)
