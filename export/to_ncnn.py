"""From a proven ONNX artifact to an ncnn network, converted by pnnx, and what it says of itself. No torch here.

    write_ncnn(Path("generator.ncnn"), model, artifact, print)

    generator.ncnn/generator.param       the network as text: one layer a line
    generator.ncnn/generator.bin         its weights
    generator.ncnn/generator.param.json  manifest, digests, names of inputs and output

Every layer of the .param carries what it may compute in (ncnn's parameter 31), because ncnn computes everything in FP16
where the processor can: an FP32 network stays FP32 in any program that loads it, and an FP16 network keeps the layers
in FP32 whose values FP16 does not hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from ganedge.export import parity
from ganedge.export.artifact import VerifiedArtifact, write_proof
from ganedge.export.graph import copied
from ganedge.export.precision import FP16_MAX, HEADROOM
from ganedge.export.source_model import SourceModel
from ganedge.runtime import onnx_file
from ganedge.runtime.engines import ncnn, package_version
from ganedge.runtime.errors import EngineError, GanEdgeError, MissingExtra, UsageError, one_line
from ganedge.runtime.fidelity import Gate, gate_of, read_gate
from ganedge.runtime.files import write_whole
from ganedge.runtime.manifest import Interface, Parity, Port, Precision
from ganedge.runtime.ncnn_file import PARAM, NcnnIdentity, weights_path, write_sidecar

SIDE = 256
"""Side of the pictures that pnnx sees where neither the network nor its training says one, pixels."""
SECONDS = 1800
"""Time for a conversion, after which something is wrong."""
FP32_ONLY, NO_FP16 = 7, 3
"""Bits of ncnn's layer parameter 31: no FP16 arithmetic (1), no FP16 storage (2), no bf16 storage (4)."""
MASK = "31"
"""That parameter."""


@dataclass(frozen=True)
class Network:
    """A converted network in memory."""

    param: str
    """The .param file."""
    weights: bytes
    """The .bin file."""
    inputs: tuple[str, ...]
    """Names of its inputs, in the graph's order."""
    outputs: tuple[str, ...]
    """Names of its outputs, the result first."""


def check_convertible(model: SourceModel, precision: Precision, io: str) -> None:
    """Refuse what cannot become an ncnn network, before anything that takes time.

    Raises:
        UsageError: a precision, a type or a batch that ncnn does not have.
        MissingExtra: pnnx is not installed.
    """
    if precision == "int8":
        raise UsageError(
            "--int8 --format ncnn: ncnn quantises with its programs ncnn2table and ncnn2int8, which no package of "
            "Python brings; choose --fp16"
        )
    if precision == "bf16":
        raise UsageError("--bf16 --format ncnn: choose fp32 or fp16")
    if model.precision != "fp32":
        raise UsageError(f"--format ncnn: this artifact is {model.precision} already; make it from the FP32 one")
    if io == "uint8" or any(port.dtype == "uint8" for port in (*model.interface.inputs, *model.interface.outputs)):
        raise UsageError("--format ncnn: ncnn takes and gives floats; make it without --io uint8")
    batch = model.interface.inputs[0].shape[0]
    if isinstance(batch, int) and batch > 1:
        raise UsageError(f"--format ncnn: this model takes {batch} at a time, and ncnn one; open its batch")
    if model.norm_mode == "batch":
        raise UsageError("--format ncnn: this generator normalises over its batch, and ncnn has none")
    _converter()


