"""The published detectors against torchvision's with a ResNet-50, and what the neck's involution holds in memory.

The stem and the first stage are frozen and the backbone's batch norms keep their statistics, as published, in the
counterpart, too. Weights are random; the classifiers are set so that as much is found as by a trained detector: a
prediction ends with the most detections that it may return.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from involution import detection
from involution.nn import Involution2d
from involution.ops import involution2d
from involution.studies.baselines import unfold_involution2d
from involution.studies.harness import Measurement, Options, Row, Suite, measure

FAMILIES = ("retinanet", "faster_rcnn", "mask_rcnn", "neck")
BASE = "ResNet-50"
_NECK_BASE = "involution"
_CATEGORIES = 80

Candidates = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class _Setting:
    # images of height and width, multiples of 32; how long is measured
    size: tuple[int, int]
    batch: int
    seconds: float
    rounds: int
    backbone: str
    device: str

    def measure(self, family: str, name: str, candidates: Candidates, base: str) -> Iterator[Row]:
        columns: Row = {"family": family, "measure": name, "layer": "", "batch": self.batch}
        columns |= {"height": self.size[0], "width": self.size[1]}
        return measure(candidates, base, seconds=self.seconds, rounds=self.rounds, **columns)


def _plan(options: Options) -> Iterator[Measurement]:
    # smaller images have too few proposals to end with 100 detections
    size = (128, 160) if options.dry_run else (256, 320) if options.quick else (800, 1344)
    settings = options.filled(
        batches=(1,), seconds=0 if options.dry_run or options.quick else 1.0, rounds=2 if options.dry_run else 3
    )
    backbone = "rednet26_stem7" if options.dry_run else "rednet50_stem7"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for batch in settings.batches:
        setting = _Setting(size, batch, settings.seconds, settings.rounds, backbone, device)
        for family in options.parts:
            rows = partial(_neck, setting) if family == "neck" else partial(_detectors, family, setting)
            yield Measurement(f"{family}, batch {batch}", rows)


def _detectors(family: str, setting: _Setting) -> Iterator[Row]:
    kinds = [("convolution", "convolution"), ("involution", "convolution"), ("involution", "involution")]
    if family == "retinanet":
        kinds = kinds[:2]
    limits = {"min_size": min(setting.size), "max_size": max(setting.size)}
    torch.manual_seed(0)
    models: dict[str, Any] = {BASE: counterpart(family, limits)}
    for neck, head in kinds:
        name = f"RedNet, {neck} neck" + (" and head" if head == "involution" else "")
        extra = {} if family == "retinanet" else {"head": head}
        models[name] = getattr(detection, family)(_CATEGORIES, setting.backbone, neck=neck, **extra, **limits)
    for name, model in models.items():
        _freeze(model.backbone.body if name == BASE else model.backbone.backbone.body)
        make_confident(model)
        model.to(setting.device)
    images = [torch.rand(3, *setting.size, device=setting.device) for _ in range(setting.batch)]
    targets = [_target(setting.size, setting.device) for _ in images]
    calls: dict[str, Candidates] = {
        "training step": {name: partial(_step, model, images, targets) for name, model in models.items()},
        "prediction": {name: partial(_predict, model, images) for name, model in models.items()},
    }
    for name, candidates in calls.items():
        yield from setting.measure(family, name, candidates, BASE)


def counterpart(family: str, limits: dict[str, int]) -> Any:
    """Return torchvision's detector of a family with a ResNet-50, untrained."""
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


def make_confident(model: Any) -> None:
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


def _neck(setting: _Setting) -> Iterator[Row]:
    """Measure the neck's layer on the finest level, a quarter of the image's size."""
    torch.manual_seed(0)
    height, width = setting.size
    layer = Involution2d(256, 7).to(setting.device).eval()
    x = torch.randn(setting.batch, 256, height // 4, width // 4, device=setting.device)
    grad = torch.randn_like(x)
    forms: dict[str, Callable[[Tensor], Tensor]] = {
        _NECK_BASE: layer,
        "map, then involution": lambda x: involution2d(x, layer.generator(x), None, 1, 3),
        # 11 GB of memory at 800×1344
        "map, then unfold": lambda x: unfold_involution2d(x, layer.generator(x), 1, 3),
    }

    def forward(form: Callable[[Tensor], Tensor]) -> Tensor:
        with torch.inference_mode():
            return form(x)

    def step(form: Callable[[Tensor], Tensor]) -> None:
        leaf = x.detach().requires_grad_()
        torch.autograd.grad(form(leaf), [leaf, *layer.parameters()], grad)

    truth = forward(forms[_NECK_BASE])
    for form in list(forms.values())[1:]:
        torch.testing.assert_close(forward(form), truth, rtol=1e-3, atol=1e-3 * float(truth.abs().max()))
    for name, call in (("forward", forward), ("forward+backward", step)):
        candidates: Candidates = {title: partial(call, form) for title, form in forms.items()}
        for row in setting.measure("neck", name, candidates, _NECK_BASE):
            if "peak_bytes" in row:
                row["peak_per_output"] = round(row["peak_bytes"] / (truth.numel() * truth.element_size()), 2)
            yield row


SUITE = Suite(FAMILIES, _plan)
