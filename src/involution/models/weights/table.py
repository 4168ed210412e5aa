"""The table of published weights: a line here, and every command and library that takes a name finds them."""

import difflib
import os
from dataclasses import dataclass, field

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from involution.models.errors import WeightsError

_PADDLE = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/"


@dataclass(frozen=True)
class PublishedWeights:
    """Trained weights that were published, and what is known of them.

    Attributes:
        name: Name of the network in timm's registry, and a tag.
        address: Of the file as it was published.
        parameters: Number of parameters of the network.
        figures: Top-1 and top-5 accuracy in % on ImageNet-1k's validation images, by who published them.
        sha256: Of the published file, in hexadecimal; None where nobody has published it. Then the hash that the file
            has when it is downloaded is kept beside it.
        license: Its SPDX identifier, in small letters.
        source: Who offers the file.
        origin: Who trained the network.
        input_size: Channels, height and width of the images.
        num_classes: Classes of the classifier.
        crop_pct: Evaluation resizes the shorter side to height / crop_pct and crops the centre.
        interpolation: Of the resize.
        mean: Of the normalisation, in units of 0 to 1.
        std: Of the normalisation, in units of 0 to 1.
    """

    name: str
    address: str
    parameters: int
    figures: dict[str, tuple[float, float]] = field(hash=False)
    sha256: str | None = None
    license: str = "apache-2.0"
    source: str = "https://github.com/PaddlePaddle/PaddleClas"
    origin: str = "https://github.com/d-li14/involution"
    input_size: tuple[int, int, int] = (3, 224, 224)
    num_classes: int = 1000
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD

    @property
    def model(self) -> str:
        """Name of the network in timm's registry."""
        return self.name.partition(".")[0]

    @property
    def file(self) -> str:
        """Name of the file as it was published."""
        return self.address.rpartition("/")[2]

    @property
    def converted(self) -> str:
        """Name of the file that it is converted to."""
        return f"{self.name}.safetensors"

    @property
    def most_bytes(self) -> int:
        """Size that no file of these weights has: twice that of the parameters in float32."""
        return 8 * self.parameters + 2**20


def _paddle(depth: int, parameters: int, authors: tuple[float, float], paddle: tuple[float, float]) -> PublishedWeights:
    return PublishedWeights(
        name=f"rednet{depth}.paddle_in1k",
        address=f"{_PADDLE}RedNet{depth}_pretrained.pdparams",
        parameters=parameters,
        figures={"authors": authors, "PaddleClas": paddle},
    )


# the first of a network is its default
PUBLISHED = (
    _paddle(26, 9_233_166, (75.96, 93.19), (75.95, 93.19)),
    _paddle(38, 12_386_986, (77.48, 93.57), (77.47, 93.56)),
    _paddle(50, 15_540_806, (78.35, 94.13), (78.33, 94.17)),
    _paddle(101, 25_652_950, (78.92, 94.35), (78.94, 94.36)),
    _paddle(152, 33_984_582, (79.12, 94.38), (79.17, 94.40)),
)


def published(name: str | os.PathLike[str]) -> PublishedWeights | None:
    """Return the weights that a name stands for, None for any other word.

    Args:
        name: With its tag, or that of the network alone, which stands for the first of its weights.

    Example:
        >>> published("rednet50").name, published("best.ckpt")
        ('rednet50.paddle_in1k', None)
    """
    words = str(name)
    return next((entry for entry in PUBLISHED if words in (entry.name, entry.model)), None)


def find(name: str) -> PublishedWeights:
    """Return the weights that a name stands for.

    Raises:
        WeightsError: There are none of that name.
    """
    entry = published(name)
    if entry is None:
        raise WeightsError(f"no weights are published as {name!r}{suggestion(name)}")
    return entry


def suggestion(name: str) -> str:
    """Return what a word could have meant, as the end of a message; of any other word the names that there are."""
    close = nearest(name)
    return f"; did you mean {close}?" if close else f" (there are {', '.join(entry.model for entry in PUBLISHED)})"


def nearest(name: str) -> str | None:
    """Return the published name that a word is nearly, if it is."""
    known = [name for entry in PUBLISHED for name in (entry.model, entry.name)]
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.7)), None)
