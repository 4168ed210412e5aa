"""Model cards of published weights, and weights with their card in a folder as the Hugging Face Hub has them."""

import errno
import json
import os
import shutil
from pathlib import Path

import timm
from timm.data import ImageNetInfo
from timm.models._hub import generate_readme, save_for_hf

from involution.models.weights.table import PublishedWeights, find

_WHO = {"authors": "the authors", "PaddleClas": "PaddleClas, of this file"}
_CITATION = """@inproceedings{Li_2021_CVPR,
  title = {Involution: Inverting the Inherence of Convolution for Visual Recognition},
  author = {Li, Duo and Hu, Jie and Wang, Changhu and Li, Xiangtai and She, Qi and Zhu, Lei and Zhang, Tong and Chen, Qifeng},
  booktitle = {Conference on Computer Vision and Pattern Recognition (CVPR)},
  year = {2021}
}"""  # noqa: E501


def card(name: str) -> str:
    """Return the model card of published weights, in Markdown with the Hub's header.

    It says where they come from, under which licence, how they were trained, how accurate they are by whose figures,
    and what they are not for.

    Raises:
        WeightsError: No such weights.

    Example:
        >>> "# Model card for rednet50.paddle_in1k" in card("rednet50")
        True
    """
    entry = find(name)
    side = entry.input_size[-1]
    content = {
        "license": entry.license,
        "description": (
            f"{entry.model} of the involution paper, trained on ImageNet-1k: a residual network whose k×k convolutions "
            "are involutions."
        ),
        "details": {
            "Model Type": "image classification, feature backbone",
            "Model Stats": {
                "Parameters": f"{entry.parameters / 1e6:.2f} million",
                "Images": f"{side} × {side} pixels, shorter side {round(side / entry.crop_pct)}, centre crop, "
                f"{entry.interpolation}",
            },
            "Dataset": "ImageNet-1k",
            "Paper": "Involution: Inverting the Inherence of Convolution for Visual Recognition, "
            "https://arxiv.org/abs/2103.06255",
            "Trained by": entry.origin,
            "File": f"{entry.address}, offered by {entry.source}; its figures say that these are the authors' weights, "
            "converted",
            "Code": "https://pypi.org/project/involution",
        },
        "usage": _usage(entry),
        "comparison": _figures(entry),
        "citation": _CITATION,
    }
    return generate_readme(content, entry.name) + _rest()


def save(name: str, folder: str | os.PathLike[str]) -> Path:
    """Write published weights, their settings and their card to a folder, as the Hugging Face Hub has them.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` and transformers' ``TimmWrapper`` read it.

    Args:
        name: Of the weights.
        folder: A new or empty one.

    Returns:
        The folder.

    Raises:
        WeightsError: No such weights, or they can't be had.
        FileExistsError: The folder holds something.
    """
    entry, target = find(name), Path(folder)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(errno.EEXIST, "wanted a new or empty folder", str(target))
    if not next(place for place in target.absolute().parents if place.exists()).is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file is where a folder is wanted", str(target))
    model = timm.create_model(entry.name, pretrained=True)
    info = ImageNetInfo()
    labels = info.label_names()
    words = {label: info.label_name_to_description(label) for label in labels}
    save_for_hf(
        model, str(target), model_config={"label_names": labels, "label_descriptions": words}, safe_serialization=True
    )
    # it is there twice, which transformers' TimmWrapper does not take
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    config["model_args"].pop("num_classes", None)
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    readme = target / "README.md"
    readme.write_text(card(name), encoding="utf-8")
    # safetensors' own writer lets nobody else read the file
    shutil.copymode(readme, target / "model.safetensors")
    return target


def _usage(entry: PublishedWeights) -> str:
    return f"""
```python
import timm
import involution.models  # registers RedNet

model = timm.create_model("{entry.name}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

```sh
involution classify predict --checkpoint {entry.model} photo.jpg
```
"""


def _figures(entry: PublishedWeights) -> str:
    rows = [f"| {_WHO.get(who, who)} | {top1:.2f} | {top5:.2f} |" for who, (top1, top5) in entry.figures.items()]
    table = "\n".join(["| measured by | top-1 (%) | top-5 (%) |", "|---|---|---|", *rows])
    return f"\nOn ImageNet-1k's 50,000 validation images:\n\n{table}\n"


def _rest() -> str:
    return """
## How it was trained

By the authors, as they published their settings: 130 epochs of SGD with Nesterov momentum, batches of 2048 images,
learning rate 0.8 with a warm-up of 5 epochs and a cosine schedule, weight decay 0.0001, label smoothing 0.1, random
resized crops of 224 × 224 pixels and horizontal flips.

## Limits

- It knows the 1000 classes of ImageNet-1k and gives one of them for any image, with whatever bias that collection of
  photographs has. Its probabilities are not calibrated.
- The figures above were published, not measured again by this package. The published measurements resized with OpenCV;
  other libraries' resizing shifts them a little.
- For other classes it has to be trained further.
"""
