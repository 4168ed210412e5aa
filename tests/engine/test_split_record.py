"""A network is not measured on what it was trained on without a word."""

import shutil
import tarfile
from dataclasses import replace

import pytest
import torch
from generated import add, image_folder, picture, shards
from PIL import Image

from involution.data.box_dataset import BoxDataset
from involution.data.boxes import Box, BoxRecord, Scene
from involution.data.errors import DataError
from involution.data.findings import Findings
from involution.data.label_code import LabelCode
from involution.data.label_maps import LabelMaps
from involution.data.records import DataSet
from involution.engine import evaluate, train
from involution.engine.callbacks import TrainingInterrupted
from involution.engine.config import ConfigError
from involution.engine.evaluation import measure
from involution.engine.split_record import differences, labels, record, recorded, seen_before


def warnings(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]


@pytest.fixture
def pictures(tmp_path):
    return image_folder(tmp_path / "pictures", splits=("train", "val", "test"), classes=("ant", "bee"), per_class=8)


@pytest.fixture
def config(make_config, pictures):
    changes = {"data__spec": f"imagefolder:{pictures}", "data__batch_size": 4, "trainer__epochs": 1}
    return lambda **more: make_config(**{**changes, **more})


def test_files_gone_and_added_are_told_by_evaluation_and_resumption(config, pictures, tmp_path, capsys):
    result = train(config(), progress=False)
    evaluate(result.best)
    assert warnings(capsys) == []
    images = sorted((pictures / "test" / "ant").iterdir())
    images[0].unlink()
    shutil.copyfile(images[1], images[1].with_name("new.jpg"))
    (pictures / "train" / "bee" / "more.jpg").write_bytes(images[1].read_bytes())
    # it is the same data elsewhere
    evaluate(result.best)
    told = ["warning: the test split changed since the training began: 1 image gone, 1 image new"]
    assert warnings(capsys) == told
    train(config(trainer__epochs=2), progress=False, resume=result.last)
    assert warnings(capsys) == [
        "warning: the train split changed since the training began: 1 image new",
        *told,
    ]


def test_images_of_which_the_middle_alone_is_seen_are_told(config, pictures, capsys):
    image = Image.new("RGB", (200, 16))
    for split in ("train", "val", "test"):
        image.save(pictures / split / "ant" / "wide.png")
    image.save(pictures / "test" / "bee" / "panorama.png")
    result = train(config(), progress=False)
    seen = "of which the network sees the middle alone, less than 40% of them"
    told = f"warning: images of test {seen}: 2 (wide.png, panorama.png)"
    found = warnings(capsys)
    assert f"warning: images of val {seen}: 1 (wide.png)" in found
    assert told in found
    assert not any("images of train" in line for line in found)
    evaluate(result.best)
    assert told in warnings(capsys)


def test_images_of_the_same_names_that_hold_something_else_are_told(config, pictures, capsys):
    result = train(config(), progress=False)
    for number, file in enumerate(sorted((pictures / "test").rglob("*.jpg"))[:5]):
        picture(3, number).save(file)
    for file in (pictures / "train" / "ant" / "000.jpg", pictures / "train" / "bee" / "001.jpg"):
        # pixels count, whatever the file
        image = Image.open(file)
        image.load()
        image.save(file, "PNG")
    picture(3, 7).save(pictures / "train" / "bee" / "002.jpg")
    capsys.readouterr()
    evaluate(result.best)
    told = "ant/000.jpg, ant/001.jpg, ant/002.jpg, …"
    told = [f"warning: 5 of the 16 images of the test split hold something else than in the training: {told}"]
    assert warnings(capsys) == told
    train(config(trainer__epochs=2), progress=False, resume=result.last)
    assert warnings(capsys) == [
        "warning: 1 of the 16 images of the train split hold something else than in the training: bee/002.jpg",
        *told,
    ]


def test_labels_that_changed_are_told_by_resumption_and_evaluation(make_config, tmp_path, capsys):
    shards(tmp_path / "pets", names=("train-0", "val-0", "test-0"), classes=("ant", "bee"), per_shard=8)
    changes = {"data__spec": f"webdataset:{tmp_path / 'pets'}", "data__batch_size": 4, "trainer__epochs": 1}
    result = train(make_config(**changes), progress=False)
    evaluate(result.best)
    assert warnings(capsys) == []
    for name in ("train-0", "test-0"):
        file = tmp_path / "pets" / f"{name}.tar"
        # the label of the first image
        content = file.read_bytes()
        place = content.index(b".cls") // 512 * 512 + 512
        assert content[place : place + 1] == b"0"
        file.write_bytes(content[:place] + b"1" + content[place + 1 :])
    evaluate(result.best)
    told = "warning: 1 of the 8 images of the {} split have other labels than in the training: {}"
    tested = told.format("test", "test-0.tar:20000")
    assert warnings(capsys) == [tested]
    more = train(make_config(**{**changes, "trainer__epochs": 2}), progress=False, resume=result.last)
    assert warnings(capsys) == [told.format("train", "train-0.tar:00000"), tested]
    # from then on they are what was learnt
    evaluate(more.last)
    assert warnings(capsys) == []


