"""Classes of a checkpoint and of the data that it is measured on, compared by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from involution.data.records import DataSet
from involution.data.relabel import occurring, relabel
from involution.data.text import nfc
from involution.engine.card import ModelCard
from involution.engine.converted import imagenet_classes, in_imagenet
from involution.engine.process import tell
from involution.engine.settings import ConfigError

# WordNet's, behind a name that two classes share
_NUMBER = re.compile(r" \(n\d{8}\)$")
# the place of a class that nothing is of
_LEFT_OUT = -1


def match_classes(
    card: ModelCard, data: DataSet[Any], checkpoint: object
) -> tuple[DataSet[Any], list[int] | None, ModelCard]:
    """The data with its labels as the checkpoint has them.

    Classes are the same where their names are. Data may have fewer than the checkpoint: it is then measured among these
    alone. It may have others that nothing is of. A checkpoint whose classes are only numbered takes as many names by
    their place.

    Args:
        card: of the checkpoint.
        data: what it is measured on.
        checkpoint: its file, for messages.

    Returns:
        The data, the labels among which it is measured (None for all), and the card with the category ids of the data.

    Raises:
        ConfigError: for images, objects or pixels of classes that the checkpoint does not know.
    """
    card = replace(card, classes=list(map(nfc, card.classes)))
    record = getattr(next(iter(data.parts.values())), "record", None)
    if data.classes == card.classes and (record is None or list(record.category_ids) == card.category_ids):
        return data, None, card
    theirs = list(map(nfc, data.classes))
    if record is None and list(card.classes) == imagenet_classes():
        # folders are named by WordNet's numbers
        theirs = in_imagenet(theirs)
    if len(set(card.classes)) < len(card.classes):
        if are_same(theirs, card.classes):
            return data, None, replace(card, classes=theirs)
        raise ConfigError(
            f"{checkpoint} has classes of one name, {some(sorted(set(_twice(card.classes))))}: they can't be compared "
            f"by name with those of {data.spec}; wanted the same classes in the same order"
        )
    unknown = [name for name in theirs if name not in card.classes]
    numbered = len(unknown) == len(theirs) and list(card.classes) == [str(n) for n in range(len(unknown))]
    if unknown and not numbered:
        there = occurring(data) if len(unknown) < len(theirs) else set(range(len(theirs)))
        if busy := [name for label, name in enumerate(theirs) if name in unknown and label in there]:
            raise ConfigError(
                f"{checkpoint} was trained on other classes ({some(card.classes)}) than {data.spec}: "
                f"{some(busy)} not among them"
            )
        tell(f"{data.spec} has nothing of classes that {checkpoint} does not know, which are left out: {some(unknown)}")
    if numbered:
        tell(f"{checkpoint} has numbered classes: those of {data.spec} are matched by position")
        places = list(range(len(data.classes)))
    else:
        places = [card.classes.index(name) if name in card.classes else _LEFT_OUT for name in theirs]
    known = [name for name, place in zip(data.classes, places, strict=True) if place != _LEFT_OUT]
    kept = [place for place in places if place != _LEFT_OUT]
    fewer = len(kept) < len(card.classes)
    if fewer and len(kept) == 1 and record is None:
        raise ConfigError(
            f"{data.spec} has only the class {known[0]} of the {len(card.classes)} of {checkpoint}: among one "
            "class everything is right; add folders of the other classes, empty ones if need be"
        )
    if fewer:
        tell(
            f"{data.spec} has {len(kept)} of the {len(card.classes)} classes of {checkpoint}: measured among "
            f"{some(known)} alone"
        )
    elif not numbered and kept != sorted(kept):
        tell(f"{data.spec} has the classes of {checkpoint} in another order: compared by name")
    ids = []
    if record is not None:
        # results are told by the ids of the data; what it does not have gets ids that it does not use
        own = {place: key for place, key in zip(places, record.category_ids, strict=True) if place != _LEFT_OUT}
        free = max(record.category_ids) + 1
        ids = [own.get(place, free + place) for place in range(len(card.classes))]
    matched = relabel(data, places, list(card.classes), ids)
    return matched, sorted(kept) if fewer else None, replace(card, category_ids=ids)


def are_same(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Whether the classes of data are those of a checkpoint in their order.

    In checkpoints of earlier versions, names that two classes of ImageNet share have no number behind them.
    """
    return list(ours) == list(theirs) or [_NUMBER.sub("", name) for name in ours] == list(theirs)


def _twice(names: Sequence[str]) -> list[str]:
    return [name for place, name in enumerate(names) if name in names[:place]]


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
