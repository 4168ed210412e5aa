"""The report's first sentence: what the demo's figures say, also where the twin wins."""

from __future__ import annotations

import math

from involution.demo.run import ModelRuns


def conclusion(models: list[ModelRuns]) -> str:
    """What was gained and what it cost, in one or two sentences.

    Args:
        models: RedNet-nano and its twin.
    """
    ours, twin = models
    price = _join(
        [
            *_smaller(ours.parameters, twin.parameters, "parameters"),
            *_smaller(ours.macs, twin.macs, "multiply-adds"),
        ]
    )
    speeds = {
        "trained": [model.statistic(lambda run: run.train.images_per_second)[0] for model in models],
        "answered": [model.statistic(lambda run: run.test.images_per_second)[0] for model in models],
    }
    faster = [
        f"{verb} {max(pair) / min(pair):.1f} times as fast"
        for verb, pair in speeds.items()
        if pair[0] >= 1.05 * pair[1]
    ]
    slower = [
        f"{verb} {max(pair) / min(pair):.1f} times as fast"
        for verb, pair in speeds.items()
        if pair[1] >= 1.05 * pair[0]
    ]
    sentences = [f"{_accuracy(ours, twin)}, and has {price}."]
    if faster:
        sentences.append(f"It {_join(faster)}.")
    if slower:
        sentences.append(f"On this machine the twin {_join(slower)}.")
    if not faster + slower:
        sentences.append("On this machine they are equally fast.")
    return " ".join(sentences)


def _accuracy(ours: ModelRuns, twin: ModelRuns) -> str:
    (mean, spread), (other, other_spread) = (model.statistic(lambda run: run.test.top1) for model in (ours, twin))
    images, seeds = ours.runs[0].test.num_images, len(ours.runs)
    shares = f"{100 * mean:.2f} % against {100 * other:.2f} %"
    if spread is not None and other_spread is not None:
        doubtful = abs(mean - other) <= 2 * math.hypot(spread, other_spread) / math.sqrt(seeds)
        why = f"which is within what {seeds} seeds differ by"
    else:
        # of the images that one of two networks gets wrong, chance gives each about half
        doubtful = abs(mean - other) * images <= 2 * math.sqrt((2 - mean - other) * images)
        why = "which may be chance: one seed"
    count = round(abs(mean - other) * images)
    if not count:
        return f"{ours.title} reads as many of the {images} test images as its convolution twin, {100 * mean:.2f} %"
    amount = f"{count} more" if mean > other else f"{count} fewer"
    return (
        f"{ours.title} reads {amount} of the {images} test images than its convolution twin, {shares}"
        f"{f' ({why})' if doubtful else ''}"
    )


def _smaller(value: float, other: float, what: str) -> list[str]:
    share = round(100 * (1 - value / other))
    return [f"{abs(share)} % {'fewer' if share > 0 else 'more'} {what}" if share else f"as many {what}"]


def _join(parts: list[str]) -> str:
    return " and ".join(parts)
