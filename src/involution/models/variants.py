"""The models by name: RedNets, their 7×7 stems and their convolution twins, registered in timm."""

from collections.abc import Callable
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from involution.models.keys import to_timm_layout
from involution.models.layouts import DEPTHS, VARIANTS
from involution.models.rednet import RedNet

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


default_cfgs = generate_default_cfgs(
    {
        f"{name}.untrained": _cfg(
            small_input=args.get("small_input", False),
            **(
                {"origin_url": "https://github.com/d-li14/involution", "paper_ids": "arXiv:2103.06255"}
                if model_cls is RedNet
                else {"license": "apache-2.0", "paper_ids": "arXiv:1812.01187"}
            ),
        )
        for name, (model_cls, args) in VARIANTS.items()
    }
)


def _no_weights(variant: str) -> str:
    if variant.removeprefix("rednet").removesuffix("_stem7") not in map(str, DEPTHS):
        return f"pretrained=True: no weights of {variant} are published; train it with pretrained=False"
    return (
        f"pretrained=True: no working download address is known for the weights of {variant}. Get the "
        "authors' file (https://github.com/d-li14/involution, links in a browser) or PaddlePaddle's "
        f"RedNet*_pretrained.pdparams, run `involution convert FILE {variant}.safetensors`, then "
        f'timm.create_model("{variant}", checkpoint_path="{variant}.safetensors")'
    )


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> nn.Module:
    model_cls, args = VARIANTS[variant]
    if pretrained:
        cfg = resolve_pretrained_cfg(
            variant, kwargs.get("pretrained_cfg"), dict(kwargs.get("pretrained_cfg_overlay") or {})
        )
        if not (cfg.has_weights or cfg.state_dict or cfg.source):
            raise RuntimeError(_no_weights(variant))
    return build_model_with_cfg(
        model_cls,
        variant,
        pretrained,
        feature_cfg={"out_indices": tuple(range(len(args["layers"]) + 1)), **kwargs.pop("feature_cfg", {})},
        pretrained_filter_fn=lambda state_dict, model: to_timm_layout(state_dict).tensors,
        **{**args, **kwargs},
    )


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
