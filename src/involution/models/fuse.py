"""Folding batch norms into the layers before them, for inference."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from involution.nn import Involution1d, Involution2d, Involution3d, KernelGenerator
from involution.nn.involution import foldable

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_INVOLUTIONS = (Involution1d, Involution2d, Involution3d)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass
class FuseReport:
    """What `fuse` did, by module names.

    Attributes:
        convolutions: Convolutions that absorbed the norm after them.
        generators: Kernel generators whose reduction absorbed its norm.
        involutions: Involutions that absorbed the norm, and a ReLU if one follows.
        kept: Norms that stay, with the reason.

    Example:
        >>> print(FuseReport(convolutions=["conv1"], kept={"bn2": "GroupNorm has no fixed statistics"}))
        folded norms into 1 convolutions, 0 kernel generators and 0 involutions
        kept bn2: GroupNorm has no fixed statistics
    """

    convolutions: list[str] = field(default_factory=list)
    generators: list[str] = field(default_factory=list)
    involutions: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return one line with the counts and one for each norm that stays."""
        counts = (
            f"folded norms into {len(self.convolutions)} convolutions, {len(self.generators)} kernel generators"
            f" and {len(self.involutions)} involutions"
        )
        return "\n".join([counts, *(f"kept {name}: {why}" for name, why in self.kept.items())])


def fuse(model: nn.Module) -> FuseReport:
    """Fold each batch norm into the convolution or involution before it, in place; for inference.

    It works on RedNet and its convolution twins, on timm's and torchvision's ResNets, and what contains them: pairs are
    found in ``nn.Sequential``, in modules that call ``conv1, bn1, conv2, …`` in turn, and in kernel generators. What is
    not folded computes as before. The model can't be trained afterwards, because the norms are gone.

    Args:
        model: A model in evaluation mode.

    Returns:
        What was folded and what was not.

    Raises:
        ValueError: If the model is in training mode.

    Example:
        >>> import timm
        >>> print(fuse(timm.create_model("rednet26").eval()))
        folded norms into 22 convolutions, 9 kernel generators and 9 involutions
    """
    if model.training:
        raise ValueError("fuse() needs evaluation mode, because it fixes the statistics; call model.eval() first")
    report = FuseReport()
    for prefix, parent in list(model.named_modules()):
        for owner, name, norm_name, act_name in _sequences(parent):
            layer, norm = owner._modules[name], parent._modules[norm_name]
            path = ".".join(filter(None, (prefix, "" if owner is parent else "conv1", name)))
            if not foldable(norm):
                continue
            if type(layer) in _CONVOLUTIONS:
                owner._modules[name] = fuse_conv_bn_eval(layer, norm)  # type: ignore[type-var]
                (report.generators if isinstance(parent, KernelGenerator) else report.convolutions).append(path)
            elif isinstance(layer, _INVOLUTIONS) and layer.scale is None:
                relu = act_name is not None and type(parent._modules[act_name]) is nn.ReLU
                layer.fuse_norm(norm, relu)
                if relu:
                    parent._modules[act_name] = nn.Identity()
                report.involutions.append(path)
            else:
                continue
            parent._modules[norm_name] = nn.Identity()
    for name, module in model.named_modules():
        if isinstance(module, _NORMS):
            report.kept[name] = (
                "no convolution or involution right before it"
                if foldable(module)
                else f"{type(module).__name__} has no fixed statistics"
            )
    return report


def _sequences(parent: nn.Module) -> Iterator[tuple[nn.Module, str, str, str | None]]:
    """Yield (owner of the layer, the layer's name in it, norm's and activation's names in parent)."""
    modules = parent._modules
    if isinstance(parent, KernelGenerator):
        yield parent, "reduce", "norm", None
    elif type(parent) is nn.Sequential:
        names = [*modules, None]
        for layer, norm, act in zip(names, names[1:-1], names[2:], strict=False):
            if layer is not None and norm is not None:
                yield parent, layer, norm, act
    else:
        for i in range(1, 4):
            layer, norm, act = f"conv{i}", f"bn{i}", f"act{i}"
            if modules.get(layer) is None or modules.get(norm) is None:
                continue
            # in a block, what follows the last layer comes after the sum with the shortcut
            follows = act if act in modules and modules.get(f"conv{i + 1}") is not None else None
            owner = modules[layer]
            if type(owner) is nn.Sequential and len(owner):
                yield owner, list(owner._modules)[-1], norm, follows
            else:
                yield parent, layer, norm, follows