def write_ncnn(folder: Path, model: SourceModel, artifact: VerifiedArtifact, say: Callable[[str], None]) -> Path:
    """Convert a generator, prove it in ncnn, and write the folder.

    Args:
        folder: Where the files go.
        model: The FP32 generator.
        artifact: The same as a proven artifact, in the precision to make.
        say: Takes lines for the user.

    Returns:
        The folder.

    Raises:
        EngineError: pnnx fails, or ncnn lacks a layer.
        GanEdgeError: ncnn gives other images than the generator; then nothing is written.
    """
    manifest, half = artifact.manifest, artifact.manifest.precision == "fp16"
    graph, classes = _labels_as_vectors(model.model, model.interface)
    network = _convert(_spread_by_sums(graph), model, half)
    body, _ = onnx_file.split(model.model.SerializeToString())
    gate = _gate(artifact)
    identity = NcnnIdentity(
        precision=manifest.precision,
        inputs=network.inputs,
        output=network.outputs[0],
        extras=network.outputs[1:],
        onnx_digest=_sha256(b"".join(bytes(part) for part in body)),
        param_digest="",
        bin_digest=_sha256(network.weights),
        classes=classes,
        converter=f"pnnx {package_version('pnnx')}",
        tolerance=str(gate),
    )
    proof, unproven, network = _prove(network, identity, artifact, gate, say)
    described = replace(manifest, measured=(), parity=() if proof is None else (proof,), unproven=unproven)
    identity = replace(
        identity,
        param_digest=_sha256(network.param.encode()),
        version="" if proof is None else proof.engine.split()[1],
    )
    param = folder / PARAM
    write_whole(weights_path(param), network.weights)
    write_whole(param, network.param)
    write_sidecar(param, described, identity)
    write_proof(param, artifact)
    return folder


def _prove(
    network: Network, identity: NcnnIdentity, artifact: VerifiedArtifact, gate: Gate, say: Callable[[str], None]
) -> tuple[Parity | None, str, Network]:
    """The network in ncnn beside the FP32 generator, with its layers' precisions; or nothing, and why not."""
    half = identity.precision == "fp16"
    wide = replace_param(network, FP32_ONLY)
    try:
        wide_engine = _start(wide, replace(identity, precision="fp32"), artifact)
    except MissingExtra:
        say("not run in ncnn, which is not installed: pip install 'ganedge[ncnn]', then gan-run verify")
        return None, "ncnn is not installed where it was made", network if half else wide
    if half:
        kept = _too_large(network, wide_engine, artifact)
        network = replace_param(network, NO_FP16, kept)
        if kept:
            say(f"kept in FP32 in ncnn: {', '.join(kept)}")
        wide_engine.close()
        engine = _start(network, identity, artifact)
    else:
        network, engine = wide, wide_engine
    if not artifact.cases:
        engine.close()
        return None, "nothing here runs the source to compare with: pip install 'ganedge[cpu]'", network
    proof = parity.prove_in(engine, artifact.manifest, artifact.cases, gate)
    computed = engine.info.precision
    engine.close()
    proof = replace(proof, passed=True) if str(gate) == "none" else proof
    say(str(proof))
    if not proof.passed:
        raise GanEdgeError(f"not exported, ncnn gives other pictures than the generator: {proof}")
    if half and computed != "fp16":
        say("this processor computes FP16 networks in FP32: on an ARM board, prove it with gan-run verify")
    return proof, "", network


def _start(network: Network, identity: NcnnIdentity, artifact: VerifiedArtifact) -> ncnn.Ncnn:
    return ncnn.start(network.param, network.weights, identity, artifact.manifest.interface, "cpu", None)


def replace_param(network: Network, mask: int, layers: Sequence[str] | None = None) -> Network:
    """The network with a mask of precisions on these layers, or on all of them."""
    head, lines = network.param.splitlines()[:2], []
    for line in network.param.splitlines()[2:]:
        words = line.split()
        chosen = bool(words) and words[0] != "Input" and (layers is None or words[1] in layers)
        lines.append(f"{line} {MASK}={mask}" if chosen else line)
    return replace(network, param="\n".join((*head, *lines)) + "\n")


