"""The core, where nothing but torch is installed; run by tests/test_core_alone.py, make test-wheel and make release."""

import platform

import torch
from torch.nn.functional import unfold

import involution
from involution import nn, ops
from involution.ops import native


def by_hand(x, weight):
    """A 3×3 involution of one group, by its definition."""
    n, channels, height, width = x.shape
    windows = unfold(x, 3, padding=1).reshape(n, channels, 9, height, width)
    return (windows * weight.reshape(n, 1, 9, height, width)).sum(2)


def main():
    generator = torch.Generator().manual_seed(0)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.1)):
        for memory in (torch.contiguous_format, torch.channels_last):
            x = torch.rand(2, 8, 7, 5, generator=generator).to(dtype, memory_format=memory).requires_grad_()
            weight = torch.rand(2, 1, 3, 3, 7, 5, generator=generator).to(dtype).requires_grad_()
            ours, theirs = involution.involution2d(x, weight, padding=1), by_hand(x, weight)
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
            mine, other = (torch.autograd.grad(output.sum(), (x, weight)) for output in (ours, theirs))
            torch.testing.assert_close(mine, other, rtol=tolerance, atol=10 * tolerance)
    for dimensions, module in enumerate((nn.Involution1d, nn.Involution2d, nn.Involution3d), 1):
        layer, x = module(16, 3), torch.rand(2, 16, *[5] * dimensions)
        layer(x).sum().backward()
        assert all(value.grad is not None for value in layer.parameters())
        again = module(16, 3).eval()
        again.load_state_dict(layer.state_dict())
        torch.testing.assert_close(again(x), layer.eval()(x))
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 1), torch.nn.Conv2d(16, 16, 3, padding=1))
    nn.convert_conv_to_involution(net)
    assert isinstance(net[1], involution.Involution2d)
    program = torch.export.export(net.eval(), (torch.rand(1, 3, 8, 8),))
    assert program.module()(torch.rand(1, 3, 8, 8)).shape == (1, 16, 8, 8)
    assert ops.involution2d is involution.involution2d
    kernels = native.instruction_set() or "plain PyTorch"
    versions = f"involution {involution.__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{versions}: the core works ({kernels})")


if __name__ == "__main__":
    main()