def test_boxes_and_label_maps_that_changed_are_told(tmp_path):
    file = tmp_path / "a.png"
    Image.new("L", (8, 8)).save(file)
    Image.new("L", (8, 8)).save(tmp_path / "map.png")
    box = Box(0, (1, 1, 4, 4), id=3)

    def boxes(*found):
        return BoxDataset(BoxRecord(tmp_path, ["cat", "dog"], [1, 2], [Scene(1, file, 8, 8, found)]))

    maps = LabelMaps([(file, tmp_path / "map.png")], LabelCode(["cat", "dog"]))

    def told(before, part):
        data = [DataSet(f"x:{tmp_path}", ["cat", "dog"], {"val": one}, Findings()) for one in (before, part)]
        found = {"split": record(data[0]), "split_labels": labels(data[0])}
        if part is maps:
            Image.new("L", (8, 8), 1).save(tmp_path / "map.png")
        return seen_before(found, data[1], "val", same=True)

    # the order and the numbers of annotations mean nothing
    other = Box(1, (0, 0, 2, 2))
    assert told(boxes(box, other), boxes(other, replace(box, id=7))) == []
    said = [f"1 of the 1 image of the val split have other labels than in the training: {tmp_path.name}/a.png"]
    for changed in (replace(box, label=1), replace(box, xywh=(1, 1, 4, 5)), replace(box, crowd=True)):
        assert told(boxes(box), boxes(changed)) == said
    assert told(boxes(box), boxes()) == said
    assert told(maps, maps) == said


def test_accents_may_be_spelled_in_another_way(config, pictures, capsys):
    for file in list(pictures.rglob("00*.jpg")):
        file.rename(file.with_name(f"caf\u00e9{file.name}"))
    result = train(config(), progress=False)
    for file in list(pictures.rglob("caf*.jpg")):
        file.rename(file.with_name(file.name.replace("\u00e9", "e\u0301")))
    capsys.readouterr()
    evaluate(result.best)
    assert warnings(capsys) == []


def test_a_split_that_moved_is_told(config, pictures, capsys):
    result = train(config(), progress=False)
    found = torch.load(result.best, weights_only=True)
    told = "ant/003.jpg, ant/007.jpg, bee/005.jpg"
    found["split"]["train"] = torch.cat([found["split"]["train"], found["split"]["test"][:3]])
    torch.save(found, result.best)
    evaluate(result.best)
    assert warnings(capsys) == [
        f"warning: 3 of the {len(found['split']['test'])} images of the test split were trained on: {told}"
    ]


def test_arrays_are_known_by_their_pixels(make_config, capsys):
    result = train(make_config(trainer__epochs=1), progress=False)
    split = recorded(torch.load(result.best, weights_only=True))
    assert {name: len(part) for name, part in split.items()} == {"train": 1077, "val": 360, "test": 360}
    assert recorded({"split": {"train": 3, "val": torch.zeros(2)}}) == recorded({"split": None}) == {}
    assert differences({}, split, split) == []


def test_an_epoch_that_became_too_short(config, pictures, press_ctrl_c):
    press_ctrl_c("training_step", 3)
    with pytest.raises(TrainingInterrupted, match="interrupted") as stop:
        train(config(), progress=False)
    for name in ("ant", "bee"):
        for file in sorted((pictures / "train" / name).iterdir())[3:]:
            file.unlink()
    with pytest.raises(ConfigError, match=r"after 3 batches of an epoch, and .* has only 1 now: bring the images back"):
        train(config(), progress=False, resume=stop.value.checkpoint)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_copies_of_training_images_are_known_under_any_name(config, pictures, tmp_path, capsys, suffix):
    result = train(config(), progress=False)
    capsys.readouterr()
    copies = tmp_path / "mine"
    for name in ("ant", "bee"):
        (copies / name).mkdir(parents=True)
        for number, file in enumerate(sorted((pictures / "train" / name).iterdir())[:2]):
            if suffix == "jpg":
                shutil.copyfile(file, copies / name / f"holiday{number}.jpg")
            else:
                Image.open(file).save(copies / name / f"holiday{number}.png")
        shutil.copyfile(pictures / "test" / name / "000.jpg", copies / name / "new.jpg")
    evaluate(result.best, f"imagefolder:{copies}")
    assert warnings(capsys) == [
        "warning: 4 of the 6 images were trained on: "
        f"ant/holiday0.{suffix}, ant/holiday1.{suffix}, bee/holiday0.{suffix}, …"
    ]
    # what chose the checkpoint was not learnt
    evaluate(result.best, f"imagefolder:{pictures / 'val'}")
    assert warnings(capsys) == []


