"""Every kind of network in every format: the results of the checkpoint, with and without preprocessing in the graph."""

from pathlib import Path

import PIL.Image
import pytest
import torch
from export_networks import NAMES, save_network
from sklearn.datasets import load_sample_images

from involution.engine.loading import load_predictor
from involution.export import LibraryError, export_checkpoint, load_exported, openvino_library
from involution.export.errors import ExportError
from involution.export.registry import formats, get_format

REFUSED = [name for name in NAMES if "detr" in name]
EXPORTED = [name for name in NAMES if name not in REFUSED]
# the rest takes from ten seconds to a minute each
FAST = {("rednet_nano", "onnx", True)}
# compiling takes a minute, so of packages that take prepared images these alone, which PyTorch 2.14 freezes with care
COMPILED = ("faster_rcnn", "mask_rcnn", "smp_fpn")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("networks"), {}

    def make(name):
        if name not in made:
            made[name] = save_network(folder / f"{name}.ckpt", name)
        return made[name]

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A photograph, a tall part and a small part of it."""
    folder = tmp_path_factory.mktemp("pictures")
    china = PIL.Image.fromarray(load_sample_images().images[0])
    for name, box in {"a": (0, 0, 640, 427), "b": (200, 0, 350, 400), "c": (300, 200, 370, 260)}.items():
        china.crop(box).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


def cases():
    for name in EXPORTED:
        for format in formats():
            for inside in (False, True):
                if format == "aoti" and not inside and name not in COMPILED:
                    continue
                marks = () if (name, format, inside) in FAST else (pytest.mark.slow,)
                yield pytest.param(name, format, inside, marks=marks)


@pytest.mark.parametrize(("name", "format", "inside"), list(cases()))
def test_the_results_are_those_of_the_checkpoint(name, format, inside, network, pictures, tmp_path):
    for package in get_format(format).packages:
        pytest.importorskip(package)
    if format == "openvino":
        try:
            openvino_library()
        except LibraryError as error:
            pytest.skip(str(error))
    chosen, checkpoint = get_format(format), network(name)
    file = tmp_path / f"a{chosen.suffix}"
    sources = [str(picture) for picture in pictures]
    written = export_checkpoint(checkpoint, format, file, with_preprocessing=inside, images=sources)
    (first, *_) = written.metadata.inputs
    assert (first["dtype"], first["shape"][2:] == ["height", "width"]) == (
        "uint8" if inside else "float32",
        inside or name != "rednet_nano",
    )
    assert ("normalise" in written.metadata.preprocessing["in_graph"]) == inside
    ours = load_predictor(checkpoint, "cpu").predict(pictures)
    theirs = load_exported(file, chosen.runtime).predict(pictures)
    for one, other in zip(ours, theirs, strict=True):
        if written.metadata.task == "classify":
            assert one.labels == other.labels
            assert one.scores == pytest.approx(other.scores, abs=1e-2 if inside else 1e-5)
        elif written.metadata.task == "segment":
            assert one.labels.shape == other.labels.shape
            assert (one.labels == other.labels).float().mean() > (0.97 if inside else 0.9999)
        else:
            assert one.found > 3
            agree(one, other)


def agree(one, other):
    """The same objects, but for those few where a rounding decides between two that overlap."""
    matched = 0
    for place, box in enumerate(one.boxes):
        apart = (torch.tensor(other.boxes).view(-1, 4) - torch.tensor(box)).abs().amax(1)
        nearest = int(apart.argmin())
        matched += bool(
            apart[nearest] < 0.1
            and one.labels[place] == other.labels[nearest]
            and abs(one.scores[place] - other.scores[nearest]) < 1e-3
            and (one.masks is None or (one.masks[place] == other.masks[nearest]).float().mean() > 0.99)
        )
    assert matched >= 0.97 * max(one.found, other.found)


@pytest.mark.parametrize("name", REFUSED)
def test_a_detr_is_refused_in_one_line(name, network):
    with pytest.raises(ExportError, match=rf"^{name} can't be exported; of the detectors retinanet, faster_rcnn and"):
        export_checkpoint(network(name), "pt2", Path("a.pt2"))


def test_a_detectors_room_may_be_fixed_and_pictures_stay_open(network, pictures, tmp_path):
    file = tmp_path / "a.pt2"
    # as many zeros as PyTorch adds to this one, whose edge they change
    settings = {"with_preprocessing": True, "size": (96, 128), "images": [str(pictures[0])]}
    written = export_checkpoint(network("faster_rcnn"), "pt2", file, **settings)
    assert written.metadata.inputs[0]["shape"] == [1, 3, "height", "width"]
    ours = load_predictor(network("faster_rcnn"), "cpu").predict(pictures[0])
    agree(ours, load_exported(file, "torch").predict(pictures[0]))
