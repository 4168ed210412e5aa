from dataclasses import dataclass


@dataclass
class AugmentConfig:
    """What is done to a training image before the network sees it; evaluation is untouched by it.

    Args:
        crop_scale: smallest and largest share of the image's area that RandomResizedCrop keeps; null resizes
            the whole image instead.
        flip: probability of a horizontal flip.
        rotate: largest rotation in degrees, either way.
        translate: largest shift as a share of the image's side.
        scale: smallest and largest zoom factor, 1 being none.
        shear: largest shear in degrees, either way.
        randaugment: number of RandAugment operations per image, 0 for none.
        randaugment_magnitude: strength of these operations, 0 to 30.
        erase: probability that a random rectangle is erased.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none; with mixup too, each batch draws one of the two.
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    flip: float = 0.5
    rotate: float = 0.0
    translate: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    shear: float = 0.0
    randaugment: int = 0
    randaugment_magnitude: int = 9
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