def test_many_bytes_are_compared_but_not_decoded(config, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("involution.engine.split_record._MOST_BYTES", 100)
    result = train(config(), progress=False)
    found = torch.load(result.best, weights_only=True)
    assert {name: len(part) for name, part in found["split_contents"].items()} == {"train": 16, "val": 16, "test": 16}
    monkeypatch.setattr("involution.engine.split_record.CHECK_LIMIT", 3)
    train(config(name="other"), progress=False)


def test_a_shard_of_the_training_images_is_known(config, pictures, tmp_path, capsys):
    result = train(config(), progress=False)
    with tarfile.open(tmp_path / "birds-0.tar", "w") as archive:
        for number, name in enumerate(("ant", "bee")):
            add(archive, f"{number}.jpg", (pictures / "train" / name / "000.jpg").read_bytes())
            add(archive, f"{number}.cls", str(number).encode())
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    capsys.readouterr()
    evaluate(result.best, f"webdataset:{tmp_path}/birds-0.tar")
    assert len(warnings(capsys)) == 1


def test_what_the_weights_were_trained_on_is_remembered(config, pictures, tmp_path, capsys):
    first = train(config(), progress=False)
    others = image_folder(tmp_path / "others", splits=("train", "val"), classes=("ant", "bee"), per_class=8)
    for number, file in enumerate(sorted(others.rglob("*.jpg"))):
        picture(2, number).save(file)
    for name in ("ant", "bee"):
        shutil.copytree(pictures / "train" / name, others / "test" / name)
    capsys.readouterr()
    changes = {"data__spec": f"imagefolder:{others}", "model__weights": str(first.best)}
    second = train(config(name="second", **changes), progress=False)
    told = "warning: 16 of the 16 images of the test split were trained on: ant/000.jpg, ant/001.jpg, ant/002.jpg, …"
    assert f"{told}, by the training of {first.best}" in warnings(capsys)
    measured = measure(second.best)
    assert warnings(capsys) == [told]
    assert [f"warning: {line}" for line in measured.warnings] == [told]


def test_an_image_that_changed_its_split_is_not_gone():
    before = {"train": torch.tensor([1, 2, 3]), "val": torch.tensor([4]), "test": torch.tensor([5, 6])}
    now = {"train": torch.tensor([1, 2, 5]), "val": torch.tensor([4, 7]), "test": torch.tensor([6])}
    assert differences(before, now, ["train", "val", "test"]) == [
        "the train split changed since the training began: 1 image gone, 1 image moved here from test",
        "the val split changed since the training began: 1 image new",
        "the test split changed since the training began: 1 image moved to train",
    ]


def test_a_folder_that_was_moved_is_told_as_such_and_measured_by_its_part(make_config, tmp_path, capsys):
    root = image_folder(tmp_path / "before", splits=(".",), classes=("ant", "bee"), per_class=12)
    result = train(make_config(data__spec=f"imagefolder:{root}", data__batch_size=4, trainer__epochs=1), progress=False)
    here = evaluate(result.best)
    moved = root.rename(tmp_path / "after")
    with pytest.raises(DataError) as stop:
        evaluate(result.best)
    assert str(stop.value) == (
        f"no such folder: {root}, where {result.best} had its data in training; if it was moved, name its place: "
        "--data imagefolder:PATH"
    )
    capsys.readouterr()
    figures = evaluate(result.best, f"imagefolder:{moved}")
    assert (figures.num_images, figures.split, figures.top1) == (here.num_images, "test", here.top1)
    told = capsys.readouterr().err
    assert f"imagefolder:{moved} has the images of the training: its test part alone is measured\n" in told
    assert "trained on" not in told
    # other images of the same names are other data
    picture(1, 77).save(moved / "ant" / "000.jpg")
    figures = evaluate(result.best, f"imagefolder:{moved}")
    assert (figures.num_images, figures.split) == (24, "all")
    told = capsys.readouterr().err
    assert f"{moved}: no splits of its own, so all its images are taken" in told
    assert "of the 24 images were trained on" in told
    assert "test split" not in told
