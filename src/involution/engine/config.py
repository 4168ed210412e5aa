"""The settings of a training run, and the named recipes that fill them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from involution.data.augment import AugmentConfig
from involution.data.errors import nearest
from involution.data.yaml import read_yaml
from involution.engine.parser import config_action, make_parser

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class ConfigError(ValueError):
    """A setting that is wrong, or two that do not go together."""


@dataclass
class ModelConfig:
    """The network.

    Args:
        name: its name in timm's registry, RedNet's included: rednet50, rednet_nano, resnet50, ...
        args: further arguments of its constructor, such as {"drop_path_rate": 0.1}.
        weights: start from this checkpoint or converted .safetensors file; a head of another class count is
            made anew.
    """

    name: str = "rednet50"
    args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None


@dataclass
class DataConfig:
    """The images.

    Args:
        spec: digits, imagefolder:PATH, imagenet:PATH, cifar10:PATH, cifar100:PATH or webdataset:SHARDS.
        image_size: side in pixels of the square that the network sees.
        channels: 3 for colour, 1 for grey.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        crop_pct: evaluation resizes the shorter side to image_size / crop_pct and crops the centre.
        interpolation: of every resize, bilinear or bicubic.
        batch_size: images per optimiser step, over all devices and accumulation steps together.
        workers: loader processes per device, at most one for each CPU core; 0 loads in the training process.
        cache: keep the decoded images in memory; for small data sets.
        split_seed: draws the splits that the data set does not bring along.
        classes: file with the class names, one a line or a JSON list; needed where the data has none.
    """

    spec: str = "digits"
    image_size: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    batch_size: int = 256
    workers: int = 4
    cache: bool = False
    split_seed: int = 0
    classes: str | None = None


@dataclass
class OptimizerConfig:
    """The optimiser, one of timm's.

    Args:
        name: sgd (with Nesterov momentum), momentum (without), adamw, lamb, ...
        lr: learning rate at the peak, for the whole batch.
        momentum: of sgd and its like; the others take it as their first beta.
        weight_decay: decay per unit of learning rate.
        decay_norm_and_bias: decay one-dimensional parameters (norms, biases) too.
        head_lr_factor: the classification head learns this many times faster than the rest.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    head_lr_factor: float = 1.0


@dataclass
class ScheduleConfig:
    """The learning rate over time: a linear warm-up, then the decay.

    Args:
        decay: cosine, linear, constant, poly (of a power), or step to multiply the rate by gamma after each milestone.
        update: step, or epoch to hold the decaying rate within an epoch (the warm-up moves by step).
        final: share of the peak rate that the decay ends at.
        milestones: of the decay step, numbers of epochs done.
        gamma: of the decay step.
        power: of the decay poly.
        warmup_epochs: length of the warm-up, during which the decay already runs.
        warmup_steps: optimiser steps that the warm-up is longer than that.
        warmup_start: share of the rate that the warm-up begins at.
    """

    decay: str = "cosine"
    update: str = "step"
    final: float = 0.0
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    power: float = 0.9
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    warmup_start: float = 0.0


@dataclass
class TrainerConfig:
    """How the training runs.

    Args:
        epochs: passes over the training images.
        steps: optimiser steps in place of epochs, rounded up to whole epochs; the decay ends at that step.
        label_smoothing: share of the target spread evenly over all classes.
        precision: 32-true, bf16-mixed, 16-mixed or 64-true.
        clip_grad_norm: largest norm of the gradient, null for no limit.
        accumulate: batches whose gradients are added up to one optimiser step.
        ema_decay: decay per step of the weights' moving average, which is then evaluated and kept; null for
            none.
        channels_last: keep tensors in channels_last memory order, faster on many devices.
        sync_batchnorm: batch norm statistics over all devices.
        accelerator: auto, cpu, gpu, mps.
    """

    epochs: int = 130
    steps: int | None = None
    label_smoothing: float = 0.0
    precision: str = "32-true"
    clip_grad_norm: float | None = None
    accumulate: int = 1
    ema_decay: float | None = None
    channels_last: bool = False
    sync_batchnorm: bool = False
    accelerator: str = "auto"


