"""The models by name: RedNets, their 7×7 stems and their convolution twins, registered in timm."""

from collections.abc import Callable
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from involution.models.keys import to_timm_layout
from involution.models.layouts import VARIANTS
from involution.models.rednet import RedNet
from involution.models.weights import PUBLISHED, get, published

__all__ = ["convolution_twin"]


def convolution_twin(name: str) -> str:
    """Return the name of the model with ``name``'s layout and 3×3 convolutions instead of involutions.

    Raises:
        ValueError: ``name`` is not a RedNet of this package.

    Example:
        >>> convolution_twin("rednet50_stem7")
        'rednet50_conv'
    """
    layout = name.removesuffix("_stem7")
    if name not in default_cfgs or name.endswith("_conv"):
        known = ", ".join(known for known in default_cfgs if not known.endswith("_conv"))
        raise ValueError(f"no RedNet {name!r}; choose from {known}")
    return f"{layout}_conv"


def _cfg(small_input: bool = False, **kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 10 if small_input else 1000,
        "input_size": (3, 32, 32) if small_input else (3, 224, 224),
        "pool_size": (8, 8) if small_input else (7, 7),
        "crop_pct": 1.0 if small_input else 0.875,
        "interpolation": "bilinear",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1.0",
        "classifier": "fc",
        "license": "mit",
        **kwargs,
    }


def _cfgs(name: str) -> dict[str, dict[str, Any]]:
    """The settings of a network by its name with a tag: of the weights that are published, or of none."""
    model_cls, args = VARIANTS[name]
    common: dict[str, Any] = {"origin_url": "https://github.com/d-li14/involution", "paper_ids": "arXiv:2103.06255"}
    if model_cls is not RedNet:
        common = {"license": "apache-2.0", "paper_ids": "arXiv:1812.01187"}
    offered = [entry for entry in PUBLISHED if entry.model == name]
    told = ("num_classes", "input_size", "crop_pct", "interpolation", "mean", "std", "license")
    weights = {
        entry.name: _cfg(
            **common,
            url=entry.address,
            **{field: getattr(entry, field) for field in told},
        )
        for entry in offered
    }
    return weights or {f"{name}.untrained": _cfg(args.get("small_input", False), **common)}


default_cfgs = generate_default_cfgs({key: cfg for name in VARIANTS for key, cfg in _cfgs(name).items()})


def _no_weights(variant: str) -> str:
    plain = variant.removesuffix("_stem7")
    if plain == variant or published(plain) is None:
        return f"pretrained=True: no weights of {variant} are published; train it with pretrained=False"
    return (
        f"pretrained=True: weights with the 7×7 stem of {variant} are only in the authors' files of detectors and "
        "segmenters (https://github.com/d-li14/involution, links in a browser): `involution convert FILE "
        f'{variant}.safetensors`, then timm.create_model("{variant}", num_classes=0, '
        f'checkpoint_path="{variant}.safetensors"); {plain} has published weights'
    )


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    model_cls, args = VARIANTS[variant]
    downloaded = False
    if pretrained:
        overlay = dict(kwargs.get("pretrained_cfg_overlay") or {})
        cfg = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
        if not (cfg.has_weights or cfg.state_dict or cfg.source):
            raise RuntimeError(_no_weights(variant))
        entry = next((one for one in PUBLISHED if one.address == cfg.url), None)
        downloaded = entry is not None and not (cfg.file or cfg.state_dict or cfg.hf_hub_id or cfg.source)
        if entry is not None and downloaded:
            file = get(entry.name, folder=kwargs.get("cache_dir"))
            kwargs["pretrained_cfg_overlay"] = {**overlay, "file": str(file)}
    model: Any = build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        feature_cfg={"out_indices": tuple(range(len(args["layers"]) + 1)), **kwargs.pop("feature_cfg", {})},
        pretrained_filter_fn=lambda state_dict, model: to_timm_layout(state_dict).tensors,
        **{**args, **kwargs},
    )
    if pretrained:
        # transformers' TimmBackbone otherwise resets the statistics of every batch norm, those just read too
        for module in model.modules():
            module._is_hf_initialized = True
    if downloaded:
        # a place on this machine, which is nothing to be saved with the network
        model.pretrained_cfg.pop("file")
    network: nn.Module = model
    return network


def _register(name: str) -> Callable[..., nn.Module]:
    def entry_point(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(name, pretrained, **kwargs)

    entry_point.__name__ = entry_point.__qualname__ = name
    entry_point.__doc__ = f"Build {name}; arguments as for ``timm.create_model``."
    return register_model(entry_point)


rednet26 = _register("rednet26")
rednet38 = _register("rednet38")
rednet50 = _register("rednet50")
rednet101 = _register("rednet101")
rednet152 = _register("rednet152")
rednet26_stem7 = _register("rednet26_stem7")
rednet38_stem7 = _register("rednet38_stem7")
rednet50_stem7 = _register("rednet50_stem7")
rednet101_stem7 = _register("rednet101_stem7")
rednet152_stem7 = _register("rednet152_stem7")
rednet_nano = _register("rednet_nano")
rednet_micro = _register("rednet_micro")
rednet26_conv = _register("rednet26_conv")
rednet38_conv = _register("rednet38_conv")
rednet50_conv = _register("rednet50_conv")
rednet101_conv = _register("rednet101_conv")
rednet152_conv = _register("rednet152_conv")
rednet_nano_conv = _register("rednet_nano_conv")
rednet_micro_conv = _register("rednet_micro_conv")
