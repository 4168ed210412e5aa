"""One training: a network learns a task on one thread and is measured on the task's test images."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from involution.studies.envelope.networks import FAMILIES, build
from involution.studies.envelope.tasks import Images, images
from involution.studies.workers import alone

BATCH = 32
# part of the training in which the learning rate rises
_WARM_UP = 0.1
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Run:
    """What one training is.

    Attributes:
        task: Name in `TASKS`.
        family: Name in `FAMILIES`.
        width: Of the first stage.
        seed: Of the weights at the start and the order of the images.
        epochs: How often each image is seen.
    """

    task: str
    family: str
    width: int
    seed: int
    epochs: int


def record(run: Run) -> dict[str, Any]:
    """Train and measure.

    Returns:
        ``accuracy`` in % on ``images`` test images, with the weights after the last step; ``train_accuracy`` and
        ``loss`` of the last epoch; ``steps``, and ``seconds`` of the processor.
    """
    train, test = images(run.task)
    rate = FAMILIES[run.family].learning_rate
    with alone(run.seed):
        network = build(run.family, run.width).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=_WEIGHT_DECAY, fused=True)
        begin, number = time.process_time(), len(train.digits)
        total, step = run.epochs * math.ceil(number / BATCH), 0
        for _ in range(run.epochs):
            right, losses = 0, 0.0
            for part in torch.randperm(number).split(BATCH):
                for group in optimizer.param_groups:
                    group["lr"] = rate * _schedule(step / total)
                logits = network(train.pixels[part].to(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, train.digits[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                right += int((logits.argmax(1) == train.digits[part]).sum())
                losses += float(loss.detach()) * len(part)
                step += 1
        seconds = time.process_time() - begin
    return {
        "accuracy": 100 * accuracy(network, test),
        "images": len(test.digits),
        "train_accuracy": 100 * right / number,
        "loss": losses / number,
        "steps": step,
        "seconds": seconds,
    }


def accuracy(network: nn.Module, test: Images) -> float:
    """Return the share of images whose digit a network names."""
    network.eval()
    with torch.inference_mode():
        found = [network(part.to(memory_format=torch.channels_last)).argmax(1) for part in test.pixels.split(4 * BATCH)]
    return float((torch.cat(found) == test.digits).float().mean())


def _schedule(done: float) -> float:
    return min(1.0, (done + 0.001) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
