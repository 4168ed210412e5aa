"""The optional packages: which extra of this package brings which, and what is said where one is missing."""

from __future__ import annotations

from importlib.util import find_spec
from typing import NamedTuple


class Extra(NamedTuple):
    """What ``pip install "involution[NAME]"`` brings.

    Args:
        purpose: What it is for.
        packages: What is imported of it, by import names; those that come with its own requirements included.
    """

    purpose: str
    packages: tuple[str, ...]


# by name; a package belongs to the first that lists it
EXTRAS = {
    "cli": Extra("this command", ("jsonargparse", "rich", "yaml")),
    "models": Extra("RedNet and its checkpoints", ("timm", "safetensors", "torchvision", "PIL", "numpy")),
    "train": Extra(
        "training, evaluation, prediction, the demo",
        (
            *("lightning", "torchmetrics", "torchvision", "tensorboard", "webdataset", "upath"),
            *("sklearn", "scipy", "matplotlib", "jinja2", "markupsafe"),
        ),
    ),
    "detect": Extra("detection, and the embedded digit-scenes", ("pycocotools",)),
    "segment": Extra(
        "segmentation-models-pytorch's segmenters, and the embedded digit-scenes",
        ("segmentation_models_pytorch", "pycocotools"),
    ),
    "transformers": Extra("DETR and Conditional DETR", ("transformers",)),
    "wandb": Extra("--logger wandb", ("wandb",)),
    "mlflow": Extra("--logger mlflow", ("mlflow",)),
    "ray": Extra("Parquet tables, and predictions by Ray Data", ("ray", "pyarrow")),
    "export": Extra("export to ONNX, and ONNX Runtime", ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Extra("export to OpenVINO, and NNCF for 8 bits", ("openvino", "nncf")),
    "demo": Extra("the web page", ("gradio", "starlette")),
    "serve": Extra(
        "the HTTP server",
        ("uvicorn", "h11", "starlette", "pydantic", "prometheus_client", "python_multipart", "contourpy"),
    ),
}


class MissingExtra(ModuleNotFoundError):
    """An optional package that is not installed; the message is one line with the command that installs it.

    Args:
        package: By its import name.
        extra: The extra to name; by default the first that brings the package.
    """

    def __init__(self, package: str, extra: str | None = None) -> None:
        extra = extra or next((name for name, found in EXTRAS.items() if package in found.packages), None)
        what = f'"involution[{extra}]"' if extra else package
        super().__init__(f"{package} is not installed; pip install {what}", name=package)


def is_installed(package: str) -> bool:
    """Whether a package is there, without importing it."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def require(*packages: str, extra: str | None = None) -> None:
    """Check that optional packages are there before they are imported.

    Args:
        *packages: By their import names.
        extra: The extra to name; by default the first in `EXTRAS` that brings the missing package.

    Raises:
        MissingExtra: For the first that is not installed.

    Example:
        >>> require("timm", "safetensors")
        >>> require("nonsense", extra="models")
        Traceback (most recent call last):
        ...
        involution.extras.MissingExtra: nonsense is not installed; pip install "involution[models]"
    """
    for package in packages:
        if not is_installed(package):
            raise MissingExtra(package, extra)
