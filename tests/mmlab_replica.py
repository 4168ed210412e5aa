"""The authors' detectors and segmenters by the names of their files' entries: entries, and what they compute.

Written from mmdetection's, mmsegmentation's and the authors' definitions (d-li14/involution, det/ and seg/), with
nothing of this package, so that a conversion can be compared with it.
"""

import ast
from pathlib import Path

import torch
import torch.nn.functional as F

KEYS = Path(__file__).parent / "models" / "golden" / "rednet26_keys.txt"
WIDTH, BOX, HEAD, CLASSES = 32, 24, 16, 5
STAGES = (256, 512, 1024, 2048)


def conv(name, out, inputs, size, bias=True):
    return {f"{name}.weight": (out, inputs, size, size), **({f"{name}.bias": (out,)} if bias else {})}


def norm(name, channels):
    entries = dict.fromkeys(
        (f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")), (channels,)
    )
    return {**entries, f"{name}.num_batches_tracked": ()}


def conv_norm(name, out, inputs, size):
    return {**conv(f"{name}.conv", out, inputs, size, bias=False), **norm(f"{name}.bn", out)}


def involution(name, channels):
    reduced, taps = channels // 4, 49 * (channels // 16)
    return {**conv_norm(f"{name}.conv1", reduced, channels, 1), **conv(f"{name}.conv2.conv", taps, reduced, 1)}


def layer(name, kind, channels=WIDTH, module=".conv"):
    return involution(name, channels) if kind == "involution" else conv(name + module, channels, channels, 3)


def backbone():
    lines = (line.split(maxsplit=1) for line in KEYS.read_text().splitlines())
    shapes = {name: ast.literal_eval(shape) for name, shape in lines if not name.startswith("head.")}
    # the published detectors' stem has 7×7 kernels
    return {**shapes, "backbone.stem.1.conv2.conv.weight": (98, 8, 1, 1), "backbone.stem.1.conv2.conv.bias": (98,)}


def neck(kind, levels):
    entries = {}
    for i, channels in enumerate(levels):
        entries |= conv(f"neck.lateral_convs.{i}.conv", WIDTH, channels, 1) | layer(f"neck.fpn_convs.{i}", kind)
    return entries


def retinanet(kind):
    entries = backbone() | neck(kind, STAGES[1:])
    entries |= conv("neck.fpn_convs.3.conv", WIDTH, 2048, 3) | conv("neck.fpn_convs.4.conv", WIDTH, WIDTH, 3)
    for i in range(4):
        entries |= layer(f"bbox_head.cls_convs.{i}", "convolution") | layer(f"bbox_head.reg_convs.{i}", "convolution")
    entries |= conv("bbox_head.retina_cls", 9 * CLASSES, WIDTH, 3)
    return entries | conv("bbox_head.retina_reg", 9 * 4, WIDTH, 3)


def mask_rcnn(kind, head, masks=True):
    entries = backbone() | neck(kind, STAGES) | layer("rpn_head.rpn_conv", head, module="")
    entries |= conv("rpn_head.rpn_cls", 3, WIDTH, 1) | conv("rpn_head.rpn_reg", 12, WIDTH, 1)
    box = "roi_head.bbox_head"
    for name, out, inputs in (
        ("shared_fcs.0", BOX, 49 * WIDTH),
        ("shared_fcs.1", BOX, BOX),
        ("fc_cls", CLASSES + 1, BOX),
        ("fc_reg", 4 * CLASSES, BOX),
    ):
        entries |= {f"{box}.{name}.weight": (out, inputs), f"{box}.{name}.bias": (out,)}
    if masks:
        for i in range(4):
            name = f"roi_head.mask_head.convs.{i}"
            entries |= layer(f"{name}.0" if head == "involution" else name, head)
        entries |= conv("roi_head.mask_head.upsample", WIDTH, WIDTH, 2)
        entries |= conv("roi_head.mask_head.conv_logits", CLASSES, WIDTH, 1)
    return entries


def semantic_fpn(kind):
    entries = backbone() | neck(kind, STAGES)
    for i in range(4):
        for k in range(max(1, i)):
            entries |= conv_norm(f"decode_head.scale_heads.{i}.{2 * k}", HEAD, WIDTH if k == 0 else HEAD, 3)
    return entries | conv("decode_head.conv_seg", CLASSES, HEAD, 1)


def upernet():
    entries = backbone() | conv_norm("decode_head.bottleneck", HEAD, 2048 + 4 * HEAD, 3)
    for i in range(4):
        entries |= conv_norm(f"decode_head.psp_modules.{i}.1", HEAD, 2048, 1)
    for i in range(3):
        entries |= conv_norm(f"decode_head.lateral_convs.{i}", HEAD, STAGES[i], 1)
        entries |= conv_norm(f"decode_head.fpn_convs.{i}", HEAD, HEAD, 3)
    entries |= conv_norm("decode_head.fpn_bottleneck", HEAD, 4 * HEAD, 3) | conv(
        "decode_head.conv_seg", CLASSES, HEAD, 1
    )
    entries |= conv_norm("auxiliary_head.convs.0", HEAD, 1024, 3)
    return entries | conv("auxiliary_head.conv_seg", CLASSES, HEAD, 1)


def fill(shapes, seed=0):
    """Random values that keep the activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            value = torch.randn(shape, generator=generator)
            fan_in = value[0].numel() if value.dim() > 1 else 100
            offset = 1 if value.dim() == 1 and name.endswith("weight") else 0
            # kernels made of features multiply features: stacked, they would run out of every number's range
            small = 0.02 if name.endswith(".conv2.conv.weight") else 1
            state[name] = small * value / fan_in**0.5 + offset
    return state


class Network:
    """What the authors' network computes of its entries, in float64."""

    def __init__(self, state):
        self.state = {name: value.double() for name, value in state.items()}

    def get(self, name):
        return self.state.get(name)

    def conv(self, x, name, **geometry):
        return F.conv2d(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"), **geometry)

    def norm(self, x, name):
        mean, var = self.get(f"{name}.running_mean"), self.get(f"{name}.running_var")
        return F.batch_norm(x, mean, var, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def conv_norm(self, x, name, padding=1, stride=1):
        return self.norm(self.conv(x, f"{name}.conv", padding=padding, stride=stride), f"{name}.bn").relu()

    def involution(self, x, name, stride=1):
        source = F.avg_pool2d(x, stride) if stride > 1 else x
        kernels = self.conv(self.conv_norm(source, f"{name}.conv1", 0), f"{name}.conv2.conv")
        n, taps, height, width = kernels.shape
        size = 7
        groups = taps // size**2
        windows = F.unfold(x, size, padding=size // 2, stride=stride).view(n, groups, -1, size**2, height, width)
        return (windows * kernels.view(n, groups, 1, size**2, height, width)).sum(3).flatten(1, 2)

    def backbone(self, x):
        x = self.conv_norm(x, "backbone.stem.0", stride=2)
        x = self.norm(self.involution(x, "backbone.stem.1"), "backbone.stem.2").relu()
        x = F.max_pool2d(self.conv_norm(x, "backbone.stem.4"), 3, 2, 1)
        levels = []
        for stage, blocks in enumerate((1, 2, 4, 1), 1):
            for block in range(blocks):
                name = f"backbone.layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = self.norm(self.conv(x, f"{name}.conv1"), f"{name}.bn1").relu()
                y = self.norm(self.involution(y, f"{name}.conv2", stride), f"{name}.bn2").relu()
                y = self.norm(self.conv(y, f"{name}.conv3"), f"{name}.bn3")
                if block == 0:
                    x = self.norm(self.conv(x, f"{name}.downsample.0", stride=stride), f"{name}.downsample.1")
                x = (x + y).relu()
            levels.append(x)
        return levels

    def layer(self, x, name, module=".conv"):
        """A 3×3 convolution or the involution that took its place."""
        if f"{name}.conv1.conv.weight" in self.state:
            return self.involution(x, name)
        return self.conv(x, name + module, padding=1)

    def neck(self, levels):
        merged = [self.conv(level, f"neck.lateral_convs.{i}.conv") for i, level in enumerate(levels)]
        for i in range(len(merged) - 1, 0, -1):
            merged[i - 1] = merged[i - 1] + F.interpolate(merged[i], size=merged[i - 1].shape[2:], mode="nearest")
        return [self.layer(level, f"neck.fpn_convs.{i}") for i, level in enumerate(merged)]

    def retinanet(self, x):
        """Logits [N, positions and anchors, classes] and boxes [N, …, 4]."""
        _, *levels = self.backbone(x)
        pyramid = self.neck(levels)
        pyramid.append(self.conv(levels[-1], "neck.fpn_convs.3.conv", stride=2, padding=1))
        pyramid.append(self.conv(pyramid[-1], "neck.fpn_convs.4.conv", stride=2, padding=1))
        logits, boxes = [], []
        for level in pyramid:
            cls = reg = level
            for i in range(4):
                cls = self.conv(cls, f"bbox_head.cls_convs.{i}.conv", padding=1).relu()
                reg = self.conv(reg, f"bbox_head.reg_convs.{i}.conv", padding=1).relu()
            logits.append(
                self.conv(cls, "bbox_head.retina_cls", padding=1).permute(0, 2, 3, 1).reshape(len(x), -1, CLASSES)
            )
            boxes.append(self.conv(reg, "bbox_head.retina_reg", padding=1).permute(0, 2, 3, 1).reshape(len(x), -1, 4))
        return torch.cat(logits, 1), torch.cat(boxes, 1)

    def proposals(self, x):
        """Objectness [N, 3, H, W] and boxes [N, 12, H, W] of each of five levels."""
        pyramid = self.neck(self.backbone(x))
        pyramid.append(F.max_pool2d(pyramid[-1], 1, stride=2))
        hidden = [self.layer(level, "rpn_head.rpn_conv", "").relu() for level in pyramid]
        return [self.conv(h, "rpn_head.rpn_cls") for h in hidden], [self.conv(h, "rpn_head.rpn_reg") for h in hidden]

    def linear(self, x, name):
        name = f"roi_head.bbox_head.{name}"
        return F.linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def boxes(self, regions):
        """Scores [n, classes + 1], the background last, and boxes [n, 4 · classes] of [n, C, 7, 7]."""
        hidden = self.linear(self.linear(regions.flatten(1), "shared_fcs.0").relu(), "shared_fcs.1").relu()
        return self.linear(hidden, "fc_cls"), self.linear(hidden, "fc_reg")

    def masks(self, regions):
        """Mask logits [n, classes, 28, 28] of [n, C, 14, 14]."""
        name = "roi_head.mask_head"
        for i in range(4):
            one = f"{name}.convs.{i}"
            involves = f"{one}.0.conv1.conv.weight" in self.state
            regions = self.layer(regions, f"{one}.0" if involves else one).relu()
        weight, bias = self.get(f"{name}.upsample.weight"), self.get(f"{name}.upsample.bias")
        return self.conv(F.conv_transpose2d(regions, weight, bias, stride=2).relu(), f"{name}.conv_logits")

    def semantic_fpn(self, x):
        total = 0
        pyramid = self.neck(self.backbone(x))
        for i, level in enumerate(pyramid):
            for k in range(max(1, i)):
                level = self.conv_norm(level, f"decode_head.scale_heads.{i}.{2 * k}")
                if i:
                    level = F.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
            total = total + resize(level, pyramid[0])
        return resize(self.conv(total, "decode_head.conv_seg"), x)

    def upernet(self, x):
        """Logits of the head and of the auxiliary head at the image's size."""
        levels = self.backbone(x)
        last = levels[-1]
        pools = [F.adaptive_avg_pool2d(last, size) for size in (1, 2, 3, 6)]
        pools = [resize(self.conv_norm(p, f"decode_head.psp_modules.{i}.1", 0), last) for i, p in enumerate(pools)]
        merged = [self.conv_norm(level, f"decode_head.lateral_convs.{i}", 0) for i, level in enumerate(levels[:-1])]
        merged.append(self.conv_norm(torch.cat([last, *pools], 1), "decode_head.bottleneck"))
        for i in (3, 2, 1):
            merged[i - 1] = merged[i - 1] + resize(merged[i], merged[i - 1])
        outputs = [self.conv_norm(merged[i], f"decode_head.fpn_convs.{i}") for i in range(3)] + [merged[-1]]
        whole = torch.cat([resize(output, outputs[0]) for output in outputs], 1)
        head = self.conv(self.conv_norm(whole, "decode_head.fpn_bottleneck"), "decode_head.conv_seg")
        auxiliary = self.conv(self.conv_norm(levels[2], "auxiliary_head.convs.0"), "auxiliary_head.conv_seg")
        return resize(head, x), resize(auxiliary, x)


def resize(x, like):
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
