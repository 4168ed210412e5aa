"""What a network costs: multiply-adds by PyTorch's counter, and "FLOPs" as the authors of involution count them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from involution.detection import faster_rcnn, mask_rcnn, retinanet
from involution.nn import Involution2d
from involution.segmentation import semantic_fpn, upernet

# proposals and masks of the authors' tool, whatever the image
_PROPOSALS, _MASKS = 1000, 100


@dataclass
class AuthorsCost:
    """Operations as mmcv's counter and the authors add them up, by kind; `total` is their "FLOPs".

    The published figures of RedNet are ``total`` of the network with the 7×7 stem and without its classifier.

    Attributes:
        multiply_adds: Of convolutions and linear layers.
        involution: Multiply-adds of the generated kernels: K² for each element of the output.
        bias: One for each element of the output of a convolution with a bias.
        norm: Two for each element of a batch norm.
        generator_norm: The same of the batch norms in kernel generators.
        stem_norm: The same of the batch norm behind the stem's involution.
        activation: One for each element of a ReLU.
        pooling: One for each element that is pooled, in a generator's pooling too.
        upsampling: One for each element of an upsampling layer's output.
    """

    multiply_adds: int = 0
    involution: int = 0
    bias: int = 0
    norm: int = 0
    generator_norm: int = 0
    stem_norm: int = 0
    activation: int = 0
    pooling: int = 0
    upsampling: int = 0

    @property
    def total(self) -> int:
        """Sum of all kinds."""
        return sum(getattr(self, kind.name) for kind in fields(self))


def authors_cost(model: nn.Module, run: Callable[[], Any]) -> AuthorsCost:
    """Count as the authors did.

    Args:
        model: The network; modules outside it are not counted.
        run: Calls what of it is to be counted, on tensors of any device, ``meta`` too.

    Example:
        >>> import timm
        >>> import involution.models
        >>> with torch.device("meta"):
        ...     model, image = timm.create_model("rednet50_stem7"), torch.empty(1, 3, 224, 224)
        >>> round(authors_cost(model, lambda: model.forward_features(image)).total / 1e9, 2)
        2.71
    """
    cost = AuthorsCost()

    def count(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            _add(cost, name, module, args[0], out)

        return hook

    handles = [module.register_forward_hook(count(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return cost


def _add(cost: AuthorsCost, name: str, module: nn.Module, x: Any, out: Any) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        # a transposed convolution multiplies each element that comes in, any other each that goes out
        elements = x if isinstance(module, nn.ConvTranspose2d) else out
        cost.multiply_adds += elements.numel() * module.weight[0].numel()
        cost.bias += 0 if module.bias is None else out.numel()
    elif isinstance(module, nn.Linear):
        cost.multiply_adds += out.numel() * module.in_features
    elif isinstance(module, nn.BatchNorm2d):
        kind = "generator_norm" if ".generator." in name else "stem_norm" if name.endswith("conv1.4") else "norm"
        setattr(cost, kind, getattr(cost, kind) + 2 * out.numel())
    elif isinstance(module, nn.ReLU):
        cost.activation += out.numel()
    elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d):
        cost.pooling += x.numel()
    elif isinstance(module, nn.Upsample):
        cost.upsampling += out.numel()
    elif isinstance(module, Involution2d):
        cost.involution += out.numel() * module.kernel_size[0] * module.kernel_size[1]
        cost.pooling += x.numel() if module.stride[0] > 1 else 0


def multiply_adds(run: Callable[[], Any]) -> int:
    """Return the multiply-adds of a call by ``FlopCounterMode``, which counts two for each."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def authors_pass(model: Any, image: Tensor) -> Callable[[], Any]:
    """Return the call that the authors' tool counts: of an R-CNN 1000 proposals in the box head, 100 in the mask head.

    Args:
        model: A detector or segmenter of this package.
        image: [1, 3, H, W], on the model's device.
    """

    def run() -> Any:
        if not hasattr(model, "transform"):
            return model.eval()(image)
        levels = list(model.backbone.eval()(image).values())
        if not hasattr(model, "rpn"):
            return model.head(levels)
        model.rpn.head(levels)
        heads, channels = model.roi_heads, model.backbone.out_channels
        heads.box_predictor(heads.box_head(image.new_empty(_PROPOSALS, channels, 7, 7)))
        if heads.mask_head is not None:
            heads.mask_predictor(heads.mask_head(image.new_empty(_MASKS, channels, 14, 14)))
        return None

    return run


