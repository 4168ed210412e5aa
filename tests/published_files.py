"""Files as PaddlePaddle publishes them, generated: a pickle of NumPy arrays by the authors' names."""

import hashlib
import pickle

import timm
import torch

import involution.models  # noqa: F401
from involution.models.weights import PublishedWeights
from involution.models.weights import table as tables

# in the authors' names, without `backbone.`: the inverse of what `involution.models.keys` does
_STEM = {
    "conv1.0.": "stem.0.conv.",
    "conv1.1.": "stem.0.bn.",
    "conv1.3.": "stem.1.",
    "conv1.4.": "stem.2.",
    "conv1.6.": "stem.4.conv.",
    "bn1.": "stem.4.bn.",
}
_INNER = {
    "generator.reduce.": "conv1.conv.",
    "generator.norm.": "conv1.bn.",
    "generator.span.": "conv2.conv.",
    ".running_mean": "._mean",
    ".running_var": "._variance",
}


def paddle_state(state):
    """A network's entries as PaddlePaddle has them."""
    found = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        first = next((old for old in _STEM if name.startswith(old)), "")
        name = _STEM.get(first, "") + name.removeprefix(first)
        for old, new in _INNER.items():
            name = name.replace(old, new)
        # a linear layer is [in, out]
        found[name] = (value.t() if name == "fc.weight" else value).contiguous().numpy()
    return found


def pdparams(state, protocol=4):
    """The bytes of a .pdparams file."""
    words = {"StructuredToParameterName@@": {name: f"p_{number}" for number, name in enumerate(state)}}
    return pickle.dumps({**state, **words}, protocol)


def network(name="rednet_nano", seed=3, **kwargs):
    """A network whose weights and statistics are no defaults."""
    torch.manual_seed(seed)
    model = timm.create_model(name, **{"num_classes": 1000, "zero_init_last": False, **kwargs})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def entry(address="http://127.0.0.1:9/RedNet-nano_pretrained.pdparams", **changes):
    """Published weights of a small network."""
    parameters = sum(value.numel() for value in network().parameters())
    values = {
        "name": "rednet_nano.test_in1k",
        "address": address,
        "parameters": parameters,
        "figures": {"authors": (70.0, 90.0)},
        "input_size": (3, 32, 32),
        **changes,
    }
    return PublishedWeights(**values)


def offer(monkeypatch, *entries):
    """Let these be all the weights that are published."""
    monkeypatch.setattr(tables, "PUBLISHED", entries)


def sha256(content):
    return hashlib.sha256(content).hexdigest()
