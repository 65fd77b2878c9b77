"""Packed ReSTE networks against float32 networks of the same topology, as ratios.

    python benchmarks/packed.py                       # this CPU, one thread: about two minutes
    python benchmarks/packed.py --cpu x86-64-v3       # kernels limited to AVX2
    python benchmarks/packed.py --threads 2 --json
    python benchmarks/packed.py --peers               # also compiled float32 and bfloat16, int8 of ONNX Runtime
    python benchmarks/packed.py --layers              # the 16 binary convolutions alone, by kernel; needs numba
    python benchmarks/packed.py --start               # seconds from a loaded model to its first answer

The float network has `nn.Conv2d` where ours has binary convolutions; its time is the best of NCHW, channels-last and
frozen. All engines take turns, in bursts, so that whatever else the machine does meets all of them. A burst opens with
a call that is not counted: a network that is served repeatedly finds its weights in the cache, and the packed ones fit
there. `--cold` counts that call instead. With one thread the figure is CPU time of the thread, else wall time.
"""

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.kernels import binary_conv, native
from zoo.layers.binary import BinaryConv2d
from zoo.layers.engine import freeze, to_packed
from zoo.layers.packing import pack_bits
from zoo.models import reste

Run = Callable[[], object]
CASES = [  # network, builder's arguments, side, batch, rounds
    ("reste_resnet18_cifar", {"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512)}, 32, 1, 20),
    ("reste_resnet18_cifar", {"depths": (2, 2, 2, 2), "widths": (64, 128, 256, 512)}, 32, 32, 6),
    ("reste_resnet20_cifar", {"depths": (3, 3, 3), "widths": (16, 32, 64), "shortcut": "pad"}, 32, 1, 20),
    ("reste_vggsmall_cifar", None, 32, 1, 20),
    (
        "reste_resnet18_in1k",
        {
            "depths": (2, 2, 2, 2),
            "widths": (64, 128, 256, 512),
            "num_classes": 1000,
            "stem": "imagenet",
            "two_skips": True,
        },
        224,
        1,
        10,
    ),
]
LAYERS = [  # of ResNet-18 on CIFAR: input and output channels, stride, side of the input, how many
    (64, 64, 1, 32, 4),
    (64, 128, 2, 32, 1),
    (128, 128, 1, 16, 3),
    (128, 256, 2, 16, 1),
    (256, 256, 1, 8, 3),
    (256, 512, 2, 8, 1),
    (512, 512, 1, 4, 3),
]
START = """
import time, torch
torch.set_num_threads(1)
from zoo.models.reste import ReSTEResNet
from zoo.layers.engine import prepare
torch.manual_seed(0)
model, x = ReSTEResNet((2, 2, 2, 2), (64, 128, 256, 512)).eval(), torch.rand(1, 3, 32, 32)
for norm in model.modules():
    if isinstance(norm, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.bias, 0, 0.5)
before = time.process_time()
network, _ = prepare(model, ENGINE)
prepared = time.process_time()
with torch.inference_mode():
    network(x)
print(prepared - before, time.process_time() - before)
"""


def network(args: dict[str, object] | None) -> nn.Module:
    """An evaluating network with norms that have seen something."""
    model = reste.ReSTEVGG() if args is None else reste.ReSTEResNet(**args)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.1)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, BinaryConv2d):
            module.weight.data[module.weight.data == 0] = 1e-3  # a sample of millions holds a zero now and then
    return model.eval()


def float_twin(model: nn.Module) -> nn.Module:
    """The same topology with real convolutions."""
    twin = copy.deepcopy(model)
    for name, conv in list(twin.named_modules()):
        if isinstance(conv, BinaryConv2d):
            real = nn.Conv2d(
                conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False
            )
            twin.set_submodule(name, real)
    return twin.eval()


def frozen(twin: nn.Module, x: Tensor) -> nn.Module:
    """Traced, frozen and rewritten for inference by TorchScript, the norms folded where they can be."""
    with torch.no_grad():
        traced = torch.jit.freeze(torch.jit.trace(twin, x))
    return torch.jit.optimize_for_inference(traced)


