"""The settings shared by the runs of all tasks, and the named recipes that fill them.

A task adds its own settings: see `involution/engine/tasks/<task>/config.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from typing_extensions import Self

from involution.data.addresses import path_of
from involution.data.errors import nearest
from involution.data.registry import format_help, formats
from involution.data.yaml import read_yaml
from involution.engine.parser import config_action, make_parser
from involution.engine.settings import MOST, ConfigError, one_of, ranged, setting_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

__all__ = ["ConfigError", "RunConfig", "recipe_names", "recipe_path"]

OnProblem = Literal["refuse", "skip"]
Logger = Literal["tensorboard", "wandb", "mlflow", "none"]
# of a layer; as in models/pyramid.py, which would import torch with it
Kind = Literal["convolution", "involution"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class ModelConfig:
    """The network.

    Args:
        name: its name.
        weights: file with the weights that training starts from, or the name of published ones.
        freeze: parts of the backbone that do not learn, with their batch norms in eval mode.
        freeze_epochs: how long; null for the whole training.
    """

    name: str = ""
    weights: str | None = None
    freeze: str | None = None
    freeze_epochs: int | None = ranged(None, 1, MOST)


@dataclass
class DataConfig:
    """The images.

    Args:
        spec: the data set.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        batch_size: images per optimiser step, over all devices and accumulation steps together.
        workers: loader processes per device, at most one per CPU core; 0 loads in the training process.
        cache: keep the decoded images in memory; for small data sets.
        split_seed: draws the splits that the data set does not bring along.
        split_by: draws them by the name of each image, so that an added one moves no other, or cuts exact shares (draw)
            as version 0.1.0 did.
        split_copies: draw altered copies of one image, by their names (7.jpg, 7_flip.jpg), and files of equal content
            together into one split, or apart.
        on_problem: refuse a data set with broken files or malformed entries, or skip these; both ways they are told.
        allow_empty: take classes without training images, pixels or objects for what is meant.
        exif: apply the EXIF orientation of images, or ignore it and take the pixels as stored.
        value_range: values that become black and white in images of more than 8 bits; null for their type's range.
    """

    spec: str = ""
    mean: tuple[float, ...] = ranged(MEAN)
    std: tuple[float, ...] = ranged(STD, 0, above=True)
    batch_size: int = ranged(1, 1, MOST)
    workers: int = ranged(4, 0, 10_000)
    cache: bool = False
    # what scikit-learn accepts
    split_seed: int = ranged(0, 0, 2**32 - 1)
    split_by: Literal["name", "draw"] = "name"
    split_copies: Literal["together", "apart"] = "together"
    on_problem: OnProblem = "refuse"
    allow_empty: bool = False
    exif: Literal["apply", "ignore"] = "apply"
    value_range: tuple[float, float] | None = None


@dataclass
class OptimizerConfig:
    """The optimiser, one of timm's.

    Args:
        name: sgd (with Nesterov momentum), momentum (without), adamw, lamb, ...
        lr: learning rate at the peak, for the whole batch.
        momentum: for sgd and similar; other optimisers use it as their first beta.
        weight_decay: decay per unit of learning rate.
        decay_norm_and_bias: apply the decay to one-dimensional parameters (norms, biases) too.
        head_lr_factor: factor on the learning rate of the head.
        layer_decay: factor on the learning rate from each layer of the backbone to the one before it, so that early
            layers change little; 1 for none.
    """

    name: str = "sgd"
    lr: float = ranged(0.1, 0, above=True)
    momentum: float = ranged(0.9, 0, 1)
    weight_decay: float = ranged(1e-4, 0)
    decay_norm_and_bias: bool = True
    head_lr_factor: float = ranged(1.0, 0, above=True)
    layer_decay: float = ranged(1.0, 0, 1, above=True)


@dataclass
class ScheduleConfig:
    """The learning rate over time: a linear warm-up, then the decay.

    Args:
        decay: cosine, linear, constant, poly (a power), or step, to multiply the rate by gamma after each milestone.
        update: step, or epoch to keep the decaying rate constant within an epoch (the warm-up changes with each step).
        final: fraction of the peak rate at the end of the decay.
        milestones: for the decay step, numbers of finished epochs.
        gamma: for the decay step.
        power: for the decay poly.
        warmup_epochs: length of the warm-up, during which the decay already runs.
        warmup_steps: additional optimiser steps of warm-up.
        warmup_start: fraction of the rate at the start of the warm-up.
    """

    decay: Literal["cosine", "linear", "constant", "step", "poly"] = "cosine"
    update: Literal["step", "epoch"] = "step"
    final: float = ranged(0.0, 0, 1)
    milestones: list[int] = ranged([], 0, MOST)  # noqa: RUF009
    gamma: float = ranged(0.1, 0, 1)
    power: float = ranged(0.9, 0, 100)
    warmup_epochs: float = ranged(0.0, 0, MOST)
    warmup_steps: int = ranged(0, 0, 1000 * MOST)
    warmup_start: float = ranged(0.0, 0, 1)


@dataclass
class TrainerConfig:
    """How the training runs.

    Args:
        epochs: passes over the training images.
        steps: optimiser steps instead of epochs, rounded up to whole epochs; the decay ends at that step.
        keep: how many checkpoints to resume from are kept, last.ckpt and the ones before it.
        checkpoint_every: write last.ckpt within an epoch, too: after a number of steps, or a time such as 10m or 1h.
        on_nan: at a loss or gradient that is NaN or infinite, stop, or skip the step.
        patience: stop early after this many epochs without a better figure of the validation images; null to train
            all epochs.
        label_smoothing: fraction of the target spread evenly over all classes.
        precision: 32-true, bf16-mixed, 16-mixed, 64-true, or auto: bf16-mixed where a GPU has instructions for it, or
            where a CPU is faster with it, measured for a few seconds, else 32-true. A resumed run keeps the choice.
        clip_grad_norm: maximum norm of the gradient, null for no limit.
        accumulate: batches whose gradients are accumulated into one optimiser step.
        ema_decay: decay per step of a moving average of the weights, which is then evaluated and kept; null for
            none.
        channels_last: keep tensors in channels_last memory order, which is faster on many devices.
        sync_batchnorm: compute batch norm statistics over all devices, which must be GPUs.
        strategy: how several devices share the work: ddp, each with the whole network, or fsdp (FSDP2), each with a
            part of all weights, gradients and the optimiser's state.
        activation_checkpointing: keep the input of each block of the backbone alone, and compute the block again when
            its gradient is needed; less memory, more time. Or selective: keep the outputs of convolutions, matrix
            products and involutions, and compute norms, activations and sums alone again.
        accelerator: auto, cpu, cuda or mps.
    """

    epochs: int = ranged(130, 1, MOST)
    steps: int | None = ranged(None, 1, 1000 * MOST)
    keep: int = ranged(2, 1, 1000)
    checkpoint_every: int | str | None = ranged(None, 1, 1000 * MOST)
    on_nan: Literal["stop", "skip"] = "stop"
    patience: int | None = ranged(None, 1, MOST)
    label_smoothing: float = ranged(0.0, 0, 1)
    precision: Literal["auto", "32-true", "64-true", "bf16-mixed", "16-mixed"] = "32-true"
    clip_grad_norm: float | None = ranged(None, 0)
    accumulate: int = ranged(1, 1, MOST)
    ema_decay: float | None = None
    channels_last: bool = False
    sync_batchnorm: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    activation_checkpointing: bool | Literal["selective"] = False
    accelerator: str = "auto"


@dataclass
class RunConfig:
    """The settings of every run; a task has its own for model, data and augment.

    Args:
        name: name of the run's folder, inside output.
        output: folder of all runs.
        seed: seed of the initial weights, the order of the images and every augmentation.
        devices: number of devices (processes) that share the batch.
        compile: compile the network with torch.compile.
        logger: what shows the figures of metrics.csv: tensorboard, wandb or mlflow (set up by their environment
            variables), or none.
        optimizer: the optimiser.
        schedule: the learning rate over time.
        trainer: how the training runs.
        model: the network.
        data: the images.
    """

    task: ClassVar[str] = ""

    name: str = "run"
    output: str = "runs"
    seed: int = ranged(0, 0, 2**63 - 1)
    devices: int = ranged(1, 1, MOST)
    compile: bool = False
    logger: Logger = "tensorboard"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)

    @property
    def run_dir(self) -> Path:
        """Folder of the run's checkpoints and logs."""
        return path_of(self.output) / self.name

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain types, as stored in a checkpoint."""
        return dataclasses.asdict(self)

    @classmethod
    def load(
        cls,
        recipe: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
    ) -> Self:
        """Settings from a packaged recipe, changed by dotted overrides and checked for their types.

        Args:
            recipe: name of a recipe, or None for the defaults.
            overrides: such as `{"trainer.epochs": 1}`.
            base: settings as returned by `to_dict`, instead of a recipe.

        Returns:
            The settings.

        Raises:
            ConfigError: for an unknown recipe or setting, or a value of the wrong type.
        """
        from jsonargparse import ArgumentError

        settings: dict[str, Any] = dict(base or {})
        if recipe is not None:
            settings = read_yaml(recipe_path(recipe, cls.task))
        for key, value in (overrides or {}).items():
            if key not in setting_names(cls):
                raise ConfigError(f"no setting named {key!r}{nearest(key, setting_names(cls))}")
            group, _, name = key.rpartition(".")
            if group:
                settings[group] = {**settings.get(group, {}), name: value}
            else:
                settings[name] = value
        parser = _parser(cls)  # type: ignore[arg-type]
        try:
            return from_parsed(cls, parser.instantiate(parser.parse_object(settings)))
        except ArgumentError as error:
            raise ConfigError(plain_words(str(error))) from error


Config = TypeVar("Config", bound=RunConfig)


def recipe_names(task: str) -> list[str]:
    """Names of a task's packaged recipes."""
    folder = resources.files("involution.recipes") / task
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def recipe_path(name: str, task: str) -> Path:
    """File of a packaged recipe."""
    known = recipe_names(task)
    if name not in known:
        raise ConfigError(f"no recipe named {name!r} (there are {', '.join(known)}){nearest(name, known)}")
    return Path(str(resources.files("involution.recipes") / task / f"{name}.yaml"))


