import argparse
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from involution.models import CheckpointError, convert_checkpoint, load_checkpoint
from involution.models.checkpoint import identify
from involution.models.keys import timm_name, to_timm_layout
from involution.models.layouts import VARIANTS
from involution.models.readers import read_metadata

AUTHORS = [
    ("conv1.0.", "stem.0.conv."),
    ("conv1.1.", "stem.0.bn."),
    ("conv1.3.", "stem.1."),
    ("conv1.4.", "stem.2."),
    ("conv1.6.", "stem.4.conv."),
    ("bn1.", "stem.4.bn."),
]
GENERATOR = {"generator.reduce.": "conv1.conv.", "generator.norm.": "conv1.bn.", "generator.span.": "conv2.conv."}


def authors_name(name):
    for ours, theirs in AUTHORS:
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    for ours, theirs in GENERATOR.items():
        name = name.replace(ours, theirs)
    return f"head.{name}" if name.startswith("fc.") else f"backbone.{name}"


def nano(seed=1, **kwargs):
    torch.manual_seed(seed)
    model = timm.create_model("rednet_nano", **{"num_classes": 4, "zero_init_last": False, **kwargs})
    model(torch.rand(4, model.in_chans, 16, 16))
    return model.eval()


@pytest.fixture(scope="module")
def source():
    return nano()


@pytest.fixture(scope="module")
def authors(source):
    return {authors_name(name): value for name, value in source.state_dict().items()}


@pytest.fixture(scope="module")
def paddle(authors):
    state = {}
    for name, value in authors.items():
        name = name.removeprefix("backbone.").removeprefix("head.")
        name = name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
        if not name.endswith("num_batches_tracked"):
            state[name] = (value.t() if name == "fc.weight" else value).contiguous().numpy()
    return state


def same(model, source, skip=()):
    ours, theirs = model.state_dict(), source.state_dict()
    return all(torch.equal(ours[name], value) for name, value in theirs.items() if not name.startswith(tuple(skip)))


