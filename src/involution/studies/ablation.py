"""An ablation study: which settings of a network are varied, what each costs, and the runs that it takes."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from hashlib import sha1
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from involution.data.errors import nearest
from involution.data.yaml import YamlError, parse_yaml, read_yaml
from involution.engine.checks import check_config
from involution.engine.settings import setting_names
from involution.engine.tasks.classify.config import ClassifyConfig
from involution.studies.cost import multiply_adds
from involution.studies.errors import StudyError
from involution.studies.published import CLASSIFIERS

_ARGS = "model.args."
# what the study itself sets in each run
_OWN = ("name", "output", "seed", "devices")
_KEYS = ("title", "recipe", "settings", "cost", "axes", "seeds")
_MOST = 1000
# a packaged study of its own kind
_ENVELOPE = "envelope"


@dataclass(frozen=True)
class Point:
    """One place on an axis.

    Attributes:
        label: How tables and plots call it.
        settings: What it changes, such as ``{"model.args.kernel_size": 3}``.
    """

    label: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: Of its folder and of its record.
        title: For people.
        config: Its settings, seed included.
    """

    name: str
    title: str
    config: ClassifyConfig


@dataclass(frozen=True)
class Study:
    """What a study file says.

    Attributes:
        title: What is studied.
        recipe: Name of the recipe of `involution classify train` that each run begins with.
        settings: Changes of the recipe that all runs have, by dotted names.
        axes: By name, the places that are compared.
        seeds: How many trainings each place gets, with the seeds 0, 1, ...
        cost: ``model`` and ``image_size`` of the network whose costs the table shows; the trained one's where empty.
    """

    title: str
    recipe: str | None
    settings: dict[str, Any]
    axes: dict[str, list[Point]]
    seeds: int = 3
    cost: dict[str, Any] = field(default_factory=dict)

    def config(self, settings: Mapping[str, Any], seed: int = 0) -> ClassifyConfig:
        """Return the settings of a run.

        Args:
            settings: What a `Point` changes.
            seed: Of the run.

        Raises:
            ConfigError: For values that are wrong or do not go together.
        """
        return replace(_config(self.recipe, _canonical({**self.settings, **settings})), seed=seed)

    @cached_property
    def points(self) -> list[Point]:
        """Every place once, in the order of the axes, though several axes may have it."""
        found = {
            _canonical({**self.settings, **point.settings}): point for axis in self.axes.values() for point in axis
        }
        return list(found.values())

    def is_base(self, point: Point) -> bool:
        """Say whether a place changes nothing: the setting that all axes go out from."""
        return all(self.settings.get(key, _MISSING) == value for key, value in point.settings.items())

    def runs(self) -> list[Run]:
        """Return the trainings, seed by seed, so that a study that is stopped early has something of each place."""
        return [self.run(point, seed) for seed in range(self.seeds) for point in self.points]

    def run(self, point: Point, seed: int) -> Run:
        """Return one training of a place."""
        # by what differs from the base: the same run has the same name in every axis
        differs = {key: value for key, value in point.settings.items() if self.settings.get(key, _MISSING) != value}
        changed = [f"{key.rpartition('.')[2]}={differs[key]}" for key in sorted(differs)] or ["base"]
        title, text = ", ".join(changed), ",".join(changed)
        name = re.sub(r"[^\w.,=+-]", "", text)[:80]
        if name != text:
            # the characters left out may be what differs
            name += f"-{sha1(_canonical(differs).encode()).hexdigest()[:8]}"
        return Run(f"{name}-seed{seed}", f"{title}, seed {seed}", self.config(point.settings, seed))

    def cost_of(self, point: Point) -> tuple[int, int]:
        """Return parameters, and multiply-adds of an image without the classifier, of the network of `cost`.

        It is the published network with what the place changes; the trained one may be a smaller one.
        """
        if not self.cost:
            return network_cost(self.config(point.settings), None)
        size = self.cost.get("image_size", 224)
        return _counted(self.cost["model"], self._cost_args(point), 3, size, None)

    def published(self, point: Point) -> float | None:
        """Return the published top-1 in % of the network of `cost`, for the place that is that network unchanged."""
        name = self.cost.get("model", "")
        if name not in CLASSIFIERS:
            return None
        from involution.models.rednet import RedNet

        defaults = {key: value.default for key, value in inspect.signature(RedNet).parameters.items()}
        args = self._cost_args(point)
        same = all(key in defaults and defaults[key] == value for key, value in args.items())
        return CLASSIFIERS[name].scores["top1"] if same else None

    def _cost_args(self, point: Point) -> dict[str, Any]:
        """Of the trained network's arguments only those that the study varies."""
        varied = {key for axis in self.axes.values() for other in axis for key in other.settings}
        merged = {**{key: value for key, value in self.settings.items() if key in varied}, **point.settings}
        return {key.removeprefix(_ARGS): value for key, value in merged.items() if key.startswith(_ARGS)}

    def changed(
        self,
        *,
        data: str | None = None,
        recipe: str | None = None,
        settings: Mapping[str, Any] | None = None,
        seeds: int | None = None,
    ) -> Study:
        """Return the study with other data, recipe, settings or number of seeds, checked.

        Args:
            data: Data set, as ``data.spec`` takes it.
            recipe: In place of the study's recipe and settings, save the settings that the study varies.
            settings: Further changes by dotted names; they go before all others.
            seeds: Number of trainings for each place.

        Raises:
            StudyError: For what is unknown or of a wrong value.
        """
        new = dict(self.settings)
        if recipe is not None:
            varied = {key for axis in self.axes.values() for point in axis for key in point.settings}
            new = {key: value for key, value in new.items() if key in varied}
        new |= settings or {}
        if data is not None:
            new["data.spec"] = data
        study = replace(
            self,
            recipe=self.recipe if recipe is None else recipe,
            settings=new,
            seeds=self.seeds if seeds is None else seeds,
        )
        _check(study)
        return study


