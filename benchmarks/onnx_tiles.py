"""Measure tiles for involution out of ONNX's standard operators, in onnxruntime: ``python benchmarks/onnx_tiles.py``.

Each of RedNet-50's layers stands between two 1×1 convolutions, as in the network. All tiles of a layer run in turns on
one thread, by its own CPU time, which other processes disturb little. What is printed is the time that the involution
adds, fastest first; the fastest belong into ``src/involution/export/onnx_tiles.py``.
"""

import argparse
import itertools
import time

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from involution.export.contract import DOMAIN, DYNAMIC_INVOLUTION, VERSION
from involution.export.onnx_tiles import TILES
from involution.export.standard_onnx import expand

# (outputs per side, stride, kernel) -> channels, reduced features
WIDTHS = {
    (112, 1, 3): (32, 8),
    (56, 1, 7): (64, 16),
    (28, 2, 7): (128, 32),
    (28, 1, 7): (128, 32),
    (14, 2, 7): (256, 64),
    (14, 1, 7): (256, 64),
    (7, 2, 7): (512, 128),
    (7, 1, 7): (512, 128),
}
GROUP_CHANNELS = 16
SIDES = (1, 2, 3, 4, 6, 7, 8)


def layer(size: int, stride: int, kernel: int, without: bool = False) -> ModelProto:
    """Return one layer as a model, or what remains without its involution."""
    channels, reduced = WIDTHS[size, stride, kernel]
    random, side = np.random.default_rng(0), size * stride
    constants = {
        "first": (channels, channels, 1, 1),
        "reduce": (reduced, channels, 1, 1),
        "last": (channels, channels, 1, 1),
        "widen": (channels, reduced, 1, 1),
        "span_weight": (channels // GROUP_CHANNELS, kernel, kernel, reduced),
        "span_bias": (channels // GROUP_CHANNELS, kernel, kernel),
        "scale": (channels,),
        "shift": (channels,),
    }
    pool = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
    nodes = [
        helper.make_node("Conv", ["images", "first"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["x"]),
        helper.make_node("AveragePool", ["x"], ["cells"], **pool),
        helper.make_node("Conv", ["cells", "reduce"], ["squeezed"]),
        helper.make_node("Relu", ["squeezed"], ["reduced"]),
    ]
    if without:
        # the reduced features must be read by something
        nodes += [helper.make_node("Conv", ["reduced", "widen"], ["wide"])]
        nodes += [helper.make_node("Add", ["wide", "cells"], ["involved"])]
    else:
        inputs = ["x", "reduced", "span_weight", "span_bias", "scale", "shift"]
        options = {"stride": [stride] * 2, "padding": [kernel // 2] * 2, "relu": 1}
        nodes += [helper.make_node(DYNAMIC_INVOLUTION, inputs, ["involved"], domain=DOMAIN, **options)]
    nodes += [helper.make_node("Conv", ["involved", "last"], ["output"])]
    used = {name for node in nodes for name in node.input}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in constants.items()}
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", channels, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", channels, size, size])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19), helper.make_opsetid(DOMAIN, VERSION)])


def session(model: ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def measure(key: tuple[int, int, int], seconds: float) -> dict[tuple[int, int], float]:
    """Return the milliseconds of CPU time that the involution adds, by tile."""
    size, stride, _ = key
    sides = [side for side in SIDES if side <= size]
    tiles = [tile for tile in itertools.product(sides, sides) if 4 <= tile[0] * tile[1] <= 32]
    sessions = {tile: session(expand(layer(*key), tile=tile)) for tile in tiles}
    sessions[0, 0] = session(layer(*key, without=True))
    images = np.random.default_rng(1).random((1, WIDTHS[key][0], size * stride, size * stride), np.float32)
    times: dict[tuple[int, int], list[float]] = {tile: [] for tile in sessions}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for tile, one in sessions.items():
            # once to bring its weights into the cache
            one.run(None, {"images": images})
            start = time.thread_time()
            one.run(None, {"images": images})
            times[tile].append(time.thread_time() - start)
    typical = {tile: 1e3 * float(np.quantile(found, 0.2)) for tile, found in times.items()}
    rest = typical.pop((0, 0))
    return {tile: value - rest for tile, value in sorted(typical.items(), key=lambda item: item[1])}


def main() -> None:
    """Print the tiles of every layer, fastest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="for each layer (default: 20)")
    parser.add_argument("--size", type=int, nargs="*", help="only layers with so many outputs per side")
    args = parser.parse_args()
    for key, chosen in TILES.items():
        if args.size and key[0] not in args.size:
            continue
        found = [f"{tile[0]}x{tile[1]} {value:.2f}" for tile, value in measure(key, args.seconds).items()]
        print(f"{key}, now {chosen[0]}x{chosen[1]}; ms: {', '.join(found[:8])}", flush=True)


if __name__ == "__main__":
    main()
