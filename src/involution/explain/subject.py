"""What is explained: a trained network in front of one image, and the geometry between them.

Three coordinate systems: pixels of the image file (x, y), pixels of the network's input, and positions (row, column)
of a layer's kernel map.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from involution.data.images import Reading, read_image

from .errors import ExplainError

if TYPE_CHECKING:
    from PIL.Image import Image

    from involution.data.noticed import Noticed
    from involution.engine.predictor import Look


@dataclass(frozen=True)
class View:
    """A network and the one image that it sees.

    Args:
        network: Network with involutions (of a detector: backbone and neck).
        input: What it is given, `[1, C, H, W]`, normalised.
        picture: The same for eyes, values in 0..1: `[H, W]` or `[H, W, 3]`.
        name: What to call the network in a picture.
        image_size: (height, width) of the image file in pixels.
        resized: (height, width) that the file's image has before it is cropped.
        offset: (top, left) of the input in the resized image.
        untrained: Whether the weights are random; every picture then says so.
        notes: What must be known about the picture, as sentences: that it was cropped, that it is of another kind than
            those of the training. Every picture has them at its foot.

    Example:
        >>> from involution.models import rednet_nano
        >>> view = View.of(rednet_nano(in_chans=1).eval(), torch.rand(1, 1, 16, 16), name="RedNet-nano")
        >>> view.picture.shape, view.untrained
        (torch.Size([16, 16]), False)
    """

    network: nn.Module
    input: Tensor
    picture: Tensor
    name: str
    image_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    untrained: bool = False
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: nn.Module, input: Tensor, *, name: str, untrained: bool = False) -> View:
        """A view of a network of one's own; the picture is its input, stretched to 0..1.

        Args:
            network: Network with involutions.
            input: What it is given, `[1, C, H, W]`.
            name: What to call the network in a picture.
            untrained: Whether the weights are random.

        Raises:
            ExplainError: If not one image is given.
        """
        if input.ndim != 4 or input.shape[0] != 1:
            raise ExplainError(f"wanted one image [1, C, H, W], got shape {list(input.shape)}")
        size = (input.shape[2], input.shape[3])
        low, high = input.min(), input.max()
        picture = _picture((input[0] - low) / (high - low).clamp(min=1e-12))
        return cls(network, input, picture, name, size, size, untrained=untrained)

    def with_random_weights(self) -> View:
        """The same image before the same network with weights that were never trained, the same ones each time.

        Example:
            >>> from involution.models import rednet_nano
            >>> view = View.of(rednet_nano(in_chans=1).eval(), torch.rand(1, 1, 16, 16), name="RedNet-nano")
            >>> view.with_random_weights().untrained
            True
        """
        network = deepcopy(self.network).cpu()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            # a whole knows best how its parts begin
            for module in reversed(list(network.modules())):
                for name in ("reset_parameters", "init_weights"):
                    getattr(module, name, lambda: None)()
        return replace(self, network=network, input=self.input.cpu(), untrained=True)

    @property
    def seen_part(self) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of the pixels of the image file that the network sees, the last ones included."""
        bounds = [
            (-int(-offset * file / resized // 1), int(min((offset + side) * file / resized, file) - 1))
            for file, resized, offset, side in zip(self.image_size, self.resized, self.offset, self.size, strict=True)
        ]
        return bounds[0][0], bounds[1][0], bounds[0][1], bounds[1][1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        return self.input.shape[2], self.input.shape[3]

    def input_pixel(self, x: int, y: int) -> tuple[int, int]:
        """Where a pixel of the image file lies in the network's input.

        Args:
            x: Pixels from the image's left.
            y: Pixels from its top.

        Returns:
            (row, column).

        Raises:
            ExplainError: If it is outside the image, or in a part that the network does not see.
        """
        height, width = self.image_size
        if not (0 <= x < width and 0 <= y < height):
            raise ExplainError(
                f"position {x},{y} is outside the image: x goes from 0 to {width - 1}, y from 0 to {height - 1}"
            )
        seen = []
        for value, file, resized, offset, side in zip(
            (y, x), self.image_size, self.resized, self.offset, self.size, strict=True
        ):
            # the middle of the pixel is scaled, not its corner
            place = int((value + 0.5) * resized / file) - offset
            seen.append(place)
            if not 0 <= place < side:
                axis = len(seen) - 1
                low, high = self.seen_part[axis], self.seen_part[axis + 2]
                raise ExplainError(f"position {x},{y} is cut off: the network sees {'yx'[axis]} from {low} to {high}")
        return seen[0], seen[1]


@dataclass(frozen=True)
class Subject:
    """A network to look into, and how it wants its images.

    Args:
        network: In eval mode.
        name: What to call it in a picture.
        channels: 1 or 3.
        look: From a PIL image to what the network is given of it.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        untrained: Whether the weights are random.
        reading: How it wants its images read, as in the training.
        mismatch: What to say of an image that is of another kind than those of the training; nothing of others.
        classes: Names of its classes, where they are known.
    """

    network: nn.Module
    name: str
    channels: int
    look: Callable[[Image], Look]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    untrained: bool = False
    reading: Reading = field(default_factory=Reading)
    mismatch: Callable[[Image], str] = lambda image: ""
    classes: tuple[str, ...] = ()

    @classmethod
    def from_checkpoint(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Subject:
        """Read trained weights: a classifier's, detector's or segmenter's checkpoint, or a RedNet's weights alone.

        Args:
            path: best.ckpt of a training, a file that `involution convert` wrote or reads, or the name of published
                weights, such as `rednet50`.
            device: Where the network runs.

        Raises:
            CheckpointError: If the file is missing, is something else, or would run code.
            ExplainError: If its weights have not been trained.
        """
        from involution.engine.checkpoint import read_checkpoint
        from involution.engine.domain import mismatch
        from involution.engine.loading import load_predictor
        from involution.models.weights import locate

        file = locate(path)
        if file.suffix != ".ckpt" and file.is_file():
            return _weights_alone(file, device)
        if read_checkpoint(file).get("global_step") == 0:
            raise ExplainError(
                f"{file}: its weights are untrained (0 steps) and would explain nothing; "
                "--untrained MODEL draws random weights, labelled so"
            )
        predictor = load_predictor(file, str(device))
        card = predictor.card
        backbone = card.model_args.get("backbone")
        name = f"{card.model} on {backbone}" if backbone else card.model
        return cls(
            predictor.body,
            name,
            predictor.channels,
            predictor.look,
            tuple(card.mean),
            tuple(card.std),
            reading=predictor.reading,
            mismatch=lambda image: mismatch(card, image),
            classes=tuple(card.classes),
        )

    @classmethod
    def untrained_model(cls, name: str) -> Subject:
        """A network of timm's registry with random weights; every picture of it says so.

        Example:
            >>> Subject.untrained_model("rednet_nano").untrained
            True
        """
        from involution.engine.checkpoint import create_network

        return replace(_registered(create_network(name, {}, 10, 3), name), untrained=True)

    def view(self, image: str | os.PathLike[str] | Image, noticed: Noticed | None = None) -> View:
        """Show it an image, read as for a prediction.

        Args:
            image: A path or PIL image.
            noticed: Told what is worth telling of it.

        Raises:
            ImageError: If it can't be read.
        """
        image = read_image(image, reading=self.reading, noticed=noticed)
        device = next(self.network.parameters()).device
        with torch.no_grad():
            seen = self.look(image)
        shape = (-1, 1, 1)
        colours = seen.input[0].cpu() * torch.tensor(self.std).view(shape) + torch.tensor(self.mean).view(shape)
        view = View(
            self.network,
            seen.input.to(device),
            _picture(colours.clamp(0, 1)),
            self.name,
            (image.height, image.width),
            seen.resized,
            seen.offset,
            self.untrained,
        )
        return replace(view, notes=tuple(filter(None, (self.mismatch(image), _cropped(view)))))


def _cropped(view: View) -> str:
    """Say what is cut off, if more is than rounding."""
    top, left, bottom, right = view.seen_part
    height, width = view.image_size
    if bottom - top + 1 >= 0.98 * height and right - left + 1 >= 0.98 * width:
        return ""
    return (
        f"Cropped: of {width}×{height} pixels the network sees those from {left} to {right} across and from {top} to "
        f"{bottom} down."
    )


def _picture(colours: Tensor) -> Tensor:
    """`[C, H, W]` as `[H, W]` (of another number of channels than three: their mean) or `[H, W, 3]`."""
    colours = colours.detach().cpu()
    return colours.permute(1, 2, 0) if colours.shape[0] == 3 else colours.mean(0)


def _weights_alone(file: Path, device: str | torch.device) -> Subject:
    from involution.engine.checkpoint import create_network
    from involution.models.checkpoint import identify
    from involution.models.keys import to_timm_layout
    from involution.models.loading import load_checkpoint
    from involution.models.readers import read_state_dict

    tensors = to_timm_layout(read_state_dict(file)).tensors
    name = identify(tensors)
    network = create_network(name, {}, 0, tensors["conv1.0.weight"].shape[1])
    load_checkpoint(network, file)
    return _registered(network.to(device).eval(), name)


def _registered(network: Any, name: str) -> Subject:
    from involution.data.noticed import is_colourful
    from involution.data.transforms import eval_transform
    from involution.engine.predictor import Look
    from involution.engine.tasks.classify.predictor import centre_crop

    config = network.pretrained_cfg
    side, crop_pct = config["input_size"][-1], config["crop_pct"]
    channels: int = network.conv1[0].in_channels
    mean, std = (tuple(config[key][:channels]) for key in ("mean", "std"))
    transform = eval_transform(side, channels, mean, std, config["interpolation"], crop_pct)

    def look(image: Image) -> Look:
        return Look(transform(image)[None], *centre_crop(image.size, side, crop_pct))

    def mismatch(image: Image) -> str:
        wrong = channels == 1 and is_colourful(image)
        return "This network knows grey images; one in colours was shown." if wrong else ""

    return Subject(network.eval(), name, channels, look, mean, std, mismatch=mismatch)