_MISSING = object()


def study_names() -> list[str]:
    """Names of the packaged studies."""
    files = (resources.files("involution.recipes") / "ablate").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def study_path(source: str | Path) -> Path:
    """Return the file of a packaged study, or the file itself.

    Raises:
        StudyError: If there is neither.
    """
    known = study_names()
    if str(source) in known:
        return Path(str(resources.files("involution.recipes") / "ablate" / f"{source}.yaml"))
    if not Path(source).is_file():
        known = [*known, _ENVELOPE]
        raise StudyError(f"no study file {source} (packaged studies: {', '.join(known)}){nearest(str(source), known)}")
    return Path(source)


def load_study(source: str | Path) -> Study:
    """Read a study.

    Args:
        source: Name of a packaged study, or a YAML file.

    Returns:
        The study, checked: every place of every axis can be built.

    Raises:
        StudyError: For a file that is no study, with the line or the name at fault.
    """
    path = study_path(source)
    try:
        return _study(read_yaml(path), path.stem)
    except YamlError as error:
        raise StudyError(f"not valid YAML: {error}") from error
    except StudyError as error:
        raise StudyError(f"{path}: {error}") from error


def _study(found: Any, name: str) -> Study:
    table = _mapping(found, "a study")
    for key in table:
        if key not in _KEYS:
            raise StudyError(f"unknown entry {key!r}{nearest(str(key), _KEYS)} (there are {', '.join(_KEYS)})")
    cost = _mapping(table.get("cost", {}), "cost")
    if cost and ("model" not in cost or set(cost) - {"model", "image_size"}):
        raise StudyError(f"cost: wanted model and optionally image_size, got {', '.join(map(str, cost))}")
    axes = _mapping(table.get("axes"), "axes")
    study = Study(
        title=str(table.get("title", name)),
        recipe=table.get("recipe"),
        settings={str(key): value for key, value in _mapping(table.get("settings", {}), "settings").items()},
        axes={str(axis): _axis(str(axis), places) for axis, places in axes.items()},
        seeds=table.get("seeds", 3),
        cost=cost,
    )
    if not study.axes:
        raise StudyError("no axes: name at least one setting and its values, kernel: {model.args.kernel_size: [3, 7]}")
    _check(study)
    return study