WRAPPERS = {
    "bare": lambda state: state,
    "authors": lambda state: {
        # what mmcv writes beside the weights, NumPy scalars in the log included
        "meta": {"mmcv_version": "1.0", "epoch": 130, "loss": np.float64(0.5), "CLASSES": ("cat", "dog")},
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "distributed": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "model": lambda state: {"model": {f"_orig_mod.{name}": value for name, value in state.items()}},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_authors_files(wrapper, legacy, authors, source, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save(WRAPPERS[wrapper](authors), path, _use_new_zipfile_serialization=not legacy)
    model = nano(seed=2)
    report = load_checkpoint(model, path)
    assert same(model, source)
    assert (report.model, report.source, report.num_classes, report.stem_kernel) == ("rednet_nano", "authors", 4, 3)
    assert report.entries == len(source.state_dict())
    assert report.left_out == []


def test_backbone_without_prefix(authors, source, tmp_path):
    backbone = {name.removeprefix("backbone."): value for name, value in authors.items() if "head" not in name}
    torch.save(backbone, tmp_path / "backbone.pth")
    model = nano(seed=2, num_classes=0)
    assert load_checkpoint(model, tmp_path / "backbone.pth").num_classes == 0
    assert same(model, source, skip=["fc."])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_backbone_of_a_detector(prefix, authors, source, tmp_path):
    others = ["neck.fpn_convs.0.conv.weight", "rpn_head.rpn_conv.conv1.conv.weight", "roi_head.bbox_head.fc_cls.bias"]
    state = {f"{prefix}{name}": torch.zeros(1) for name in others}
    state |= {f"{prefix}{name}": value for name, value in authors.items() if "head" not in name}
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "detector.pth")
    features = nano(seed=2, features_only=True, num_classes=None)
    report = load_checkpoint(features, tmp_path / "detector.pth")
    assert report.left_out == [f"{prefix}{name}" for name in others]
    assert same(features, source, skip=["fc."])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_paddle_files(protocol, paddle, source, tmp_path):
    path = tmp_path / "RedNet_pretrained.pdparams"
    path.write_bytes(pickle.dumps({**paddle, "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}}, protocol))
    model = nano(seed=2)
    report = load_checkpoint(model, path)
    assert report.source == "paddle"
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(images), source(images))


def test_paddle_file_written_by_numpy_1(paddle, source, tmp_path):
    path = tmp_path / "old.pdparams"
    path.write_bytes(pickle.dumps(paddle, 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert load_checkpoint(nano(seed=2), path).source == "paddle"


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluation:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)


@pytest.mark.parametrize("attack", [Command, Evaluation])
@pytest.mark.parametrize("form", ["zip", "before 1.6", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(form, attack, authors, paddle, tmp_path):
    path, trace = tmp_path / "checkpoint.pth", tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps({**paddle, "extra": attack(trace)}))
    else:
        state = {"state_dict": authors, "meta": attack(trace)}
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    model = nano(seed=2)
    with pytest.raises(CheckpointError, match=r"refused, nothing of it was run: its pickle asks for .*(system|eval)"):
        load_checkpoint(model, path)
    with pytest.raises(CheckpointError, match="is refused"):
        convert_checkpoint(path, tmp_path / "out.safetensors")
    assert not trace.exists()
    assert same(model, nano(seed=2))
    # the file is a real attack
    with path.open("rb") as file:
        (pickle.load if form == "pickle" else lambda f: torch.load(f, weights_only=False))(file)
    assert trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a checkpoint: wanted a torch.save file, safetensors"),
        (b"<!DOCTYPE html><html>", "is not a checkpoint, a web page saved in its place"),
        (b"PK\x03\x04 cut off", "is damaged"),
        (b"\x80\x04cut off", "is damaged"),
        (pickle.dumps([1, 2, 3]), "holds no state dict: wanted tensors by name, got list"),
        (pickle.dumps({"layer1.0.conv1.weight": "text"}), "'layer1.0.conv1.weight' is of type str"),
        (pickle.dumps({"layer1.0.conv1.weight": np.array([None])}), "is of type array of object"),
        (
            pickle.dumps({"weight": np.zeros(3)}),
            "no part of this network in the file: wanted entries like .* got weight",
        ),
    ],
    ids=["empty", "web page", "zip", "pickle", "list", "text", "objects", "other network"],
)
def test_what_is_no_checkpoint(content, message, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(nano(), path)


def test_broken_safetensors(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{broken")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(nano(), tmp_path / "x.safetensors")


def test_missing_file():
    with pytest.raises(CheckpointError, match=r"no such checkpoint: nowhere\.pth"):
        load_checkpoint(nano(), "nowhere.pth")
    with pytest.raises(CheckpointError, match=r"\. is a folder; wanted a checkpoint"):
        load_checkpoint(nano(), ".")


def test_one_report_of_all_that_does_not_fit(authors, tmp_path):
    state = dict(authors)
    del state["backbone.layer2.1.conv2.conv1.conv.weight"], state["backbone.stem.2.bias"]
    state["backbone.layer1.0.conv9.weight"] = torch.zeros(1)
    state["backbone.layer3.0.conv3.weight"] = torch.zeros(2, 3)
    state["backbone.bn1.num_batches_tracked"] = torch.zeros(())
    torch.save(state, tmp_path / "odd.pth")
    model = nano(seed=2)
    with pytest.raises(CheckpointError, match=r": 2 missing \(.*\); 1 unexpected \(.*\); 2 of another shape") as caught:
        load_checkpoint(model, tmp_path / "odd.pth")
    assert caught.value.missing == ["conv1.4.bias", "layer2.1.conv2.generator.reduce.weight"]
    assert caught.value.unexpected == ["layer1.0.conv9.weight"]
    assert caught.value.mismatched == [
        "bn1.num_batches_tracked () integer wanted, got () float",
        "layer3.0.conv3.weight (256, 64, 1, 1) float wanted, got (2, 3) float",
    ]
    assert same(model, nano(seed=2))
    with pytest.raises(CheckpointError, match="is not a whole rednet_nano"):
        convert_checkpoint(tmp_path / "odd.pth", tmp_path / "odd.safetensors")
    assert not (tmp_path / "odd.safetensors").exists()


def test_entries_of_no_shape(authors, tmp_path):
    torch.save({name: torch.zeros(()) for name in authors}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match=r"193 of another shape or type"):
        convert_checkpoint(tmp_path / "empty.pth", tmp_path / "out.safetensors")


def test_another_depth_is_named(authors, tmp_path):
    torch.save(authors, tmp_path / "nano.pth")
    wanted = r"nano\.pth holds rednet_nano, which does not fit rednet_micro \(choose the model rednet_nano, or other"
    with pytest.raises(CheckpointError, match=wanted):
        load_checkpoint(timm.create_model("rednet_micro", num_classes=4), tmp_path / "nano.pth")


def test_several_networks_in_one_file(authors, tmp_path):
    state = {f"{prefix}.{name}": value for name, value in authors.items() for prefix in ("student", "teacher")}
    torch.save(state, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match=r"several networks in this file, under 'student\.backbone\.', 'teacher"):
        load_checkpoint(nano(), tmp_path / "two.pth")


@pytest.mark.parametrize(
    ("names", "classes", "note"),
    [
        ({"class_to_idx": {"d": 3, "c": 1, "b": 0, "a": 2}}, list("bcad"), None),
        ({"classes": list("wxyz")}, list("wxyz"), None),
        (
            {"class_names": ("w", "x", "y", "z"), "class_to_idx": dict(zip("wxyz", range(4), strict=True))},
            list("wxyz"),
            None,
        ),
        (
            {"classes": list("xwyz"), "class_to_idx": dict(zip("wxyz", range(4), strict=True))},
            None,
            "classes, class_to_idx differ",
        ),
        ({"meta": {"CLASSES": tuple("wxyz")}}, list("wxyz"), None),
        ({"meta": {"dataset_meta": {"classes": tuple("wxyz")}}}, list("wxyz"), None),
        ({"meta": {"dataset_meta": {"CLASSES": list("wxyz")}}}, list("wxyz"), None),
        ({"classes": list("xyz")}, None, "3 for 4 classes"),
        ({"classes": 4, "class_to_idx": {"a": 1, "b": "2"}}, None, None),
    ],
)
def test_class_names_of_other_trainings(tmp_path, names, classes, note):
    torch.save({"state_dict": nano().state_dict(), **names}, tmp_path / "a.pth")
    report = convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert report.notes == ([f"the class names in the file are not used: {note}"] if note else [])
    assert json.loads(read_metadata(tmp_path / "a.safetensors").get("classes", "null")) == classes


def test_how_another_training_prepared_its_images_is_told(tmp_path):
    args = argparse.Namespace(lr=0.1, mean=None, std=[0.5, 0.5, 0.5], img_size=288, interpolation="")
    torch.save({"state_dict": nano().state_dict(), "args": args}, tmp_path / "a.pth")
    report = convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert report.notes == ["how its training prepared images is not read: std [0.5, 0.5, 0.5], img_size 288"]
    torch.save({"state_dict": nano().state_dict(), "hyper_parameters": {"lr": 0.1, "mean": [0.5]}}, tmp_path / "b.pth")
    report = convert_checkpoint(tmp_path / "b.pth", tmp_path / "b.safetensors")
    assert report.notes == ["how its training prepared images is not read: mean [0.5]"]


def test_what_a_config_beside_the_weights_says(tmp_path):
    save_file(nano().state_dict(), tmp_path / "model.safetensors")
    images = {"mean": [0.5, 0.5, 0.5], "input_size": [3, 48, 48]}
    told = "how its training prepared images is not read: mean [0.5, 0.5, 0.5], input_size [3, 48, 48]"
    for number, (names, classes) in enumerate(
        (
            ({"label_names": list("wxyz")}, list("wxyz")),
            ({"id2label": {str(place): name for place, name in enumerate("zyxw")}}, list("zyxw")),
            ({"id2label": {"1": "x"}}, None),
        )
    ):
        (tmp_path / "config.json").write_text(json.dumps({**names, "pretrained_cfg": images}))
        report = convert_checkpoint(tmp_path / "model.safetensors", tmp_path / f"{number}.safetensors")
        assert report.notes == [told]
        assert json.loads(read_metadata(tmp_path / f"{number}.safetensors").get("classes", "null")) == classes
    (tmp_path / "config.json").write_text("no JSON")
    assert convert_checkpoint(tmp_path / "model.safetensors", tmp_path / "a.safetensors").notes == []


def test_an_average_without_names_beside_the_weights_is_told(tmp_path):
    weights = nano().state_dict()
    average = {"decay": 0.99, "shadow_params": [value.clone() for value in nano().parameters()]}
    optimizer = {"state": {0: {"exp_avg": weights["fc.bias"]}}, "param_groups": [{"params": [0]}]}
    torch.save({"model": weights, "ema": average, "optimizer": optimizer}, tmp_path / "a.pth")
    report = convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert report.notes == ["used the weights under model, not those under 'ema'"]


@pytest.mark.parametrize("key", ["config", "cfg"])
def test_how_an_openmmlab_training_prepared_its_images_is_told(tmp_path, key):
    text = "mean={}, std=[58.395, 57.12, 57.375], to_rgb={}), dict(type='CenterCrop', crop_size={})"
    usual = text.format("[123.675, 116.28, 103.53]", True, 224)
    other = text.format("[127.5, 127.5,\n    127.5]", False, 160)
    notes = []
    for text in (usual, other):
        torch.save({"state_dict": nano().state_dict(), "meta": {key: text}}, tmp_path / "a.pth")
        notes.append(convert_checkpoint(tmp_path / "a.pth", tmp_path / f"{len(notes)}.safetensors").notes)
    told = "how its training prepared images is not read: mean [127.5, 127.5, 127.5], to_rgb False, crop_size 160"
    assert notes == [[], [told]]


def test_head_for_other_classes(authors, source, tmp_path):
    torch.save(authors, tmp_path / "nano.pth")
    model = nano(seed=2, num_classes=7)
    with pytest.raises(CheckpointError, match=r"fc\.weight \(7, 256\) float wanted, got \(4, 256\)"):
        load_checkpoint(model, tmp_path / "nano.pth")
    head = model.fc.weight.clone()
    report = load_checkpoint(model, tmp_path / "nano.pth", ignore_head=True)
    assert report.left_out == ["fc.weight", "fc.bias"]
    assert same(model, source, skip=["fc."])
    assert torch.equal(model.fc.weight, head)


def test_converted_file_loads_in_timm(authors, source, tmp_path):
    torch.save({"meta": {}, "state_dict": authors}, tmp_path / "in.pth")
    out = tmp_path / "out.safetensors"
    report = convert_checkpoint(tmp_path / "in.pth", out)
    model = timm.create_model(report.model, num_classes=report.num_classes, checkpoint_path=str(out))
    assert same(model, source)
    assert same(timm.create_model("rednet_nano", num_classes=4, checkpoint_path=out), source)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == "rednet_nano"
    assert metadata["num_classes"] == "4"
    assert metadata["source_format"] == "authors"
    assert metadata["torch_version"] == torch.__version__
    again = tmp_path / "again.safetensors"
    assert convert_checkpoint(out, again).source == "timm"
    assert same(timm.create_model("rednet_nano", num_classes=4, checkpoint_path=again), source)
    assert sorted(os.listdir(tmp_path)) == ["again.safetensors", "in.pth", "out.safetensors"]


def test_pretrained_takes_the_authors_file(authors, source, tmp_path):
    torch.save({"state_dict": authors}, tmp_path / "in.pth")
    overlay = {"file": str(tmp_path / "in.pth"), "num_classes": 4}
    model = timm.create_model("rednet_nano", pretrained=True, num_classes=4, pretrained_cfg_overlay=overlay)
    assert same(model, source)


def test_gray_images_and_twins_convert(tmp_path):
    for name, in_chans in (("rednet_nano", 1), ("rednet_nano_conv", 3)):
        model = timm.create_model(name, num_classes=2, in_chans=in_chans)
        torch.save(model.state_dict(), tmp_path / "in.pth")
        report = convert_checkpoint(tmp_path / "in.pth", tmp_path / f"{name}.safetensors")
        assert (report.model, report.in_chans, report.num_classes) == (name, in_chans, 2)
        assert report.stem_kernel == (3 if name == "rednet_nano" else None)


def test_output_must_be_new_and_safetensors(authors, tmp_path):
    torch.save(authors, tmp_path / "in.pth")
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors, got"):
        convert_checkpoint(tmp_path / "in.pth", tmp_path / "out.pth")
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    with pytest.raises(FileExistsError, match=r"out\.safetensors exists"):
        convert_checkpoint(tmp_path / "in.pth", out)
    assert out.read_text() == "precious"
    convert_checkpoint(tmp_path / "in.pth", out, overwrite=True)
    assert load_checkpoint(nano(), out).source == "timm"
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert_checkpoint(tmp_path / "in.pth", tmp_path / "nowhere" / "out.safetensors")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_model_is_identified(name):
    assert identify(timm.create_model(name, device="meta").state_dict()) == name


def test_unknown_depth():
    state = timm.create_model("rednet26", device="meta").state_dict()
    state = {name: value for name, value in state.items() if not name.startswith("layer3.3")}
    with pytest.raises(CheckpointError, match=re.escape("has (1, 2, 3, 1) blocks per stage")):
        identify(state)


@pytest.mark.parametrize("name", [name for name in VARIANTS if re.fullmatch(r"rednet\d+(_stem7)?", name)])
def test_names_of_every_depth(name):
    # the authors' names of a depth, from the pattern of those of RedNet-26
    lines = (Path(__file__).parent / "golden" / "rednet26_keys.txt").read_text().splitlines()
    names = [line.split()[0].removeprefix("backbone.").removeprefix("head.") for line in lines]
    block = [entry.removeprefix("layer1.0.") for entry in names if entry.startswith("layer1.0.")]
    wanted = [entry for entry in names if not entry.startswith("layer")]
    for stage, blocks in enumerate(VARIANTS[name][1]["layers"], 1):
        for index in range(blocks):
            wanted += [
                f"layer{stage}.{index}.{entry}" for entry in block if index == 0 or not entry.startswith("downsample")
            ]
    model = timm.create_model(name, device="meta")
    assert sorted(map(timm_name, wanted)) == sorted(model.state_dict())


def test_golden_checkpoint_is_a_rednet26(golden):
    state = to_timm_layout(golden.state_dict)
    assert identify(state.tensors) == "rednet26"
    assert state.source == "authors"
    assert len(state.tensors) == 251


@pytest.mark.parametrize("place", ["class name", "name of an entry", "number"])
def test_a_flipped_bit_in_a_converted_file_is_refused(place, source, tmp_path):
    path = tmp_path / "nano.safetensors"
    torch.save({"state_dict": source.state_dict(), "meta": {"CLASSES": list("wxyz")}}, tmp_path / "nano.pth")
    convert_checkpoint(tmp_path / "nano.pth", path)
    content = bytearray(path.read_bytes())
    at = {
        "class name": content.index(b"wxyz"[:1] + b'\\", \\"x'),
        "name of an entry": content.index(b'"conv1.') + 2,
        "number": len(content) - 400,
    }[place]
    assert load_checkpoint(nano(seed=2), path).entries
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: its checksum is wrong; get the file again"):
        load_checkpoint(nano(seed=2), path)


def test_safetensors_of_others_need_no_checksum(source, tmp_path):
    path = tmp_path / "nano.safetensors"
    save_file(source.state_dict(), path)
    model = nano(seed=2)
    load_checkpoint(model, path)
    assert same(model, source)


def test_the_old_format_has_a_limit_as_the_new_one(tmp_path):
    shared = torch.zeros(1)
    many = {f"{'entry' * 20}{i}": shared for i in range(40_000)}
    torch.save(many, tmp_path / "many.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="its index has more than 3 MB, which no checkpoint needs"):
        load_checkpoint(nano(), tmp_path / "many.pth")
    content = (tmp_path / "many.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[:5000])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(nano(), tmp_path / "cut.pth")
