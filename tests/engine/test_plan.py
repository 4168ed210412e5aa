"""What a run is fitted to before it starts, and what is told of that."""

from dataclasses import replace

import pytest
import torch

from involution.engine import plan, train
from involution.engine.checkpoint import read_checkpoint
from involution.engine.config import ConfigError
from involution.engine.task import get_task, task_names


@pytest.fixture(params=["classify", "detect", "segment"])
def config(request):
    """Settings of every task: batches of 8, 10 epochs, no warm-up."""
    assert request.param in task_names()
    found = get_task(request.param).config()
    return replace(found, data=replace(found.data, batch_size=8), trainer=replace(found.trainer, epochs=10))


def test_what_works_is_left_alone(config):
    assert plan.fitted(config, 80, 1) == (config, [])


def test_a_batch_larger_than_the_data_is_capped(config):
    found, (batch, steps) = plan.fitted(config, 5, 1)
    assert found.data.batch_size == 5
    assert batch.startswith("data.batch_size is 8, but ")
    assert batch.endswith(" has only 5 training images: 5 are taken")
    assert steps == (
        "an epoch is a single step (5 images, batches of 5), and the whole training 10: choose a smaller "
        "--batch-size, or more --epochs"
    )
    # processes share a batch evenly
    assert plan.fitted(config, 5, 2)[0].data.batch_size == 4
    parts = replace(config, trainer=replace(config.trainer, accumulate=4))
    assert plan.fitted(parts, 7, 1)[0].data.batch_size == 4


@pytest.mark.parametrize(("images", "processes"), [(1, 1), (0, 1), (3, 4)])
def test_too_few_images_for_any_batch_are_refused(config, images, processes):
    with pytest.raises(ConfigError, match=rf"data.batch_size is 8, but .* has only {images} training images"):
        plan.fitted(config, images, processes)


def test_a_warm_up_longer_than_half_of_the_training_is_capped(config):
    schedule = replace(config.schedule, warmup_steps=500, warmup_epochs=1.0)
    found, notes = plan.fitted(replace(config, schedule=schedule), 96, 1)
    assert (found.schedule.warmup_steps, found.schedule.warmup_epochs) == (60, 0.0)
    assert notes == ["the warm-up has 512 steps, and the whole training 120: shortened to 60"]
    half = replace(config, schedule=replace(schedule, warmup_steps=48))
    assert plan.fitted(half, 96, 1) == (half, [])


def test_steps_become_epochs_of_what_there_is(config):
    found, notes = plan.fitted(replace(config, trainer=replace(config.trainer, steps=25)), 80, 1)
    assert (found.trainer.epochs, notes) == (3, [])


def test_lines_of_every_task(config):
    network = torch.nn.Sequential(torch.nn.Linear(1000, 1000, bias=False), torch.nn.Linear(1000, 500, bias=False))
    network[1].requires_grad_(False)
    named, steps = plan.lines(config, network, torch.device("cpu"), 80, None)
    assert named.startswith(f"network: {config.model.name}")
    assert named.endswith("1.5 million parameters, of which 1 learn; on cpu")
    assert steps == "steps: 10 an epoch, of 8 images; 100 in 10 epochs"


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ({"cat": 3, "dog": 1200}, "2: cat 3, dog 1,200"),
        ({"sky": 3_000_000, "road": 1_000_000}, "2: sky 75.0%, road 25.0%"),
        ({f"c{n}": 40 - n for n in range(20)}, "20; the rarest: c19 21, c18 22, c17 23"),
    ],
)
def test_classes_are_counted(counts, text):
    assert plan._counted(list(counts), counts) == text


def test_classes_of_label_maps_are_named_where_pixels_are_not_counted():
    assert plan._counted(["road", "tree"], {}) == "2: road, tree"
    assert plan._counted(list("abcdefghijklmnopqrstuvwxyz"), {}) == "26"


def test_a_capped_run_is_resumed_as_it_was_asked_for(make_config, capsys):
    config = make_config(data__batch_size=2000, trainer__epochs=1)
    first = train(config, progress=False)
    recipe = read_checkpoint(first.last)["involution"]["recipe"]
    assert recipe["data"]["batch_size"] == 2000
    assert recipe["schedule"]["warmup_epochs"] == config.schedule.warmup_epochs
    longer = make_config(data__batch_size=2000, trainer__epochs=2)
    second = train(longer, progress=False, resume="auto")
    assert len(second.history) == 2
    assert "2000, but digits has only 1,077 training images: 1077 are taken" in capsys.readouterr().err