def _mapping(found: Any, what: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise StudyError(f"{what}: wanted names with values, got {found!r}")
    return found


def _axis(name: str, places: Any) -> list[Point]:
    """The places of an axis: of a mapping from settings to values all combinations, of several mappings one by one."""
    points: list[Point] = []
    for part in places if isinstance(places, list) else [places]:
        labelled = {
            str(key): _values(f"axis {name!r}, {key}", found) for key, found in _mapping(part, f"axis {name!r}").items()
        }
        if len(points) + math.prod(map(len, labelled.values())) > _MOST:
            raise StudyError(f"axis {name!r} has more than {_MOST} combinations")
        for labels in itertools.product(*labelled.values()):
            chosen = dict(zip(labelled, labels, strict=True))
            settings = {key: labelled[key][label] for key, label in chosen.items()}
            short = {key.rpartition(".")[2]: label for key, label in chosen.items()}
            label = ", ".join(f"{key} {label}" if len(short) > 1 else label for key, label in short.items())
            points.append(Point(label, settings))
    repeated = [point.label for point in points if sum(point.label == other.label for other in points) > 1]
    if repeated:
        raise StudyError(f"axis {name!r} has {repeated[0]!r} twice")
    if len(points) < 2:
        raise StudyError(f"axis {name!r}: wanted two values or more to compare, got {len(points)}")
    return points


def _values(where: str, found: Any) -> dict[str, Any]:
    """Values by their labels, from a list of values or from a mapping that has labels."""
    if isinstance(found, dict):
        return {str(label): value for label, value in found.items()}
    if not isinstance(found, list):
        raise StudyError(f"{where}: wanted a list of values, or values by their labels, got {found!r}")
    labelled = {str(value): value for value in found}
    if len(labelled) < len(found):
        raise StudyError(f"{where}: wanted each value once, got {found}")
    return labelled


def _check(study: Study) -> None:
    if not isinstance(study.seeds, int) or not 1 <= study.seeds <= _MOST:
        raise StudyError(f"seeds must be from 1 to {_MOST}, got {study.seeds}")
    if not isinstance(study.recipe, str | None):
        raise StudyError(f"recipe: wanted the name of a recipe, got {study.recipe!r}")
    _check_keys(study.settings, "settings")
    for name, points in study.axes.items():
        for point in points:
            _check_keys(point.settings, f"axis {name!r}")
            wrong = [key for key in point.settings if not key.startswith(_ARGS)]
            if study.cost and "model.name" in wrong:
                raise StudyError(f"axis {name!r} varies model.name: remove cost, which is for a single network")
            try:
                network_cost(study.config(point.settings), None)
                study.cost_of(point)
            except ModuleNotFoundError:
                raise
            # a constructor may say in any way that it can't do with its arguments
            except Exception as error:
                raise StudyError(f"axis {name!r}, {point.label}: {' '.join(str(error).split())}") from error


def _check_keys(settings: Mapping[str, Any], where: str) -> None:
    known = [key for key in setting_names(ClassifyConfig) if key not in _OWN and key != "model.args"]
    arguments = [f"{_ARGS}{name}" for name in _model_arguments()]
    for key in settings:
        if key in _OWN:
            raise StudyError(f"{where}: {key} is set by the study itself")
        if key in known or (str(key).startswith(_ARGS) and len(str(key)) > len(_ARGS)):
            continue
        hint = nearest(str(key), [*known, *arguments])
        raise StudyError(
            f"{where}: no setting named {key!r}{hint or '; an argument of the network is model.args.NAME'}"
        )


def _model_arguments() -> list[str]:
    from involution.models.rednet import RedNet

    return [name for name, value in inspect.signature(RedNet).parameters.items() if value.kind is value.KEYWORD_ONLY]


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted settings with all arguments of the network in one."""
    plain = {key: value for key, value in settings.items() if not key.startswith(_ARGS)}
    args = {key.removeprefix(_ARGS): value for key, value in settings.items() if key.startswith(_ARGS)}
    return {**plain, "model.args": args} if args else plain


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


# reading settings takes a while, and each is asked for many times
@cache
def _config(recipe: str | None, settings: str) -> ClassifyConfig:
    # weights fit one of the networks that are compared: without others being asked for, all start from scratch
    config = ClassifyConfig.load(recipe, {"model.weights": None, **_nested(json.loads(settings))})
    check_config(config)
    return config


def network_cost(config: ClassifyConfig, classes: int | None) -> tuple[int, int]:
    """Return parameters of a run's network, and its multiply-adds for an image, those of the classifier left out.

    Args:
        config: Settings of the run.
        classes: Number of classes; None for the network's own.
    """
    model, data = config.model, config.data
    return _counted(model.name, model.args, data.channels, data.image_size, classes)


def _counted(name: str, args: Mapping[str, Any], channels: int, size: int, classes: int | None) -> tuple[int, int]:
    return _count(name, _canonical(args), channels, size, classes)


@cache
def _count(name: str, args: str, channels: int, size: int, classes: int | None) -> tuple[int, int]:
    import timm

    from involution import models  # noqa: F401, registers RedNet with timm

    head: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    with torch.device("meta"):
        model: Any = timm.create_model(name, in_chans=channels, **head, **json.loads(args)).eval()
        image = torch.empty(1, channels, size, size)
        macs = multiply_adds(lambda: model.forward_features(image))
    return sum(parameter.numel() for parameter in model.parameters()), macs


def parse_settings(words: Sequence[str]) -> dict[str, Any]:
    """Return settings from ``KEY=VALUE`` words, the values in YAML.

    Raises:
        StudyError: For a word that is something else.
    """
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise StudyError(f"wanted KEY=VALUE such as trainer.epochs=20, got {word!r}")
        try:
            found[key] = parse_yaml(value)
        except YamlError as error:
            raise StudyError(f"{word!r}: the value is not valid YAML") from error
    return found