def int8_session(twin: nn.Module, x: Tensor) -> Run:
    """The twin in 8 bits by ONNX Runtime: calibrated on noise, since only its speed is asked for."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": torch.randn_like(x).numpy()} for _ in range(4)]

        def get_next(self) -> dict[str, object] | None:
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        source, ready, small = (str(Path(folder) / name) for name in ("source.onnx", "ready.onnx", "int8.onnx"))
        torch.onnx.export(twin, (x,), source, input_names=["x"], output_names=["y"], dynamo=True, verbose=False)
        quant_pre_process(source, ready)
        quantize_static(ready, small, Noise(), quant_format=QuantFormat.QDQ, per_channel=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)


def peers(twin: nn.Module, twin_last: nn.Module, half: nn.Module, last: Tensor) -> dict[str, Run]:
    """What else a user could do to make the float network fast."""
    torch._dynamo.reset()  # else the next network counts as one more recompilation, of which there are eight
    freezing = {"freezing": True}
    compiled = torch.compile(twin_last, options=freezing)
    compiled_half = torch.compile(half, options=freezing)
    last_half = last.bfloat16()
    return {
        "compiled float32": lambda: compiled(last),
        "compiled bfloat16": lambda: compiled_half(last_half),
        "int8, ONNX Runtime": int8_session(twin, last.contiguous()),
    }


def take_turns(engines: dict[str, Run], rounds: int, burst: int, cold: bool) -> dict[str, list[float]]:
    """Milliseconds a call, a round's best each."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name, run in engines.items():
            calls = []
            for _ in range(burst):
                start = clock()
                run()
                calls.append(1e3 * (clock() - start))
            times[name].append(calls[0] if cold else min(calls[1:]))
    return times


def whole(
    name: str,
    args: dict[str, object] | None,
    side: int,
    batch: int,
    rounds: int,
    cpu: str | None,
    cold: bool,
    with_peers: bool,
) -> list[dict[str, object]]:
    """Rows for one network and batch size."""
    model = network(args)
    x = torch.randn(batch, 3, side, side)
    last = x.contiguous(memory_format=torch.channels_last)
    twin = float_twin(model)
    twin_last = copy.deepcopy(twin).to(memory_format=torch.channels_last)
    half = copy.deepcopy(twin_last).bfloat16()
    script = frozen(twin_last, last)
    ours, cached = to_packed(model, cpu=cpu), freeze(model)
    engines: dict[str, Run] = {
        "packed": lambda: ours(x),
        "float32, NCHW": lambda: twin(x),
        "float32, channels-last": lambda: twin_last(last),
        "float32, folded and frozen": lambda: script(last),
        "bfloat16, channels-last": lambda: half(last.bfloat16()),
        "simulation, as trained": lambda: model(last),
        "8-bit integers (fallback)": lambda: cached(last),
    }
    with torch.inference_mode():
        if with_peers:
            engines |= peers(twin, twin_last, half, last)
            for run in engines.values():  # compiling is not counted
                run()
        times = take_turns(engines, rounds, 4 if batch == 1 else 2, cold)
    best = min((n for n in engines if n.startswith("float32")), key=lambda n: statistics.median(times[n]))
    rows = []
    for engine, values in times.items():
        ratios = [reference / value for reference, value in zip(times[best], values, strict=True)]
        row = {"network": name, "batch": batch, "engine": engine, "best_ms": min(values)}
        rows.append({**row, "median_ms": statistics.median(values), "median_ratio": statistics.median(ratios)})
    return rows


def start_up(repeats: int = 5) -> dict[str, float]:
    """Seconds of CPU from a loaded model to its first answer, by engine, best of fresh processes."""
    here = str(Path(__file__).parent.parent)
    env = {**os.environ, "PYTHONPATH": here}
    found: dict[str, list[float]] = {"float": [], "packed": []}
    for _ in range(repeats):
        for engine, values in found.items():
            code = START.replace("ENGINE", repr(engine))
            out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
            values.append(float(out.stdout.split()[1]))
    return {engine: min(values) for engine, values in found.items()}


def int8(x: Tensor, weight: Tensor, stride: int) -> Run:
    """Im2col and torch's private int8 product: exact, and plain torch."""
    x8, w8 = x.sign(), weight.sign().flatten(1).to(torch.int8).t().contiguous()

    def run() -> Tensor:
        columns = F.unfold(x8, 3, padding=1, stride=stride).to(torch.int8)
        rows = columns.transpose(1, 2).reshape(-1, columns.shape[1])
        fill = max(0, 17 - len(rows))
        return torch._int_mm(F.pad(rows, (0, 0, 0, fill)), w8)[: len(rows)]

    return run


