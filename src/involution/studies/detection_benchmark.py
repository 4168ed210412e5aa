"""The published detectors against torchvision's with a ResNet-50, and what the neck's involution holds in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .. import detection
from ..nn import Involution2d
from ..ops import involution2d
from .baselines import unfold_involution2d
from .timing import interleaved_ratios, peak_memory

FAMILIES = ("retinanet", "faster_rcnn", "mask_rcnn", "neck")
BASE = "ResNet-50"
_NECK_BASE = "involution"
_CATEGORIES = 80

Row = dict[str, Any]


def run(
    families: tuple[str, ...] = FAMILIES,
    *,
    size: tuple[int, int] = (800, 1344),
    batch: int = 1,
    device: str = "cpu",
    seconds: float = 1.0,
    rounds: int = 3,
    backbone: str = "rednet50_stem7",
    unfold: bool = True,
) -> Iterator[Row]:
    """Time a training step and a prediction of each detector, and measure what they hold in memory.

    The stem and the first stage are frozen and the backbone's batch norms keep their statistics, as published, in the
    counterpart, too. Weights are random; the classifiers are set so that as much is found as by a trained detector: a
    prediction ends with the most detections that it may return.

    Args:
        families: Of `FAMILIES`.
        size: Height and width of the images, multiples of 32.
        batch: Images.
        device: Where it runs.
        seconds: Least time for each measurement.
        rounds: Least rounds of each measurement.
        backbone: Of the detectors.
        unfold: Also measure the neck by unfold, which holds many times the memory.

    Yields:
        A row for each candidate: what was measured, milliseconds and the ratio to the base's time in the same round,
        each as p20, p50 and p80, and the most bytes of tensors held at once, beyond those from before the call.

    Raises:
        ValueError: An unknown family.
        AssertionError: If the forms of the neck's layer compute different things.
    """
    for family in families:
        if family not in FAMILIES:
            raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
        if family == "neck":
            yield from _neck(size, batch, device, seconds, rounds, unfold)
        else:
            yield from _detectors(family, size, batch, device, seconds, rounds, backbone)


def _detectors(
    family: str, size: tuple[int, int], batch: int, device: str, seconds: float, rounds: int, backbone: str
) -> Iterator[Row]:
    kinds = [("convolution", "convolution"), ("involution", "convolution"), ("involution", "involution")]
    if family == "retinanet":
        kinds = kinds[:2]
    limits = {"min_size": min(size), "max_size": max(size)}
    torch.manual_seed(0)
    models: dict[str, Any] = {BASE: _counterpart(family, limits)}
    for neck, head in kinds:
        name = f"RedNet, {neck} neck" + (" and head" if head == "involution" else "")
        extra = {} if family == "retinanet" else {"head": head}
        models[name] = getattr(detection, family)(_CATEGORIES, backbone, neck=neck, **extra, **limits)
    for name, model in models.items():
        _freeze(model.backbone.body if name == BASE else model.backbone.backbone.body)
        _make_confident(model)
        model.to(device)
    images = [torch.rand(3, *size, device=device) for _ in range(batch)]
    targets = [_target(size, device) for _ in images]
    calls: dict[str, dict[str, Callable[[], Any]]] = {
        "training step": {name: partial(_step, model, images, targets) for name, model in models.items()},
        "prediction": {name: partial(_predict, model, images) for name, model in models.items()},
    }
    for measure, candidates in calls.items():
        yield from _measured(family, measure, batch, size, candidates, BASE, seconds, rounds)


def _measured(
    family: str,
    measure: str,
    batch: int,
    size: tuple[int, int],
    candidates: dict[str, Callable[[], Any]],
    base: str,
    seconds: float,
    rounds: int,
) -> Iterator[Row]:
    times, ratios = interleaved_ratios(candidates, base, seconds=seconds, min_rounds=rounds)
    for name, time in times.items():
        row: Row = {"family": family, "measure": measure, "candidate": name, "base": base}
        row |= {"batch": batch, "height": size[0], "width": size[1]}
        for percentile in ("p20", "p50", "p80"):
            row[f"{percentile}_ms"] = round(getattr(time, percentile), 3)
            row[f"{percentile}_ratio"] = round(getattr(ratios[name], percentile), 3)
        yield {**row, "peak_bytes": peak_memory(candidates[name])}


def _counterpart(family: str, limits: dict[str, int]) -> Any:
    build = {
        "retinanet": torchvision.models.detection.retinanet_resnet50_fpn,
        "faster_rcnn": torchvision.models.detection.fasterrcnn_resnet50_fpn,
        "mask_rcnn": torchvision.models.detection.maskrcnn_resnet50_fpn,
    }[family]
    classes = _CATEGORIES + (family != "retinanet")
    return build(weights=None, weights_backbone=None, num_classes=classes, **limits)


def _freeze(body: nn.Module) -> None:
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(not name.startswith(("conv1.", "bn1.", "layer1.")))


def _make_confident(model: Any) -> None:
    """Let random classifiers find as much as trained ones do: untrained, none of their scores passes the threshold."""
    if hasattr(model, "rpn"):
        nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.5)
    else:
        nn.init.zeros_(model.head.classification_head.cls_logits.bias)


def _target(size: tuple[int, int], device: str) -> dict[str, Tensor]:
    height, width = size
    corners = torch.rand(8, 2) * torch.tensor([width, height]) * 0.6
    sides = (0.05 + 0.3 * torch.rand(8, 2)) * torch.tensor([width, height])
    boxes = torch.cat([corners, corners + sides], 1)
    masks = torch.zeros(8, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target = {"boxes": boxes, "labels": torch.arange(1, 9), "masks": masks}
    return {name: value.to(device) for name, value in target.items()}


def _step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
    model.train()
    for module in model.backbone.modules():  # type: ignore[union-attr]
        if isinstance(module, _BatchNorm):
            module.eval()
    sum(model(images, targets).values()).backward()
    # now and not before the step: memory is counted from what was held before it
    model.zero_grad()


def _predict(model: Any, images: list[Tensor]) -> None:
    with torch.inference_mode():
        found = model.eval()(images)
    most = model.roi_heads.detections_per_img if hasattr(model, "rpn") else model.detections_per_img
    if any(len(result["scores"]) < min(most, 100) for result in found):
        raise AssertionError(f"only {[len(result['scores']) for result in found]} detections: too little was timed")


def _neck(size: tuple[int, int], batch: int, device: str, seconds: float, rounds: int, unfold: bool) -> Iterator[Row]:
    """Measure the neck's layer on the finest level, a quarter of the image's size."""
    torch.manual_seed(0)
    layer = Involution2d(256, 7).to(device).eval()
    x = torch.randn(batch, 256, size[0] // 4, size[1] // 4, device=device)
    grad = torch.randn_like(x)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        _NECK_BASE: layer,
        "map, then involution": lambda x: involution2d(x, layer.generator(x), None, 1, 3),
    }
    if unfold:
        forms["map, then unfold"] = lambda x: unfold_involution2d(x, layer.generator(x), 1, 3)

    def forward(form: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            return form(x)

    def step(form: Callable[[Tensor], Tensor]) -> None:
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(form(leaf), [leaf, *layer.parameters()], grad)

    truth = forward(forms[_NECK_BASE])
    for form in list(forms.values())[1:]:
        torch.testing.assert_close(forward(form), truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max()))
    for measure, call in (("forward", forward), ("forward+backward", step)):
        candidates: dict[str, Callable[[], Any]] = {name: partial(call, form) for name, form in forms.items()}
        for row in _measured("neck", measure, batch, size, candidates, _NECK_BASE, seconds, rounds):
            held = row["peak_bytes"] / (truth.numel() * truth.element_size())
            yield {**row, "peak_per_output": round(held, 2)}
