"""timm, segmentation-models-pytorch and transformers take published weights by name."""

import json
import re
from pathlib import Path

import pytest
import timm
import torch
from published_files import network, paddle_state, pdparams
from tolerances import NETWORK

from involution.models import load_checkpoint
from involution.models.pyramid import Backbone
from involution.models.weights import PUBLISHED, card, save
from involution.studies.published import CLASSIFIERS


@pytest.fixture(scope="module")
def theirs():
    return network("rednet26")


@pytest.fixture(scope="module")
def image():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_the_table_says_what_the_networks_are(entry):
    with torch.device("meta"):
        model = timm.create_model(entry.model)
    assert sum(value.numel() for value in model.parameters()) == entry.parameters
    assert CLASSIFIERS[entry.model].scores["top1"] == entry.figures["authors"][0]
    assert CLASSIFIERS[entry.model].scores["top5"] == entry.figures["authors"][1]
    cfg = model.pretrained_cfg
    assert (cfg["tag"], cfg["url"], cfg["license"]) == ("paddle_in1k", entry.address, "apache-2.0")
    assert entry.most_bytes > 4 * sum(value.numel() for value in model.state_dict().values())


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_the_page_has_the_figures_of_the_table(entry):
    page = (Path(__file__).parents[3] / "docs" / "guides" / "weights.md").read_text(encoding="utf-8")
    pairs = [f"{top1:.2f}, {top5:.2f}" for top1, top5 in entry.figures.values()]
    assert f"| `{entry.model}` | {entry.parameters / 1e6:.1f} million | {' | '.join(pairs)} |" in page


