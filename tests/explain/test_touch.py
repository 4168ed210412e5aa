"""The numbers of a picture to touch are those of the layers, and what names it has is text."""

import base64
import html
import json
import re

import numpy as np
import pytest
import timm
import torch

from involution.explain import View
from involution.explain.touch import touch_html, touch_layers, touch_script, touch_style
from involution.models import rednet_nano

LAYER = "layer2.0.conv2"


@pytest.fixture(scope="module")
def views():
    torch.manual_seed(0)
    picture = torch.rand(1, 1, 16, 16)
    networks = {"RedNet-nano": rednet_nano(in_chans=1), "twin": timm.create_model("rednet_nano_conv", in_chans=1)}
    return [View.of(network.eval(), picture, name=name) for name, network in networks.items()]


def read(text):
    return json.loads(html.unescape(re.search('data-touch="(.*?)"', text)[1]))


def numbers(pair, *shape):
    return torch.from_numpy(np.frombuffer(base64.b64decode(pair[0]), "<i2").astype(np.float32) * pair[1]).reshape(shape)


def applied(side):
    """What window × kernel adds up to at every position, as the script does it."""
    given = numbers(side["given"], *side["size"])
    (rows, columns), (down, across) = side["places"], side["taps"]
    kernels = numbers(side["kernels"], *([rows, columns] if side["kind"] == "involution" else []), down, across)
    sums = torch.zeros(rows, columns)
    for row in range(rows):
        for column in range(columns):
            kernel = kernels[row, column] if side["kind"] == "involution" else kernels
            for u in range(down):
                for v in range(across):
                    y = row * side["step"][0] - side["reach"][0] + u * side["dilation"][0]
                    x = column * side["step"][1] - side["reach"][1] + v * side["dilation"][1]
                    if 0 <= y < side["size"][0] and 0 <= x < side["size"][1]:
                        sums[row, column] += kernel[u, v] * given[y, x]
    return sums


def test_an_involutions_products_add_up_to_its_output(views):
    view, twin = views
    data = read(touch_html([("a picture", view, twin)], ["conv1.3", LAYER], LAYER))
    assert data["first"] == 1
    (scene,) = data["scenes"]
    assert scene["picture"].startswith("data:image/png;base64,")
    for layer in scene["layers"]:
        side = layer["sides"][0]
        output = numbers(side["output"], *side["places"])
        assert output.std() > 0
        torch.testing.assert_close(applied(side), output, rtol=1e-3, atol=1e-3 * output.abs().max().item())


def test_a_convolutions_products_are_one_channels_part_of_its_output(views):
    view, twin = views
    (scene,) = read(touch_html([("a picture", view, twin)], [LAYER]))["scenes"]
    side = scene["layers"][0]["sides"][1]
    conv, caught = twin.network.get_submodule(LAYER), []
    hook = conv.register_forward_hook(lambda module, args, output: caught.append((args[0], output)))
    with torch.no_grad():
        twin.network(twin.input)
        hook.remove()
        (given, output), source = caught[0], int(side["from"].split()[1]) - 1
        channel = int(output[0].flatten(1).std(dim=1).argmax())
        part = torch.nn.functional.conv2d(
            given[:, [source]], conv.weight[[channel]][:, [source]], None, conv.stride, conv.padding
        )
    scale = output[0, channel].abs().max().item()
    torch.testing.assert_close(numbers(side["output"], *side["places"]), output[0, channel], rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(applied(side), part[0, 0], rtol=0, atol=1e-3 * scale)
    assert side["count"] == given.shape[1]


def test_names_are_text_and_cannot_end_the_attribute(views):
    nasty = "\"><script>alert(1)</script>'&"
    text = touch_html([(nasty, views[0], None)], [LAYER])
    assert "<script" not in text
    assert text.count(">") == 4
    assert read(text)["scenes"][0]["name"] == nasty


def test_layers_of_very_many_positions_are_left_out():
    view = View.of(rednet_nano(in_chans=1).eval(), torch.rand(1, 1, 64, 64), name="large")
    assert touch_layers(view.network) == ["conv1.3", "layer1.1.conv2", "layer2.1.conv2", "layer3.1.conv2"]
    found = read(touch_html([("x", view, None)], touch_layers(view.network)))["scenes"][0]["layers"]
    assert [layer["name"] for layer in found] == ["layer2.1.conv2", "layer3.1.conv2"]
    assert touch_html([("x", view, None)], ["conv1.3"]) == ""


def test_script_and_style_are_small_and_ask_for_nothing():
    for text in (touch_script(), touch_style()):
        assert 0 < len(text) < 16_000
        assert not re.search(r"https?:|fetch\(|XMLHttpRequest|@import|url\(|innerHTML|eval\(|</", text)
