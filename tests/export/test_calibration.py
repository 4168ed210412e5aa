"""What 8-bit files are measured on: their checkpoint's own data, whose classes are compared by name."""

import numpy as np
import pytest
import torch
from coco_sets import folder_of_coco
from generated import image_folder
from PIL import Image

from involution.engine.evaluation import evaluate
from involution.engine.loading import load
from involution.export.calibration import find_labelled, measured

FIGURES = {
    "classify": lambda found: found.top1,
    "detect": lambda found: found.bbox["ap"],
    "segment": lambda found: found.miou,
}
# another order, and for two of them more classes than the data has
CLASSES = {
    "classify": ["cat", "dog", "bee", "ant"],
    "detect": ["stop sign", "person", "toothbrush"],
    "segment": ["road", "tree", "sky"],
}


def label_maps(root):
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.png")
            Image.fromarray(pixels[..., 0] % 2).save(root / "masks" / split / f"{number}.png")
    (root / "classes.txt").write_text("sky\nroad\n")
    return root


def data_of(task, root):
    root.mkdir()
    if task == "classify":
        return f"imagefolder:{image_folder(root, splits=('train', 'val'), per_class=4)}"
    return f"coco:{folder_of_coco(root)}" if task == "detect" else f"masks:{label_maps(root)}"


def trained_on(checkpoint, path, spec, classes):
    content = torch.load(checkpoint)
    content["involution"]["classes"] = classes
    content["involution"]["recipe"].setdefault("data", {})["spec"] = spec
    torch.save(content, path)
    return path


@pytest.mark.parametrize("task", CLASSES)
def test_it_is_measured_among_the_classes_of_its_data_as_eval_does(task, checkpoints, tmp_path):
    path = trained_on(checkpoints[task], tmp_path / "a.ckpt", data_of(task, tmp_path / "data"), CLASSES[task])
    network, card = load(path)
    found = find_labelled(card, path)
    assert found.within == {"classify": [0, 2, 3], "detect": None, "segment": [0, 2]}[task]
    # the same network twice, as before and after
    assert measured([network, network], found) == [FIGURES[task](evaluate(path, split="val"))] * 2


@pytest.mark.parametrize("task", CLASSES)
def test_other_classes_are_not_measured_and_that_is_said(task, checkpoints, tmp_path):
    classes = [f"{name}s" for name in CLASSES[task]]
    path = trained_on(checkpoints[task], tmp_path / "a.ckpt", data_of(task, tmp_path / "data"), classes)
    said = find_labelled(load(path)[1], path)
    assert f"a.ckpt was trained on other classes ({', '.join(classes[:3])}" in said
    assert said.endswith(" not among them")