def _too_large(network: Network, engine: ncnn.Ncnn, artifact: VerifiedArtifact) -> list[str]:
    """Layers that take or give values beyond what FP16 holds, seen in FP32 on the first input of each shape."""
    layers = [(words[1], *_blobs(words)) for words in ncnn.layers_of(network.param)]
    names = sorted({name for _, taken, given in layers for name in (*taken, *given)})
    large: set[str] = set()
    for case in artifact.cases:
        feeds = {
            port.name: array[:1] for port, array in zip(artifact.manifest.interface.inputs, case.inputs, strict=True)
        }
        blobs = engine.blobs(feeds, names)
        large |= {name for name, values in blobs.items() if not np.abs(values).max(initial=0) <= FP16_MAX / HEADROOM}
    return [layer for layer, taken, given in layers if large & {*taken, *given}]


def _blobs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of what a layer takes and gives."""
    taken, given = int(words[2]), int(words[3])
    return list(words[4 : 4 + taken]), list(words[4 + taken : 4 + taken + given])


def _gate(artifact: VerifiedArtifact) -> Gate:
    """Return the gate of the .onnx, which the network must pass too."""
    manifest = artifact.manifest
    tolerance = next((proof.tolerance for proof in manifest.parity if proof.passed), None)
    return gate_of(manifest.precision, manifest.interface) if tolerance is None else read_gate(tolerance)


def _convert(graph: ModelProto, model: SourceModel, half: bool) -> Network:
    """Run pnnx on a graph.

    Raises:
        EngineError: it fails, or what it writes has a layer that is not ncnn's.
    """
    side = model.proof_size or model.source.size or SIDE
    shapes = ",".join(_shape(port, side, graph) for port in model.interface.inputs)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        onnx.save_model(graph, str(work / "g.onnx"))
        command = [str(_converter()), "g.onnx", f"fp16={int(half)}", f"inputshape={shapes}"]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 - pnnx itself
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"pnnx could not convert this model: {one_line(error)}") from error
        param, weights = work / "g.ncnn.param", work / "g.ncnn.bin"
        if done.returncode != 0 or not param.is_file() or not weights.is_file():
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise EngineError(f"pnnx could not convert this model: {last[:200]} (exit status {done.returncode})")
        text, data = param.read_text("ascii"), weights.read_bytes()
    ignored = [line for line in done.stderr.splitlines() if line.startswith(("ignore ", "todo "))]
    return _checked(text, data, model.interface, ignored)


def _checked(text: str, weights: bytes, interface: Interface, ignored: Sequence[str]) -> Network:
    """The converted network, if ncnn has all of its layers and it takes and gives what the graph does."""
    layers = ncnn.layers_of(text)
    foreign = [f"{words[0]} ({words[1]})" for words in layers if "." in words[0] or "_" in words[0]]
    with contextlib.suppress(MissingExtra):
        foreign += [layer for layer in ncnn.unknown_layers(text) if layer not in foreign]
    if foreign:
        raise EngineError(f"ncnn has no layer for {', '.join(foreign)}: use --format onnx")
    fixed = next((words for words in layers if words[0] == "Tile"), None)
    if fixed is not None and any(isinstance(size, str) for size in interface.inputs[0].shape[1:]):
        raise EngineError(f"ncnn would keep one size in {fixed[0]} ({fixed[1]}): state the size with --size")
    if ignored:
        raise EngineError(f"pnnx cannot express a layer in ncnn: {ignored[0][:200]}; use --format onnx")
    inputs = tuple(f"in{index}" for index in range(len(interface.inputs)))
    given = {blob for words in layers for blob in _blobs(words)[1]}
    outputs = tuple(f"out{index}" for index in range(len(interface.outputs)))
    absent = [name for name in (*inputs, *outputs) if name not in given]
    if absent:
        raise EngineError(f"pnnx left {', '.join(absent)} out of the network: use --format onnx")
    return Network(text, weights, inputs, outputs)


def _shape(port: Port, side: int, graph: ModelProto) -> str:
    """An input as pnnx takes it: [1,3,256,256]f32."""
    if port.role == "label":
        declared = next(value for value in graph.graph.input if value.name == port.name)
        return f"[1,{declared.type.tensor_type.shape.dim[1].dim_value}]f32"
    rounded = -(-side // port.multiple) * port.multiple
    return f"[{','.join(map(str, (1, *(size if isinstance(size, int) else rounded for size in port.shape[1:]))))}]f32"


def _labels_as_vectors(model: ModelProto, interface: Interface) -> tuple[ModelProto, int]:
    """The graph with a vector for a class label, 1 at the class, as ncnn has no integer inputs; and its length.

    Raises:
        EngineError: the graph does something else with the label than to look up rows of a table.
    """
    labels = [port.name for port in interface.inputs if port.role == "label"]
    if not labels:
        return model, 0
    graph, name = copied(model), labels[0]
    tables = {tensor.name: tensor for tensor in graph.graph.initializer}
    sizes = set()
    for node in graph.graph.node:
        if name not in node.input:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
        if node.op_type != "Gather" or axis != 0 or node.input[0] not in tables or len(tables[node.input[0]].dims) != 2:
            raise EngineError(
                f"ncnn has no integer inputs, and {node.op_type} ({node.name}) takes the class label: use --format onnx"
            )
        table = numpy_helper.to_array(tables[node.input[0]])
        sizes.add(len(table))
        rows = f"{node.output[0]}_rows"  # As the weights of a layer: ncnn gives a vector then, not a matrix.
        graph.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(table.T), rows))
        node.CopyFrom(helper.make_node("Gemm", [name, rows], [node.output[0]], name=node.name, transB=1))
    if len(sizes) != 1:
        raise EngineError(
            "ncnn has no integer inputs, and this graph has no single table of classes: use --format onnx"
        )
    size = sizes.pop()
    declared = next(value for value in graph.graph.input if value.name == name)
    declared.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]))
    return graph, size


def _spread_by_sums(model: ModelProto) -> ModelProto:
    """The graph with a sum where values are spread over a picture of any size: pnnx would keep the size that it sees.

    Expand(values, [N, C, H, W]), where H and W are those of a tensor, becomes values + 0 × its first channel.
    """
    graph = copied(model)
    producers = {name: node for node in graph.graph.node for name in node.output}
    for node in [node for node in graph.graph.node if node.op_type == "Expand"]:
        shape = producers.get(node.input[1])
        parts = [producers.get(name) for name in (shape.input if shape is not None else ())][2:]
        measured = {part.input[0] for part in parts if part is not None and part.op_type == "Shape"}
        if shape is None or shape.op_type != "Concat" or len(parts) != 2 or len(measured) != 1 or None in parts:
            continue
        name = node.output[0]
        bounds = [(f"{name}_{key}", value) for key, value in (("begin", 0), ("end", 1), ("axis", 1))]
        graph.graph.initializer.extend(
            helper.make_tensor(key, TensorProto.INT64, [1], [value]) for key, value in bounds
        )
        graph.graph.initializer.append(helper.make_tensor(f"{name}_zero", TensorProto.FLOAT, [], [0.0]))
        steps = (
            helper.make_node("Slice", [measured.pop(), *(key for key, _ in bounds)], [f"{name}_channel"]),
            helper.make_node("Mul", [f"{name}_channel", f"{name}_zero"], [f"{name}_nothing"]),
            helper.make_node("Add", [node.input[0], f"{name}_nothing"], [name], name=node.name),
        )
        index = list(graph.graph.node).index(node)
        graph.graph.node.remove(node)
        for step in reversed(steps):
            graph.graph.node.insert(index, step)
    return graph


def _converter() -> Path:
    """The program pnnx, found without importing its package, which would import torch."""
    spec = find_spec("pnnx")
    if spec is None or spec.origin is None:
        raise MissingExtra("pnnx", "pnnx", "--format ncnn")
    folder = Path(spec.origin).parent
    program = next((path for path in (folder / "pnnx", folder / "pnnx.exe") if path.is_file()), None)
    if program is None:
        raise EngineError(f"pnnx is installed in {folder} without its program: reinstall it")
    return program


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
