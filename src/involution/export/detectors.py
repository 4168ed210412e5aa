"""torchvision's detectors as graphs: an image in, boxes that survived the suppression out, all of any number.

What torchvision does with Python's numbers and lists of images is written here with tensors for one image. Boxes are
left out by the same rules, so that the same remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.ops import nms

from involution.detection.mmdetection import HalfPixelRoIAlign
from involution.export.pixels import Normalise
from involution.export.resample import FitInside, whole_sizes

# torchvision's, of boxes of the second stage
_LEAST_SIDE = 1e-2


class DetectorGraph(nn.Module):
    """A detector without its resize: from one image to its objects.

    Args:
        network: RetinaNet, Faster R-CNN or Mask R-CNN of torchvision, or one derived from it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        self.with_masks = isinstance(network, MaskRCNN)

    def forward(self, images: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Return boxes [n, 4] in pixels, scores [n], labels [n] from 0, and of Mask R-CNN masks [n, side, side].

        Args:
            images: [1, 3, H, W], normalised, resized, and filled up with zeros below and on the right.
            size: [2], int64: height and width of the image in it.
        """
        features = self.network.backbone(images)
        if isinstance(self.network, RetinaNet):
            return self._one_stage(images, list(features.values()), size)
        return self._two_stages(images, features, size)

    def _one_stage(self, images: Tensor, features: list[Tensor], size: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        boxes, scores, labels = [], [], []
        for feature, anchors in zip(features, _anchors(network.anchor_generator, images, features), strict=True):
            found = network.head([feature])
            logits, regression = found["cls_logits"][0], found["bbox_regression"][0]
            classes = logits.shape[-1]
            level_scores, places = _top(logits.sigmoid().flatten(), network.topk_candidates)
            chosen = places // classes
            boxes.append(network.box_coder.decode_single(regression[chosen], anchors[chosen]))
            scores.append(level_scores)
            labels.append(places % classes)
        all_boxes, all_scores, all_labels = _clip(torch.cat(boxes), size), torch.cat(scores), torch.cat(labels)
        kept = (all_scores > network.score_thresh).nonzero()[:, 0]
        all_boxes, all_scores, all_labels = all_boxes[kept], all_scores[kept], all_labels[kept]
        best = _suppress(all_boxes, all_scores, all_labels, size, network.nms_thresh, network.detections_per_img)
        return all_boxes[best], all_scores[best], all_labels[best]

    def _two_stages(self, images: Tensor, features: dict[str, Tensor], size: Tensor) -> tuple[Tensor, ...]:
        heads = self.network.roi_heads
        proposals = self._proposals(images, list(features.values()), size)
        pooled = _pooled(heads.box_roi_pool, features, proposals)
        logits, regression = heads.box_predictor(heads.box_head(pooled))
        classes = logits.shape[-1]
        boxes = heads.box_coder.decode_single(regression, proposals).unflatten(1, (classes, 4))[:, 1:]
        scores = logits.softmax(-1)[:, 1:]
        labels = torch.arange(classes - 1, device=images.device).expand_as(scores)
        boxes, scores, labels = _clip(boxes.reshape(-1, 4), size), scores.reshape(-1), labels.reshape(-1)
        kept = ((scores > heads.score_thresh) & _is_large(boxes, _LEAST_SIDE)).nonzero()[:, 0]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        best = _suppress(boxes, scores, labels, size, heads.nms_thresh, heads.detections_per_img)
        boxes, scores, labels = boxes[best], scores[best], labels[best]
        if not self.with_masks:
            return boxes, scores, labels
        pooled = _pooled(heads.mask_roi_pool, features, boxes)
        masks = _mask_logits(heads.mask_predictor, heads.mask_head(pooled)).sigmoid()
        # label 0 is the background's
        places = (labels + 1)[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return boxes, scores, labels, masks.gather(1, places)[:, 0]

    def _proposals(self, images: Tensor, features: list[Tensor], size: Tensor) -> Tensor:
        rpn = self.network.rpn
        best_boxes, best_scores, levels = [], [], []
        parts = zip(*rpn.head(features), _anchors(rpn.anchor_generator, images, features), strict=True)
        for level, (objectness, deltas, anchors) in enumerate(parts):
            # of every place all its anchors, as these are in order
            scores, places = _top(objectness[0].permute(1, 2, 0).flatten(), rpn.pre_nms_top_n())
            moves = deltas[0].permute(1, 2, 0).reshape(-1, 4)
            best_boxes.append(rpn.box_coder.decode_single(moves, anchors)[places])
            best_scores.append(scores.sigmoid())
            levels.append(torch.full_like(places, level))
        chosen, scores, of_level = _clip(torch.cat(best_boxes), size), torch.cat(best_scores), torch.cat(levels)
        kept = ((scores >= rpn.score_thresh) & _is_large(chosen, rpn.min_size)).nonzero()[:, 0]
        chosen = chosen[kept]
        return chosen[_suppress(chosen, scores[kept], of_level[kept], size, rpn.nms_thresh, rpn.post_nms_top_n())]


class PictureGraph(nn.Module):
    """A detector with its normalisation and resize: from an 8-bit picture to its objects, in its own pixels.

    Args:
        detector: what follows.
        fit: resizes the normalised picture.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
    """

    def __init__(self, detector: DetectorGraph, fit: FitInside, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.detector, self.normalise, self.fit = detector, Normalise(mean, std), fit

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        """Return what `DetectorGraph` does, with boxes in pixels of the picture, uint8 [1, 3, H, W]."""
        images, size = self.fit(self.normalise(picture))
        boxes, *others = self.detector(images, size)
        ratio = torch.stack(whole_sizes(picture)).float() / size.float()
        return (boxes * ratio.flip(0).repeat(2), *others)


def _anchors(generator: Any, images: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """Those of each level, which the generator itself returns as one tensor."""
    sizes = [feature.shape[2:] for feature in features]
    steps = [
        [
            torch.empty((), dtype=torch.int64).fill_(side // count)
            for side, count in zip(images.shape[2:], size, strict=True)
        ]
        for size in sizes
    ]
    generator.set_cell_anchors(images.dtype, images.device)
    found: list[Tensor] = generator.grid_anchors(sizes, steps)
    return found


def _pooled(pool: Any, features: dict[str, Tensor], boxes: Tensor) -> Tensor:
    """What a RoIAlign on several levels returns for the boxes [n, 4] of one image."""
    levels = [features[name] for name in pool.featmap_names]
    if isinstance(pool, HalfPixelRoIAlign):
        scales: list[float] = [1 / stride for stride in pool.strides]
        level_of, samples, aligned = pool.levels(boxes), 0, True
    else:
        # known from the first images that the network saw
        scales, level_of = pool.scales, pool.map_levels([boxes])
        samples, aligned = pool.sampling_ratio, False
    rois = nn.functional.pad(boxes, (1, 0))
    out = boxes.new_zeros((boxes.shape[0], levels[0].shape[1], *pool.output_size))
    for level, (feature, scale) in enumerate(zip(levels, scales, strict=True)):
        chosen = (level_of == level).nonzero()[:, 0]
        sampled = torch.ops.torchvision.roi_align(feature, rois[chosen], scale, *pool.output_size, samples, aligned)
        out = out.index_put((chosen,), sampled)
    return out


def _mask_logits(predictor: Any, features: Tensor) -> Tensor:
    """What a predictor of masks returns, without its transposed convolution, whose windows do not overlap.

    Of a number of images that the graph computes, AOTInductor (PyTorch 2.14) takes such a convolution's results to lie
    in another memory order than they do.
    """
    transposed = predictor.conv5_mask
    weight = transposed.weight.permute(1, 2, 3, 0).flatten(0, 2)[:, :, None, None]
    spread = nn.functional.pixel_shuffle(nn.functional.conv2d(features, weight), transposed.stride[0])
    logits: Tensor = predictor.mask_fcn_logits(predictor.relu(spread + transposed.bias[:, None, None]))
    return logits


def _top(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    best = scores.topk(torch.sym_min(most, scores.shape[0]))
    return best.values, best.indices


def _clip(boxes: Tensor, size: Tensor) -> Tensor:
    return boxes.clamp(min=0).minimum(size.flip(0).repeat(2).to(boxes.dtype))


def _is_large(boxes: Tensor, least: float) -> Tensor:
    return ((boxes[:, 2:] - boxes[:, :2]) >= least).all(1)


def _suppress(boxes: Tensor, scores: Tensor, kinds: Tensor, size: Tensor, overlap: float, most: int) -> Tensor:
    # of each kind by itself: those of others are moved out of the way
    moved = boxes + (kinds * (size.max() + 1)).to(boxes.dtype)[:, None]
    return nms(moved, scores, overlap)[:most]


def is_exportable(network: nn.Module) -> bool:
    """Whether a network is a detector that `DetectorGraph` takes."""
    return isinstance(network, RetinaNet | FasterRCNN)
