"""The 1-bit kernels as machine code for this very CPU, made when they are first asked for.

LLVM compiles 300 lines of IR in about 0.15 s, so nothing is cached on disk: no stale file, no code loaded from a folder
that somebody else may write. llvmlite is the only thing needed, not a compiler.
"""

import ctypes
import functools
import platform
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

__all__ = ["Kernels", "NoKernels", "compile_ir", "host_features", "load", "multiplies_then_adds_at_once"]

Kernel = Callable[[bytes], object]


class NoKernels(RuntimeError):
    """Why packed kernels cannot run here; the caller falls back to plain torch."""


@dataclass(frozen=True)
class Kernels:
    """Compiled functions by name, each called with its arguments packed into bytes.

    Args:
        instructions: What the popcount runs on, such as "avx512-vpopcntdq".
        functions: Name to function.
        owner: Keeps the machine code alive.
    """

    instructions: str
    functions: Mapping[str, Kernel]
    owner: object = field(repr=False)

    def __call__(self, name: str, *args: int) -> None:
        self.functions[name](struct.pack(f"{len(args)}q", *args))


def multiplies_then_adds_at_once() -> bool:
    """Whether torch's batch norm rounds x * alpha + beta once (fused) or twice on this machine.

    Raises:
        NoKernels: It does neither, so no kernel could agree with it.
    """
    x, alpha, beta = torch.full((1, 64), 1 + 2.0**-12), torch.full((64,), 1 + 2.0**-12), torch.full((64,), -1.0)
    y = F.batch_norm(x, torch.zeros(64), torch.ones(64), alpha, beta, eps=0.0)
    for fused, expected in ((True, 2.0**-11 + 2.0**-24), (False, 2.0**-11)):
        if (y == expected).all():
            return fused
    raise NoKernels("torch's batch norm rounds in a way that the kernels do not know")


def _instructions(cpu: str | None, features: dict[str, bool]) -> str:
    if cpu:
        return f"limited to {cpu}"
    for name, needed in (
        ("avx512-vpopcntdq", ("avx512f", "avx512vpopcntdq")),
        ("avx512", ("avx512f", "avx512bw")),
        ("avx2", ("avx2",)),
        ("neon", ("neon",)),
    ):
        if all(features.get(feature) for feature in needed):
            return name
    return platform.machine()


@functools.cache
def load(cpu: str | None = None) -> Kernels:
    """Compile the 1-bit kernels once a process.

    Args:
        cpu: A CPU name that LLVM knows, such as "x86-64-v3" for AVX2 at most; None is this CPU.

    Raises:
        NoKernels: llvmlite is missing or too old, the CPU is big-endian, or its code generator refuses.
    """
    features = host_features()
    from zoo.kernels import emit

    tile = 8 if not cpu and features.get("avx512f") else 4  # as many sums as fit the vector registers
    names = ("conv_count", "conv_sign", "conv_add", "pack", "norm")
    return compile_ir(str(emit.module(tile, multiplies_then_adds_at_once())), names, cpu)


def host_features() -> dict[str, bool]:
    """What this CPU can do, by LLVM's names.

    Raises:
        NoKernels: llvmlite is missing, or the CPU is big-endian.
    """
    try:
        import llvmlite.binding as llvm
    except ImportError as error:
        raise NoKernels(f"{error}; pip install 'zoo[fast]' brings it") from error
    if struct.pack("=h", 1) != struct.pack("<h", 1):
        raise NoKernels("the kernels want a little-endian CPU")
    return dict(llvm.get_host_cpu_features())


def compile_ir(source: str, names: Sequence[str], cpu: str | None = None) -> Kernels:
    """Machine code for functions that take one pointer to their arguments.

    Args:
        source: LLVM IR that is vectors already.
        names: Its functions.
        cpu: See `load`.

    Raises:
        NoKernels: LLVM refuses.
    """
    found = host_features()
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    try:
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=cpu or llvm.get_host_cpu_name(),
            features="" if cpu else llvm.get_host_cpu_features().flatten(),
            opt=3,
            jit=True,
        )
        compiled = llvm.parse_assembly(source)
        compiled.triple = machine.triple
        compiled.data_layout = str(machine.target_data)
        tuning = llvm.create_pipeline_tuning_options(speed_level=2)
        tuning.loop_vectorization = tuning.slp_vectorization = tuning.loop_unrolling = False
        builder = llvm.create_pass_builder(machine, tuning)
        builder.getModulePassManager().run(compiled, builder)
        engine = llvm.create_mcjit_compiler(compiled, machine)
        engine.finalize_object()
    except (RuntimeError, AttributeError) as error:
        raise NoKernels(f"LLVM does not compile the kernels here: {error}") from error
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p)
    functions = {name: kind(engine.get_function_address(name)) for name in names}
    return Kernels(_instructions(cpu, found), functions, (engine, machine))
