"""Detectors on RedNet: torchvision's, with involution necks and heads where asked for."""

from involution.detection.detectors import faster_rcnn, first_label, mask_rcnn, retinanet

__all__ = ["faster_rcnn", "first_label", "mask_rcnn", "retinanet"]