def numba_kernel() -> Callable[..., None]:
    """The usual way to write such a kernel for numba: SWAR popcount, output channels innermost."""
    import numba
    import numpy as np

    @numba.njit(fastmath=True)
    def run(x, weight, out, stride, tile):  # x (B, Hp, Wp, W) and weight (3, 3, W, OC) uint64, out (B, OH, OW, OC)
        m1, m2, m4 = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333), np.uint64(0x0F0F0F0F0F0F0F0F)
        ones, s1, s2, s4, s56 = (
            np.uint64(0x0101010101010101),
            np.uint64(1),
            np.uint64(2),
            np.uint64(4),
            np.uint64(56),
        )
        batch, height, width, channels = out.shape
        for b in range(batch):
            for oy in range(height):
                for ox in range(0, width, 4):
                    for oc in range(channels):
                        tile[0, oc] = tile[1, oc] = tile[2, oc] = tile[3, oc] = np.uint64(0)
                    for ky in range(3):
                        for kx in range(3):
                            for word in range(x.shape[3]):
                                for p in range(4):
                                    a = x[b, oy * stride + ky, (ox + p) * stride + kx, word]
                                    for oc in range(channels):
                                        v = a ^ weight[ky, kx, word, oc]
                                        v = v - ((v >> s1) & m1)
                                        v = (v & m2) + ((v >> s2) & m2)
                                        v = (v + (v >> s4)) & m4
                                        tile[p, oc] += (v * ones) >> s56
                    for p in range(4):
                        for oc in range(channels):
                            out[b, oy, ox + p, oc] = np.int32(tile[p, oc])

    return run


def layers(batch: int, rounds: int, cpu: str | None) -> list[dict[str, object]]:
    """The 16 binary convolutions of ResNet-18 on CIFAR alone, by kernel."""
    import numpy as np

    swar = numba_kernel()
    totals: dict[str, list[float]] = {}
    for ic, oc, stride, side, count in LAYERS:
        x, weight = torch.randn(batch, ic, side, side), torch.randn(oc, ic, 3, 3)
        last, real = x.contiguous(memory_format=torch.channels_last), weight.sign()
        taps = binary_conv.lay_out(pack_bits(weight), ic)
        edge = binary_conv.borders(taps.sums, ic, side, side, stride, 1)
        bits, _ = binary_conv.pack_signs(x.permute(0, 2, 3, 1), 1, cpu=cpu)
        words = bits.numpy().view(np.uint64).copy()
        wide = pack_bits(weight).numpy().view(np.uint64).transpose(1, 2, 3, 0).copy()
        out = np.empty((batch, side // stride, side // stride, oc), np.int32)
        tile = np.empty((4, oc), np.uint64)
        half, half_weight = last.bfloat16(), real.bfloat16()
        engines: dict[str, Run] = {
            "float32 conv2d, NCHW": lambda x=x, w=real, s=stride: F.conv2d(x, w, None, s, 1),
            "float32 conv2d, channels-last": lambda x=last, w=real, s=stride: F.conv2d(x, w, None, s, 1),
            "bfloat16 conv2d, channels-last": lambda x=half, w=half_weight, s=stride: F.conv2d(x, w, None, s, 1),
            "int8 im2col and torch._int_mm": int8(x, weight, stride),
            "numba, SWAR popcount": lambda a=(words, wide, out, stride, tile): swar(*a),
            "ours, LLVM IR": lambda a=(bits, taps, edge, stride): binary_conv.conv_count(*a, cpu=cpu),
        }
        with torch.inference_mode():
            for name, values in take_turns(engines, rounds, 3, False).items():
                totals.setdefault(name, [0.0] * rounds)
                totals[name] = [a + count * b for a, b in zip(totals[name], values, strict=True)]
    best = min((n for n in totals if n.startswith("float32")), key=lambda n: statistics.median(totals[n]))
    return [
        {
            "network": "16 convolutions",
            "batch": batch,
            "engine": name,
            "best_ms": min(values),
            "median_ms": statistics.median(values),
            "median_ratio": statistics.median(a / b for a, b in zip(totals[best], values, strict=True)),
        }
        for name, values in totals.items()
    ]


def machine(cpu: str | None) -> dict[str, object]:
    """What the figures were measured on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        model = next(
            (line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), model
        )
    return {
        "cpu": model,
        "kernels": native.load(cpu).instructions,
        "torch": torch.__version__,
        "torch_instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", help="limit our kernels to a CPU that LLVM knows, such as x86-64-v3 (AVX2)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", action="store_true", help="the binary convolutions alone")
    parser.add_argument("--start", action="store_true", help="seconds to the first answer instead")
    parser.add_argument("--cold", action="store_true", help="count the first call of each burst")
    parser.add_argument("--peers", action="store_true", help="also what else makes a float network fast")
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    about = machine(args.cpu)
    if args.start:
        print(json.dumps({**about, "start_seconds": start_up()}))
        return
    if args.layers:
        rows = [*layers(1, 10, args.cpu), *layers(32, 3, args.cpu)]
    else:
        chosen = [case for case in CASES if args.only in case[0]]
        rows = [row for case in chosen for row in whole(*case, args.cpu, args.cold, args.peers)]
    if args.json:
        print(json.dumps({"machine": about, "rows": rows}, indent=1))
        return
    print("  ".join(f"{key}: {value}" for key, value in about.items()))
    for row in rows:
        print("{network:22} batch {batch:<3} {engine:36} {best_ms:9.3f} ms  x {median_ratio:.2f}".format(**row))


if __name__ == "__main__":
    main()
