"""A report in a real browser: touched by mouse, finger and keyboard, without a network."""

import re

import pytest
import timm
import torch

from involution.explain import View
from involution.explain.touch import touch_html
from involution.models import rednet_nano
from involution.report import page as report_page

LAYERS = ["conv1.3", "layer2.1.conv2"]
NASTY = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def views():
    torch.manual_seed(0)
    # bright at the upper left, so that positions differ
    picture = torch.linspace(1, 0, 16)[:, None] * torch.linspace(1, 0, 16) + 0.1 * torch.rand(1, 1, 16, 16)
    networks = {"RedNet-nano": rednet_nano(in_chans=1), "twin": timm.create_model("rednet_nano_conv", in_chans=1)}
    return [View.of(network.eval(), picture, name=name) for name, network in networks.items()]


@pytest.fixture(scope="module")
def report(views, tmp_path_factory):
    from markupsafe import Markup

    words = dict.fromkeys(("title", "lead", "measured", "settings", "command", "date", "versions", "device"), "x")
    kernel = {
        "layer": LAYERS[0],
        "file": "x",
        "touch": Markup(touch_html([(NASTY, *views), ("again", *views)], LAYERS, LAYERS[1])),
        **dict.fromkeys(("tiles", "map", "caption"), ""),
    }
    lists = {key: [] for key in ("warnings", "tiles", "curves", "charts")}
    table = {"header": ["x"], "rows": [], "note": ""}
    variables = {
        **words,
        **lists,
        "table": table,
        "hardest": None,
        "kernel": kernel,
        "conclusion": "",
        "predict_command": "",
    }
    path = tmp_path_factory.mktemp("touch") / "report.html"
    path.write_text(report_page.render("run.html.j2", variables), encoding="utf-8")
    return path


@pytest.fixture
def open_report(report, browser):
    contexts, asked, wrong = [], [], []

    def open_report(**settings):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "offline": True, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.goto(report.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert {url for url in asked if not url.startswith("data:")} == {report.as_uri()}
    assert not wrong


def outputs(views):
    """What the shown channel of the involution becomes, `[H_o, W_o]`, from the network itself."""
    caught = []
    hook = views[0].network.get_submodule(LAYERS[1]).register_forward_hook(lambda *given: caught.append(given[2][0]))
    with torch.no_grad():
        views[0].network(views[0].input)
    hook.remove()
    return caught[0][int(caught[0].flatten(1).std(dim=1).argmax())]


def said(page, row, column):
    text = page.locator(".touch-said", has_text=f"Row {row + 1}, column {column + 1}.")
    text.wait_for(state="attached")
    return text.text_content()


def sum_of(text):
    return float(re.search(r"add up to (−?[\d.]+)", text)[1].replace("−", "-"))


def test_keys_move_the_position_and_what_is_said_is_what_the_layer_does(open_report, views):
    page = open_report()
    stage = page.locator(".touch-stage")
    assert "Convolution" in said(page, 4, 4)
    page.keyboard.press("Tab")
    while not stage.evaluate("stage => stage === document.activeElement"):
        page.keyboard.press("Tab")
    assert stage.evaluate("stage => getComputedStyle(stage).outlineStyle") == "solid"
    assert page.locator(".touch-said").get_attribute("aria-live") == "polite"
    output = outputs(views)
    row, column = 4, 4
    for key, down, across in (("ArrowUp", -1, 0), ("ArrowLeft", 0, -1), ("ArrowRight", 0, 1), ("ArrowDown", 1, 0)):
        page.keyboard.press(key)
        row, column = row + down, column + across
        assert sum_of(said(page, row, column)) == pytest.approx(output[row, column].item(), abs=0.02)
    # to the ends, and not beyond them
    for key in ("Home", "PageUp", "ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    assert sum_of(said(page, 0, 0)) == pytest.approx(output[0, 0].item(), abs=0.02)
    # Tab leaves it again
    page.keyboard.press("Tab")
    assert not stage.evaluate("stage => stage === document.activeElement")


def middle_of(page, row, column):
    box = page.locator(".touch-stage img").bounding_box()
    return box["x"] + (column + 0.5) * box["width"] / 8, box["y"] + (row + 0.5) * box["height"] / 8


def pixels(page, tile, side="involution"):
    return page.locator(f".touch-side.{side} .{tile} canvas").evaluate(
        "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
    )


def test_the_mouse_shows_window_kernel_and_products_of_both(open_report):
    page = open_report()
    page.locator(".touch-stage").scroll_into_view_if_needed()
    before = {side: pixels(page, "kernel", side) for side in ("involution", "convolution")}
    page.mouse.move(*middle_of(page, 1, 6))
    said(page, 1, 6)
    assert len(pixels(page, "window")) == 7 * 7 * 4
    assert len(pixels(page, "window", "convolution")) == 3 * 3 * 4
    assert pixels(page, "kernel") != before["involution"]
    assert pixels(page, "kernel", "convolution") == before["convolution"]
    # outside of the map there is nothing: the upper two rows, and the last column
    clear = [alpha == 0 for alpha in pixels(page, "window")[3::4]]
    assert clear == [row < 2 or column == 6 for row in range(7) for column in range(7)] or clear.count(True) >= 14
    # the window is drawn whole, however far it reaches out
    stage, window = (page.locator(f".touch-{name}").first.bounding_box() for name in ("stage", "window"))
    assert window["y"] >= stage["y"] - 1
    assert window["x"] + window["width"] <= stage["x"] + stage["width"] + 1


def test_a_finger_on_a_phone(open_report, views):
    page = open_report(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.locator(".touch-stage").scroll_into_view_if_needed()
    page.touchscreen.tap(*middle_of(page, 2, 5))
    assert sum_of(said(page, 2, 5)) == pytest.approx(outputs(views)[2, 5].item(), abs=0.02)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for tile in page.locator(".touch-side canvas").all():
        box = tile.bounding_box()
        assert box["width"] > 40
        assert box["x"] + box["width"] <= 390


def test_other_pictures_and_layers_can_be_chosen_and_names_are_text(open_report):
    page = open_report()
    image, layer = page.locator(".touch-choices label select").all()
    assert image.locator("option").all_inner_texts() == [NASTY, "again"]
    assert layer.input_value() == "1"
    layer.select_option("conv1.3")
    said(page, 9, 9)
    assert len(pixels(page, "output")) == 16 * 16 * 4
    image.select_option("again")
    assert page.locator(".touch-stage").get_attribute("aria-label").startswith("again, conv1.3")


@pytest.mark.parametrize(("scheme", "low", "high"), [("light", 200, 256), ("dark", 0, 60)])
def test_zero_has_the_colour_of_the_page(open_report, scheme, low, high):
    page = open_report(color_scheme=scheme)
    stops = page.evaluate("JSON.parse(document.querySelector('.touch').dataset.touch).stops")
    assert all(low <= part < high for part in stops[scheme][5])
    drawn = pixels(page, "output")
    nearest = {scheme: min(sum(abs(a - b) for a, b in zip(drawn[:3], stop, strict=True)) for stop in stops[scheme])
               for scheme in stops}  # fmt: skip
    assert nearest[scheme] < 120
    # and it follows when the page changes
    page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
    page.wait_for_timeout(100)
    assert pixels(page, "output") != drawn


def test_without_scripts_it_says_so(open_report):
    page = open_report(java_script_enabled=False)
    assert page.get_by_text("This needs JavaScript.").is_visible()