def add_config_arguments(parser: ArgumentParser, cls: type[RunConfig]) -> None:
    """Add `--config` and every setting of a task to a jsonargparse parser."""
    from jsonargparse import ActionYesNo

    parser.add_argument("--config", action=config_action(), help="YAML file with settings, read before the options")
    parser.add_argument("--compile", action=ActionYesNo, default=False, help="compile the network with torch.compile")
    parser.add_class_arguments(cls, skip={"compile"})
    placeholders = {"data.spec": "SPEC", "model.weights": "FILE", "output": "FOLDER"}
    for action in parser._actions:
        action.metavar = placeholders.get(action.dest, action.metavar)
        if action.dest == "data.spec" and formats(cls.task):
            # what is registered, also by others
            action.help = f"the data set: {format_help(cls.task)}; or the path of a folder in one of these formats"


def from_parsed(cls: type[Config], parsed: Any) -> Config:
    """The settings from the arguments parsed by such a parser."""
    return cls(**{item.name: parsed[item.name] for item in dataclasses.fields(cls)})


def plain_words(message: str) -> str:
    """Rephrase jsonargparse's complaint about a setting with a few choices; put any other on one line."""

    def choices(found: re.Match[str]) -> str:
        words = re.findall(r"'([^']*)'", found[2])
        return f"{found[1]} must be {one_of(words)}, got {found[3]!r}"

    pattern = r'Parser key "([\w.]+)": Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)'
    return re.sub(pattern, choices, " ".join(message.split()))


@functools.lru_cache
def _parser(cls: Any) -> ArgumentParser:
    parser = make_parser()
    add_config_arguments(parser, cls)
    return parser
