"""The table of costs: counts as published, its files, its plot."""

import pytest
import timm
import torch

from involution.engine.config import recipe_names
from involution.studies import cost_table, plots
from involution.studies.errors import StudyError
from involution.studies.origin import read_csv, write_csv
from involution.studies.published import CLASSIFIERS, DETECTORS, PUBLISHED, SEGMENTERS


@pytest.fixture(scope="module")
def counted():
    return [cost_table.count(name) for name in ("rednet26", "rednet26_conv", "resnet50")]


def test_counts_of_rednet26_and_its_twin(counted):
    rednet, twin, resnet = counted
    # counted by running the authors' code
    assert rednet["parameters"] == 9_233_166
    assert rednet["macs"] / 1e9 == pytest.approx(1.6852, abs=5e-5)
    assert round(rednet["authors_flops"] / 1e9, 2) == rednet["published_flops_g"] == 1.73
    assert (rednet["published_top1"], rednet["published_top5"], rednet["published_top1_paper"]) == (75.96, 93.19, 75.9)
    assert twin["parameters"] == sum(p.numel() for p in timm.create_model("rednet26_conv").parameters())
    # torchvision's is the ResNet of the published figures
    assert round(resnet["authors_flops"] / 1e9, 1) == resnet["published_flops_g"] == 4.1


def test_counts_grow_with_the_image():
    small, large = (cost_table.count("rednet_nano", size) for size in ([32], [64, 32]))
    assert (large["height"], large["width"]) == (64, 32)
    # all but the classifier
    classifier = small["parameters"] and 64 * 4 * 10
    assert large["macs"] - classifier == 2 * (small["macs"] - classifier)
    assert "published_top1" not in small


def test_a_detector_by_its_recipe():
    row = cost_table.count("coco-retinanet", [320])
    # with the frozen stem and first stage
    assert row["parameters"] == 27_814_100 + 139_086
    assert row["published_box_ap"] == 38.2


def test_published_names_are_ours_and_figures_go_together():
    assert set(PUBLISHED) <= set(cost_table.known_models())
    assert {*DETECTORS, *SEGMENTERS} <= {*recipe_names("detect"), *recipe_names("segment")}
    for depth in (26, 38, 50, 101, 152):
        rednet, twin = CLASSIFIERS[f"rednet{depth}"], CLASSIFIERS[f"rednet{depth}_conv"]
        assert rednet.parameters < twin.parameters
        assert rednet.flops < twin.flops
        assert abs(rednet.scores["top1"] - rednet.scores["top1_paper"]) < 0.25
        with torch.device("meta"):
            model = timm.create_model(f"rednet{depth}")
        assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(rednet.parameters, abs=0.01)
    for published in PUBLISHED.values():
        assert published.source
        assert all(0 < score < 100 for score in published.scores.values())


@pytest.mark.parametrize(
    ("names", "size", "message"),
    [
        (["rednet5"], None, r"no model named 'rednet5'; did you mean rednet5\d"),
        (["coco-retinnet"], None, "did you mean coco-retinanet"),
        (["rednet_nano"], [16], "from 32 to 7000 pixels, got 16"),
        (["rednet_nano"], [10**9], "from 32 to 7000 pixels, got 1000000000"),
        (["rednet_nano"], [64, 64, 3], "one size, or height and width, .* got 64 64 3"),
    ],
)
def test_wrong_names_and_sizes(names, size, message):
    with pytest.raises(StudyError, match=message):
        cost_table.all_rows(names, [], size, seconds=0, dtype="float32", folded=False)


@pytest.fixture(scope="module")
def measured():
    names, said = ["rednet_nano", "rednet_nano_conv", "cityscapes-semantic-fpn"], []
    # a segmenter at its own size is counted on the meta device
    rows = cost_table.all_rows(names, [1, 2], [64], seconds=0, dtype="float32", folded=True, tick=said.append)
    assert said[0] == "counting rednet_nano"
    assert "measuring, batch 2" in said
    return rows


def test_measured_columns(measured):
    assert [(row["model"], row.get("batch")) for row in measured] == [
        ("rednet_nano", 1),
        ("rednet_nano_conv", 1),
        ("cityscapes-semantic-fpn", None),
        ("rednet_nano", 2),
        ("rednet_nano_conv", 2),
    ]
    rednet, twin, segmenter, *_ = measured
    assert rednet["images_per_s"] == pytest.approx(1e3 / rednet["p50_ms"], rel=0.01)
    assert "p50_of_twin" in rednet
    assert "p50_of_twin" not in twin
    # an image of 64×64 at 3 channels is held in the stem's 16 at once, at least
    assert rednet["peak_bytes"] > 16 * 32 * 32 * 4
    assert rednet["weight_bytes"] > 4 * rednet["parameters"] * 0.9
    assert measured[3]["peak_bytes"] > rednet["peak_bytes"]
    assert "p50_ms" not in segmenter


def test_no_room_is_a_note(monkeypatch):
    def full(*args):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(cost_table, "peak_memory", full)
    row = cost_table.measure(["rednet_nano"], 1, seconds=0)["rednet_nano"]
    assert row["note"] == "no memory for it"
    assert "no memory for it" in cost_table.table([{**cost_table.count("rednet_nano"), **row}]).markdown()


def test_markdown_and_csv_hold_what_was_found(measured, tmp_path):
    text = cost_table.markdown(measured)
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    header, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:]))
    assert len(rows) == len(measured)
    for cells, row in zip(rows, measured, strict=True):
        assert len(cells) == len(header)
        assert cells[0] == row["model"]
        assert float(cells[1]) == round(row["parameters"] / 1e6, 2)
    assert "2.71 G" in text
    assert torch.__version__ in text
    write_csv(tmp_path / "cost.csv", measured)
    for found, row in zip(read_csv(tmp_path / "cost.csv"), measured, strict=True):
        assert {key: found[key] for key in row} == row
        assert found["torch"] == torch.__version__


def test_plot_of_accuracy(counted, tmp_path):
    times = {"batch": 1, "kernels": "plain", "dtype": "float32", "p20_ms": 1.0, "p50_ms": 2.0, "p80_ms": 4.0}
    figure = plots.accuracy_figure([{**row, **times} for row in counted])
    axes = figure.axes
    assert [axis.get_xlabel().split(",")[0] for axis in axes] == [
        "parameters",
        "multiply-adds of an image (224×224)",
        "measured time of an image",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "RedNet",
        "ResNet (convolution twin)",
        "torchvision's ResNet-50",
    ]
    assert [text.get_text() for text in axes[0].texts] == ["26", "26"]
    plots.save(figure, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    assert len(plots.accuracy_figure(counted).axes) == 2
    assert plots.accuracy_figure([cost_table.count("rednet_nano")]) is None


def test_times_and_ratios_of_a_twin(monkeypatch):
    samples = {"": [1, 1, 1], "rednet_nano": [1.0, 20.0, 5.0], "rednet_nano_conv": [2.0, 10.0, 20.0]}
    monkeypatch.setattr(cost_table, "interleaved", lambda calls, **options: samples)
    found = cost_table.measure(["rednet_nano", "rednet_nano_conv"], 4, [32])
    assert found["rednet_nano"]["p50_ms"] == 5
    assert found["rednet_nano"]["images_per_s"] == 800
    # of 0.5, 2 and 0.25
    assert found["rednet_nano"]["p50_of_twin"] == 0.5
