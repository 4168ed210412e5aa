"""Published results, from the authors' repository and the paper, including the networks they compare with."""

from dataclasses import dataclass

_REPOSITORY = "README of github.com/d-li14/involution (21c3158)"
_PAPER = "arXiv 2103.06255"


@dataclass(frozen=True)
class Published:
    """What was published about a network.

    Attributes:
        parameters: In millions; of detectors and segmenters without the frozen stem and first stage.
        flops: In billions, as the authors count.
        scores: By measure in %, the main one first: ``top1`` and ``top5`` (ImageNet-1k's validation images, crop 224²),
            ``top1_paper`` where the paper gives another figure than the repository, ``box_ap`` and ``mask_ap`` (COCO
            val2017, 1x schedule), ``miou`` (Cityscapes' validation images).
        source: Where it was published.
    """

    parameters: float
    flops: float
    scores: dict[str, float]
    source: str


def _rednet(parameters: float, flops: float, top1: float, top5: float, paper: float) -> Published:
    scores = {"top1": top1, "top5": top5, "top1_paper": paper}
    return Published(parameters, flops, scores, f"{_REPOSITORY}; top1_paper: {_PAPER}")


def _resnet(parameters: float, flops: float, top1: float) -> Published:
    return Published(parameters, flops, {"top1": top1}, f"{_PAPER}, the ResNets beside")


def _detector(parameters: float, flops: float, box_ap: float, mask_ap: float | None = None) -> Published:
    scores = {"box_ap": box_ap} | ({} if mask_ap is None else {"mask_ap": mask_ap})
    return Published(parameters, flops, scores, f"{_REPOSITORY}; FLOPs at 1280×800")


def _segmenter(parameters: float, flops: float, miou: float) -> Published:
    return Published(parameters, flops, {"miou": miou}, f"{_REPOSITORY}; FLOPs at 1024×2048")


CLASSIFIERS = {
    "rednet26": _rednet(9.23, 1.73, 75.96, 93.19, 75.9),
    "rednet26_conv": _resnet(13.7, 2.4, 73.6),
    "rednet38": _rednet(12.39, 2.22, 77.48, 93.57, 77.6),
    "rednet38_conv": _resnet(19.6, 3.2, 76.0),
    "rednet50": _rednet(15.54, 2.71, 78.35, 94.13, 78.4),
    "rednet50_conv": _resnet(25.6, 4.1, 76.8),
    "resnet50": _resnet(25.6, 4.1, 76.8),
    "rednet101": _rednet(25.65, 4.74, 78.92, 94.35, 79.1),
    "rednet101_conv": _resnet(44.6, 7.9, 78.5),
    "rednet152": _rednet(33.99, 6.79, 79.12, 94.38, 79.3),
    "rednet152_conv": _resnet(60.2, 11.6, 79.3),
}
"""RedNets and ResNets by the names of their models here."""

DETECTORS = {
    "coco-retinanet": _detector(27.8, 210.1, 38.2),
    "coco-retinanet-involution-neck": _detector(26.3, 199.9, 38.2),
    "coco-faster-rcnn": _detector(31.6, 177.9, 39.5),
    "coco-faster-rcnn-involution-neck": _detector(29.5, 135.0, 40.2),
    "coco-faster-rcnn-involution-neck-head": _detector(29.0, 91.5, 39.2),
    "coco-mask-rcnn": _detector(34.2, 224.2, 39.9, 35.7),
    "coco-mask-rcnn-involution-neck": _detector(32.2, 181.3, 40.8, 36.4),
    "coco-mask-rcnn-involution-neck-head": _detector(29.5, 104.6, 39.6, 35.1),
}
"""Detectors on RedNet-50 by the names of their recipes."""

SEGMENTERS = {
    "cityscapes-semantic-fpn": _segmenter(18.5, 293.9, 78.0),
    "cityscapes-semantic-fpn-involution-neck": _segmenter(16.4, 205.2, 79.1),
    "cityscapes-upernet": _segmenter(56.4, 1825.6, 80.6),
}
"""Segmenters on RedNet-50 by the names of their recipes."""

RESNET50 = {
    "coco-retinanet": {"box_ap": 36.6},
    "coco-faster-rcnn": {"box_ap": 37.7},
    "coco-mask-rcnn": {"box_ap": 38.4, "mask_ap": 35.1},
    "cityscapes-semantic-fpn": {"miou": 74.4},
    "cityscapes-upernet": {"miou": 78.2},
}
"""What the paper gives for ResNet-50 in place of RedNet-50, by the recipe with convolutions in its neck."""

PUBLISHED = {**CLASSIFIERS, **DETECTORS, **SEGMENTERS}
