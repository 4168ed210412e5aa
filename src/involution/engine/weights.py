"""Weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from involution.engine.checkpoint import CheckpointError, network_weights, read_checkpoint


def load_weights(model: nn.Module, path: str | Path) -> list[str]:
    """Fill a network from a training checkpoint or a .safetensors file, except a head of another size.

    Args:
        model: one of timm's networks.
        path: the file.

    Returns:
        Names of the head's parameters that were left as they were.

    Raises:
        CheckpointError: if the file can't be read, or its weights don't belong to this network; the network
            is then unchanged.
    """
    found = _read(Path(path))
    wanted = model.state_dict()
    classifier = model.get_classifier()  # type: ignore[operator]
    heads = {name for name, module in model.named_modules() if module is classifier}
    left = [
        name
        for name in wanted
        if name.rpartition(".")[0] in heads and (name not in found or found[name].shape != wanted[name].shape)
    ]
    missing = sorted(wanted.keys() - found.keys() - set(left))
    unexpected = sorted(found.keys() - wanted.keys())
    misshapen = sorted(
        name for name in wanted.keys() & found.keys() - set(left) if found[name].shape != wanted[name].shape
    )
    if missing or unexpected or misshapen:
        report = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
        parts = [f"{len(names)} {what} ({names[0]}, ...)" for what, names in report.items() if names]
        raise CheckpointError(f"{path}: these are weights of another network: {', '.join(parts)}")
    model.load_state_dict({name: wanted[name] if name in left else found[name] for name in wanted})
    return left


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix != ".safetensors":
        return network_weights(read_checkpoint(file))
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise CheckpointError(f"no such file of weights: {file}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise CheckpointError(f"{file}: not a readable safetensors file ({error})") from error