@dataclass
class RunConfig:
    """What every run has, whatever its task; a task's own settings add model, data and augment."""

    task: ClassVar[str] = ""

    name: str = "run"
    output: str = "runs"
    seed: int = 0
    devices: int = 1
    compile: bool = False
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    @property
    def run_dir(self) -> Path:
        """Folder of the run's checkpoints and logs."""
        return Path(self.output) / self.name

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain types, as a checkpoint keeps them."""
        return dataclasses.asdict(self)


@dataclass
class ClassifyConfig(RunConfig):
    """A whole classification run.

    Args:
        name: the run's folder below output.
        output: folder of all runs.
        seed: of the initial weights, the order of the images and every augmentation.
        devices: number of devices (processes) that share the batch.
        compile: compile the network by torch.compile.
        optimizer: the optimiser.
        schedule: the learning rate over time.
        trainer: how the training runs.
        model: the network.
        data: the images.
        augment: what is done to training images.
    """

    task: ClassVar[str] = "classify"

    name: str = "classify"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)


Config = TypeVar("Config", bound=RunConfig)


def recipe_names(task: str = "classify") -> list[str]:
    """Names of a task's packaged recipes."""
    files = (resources.files("involution.recipes") / task).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def recipe_path(name: str, task: str = "classify") -> Path:
    """File of a packaged recipe."""
    known = recipe_names(task)
    if name not in known:
        raise ConfigError(f"no recipe named {name!r} (there are {', '.join(known)}){nearest(name, known)}")
    return Path(str(resources.files("involution.recipes") / task / f"{name}.yaml"))


def config_keys(cls: type = ClassifyConfig, prefix: str = "") -> list[str]:
    """Every dotted setting, `trainer.epochs` and so on."""
    keys: list[str] = []
    for item in dataclasses.fields(cls):
        factory = item.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            keys += config_keys(factory, f"{prefix}{item.name}.")
        else:
            keys.append(prefix + item.name)
    return keys


def add_config_arguments(parser: ArgumentParser, cls: type[RunConfig] = ClassifyConfig) -> None:
    """Give a jsonargparse parser `--config` and every setting of a task."""
    from jsonargparse import ActionYesNo

    parser.add_argument("--config", action=config_action(), help="YAML file with settings, read before the options")
    parser.add_argument("--compile", action=ActionYesNo, default=False, help="compile the network by torch.compile")
    parser.add_class_arguments(cls, skip={"compile"})


@functools.lru_cache
def _parser(cls: Any) -> ArgumentParser:
    parser = make_parser()
    add_config_arguments(parser, cls)
    return parser


@overload
def load_config(
    recipe: str | None = None, overrides: Mapping[str, Any] | None = None, base: Mapping[str, Any] | None = None
) -> ClassifyConfig: ...


@overload
def load_config(
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    *,
    cls: type[Config],
) -> Config: ...


def load_config(
    recipe: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    *,
    cls: type[Any] = ClassifyConfig,
) -> Any:
    """Settings from a packaged recipe, changed by dotted overrides and checked for their types.

    Args:
        recipe: name of a recipe, or None for the defaults.
        overrides: such as `{"trainer.epochs": 1}`.
        base: settings as `RunConfig.to_dict` gives them, in place of a recipe.
        cls: the task's settings.

    Returns:
        The settings.

    Raises:
        ConfigError: for an unknown recipe or setting, or a value of the wrong type.
    """
    from jsonargparse import ArgumentError

    settings: dict[str, Any] = dict(base or {})
    parser: ArgumentParser = _parser(cls)  # type: ignore[arg-type]
    if recipe is not None:
        settings = read_yaml(recipe_path(recipe, cls.task))
    for key, value in (overrides or {}).items():
        if key not in config_keys(cls):
            raise ConfigError(f"no setting named {key!r}{nearest(key, config_keys(cls))}")
        group, _, name = key.rpartition(".")
        if group:
            settings[group] = {**settings.get(group, {}), name: value}
        else:
            settings[name] = value
    try:
        made = parser.instantiate(parser.parse_object(settings))
    except ArgumentError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return cls(**{item.name: made[item.name] for item in dataclasses.fields(cls)})
