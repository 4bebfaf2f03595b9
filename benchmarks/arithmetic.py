"""Multiply-accumulates of a generator, and peak arithmetic and bandwidth of this machine.

    macs = multiply_accumulates(model, {"latent": (1, 100)})        # of one call, from the ONNX graph
    found = peak(threads=2, device="cpu")                           # FLOP/s of matrix products, by kind of number

A multiply-accumulate is two floating-point operations. Only convolutions and matrix products are counted; what
normalisation, activations and padding cost shows as a lower share of the peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ganedge.runtime.engines import ort
from ganedge.runtime.errors import one_line

SIDE = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product measures the peak."""
ROOF_SECONDS = 0.2
"""Seconds for which each peak is measured."""
COPIED = 2**28
"""Bytes of the copy that measures memory bandwidth: larger than the caches."""
NOT_REACHED: dict[str, Any] = {"flops": {}, "bandwidth": None, "how": "not reached"}
"""The report's peak until it is measured."""


def multiply_accumulates(model: bytes, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Count a graph's multiply-accumulates for inputs of these shapes.

    Returns:
        The count, or None where the package onnx is not installed or a shape in the graph cannot be inferred.
    """
    try:
        import onnx

        from ganedge.export.graph import total_multiply_accumulates
    except ModuleNotFoundError:
        return None
    return total_multiply_accumulates(onnx.load_from_string(model), shapes)


def number_type(computes: str) -> str:
    """Return the number type of the products: `fp32 (fp16 weights)` is computed in FP32."""
    return "tf32" if "TF32" in computes else computes.partition(" ")[0]


def peak(threads: int, device: str) -> dict[str, Any]:
    """Measure the machine's peaks: FLOP/s of square matrix products of each number type, and memory bandwidth.

    Args:
        threads: Threads of every product.
        device: cpu or cuda.

    Returns:
        `flops`: FLOP/s by type (fp32, bf16 and int8; on CUDA tf32 and fp16 too), without those that cannot be measured;
        `bandwidth`: bytes/s read and written by a copy, or None; `how`: how these were measured, and what is missing.
    """
    flops: dict[str, float] = {}
    missing: list[str] = []
    bandwidth: float | None = None
    try:
        import torch
    except ModuleNotFoundError:
        missing.append("PyTorch is not installed, which is needed for this measurement")
    else:
        torch.set_num_threads(threads)
        try:
            for name in ("fp32", "tf32", "bf16", "fp16") if device == "cuda" else ("fp32", "bf16"):
                flops[name] = _product(name, device)
            bandwidth = _copy(device)
            if device == "cuda":
                flops["int8"] = _product("int8", device)
        except (RuntimeError, AssertionError) as error:  # No such device, no kernel for it, or no memory left on it.
            missing.append(f"PyTorch could not on {device}: {one_line(error)}")
    if device == "cpu":
        try:
            flops["int8"] = _integers(threads)
        except Exception as error:  # noqa: BLE001 - it may be missing, or half of it overwritten by another wheel
            missing.append(f"no product of bytes in ONNX Runtime ({one_line(error)})")
    how = f"matrix products {SIDE[device]} × {SIDE[device]}, the best of {ROOF_SECONDS} s each"
    if "int8" in flops and device == "cpu":
        how += ", INT8 by ONNX Runtime"
    return {"flops": flops, "bandwidth": bandwidth, "how": "; not measured: ".join([how, *missing])}


def _product(name: str, device: str) -> float:
    """Measure the FLOP/s of a square matrix product in PyTorch."""
    import torch

    side = SIDE[device]
    if name == "int8":
        whole = [torch.randint(-127, 127, (side, side), dtype=torch.int8, device=device) for _ in range(2)]
        return 2 * side**3 / _best(lambda: torch._int_mm(*whole), device)
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    a, b = (torch.rand(side, side, dtype=types.get(name, torch.float32), device=device) for _ in range(2))
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        return 2 * side**3 / _best(lambda: torch.mm(a, b), device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed


def _copy(device: str) -> float:
    """Measure the bytes/s that a large copy reads and writes."""
    import torch

    source = torch.zeros(COPIED, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    return 2 * COPIED / _best(lambda: copy.copy_(source), device)


def _integers(threads: int) -> float:
    """Measure the operations/s of a square INT8 product in ONNX Runtime, which uses INT8 instructions."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    onnxruntime = ort.package()
    side = SIDE["cpu"]
    random = np.random.default_rng(0)
    weights = random.integers(-127, 127, (side, side)).astype(np.int8)
    input_info, output_info = (
        helper.make_tensor_value_info(name, element_type, [side, side])
        for name, element_type in (("a", TensorProto.UINT8), ("y", TensorProto.INT32))
    )
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "product", [input_info], [output_info], [numpy_helper.from_array(weights, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pixels = random.integers(0, 255, (side, side)).astype(np.uint8)
    return 2 * side**3 / _best(lambda: session.run(None, {"a": pixels}), "cpu")


def _best(run: Callable[[], object], device: str) -> float:
    """Return the duration of the shortest of several calls, seconds."""
    times: list[float] = []
    end = time.perf_counter() + ROOF_SECONDS
    while time.perf_counter() < end or len(times) < 3:
        begin = time.perf_counter()
        run()
        if device == "cuda":
            import torch

            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return float(np.min(times))
