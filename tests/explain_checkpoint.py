import timm
import torch

import involution.models  # noqa: F401  (registers RedNet)
from involution.engine.checkpoint import ModelCard


def save_checkpoint(path, name="rednet_nano", channels=1, side=16, crop_pct=1.0, steps=5):
    """A classifier's checkpoint, weights being random but not those that a fresh model has."""
    torch.manual_seed(1)
    model = timm.create_model(name, num_classes=4, in_chans=channels)
    card = ModelCard(
        task="classify",
        model=name,
        model_args={},
        classes=["ant", "bee", "cat", "dog"],
        input_size=(channels, side, side),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        interpolation="bilinear",
        crop_pct=crop_pct,
        recipe={
            "model": {"name": name},
            "data": {"channels": channels, "mean": [0.5] * channels, "std": [0.25] * channels},
        },
        versions={},
    )
    weights = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"involution": card.to_dict(), "state_dict": weights, "global_step": steps}, path)
    return path
