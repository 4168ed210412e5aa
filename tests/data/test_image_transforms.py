import pytest
import torch
from PIL import Image

from involution.data.images import ImageError
from involution.data.transforms import eval_transform, segmentation_eval_transform, to_channels, train_transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_eval_resizes_the_shorter_side_to_256_and_crops_224():
    # a stripe 16 pixels from the edge of the resized image lies just outside the crop, the next one inside
    image = torch.zeros(3, 256, 300, dtype=torch.uint8)
    image[:, 16] = 255
    out = eval_transform(224)(image)
    assert out.shape == (3, 224, 224)
    white = (torch.ones(3) - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.allclose(out[:, 0, 5], white)
    assert torch.allclose(out[:, 1, 5], -torch.tensor(MEAN) / torch.tensor(STD))


@pytest.mark.parametrize("size", [(2, 1_000_000), (1_000_000, 2)])
def test_a_thread_of_an_image_is_refused_before_it_grows(size):
    image = torch.zeros(3, *size, dtype=torch.uint8)
    for transform in (eval_transform(224), segmentation_eval_transform(MEAN, STD, 256)):
        with pytest.raises(ImageError, match=f"{size[1]} x {size[0]} pixels are too narrow"):
            transform(image)
    assert eval_transform(8)(torch.zeros(3, 2, 12000, dtype=torch.uint8)).shape == (3, 8, 8)


def test_interpolations_differ():
    image = torch.randint(0, 255, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(eval_transform(32)(image), eval_transform(32, interpolation="bicubic")(image))
    with pytest.raises(ValueError, match="bilinear, bicubic, got 'cubic'"):
        eval_transform(32, interpolation="cubic")


def test_channels():
    grey, colour = Image.new("L", (4, 4), 100), Image.new("RGB", (4, 4), (100, 100, 100))
    for image in (grey, colour):
        for channels in (1, 3):
            out = to_channels(image, channels)
            assert out.shape == (channels, 4, 4)
            assert int(out.float().mean().round()) == 100


def run(**changes):
    fixed, random = train_transforms(16, 3, MEAN, STD, "bilinear", **changes)
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (3, 24, 20), dtype=torch.uint8, generator=generator)
    torch.manual_seed(1)
    return random(fixed(image))


def test_without_augmentation_nothing_is_random():
    assert torch.equal(run(), run())
    assert run().shape == (3, 16, 16)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_scale": (0.2, 0.5)},
        {"flip": 1.0},
        {"rotate": 30.0},
        {"translate": 0.3},
        {"scale": (0.5, 0.6)},
        {"shear": 20.0},
        {"randaugment": 2},
        {"erase": 1.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_augmentation_does_something(change):
    out = run(**change)
    assert out.shape == (3, 16, 16)
    assert not torch.equal(out, run())


def test_flip_mirrors():
    assert torch.equal(run(flip=1.0), run().flip(-1))


def test_randaugment_magnitude_counts():
    assert not torch.equal(run(randaugment=2, randaugment_magnitude=3), run(randaugment=2, randaugment_magnitude=25))