@dataclass(frozen=True)
class PublishedCost:
    """A published network's cost, counted here and as published.

    Attributes:
        name: Network, neck, head.
        size: Height and width of the image that was counted.
        multiply_adds: By PyTorch's counter, in thousand millions.
        authors: As the authors count.
        explained: That in thousand millions, less what their counter left out.
        published: Their figure.
        left_out: What that is.
    """

    name: str
    size: tuple[int, int]
    multiply_adds: float
    authors: AuthorsCost
    explained: float
    published: float
    left_out: str


_NORMS = "batch norms of the backbone, save those of generators and stem involution"
_SYNC = "synchronised batch norms (all save generators' and the stem involution's)"
_MASK = "transposed convolution and logits of the mask head"
_DETECTORS: list[tuple[str, Any, dict[str, str], float, tuple[str, ...]]] = [
    ("RetinaNet, convolution neck", retinanet, {}, 210.1, (_NORMS,)),
    ("RetinaNet, involution neck", retinanet, {"neck": "involution"}, 199.9, ()),
    ("Faster R-CNN, convolution neck", faster_rcnn, {}, 177.9, (_NORMS,)),
    ("Faster R-CNN, involution neck", faster_rcnn, {"neck": "involution"}, 135.0, ()),
    ("Faster R-CNN, involution neck and head", faster_rcnn, {"neck": "involution", "head": "involution"}, 91.5, ()),
    ("Mask R-CNN, convolution neck", mask_rcnn, {}, 224.2, (_NORMS, _MASK)),
    ("Mask R-CNN, involution neck", mask_rcnn, {"neck": "involution"}, 181.3, (_MASK,)),
    ("Mask R-CNN, involution neck and head", mask_rcnn, {"neck": "involution", "head": "involution"}, 104.6, ()),
]
_SEGMENTERS: list[tuple[str, Any, dict[str, str], float]] = [
    ("Semantic FPN, convolution neck", semantic_fpn, {}, 293.9),
    ("Semantic FPN, involution neck", semantic_fpn, {"neck": "involution"}, 205.2),
    ("UPerNet", upernet, {}, 1825.6),
]


def published_networks() -> list[PublishedCost]:
    """Count the published detectors at 1280×800 and segmenters at 1024×2048, beside the published figures.

    The published figures of the segmenters stand beside a crop of 512×1024 but are those of the whole image. Where the
    authors' counter left a part out (a type of layer that it did not know) ``explained`` leaves it out, too; that these
    are the parts is inferred from the figures.
    """
    found = []
    with torch.device("meta"):
        for name, build, kinds, published, left_out in _DETECTORS:
            model = build(80, **kinds)
            run = authors_pass(model, torch.empty(1, 3, 1280, 800))
            cost = authors_cost(model, run)
            explained = cost.total - _background(model) - _functional(model)
            if _NORMS in left_out:
                explained -= cost.norm
            if _MASK in left_out:
                explained -= _mask_predictor(model)
            found.append(_published(name, (1280, 800), run, cost, explained, published, "; ".join(left_out)))
        for name, build, kinds, published in _SEGMENTERS:
            model = build(19, **kinds)
            run = authors_pass(model, torch.empty(1, 3, 1024, 2048))
            cost = authors_cost(model, run)
            found.append(_published(name, (1024, 2048), run, cost, cost.total - cost.norm, published, _SYNC))
    return found


def _published(
    name: str,
    size: tuple[int, int],
    run: Callable[[], Any],
    cost: AuthorsCost,
    explained: int,
    published: float,
    left_out: str,
) -> PublishedCost:
    return PublishedCost(name, size, multiply_adds(run) / 1e9, cost, explained / 1e9, published, left_out)


def _background(model: Any) -> int:
    """Multiply-adds of torchvision's rows of the background, which mmdetection has not."""
    if not hasattr(model, "rpn"):
        return 0
    total = _PROPOSALS * 4 * model.roi_heads.box_predictor.bbox_pred.in_features
    if model.roi_heads.mask_predictor is not None:
        total += _MASKS * 28**2 * (model.roi_heads.mask_predictor.mask_fcn_logits.in_channels + 1)
    return total


def _functional(model: Any) -> int:
    """Activations of the proposal network, which mmdetection computes by a function that its counter can't see."""
    if not hasattr(model, "rpn"):
        return 0
    positions = sum((1280 // stride) * (800 // stride) for stride in (4, 8, 16, 32))
    return int(model.backbone.out_channels * (positions + 20 * 13))


def _mask_predictor(model: Any) -> int:
    predictor = model.roi_heads.mask_predictor
    x = torch.empty(_MASKS, predictor.conv5_mask.in_channels, 14, 14)
    return authors_cost(predictor, lambda: predictor(x)).total - _MASKS * 28**2 * (
        predictor.mask_fcn_logits.in_channels + 1
    )