def test_golden_values_of_the_authors_network(golden, tmp_path, monkeypatch):
    # the authors' names and PaddlePaddle's, in float64
    state = {}
    for name, value in golden.state_dict.items():
        if not name.endswith("num_batches_tracked"):
            name = re.sub(r"^(backbone|head)\.", "", name)
            name = name.replace(".running_mean", "._mean").replace(".running_var", "._variance")
            state[name] = (value.t() if name == "fc.weight" else value).contiguous().numpy()
    (tmp_path / "RedNet26_pretrained.pdparams").write_bytes(pdparams(state))
    monkeypatch.setenv("INVOLUTION_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    model = timm.create_model("rednet26", pretrained=True, dtype=torch.float64).eval()
    wanted = golden.cases[0]
    assert wanted["mode"] == "eval"
    with torch.no_grad():
        logits = model(torch.from_numpy(golden.image(wanted["shape"])))
    exact = torch.tensor(wanted["logits"], dtype=torch.float64)
    torch.testing.assert_close(logits[:, :8], exact, **NETWORK[torch.float64])
    assert logits.argmax(1).tolist() == wanted["argmax"]


def test_timm(published26, theirs, image):
    offered = timm.list_models("rednet*", pretrained=True)
    assert sorted(offered) == sorted(entry.name for entry in PUBLISHED)
    assert timm.is_model_pretrained("rednet50")
    for name in ("rednet26", "rednet26.paddle_in1k"):
        model = timm.create_model(name, pretrained=True).eval()
        assert torch.equal(model(image), theirs(image))
    # where the file lies is not a part of the network
    assert model.pretrained_cfg.get("file") is None
    config = timm.data.resolve_model_data_config(model)
    assert (config["input_size"], config["crop_pct"], config["interpolation"]) == ((3, 224, 224), 0.875, "bilinear")
    assert (config["mean"], config["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_timm_for_other_classes_channels_and_features(published26, theirs, image):
    fewer = timm.create_model("rednet26", pretrained=True, num_classes=7).eval()
    assert fewer.fc.out_features == 7
    assert torch.equal(fewer.forward_features(image), theirs.forward_features(image))
    weight = theirs.conv1[0].weight
    grey = timm.create_model("rednet26", pretrained=True, in_chans=1)
    torch.testing.assert_close(grey.conv1[0].weight, weight.sum(1, keepdim=True))
    four = timm.create_model("rednet26", pretrained=True, in_chans=4)
    torch.testing.assert_close(four.conv1[0].weight[:, 3], weight[:, 0] * 0.75)
    features = timm.create_model("rednet26", pretrained=True, features_only=True, out_indices=(2, 4)).eval()
    wanted = theirs.forward_intermediates(image, indices=[2, 4], intermediates_only=True)
    assert all(torch.equal(ours, value) for ours, value in zip(features(image), wanted, strict=True))
    assert features.pretrained_cfg.get("file") is None


def test_timm_reads_files(published26, theirs, image, tmp_path):
    torch.save(theirs.state_dict(), tmp_path / "mine.pth")
    for given in (
        {"pretrained": True, "pretrained_cfg_overlay": {"file": str(tmp_path / "mine.pth")}},
        {"checkpoint_path": str(tmp_path / "mine.pth")},
    ):
        assert torch.equal(timm.create_model("rednet26", **given).eval()(image), theirs(image))


def test_segmentation_models_pytorch(published26, theirs, image):
    smp = pytest.importorskip("segmentation_models_pytorch")
    with pytest.warns(UserWarning, match="timm universal"):
        model = smp.Unet("tu-rednet26", encoder_weights="imagenet").eval()
    assert torch.equal(model.encoder(image)[-1], theirs.forward_features(image))


def test_transformers_backbone(published26, theirs, image):
    transformers = pytest.importorskip("transformers")
    model = transformers.TimmBackbone.from_pretrained("rednet26", out_indices=(4,)).eval()
    assert torch.equal(model(image).feature_maps[0], theirs.forward_features(image))


def test_folders_of_the_hub(published26, theirs, image, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = save("rednet26", tmp_path / "hub")
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "README.md").read_text() == card("rednet26")
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["label_names"][0]) == ("rednet26", "n01440764")
    assert "url" not in config["pretrained_cfg"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(model(image), theirs(image))
    wrapped = transformers.TimmWrapperForImageClassification.from_pretrained(folder).eval()
    state = wrapped.timm_model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in theirs.state_dict().items())
    torch.testing.assert_close(wrapped(image).logits, theirs(image), **NETWORK[torch.float32])
    assert wrapped.config.id2label[1] == "n01443537"
    # a network of one's own
    fewer = timm.create_model("rednet26", pretrained=True, num_classes=3, in_chans=1).eval()
    timm.models.save_for_hf(fewer, str(tmp_path / "mine"), safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path / 'mine'}", pretrained=True).eval()
    assert torch.equal(again(image[:, :1]), fewer(image[:, :1]))
    with pytest.raises(FileExistsError, match="wanted a new or empty folder"):
        save("rednet26", folder)


def test_the_card_tells_origin_licence_figures_and_limits():
    said = card("rednet50")
    for words in (
        "license: apache-2.0",
        "datasets:\n- imagenet-1k",
        "https://github.com/d-li14/involution",
        "RedNet50_pretrained.pdparams, offered by https://github.com/PaddlePaddle/PaddleClas",
        "15.54 million",
        "| the authors | 78.35 | 94.13 |",
        "| PaddleClas, of this file | 78.33 | 94.17 |",
        "## How it was trained",
        "## Limits",
        "not measured again by this package",
    ):
        assert words in said


def test_backbones_and_segmenters_of_ours(published26, theirs, image):
    from involution.segmentation import smp

    assert torch.equal(Backbone("rednet26", (4,), weights="rednet26").eval()(image)[-1], theirs.forward_features(image))
    message = r"rednet26 holds rednet26, which does not fit rednet26_stem7 \(choose the model rednet26"
    with pytest.raises(ValueError, match=message):
        Backbone("rednet26_stem7", weights="rednet26")
    segmenter = smp("smp_fpn", 3, "rednet26", weights="rednet26").eval()
    assert torch.equal(segmenter.encoder(image)[-1], theirs.forward_features(image))
    assert load_checkpoint(network("rednet26", num_classes=5), "rednet26", ignore_head=True).left_out


def test_generated_files_are_like_the_published_ones(golden, theirs):
    # the authors' names are those of the golden file
    names = {re.sub(r"^(backbone|head)\.", "", name) for name in golden.state_dict}
    wanted = {re.sub(r"running_(mean|var)$", r"_\1", name) for name in names if "num_batches" not in name}
    assert {name.replace("._variance", "._var") for name in paddle_state(theirs.state_dict())} == wanted
