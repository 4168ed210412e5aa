"""Every setting has a range within which nothing overflows or fills the memory."""

import typing

import pytest

from involution.engine.checks import check_config
from involution.engine.settings import ConfigError, _settings
from involution.engine.task import get_task

TASKS = ["classify", "detect", "segment"]


def whole(hint):
    return hint is int or any(map(whole, typing.get_args(hint)))


def settings(task):
    config = get_task(task).config()
    names = {name: field for name, _, field, hint in _settings(config, "") if whole(hint)}
    assert len(names) > 10
    return config, names


@pytest.mark.parametrize("task", TASKS)
def test_every_whole_number_has_its_limits(task):
    _, found = settings(task)
    unbounded = [name for name, field in found.items() if abs(field.metadata["range"].high) == float("inf")]
    assert unbounded == []


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("value", [-1, 2**40, 10**30])
def test_beyond_them_is_refused_in_one_line(task, value):
    for name in settings(task)[1]:
        *groups, last = name.split(".")
        config = get_task(task).config()
        owner = config
        for group in groups:
            owner = getattr(owner, group)
        if name in ("seed", "data.split_seed") and 0 <= value < 2**63:
            continue
        old = getattr(owner, last)
        setattr(owner, last, [value] if isinstance(old, list | tuple) else value)
        with pytest.raises(ConfigError, match=rf"^{name} must be "):
            check_config(config)
