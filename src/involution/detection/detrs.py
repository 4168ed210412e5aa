"""DETR and Conditional DETR by transformers on any backbone: attention instead of a pyramid.

"End-to-End Object Detection with Transformers" (ECCV 2020) and "Conditional DETR for Fast Training Convergence"
(ICCV 2021). Everything is built from settings; nothing is downloaded.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_convert

from involution.extras import require
from involution.models.arguments import check_arguments
from involution.models.pyramid import Backbone, parameters_outside

__all__ = ["Detr", "conditional_detr", "detr"]

# of transformers' configs; the backbone decides them
_SET_HERE = {"backbone_config", "num_channels", "dilation", "is_encoder_decoder"}


class Detr(nn.Module):
    """One of transformers' DETRs, called like torchvision's detectors.

    Args:
        network: transformers' model for object detection.
        processor: transformers' image processor of that model; it turns outputs into boxes.
        transform: Resizes, normalises and pads the images.
    """

    def __init__(self, network: Any, processor: Any, transform: GeneralizedRCNNTransform) -> None:
        super().__init__()
        self.network = network
        self.processor = processor
        self.transform = transform

    @property
    def detections_per_img(self) -> int:
        """How many objects are found in an image at most."""
        return int(self.network.config.num_queries)

    @property
    def backbone(self) -> nn.Module:
        """The network's backbone."""
        backbone: nn.Module = self.network.model.backbone.model
        return backbone

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write network, config and image processor as transformers does.

        `from_pretrained` reads them, as do transformers' own classes after ``import
        involution.detection.transformers_backbone``.

        Args:
            folder: Folder to write to.
        """
        self.network.save_pretrained(folder)
        self.processor.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Detr:
        """Read what `save_pretrained` wrote; nothing is downloaded.

        Args:
            folder: The folder.

        Returns:
            The detector in eval mode; of several smaller sides it has the one for evaluation.

        Raises:
            ValueError: There is no such detector in the folder.
            MissingExtra: transformers is not installed.
        """
        require("transformers")
        import transformers

        import involution.detection.transformers_backbone  # noqa: F401  (registers our backbones)

        if not os.path.isdir(folder):
            raise ValueError(f"no such folder: {folder}")
        try:
            network = transformers.AutoModelForObjectDetection.from_pretrained(folder, local_files_only=True)
            processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"no detector of transformers in {folder}: {' '.join(str(error).split())}") from error
        body = network.model.backbone.model
        if body.frozen:
            body.freeze_stem()
        size = processor.size
        transform = GeneralizedRCNNTransform(
            size["shortest_edge"], size["longest_edge"], list(processor.image_mean), list(processor.image_std)
        )
        return cls(network, processor, transform).eval()

    def head_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of everything but the backbone."""
        return parameters_outside(self, self.backbone)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Detect objects in images, or compute the training losses.

        Args:
            images: Each [3, H, W] from 0 to 1, of any size.
            targets: For each image boxes [n, 4] (x1 y1 x2 y2 in pixels) and labels [n] from 0; needed in training.

        Returns:
            In training, the losses by name; otherwise boxes [k, 4], labels [k] and scores [k] of each image, highest
            scores first.

        Raises:
            ValueError: Targets are missing in training.
        """
        if self.training and targets is None:
            raise ValueError("training needs targets: the boxes and labels of each image")
        batch, scaled = self.transform(images, targets)
        pixels = batch.tensors
        # the part of the padded batch that each image covers
        mask = torch.zeros(pixels.shape[0], *pixels.shape[2:], dtype=torch.long, device=pixels.device)
        for row, (height, width) in zip(mask, batch.image_sizes, strict=True):
            row[:height, :width] = 1
        if self.training:
            labels = [
                {"class_labels": target["labels"], "boxes": _relative(target["boxes"], size)}
                for target, size in zip(scaled, batch.image_sizes, strict=True)
            ]
            return {"loss": self.network(pixels, pixel_mask=mask, labels=labels).loss}
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        found = self.processor.post_process_object_detection(
            self.network(pixels, pixel_mask=mask), threshold=0.0, target_sizes=sizes
        )
        results = []
        for one, (height, width) in zip(found, sizes, strict=True):
            order = one["scores"].argsort(descending=True)
            limits = one["boxes"].new_tensor([width, height, width, height])
            boxes = torch.minimum(one["boxes"].clamp(min=0), limits)
            results.append({"boxes": boxes[order], "labels": one["labels"][order], "scores": one["scores"][order]})
        return results


def detr(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    image_mean: Sequence[float] = (0.485, 0.456, 0.406),
    image_std: Sequence[float] = (0.229, 0.224, 0.225),
    **kwargs: Any,
) -> Detr:
    """DETR: queries attend to the backbone's last level, and each yields one object or none.

    If the backbone is frozen, its batch norms, including those of the kernel generators, become transformers' frozen
    ones, whose scale and shift are not trained either.

    Args:
        num_classes: Categories; labels are 0 to ``num_classes`` − 1.
        backbone: A backbone, or a name in timm's registry for an untrained one; its last level is used.
        min_size: The shorter side is resized to this. From several, training draws one and evaluation uses the last.
        max_size: Maximum of the longer side in pixels.
        image_mean: Per channel, in units of 0 to 1.
        image_std: Per channel, in units of 0 to 1.
        **kwargs: Of transformers' ``DetrConfig``: d_model, num_queries, encoder_layers, auxiliary_loss, …

    Raises:
        ValueError: An argument is wrong, or two do not go together.
        MissingExtra: transformers is not installed.

    Example:
        >>> model = detr(80, "rednet26_stem7", min_size=64).eval()
        >>> model([torch.rand(3, 64, 96)])[0]["boxes"].shape
        torch.Size([100, 4])
    """
    sizes = (min_size, max_size, image_mean, image_std)
    return _build("Detr", _checked(num_classes), backbone, sizes, kwargs)


def conditional_detr(
    num_classes: int,
    backbone: str | Backbone = "rednet50_stem7",
    *,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    image_mean: Sequence[float] = (0.485, 0.456, 0.406),
    image_std: Sequence[float] = (0.229, 0.224, 0.225),
    **kwargs: Any,
) -> Detr:
    """Conditional DETR: each query attends around its own point, which makes it learn several times faster.

    Args:
        num_classes: Categories; labels are 0 to ``num_classes`` − 1.
        backbone: As for `detr`.
        min_size: As for `detr`.
        max_size: As for `detr`.
        image_mean: As for `detr`.
        image_std: As for `detr`.
        **kwargs: Of transformers' ``ConditionalDetrConfig``: d_model, num_queries, encoder_layers, …

    Raises:
        ValueError: An argument is wrong, or two do not go together.
        MissingExtra: transformers is not installed.

    Example:
        >>> model = conditional_detr(3, "rednet26_stem7", min_size=64, num_queries=7).eval()
        >>> sorted(model([torch.rand(3, 64, 96)])[0])
        ['boxes', 'labels', 'scores']
    """
    sizes = (min_size, max_size, image_mean, image_std)
    return _build("ConditionalDetr", _checked(num_classes), backbone, sizes, kwargs)


def _build(kind: str, num_classes: int, backbone: str | Backbone, sizes: tuple[Any, ...], kwargs: Any) -> Detr:
    require("transformers")
    import transformers

    from involution.detection.transformers_backbone import TimmRegistryBackboneConfig, freeze_norms

    body = backbone if isinstance(backbone, Backbone) else Backbone(backbone, (4,))
    settings = getattr(transformers, f"{kind}Config")
    check_arguments(kind, kwargs, set(inspect.get_annotations(settings)) - _SET_HERE)
    try:
        config = settings(backbone_config=TimmRegistryBackboneConfig.of(body), num_labels=num_classes, **kwargs)
        network = getattr(transformers, f"{kind}ForObjectDetection")(config)
    # transformers' own checks of the values
    except Exception as error:
        raise ValueError(f"{kind} can't be built: {' '.join(str(error).split())}") from error
    network.model.backbone.model = body
    network.model.input_projection = nn.Conv2d(body.channels[-1], config.d_model, 1)
    if body.frozen:
        freeze_norms(body)
    min_size, max_size, mean, std = sizes
    transform = GeneralizedRCNNTransform(min_size, max_size, list(mean), list(std))
    processor = getattr(transformers, f"{kind}ImageProcessor")(
        size={"shortest_edge": transform.min_size[-1], "longest_edge": max_size},
        image_mean=list(mean),
        image_std=list(std),
    )
    return Detr(network, processor, transform)


def _relative(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes as centre, width and height, relative to the image."""
    height, width = size
    return box_convert(boxes, "xyxy", "cxcywh") / boxes.new_tensor([width, height, width, height])


def _checked(num_classes: int) -> int:
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more, not counting the background, got {num_classes}")
    return num_classes
