"""A checkpoint is measured by the names of classes: in another order, among fewer, and never on others."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from generated import image_folder

from involution.data.box_dataset import BoxDataset
from involution.data.boxes import Box, BoxRecord, Scene
from involution.data.findings import Findings
from involution.data.label_code import LabelCode
from involution.data.label_maps import LabelMaps
from involution.data.records import DataSet
from involution.data.registry import Options, open_data
from involution.engine import ClassifyConfig, ConfigError, evaluate, train
from involution.engine.card import ModelCard
from involution.engine.classes import match_classes
from involution.engine.evaluation import measure
from involution.engine.tasks.classify.module import ClassificationTask
from involution.predict import DetectionPredictor, SegmentationPredictor

CARD = ModelCard("classify", "x", {}, ["cat", "dog", "horse"], (3, 8, 8), (0,) * 3, (1,) * 3, "bilinear", 1.0, {}, {})


def data(classes, part=None):
    return DataSet("pets", classes, {"test": part or [("a", 0), ("b", 1)]}, Findings())


def test_the_same_classes_are_left_alone():
    same = data(["cat", "dog", "horse"])
    assert match_classes(CARD, same, "best.ckpt") == (same, None, CARD)


def test_another_order_is_mapped_by_name(capsys):
    found, within, _ = match_classes(CARD, data(["horse", "cat", "dog"]), "best.ckpt")
    assert (found.classes, within) == (CARD.classes, None)
    assert list(found.parts["test"]) == [("a", 2), ("b", 0)]
    assert "in another order: compared by name" in capsys.readouterr().err


def test_fewer_classes_are_measured_among_themselves(capsys):
    found, within, _ = match_classes(CARD, data(["cat", "horse"]), "best.ckpt")
    assert within == [0, 2]
    assert list(found.parts["test"]) == [("a", 0), ("b", 2)]
    assert "pets has 2 of the 3 classes of best.ckpt: measured among cat, horse alone" in capsys.readouterr().err


def test_among_one_class_everything_would_be_right():
    with pytest.raises(ConfigError, match=r"pets has only the class dog of the 3 of best\.ckpt"):
        match_classes(CARD, data(["dog"]), "best.ckpt")


def test_other_classes_are_refused_by_name():
    with pytest.raises(
        ConfigError, match=r"best.ckpt was trained on other classes \(cat, dog, horse\) than pets: bird not"
    ):
        match_classes(CARD, data(["bird", "cat", "dog"]), "best.ckpt")


def test_names_that_two_classes_share_are_not_compared(tmp_path):
    card = replace(CARD, classes=["crane", "tench", "crane"])
    # as earlier versions named ImageNet's classes
    names = ["crane (n02012849)", "tench", "crane (n03126707)"]
    found, within, changed = match_classes(card, data(names), "best.ckpt")
    assert (list(found.parts["test"]), within, changed.classes) == ([("a", 0), ("b", 1)], None, names)
    with pytest.raises(ConfigError, match=r"best\.ckpt has classes of one name, crane: they can't be compared by name"):
        match_classes(card, data(["tench", "crane"]), "best.ckpt")


def test_numbered_classes_are_taken_by_place(capsys):
    card = replace(CARD, classes=["0", "1", "2"])
    found, within, _ = match_classes(card, data(["cat", "dog", "horse"]), "best.ckpt")
    assert (list(found.parts["test"]), within) == ([("a", 0), ("b", 1)], None)
    assert "numbered classes: those of pets are matched by position" in capsys.readouterr().err


def test_boxes_keep_their_class_under_other_ids(tmp_path):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    boxes = (Box(0, (1, 1, 4, 4)), Box(1, (2, 2, 4, 4)))
    record = BoxRecord(tmp_path, ["dog", "cat"], [7, 9], [Scene(1, tmp_path / "a.png", 8, 8, boxes)])
    card = replace(CARD, category_ids=[10, 20, 30])
    found, within, changed = match_classes(card, data(["dog", "cat"], BoxDataset(record)), "best.ckpt")
    # results are told by the ids of the data, so that they can be compared with its own file
    assert (within, changed.category_ids) == ([0, 1], [9, 7, 12])
    assert found.test.record.to_coco()["annotations"] == record.to_coco()["annotations"]
    assert found.test[0][1]["labels"].tolist() == [1, 0]


def test_label_maps_of_values_and_of_colours(tmp_path):
    PIL.Image.new("RGB", (3, 1)).save(tmp_path / "a.jpg")
    PIL.Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "a.png")
    table = np.array([0, 1, *[-1] * 253, 255])
    colours = {(0, 0, 0): 0, (1, 1, 1): 1, (255, 255, 255): 255}
    for code in (LabelCode(["horse", "cat"], table), LabelCode(["horse", "cat"], colours=colours)):
        part = LabelMaps([(tmp_path / "a.jpg", tmp_path / "a.png")], code)
        found, _, _ = match_classes(CARD, data(["horse", "cat"], part), "best.ckpt")
        assert found.test[0][1].tolist() == [[2, 0, 255]]


def test_a_category_without_objects_is_left_out(tmp_path, capsys):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    boxes = (Box(0, (1, 1, 4, 4)), Box(2, (2, 2, 4, 4)))
    record = BoxRecord(tmp_path, ["dog", "cow", "cat"], [7, 12, 9], [Scene(1, tmp_path / "a.png", 8, 8, boxes)])
    card = replace(CARD, category_ids=[10, 20, 30])
    found, within, changed = match_classes(card, data(record.classes, BoxDataset(record)), "best.ckpt")
    assert (within, changed.category_ids) == ([0, 1], [9, 7, 15])
    assert found.test[0][1]["labels"].tolist() == [1, 0]
    assert capsys.readouterr().err == (
        "pets has nothing of classes that best.ckpt does not know, which are left out: cow\n"
        "pets has 2 of the 3 classes of best.ckpt: measured among dog, cat alone\n"
    )
    crowd = replace(record, scenes=[replace(record.scenes[0], boxes=(*boxes, Box(1, (2, 2, 4, 4), crowd=True)))])
    with pytest.raises(ConfigError, match=r"than pets: cow not among them"):
        match_classes(card, data(record.classes, BoxDataset(crowd)), "best.ckpt")


def test_a_class_without_pixels_is_left_out(tmp_path, capsys):
    PIL.Image.new("RGB", (3, 1)).save(tmp_path / "a.jpg")
    PIL.Image.fromarray(np.array([[0, 2, 255]], np.uint8)).save(tmp_path / "a.png")
    names = ["horse", "cow", "cat"]
    table = np.array([0, 1, 2, *[-1] * 252, 255])
    colours = {(0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 2, (255, 255, 255): 255}
    for code in (LabelCode(names, table), LabelCode(names, colours=colours)):
        part = LabelMaps([(tmp_path / "a.jpg", tmp_path / "a.png")], code)
        found, within, _ = match_classes(CARD, data(names, part), "best.ckpt")
        assert (found.test[0][1].tolist(), within) == ([[2, 0, 255]], [0, 2])
        assert "which are left out: cow\n" in capsys.readouterr().err
        PIL.Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "b.png")
        more = LabelMaps([*part.pairs, (tmp_path / "a.jpg", tmp_path / "b.png")], code)
        with pytest.raises(ConfigError, match=r"than pets: cow not among them"):
            match_classes(CARD, data(names, more), "best.ckpt")


def test_a_class_without_images_is_left_out(tmp_path, capsys):
    root = image_folder(tmp_path / "pets", splits=(".",), classes=("cat", "cow", "dog", "horse"), per_class=1)
    found = open_data("classify", f"imagefolder:{root}", Options(only="test"))
    with pytest.raises(ConfigError, match=r"cow not among them"):
        match_classes(CARD, found, "best.ckpt")
    (root / "cow" / "000.jpg").unlink()
    found = open_data("classify", f"imagefolder:{root}", Options(only="test", allow_empty=True))
    matched, within, _ = match_classes(CARD, found, "best.ckpt")
    assert ([label for _, label in matched.test], within) == ([0, 1, 2], None)
    assert "which are left out: cow\n" in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = image_folder(tmp_path_factory.mktemp("pets"))
    settings = {"data.spec": f"imagefolder:{root}", "data.batch_size": 8, "data.image_size": 16, "data.workers": 0}
    settings |= {"model.name": "rednet_nano", "trainer.epochs": 12, "optimizer.lr": 0.05, "augment.crop_scale": None}
    settings["output"] = str(root / "runs")
    torch.manual_seed(0)
    return train(ClassifyConfig.load(None, settings), progress=False).best


def test_a_folder_of_labelled_images_is_measured_whole_and_by_name(trained, tmp_path):
    whole = evaluate(trained, split="test")
    assert whole.top1 > 0.6
    image_folder(tmp_path / "flat", splits=(".",))
    assert evaluate(trained, f"imagefolder:{tmp_path / 'flat'}").num_images == 24
    image_folder(tmp_path / "two", splits=(".",), classes=("bee", "cat"))
    for number in range(8):
        # drawn as the generator draws the second and third class
        for name, label in (("bee", 1), ("cat", 2)):
            file = tmp_path / "flat" / ["ant", "bee", "cat"][label] / f"{number:03}.jpg"
            (tmp_path / "two" / name / f"{number:03}.jpg").write_bytes(file.read_bytes())
    among = evaluate(trained, f"imagefolder:{tmp_path / 'two'}")
    assert among.num_images == 16
    assert among.confusion[:, 0].sum() == 0
    assert among.confusion.sum(1).tolist() == [0, 8, 8]
    assert among.top1 > 0.6
    # the pages of a report show what was measured
    shown = measure(trained, f"imagefolder:{tmp_path / 'two'}")
    assert "measured among bee, cat alone" in shown.warnings
    (result,) = shown.predictor.run([""], [shown.images[0][0]])
    assert set(result.labels) == {"bee", "cat"}
    assert sum(result.scores) == pytest.approx(1)


class Says(torch.nn.Module):
    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, images):
        return self.found


def test_predictors_choose_among_the_classes_of_an_evaluation():
    card = replace(CARD, category_ids=[1, 2, 3], input_size=(3, 0, 0))
    image = PIL.Image.new("RGB", (2, 1))
    logits = torch.tensor([[[[3.0, 1.0]], [[2.0, 0.0]], [[1.0, 2.0]]]])
    boxes = {"boxes": torch.ones(3, 4), "labels": torch.arange(3), "scores": torch.ones(3)}
    segmenter = SegmentationPredictor(Says(logits), card)
    detector = DetectionPredictor(Says([boxes]), card)
    assert segmenter.run([""], [image])[0].labels.tolist() == [[0, 2]]
    assert detector.run([""], [image])[0].labels == ("cat", "dog", "horse")
    segmenter.within = detector.within = [1, 2]
    assert segmenter.run([""], [image])[0].labels.tolist() == [[1, 2]]
    assert detector.run([""], [image])[0].labels == ("dog", "horse")


def test_the_best_five_of_few_classes_are_no_figure():
    card = replace(CARD, classes=[str(number) for number in range(9)])
    task = ClassificationTask(Says(torch.eye(9)), ClassifyConfig(), card, 1)
    task.from_all_devices = lambda values: [values]
    for within, known in ((None, True), (list(range(6)), True), (list(range(5)), False)):
        task.within = within
        task.validation_step((torch.zeros(9, 3, 8, 8), torch.arange(9)), 0)
        task.on_validation_epoch_end()
        assert ("top5" in task.results) == known
