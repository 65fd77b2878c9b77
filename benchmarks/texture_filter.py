"""The pyramid texture filter against a scalar loop and OpenCV in speed, and against other smoothers in quality.

    python benchmarks/texture_filter.py                  # speed at 1024x1024, one thread: two to three minutes
    python benchmarks/texture_filter.py --threads 2      # wall time on one and on two threads
    python benchmarks/texture_filter.py --memory         # peak memory, and seconds, by size; up to 4096x4096
    python benchmarks/texture_filter.py --memory --large # also 100 megapixels: minutes, and 8 GB
    python benchmarks/texture_filter.py --quality        # PSNR and SSIM to a known structure
    python benchmarks/texture_filter.py --fast           # how near --fast is, on scikit-image's photographs
    python benchmarks/texture_filter.py --gpu            # milliseconds a megapixel on a CUDA device

Needs `pip install opencv-contrib-python-headless numba scipy` (`--fast`: scikit-image); zoo needs none of them. One
thread: CPU time of the thread, engines in turns, a ratio is the median over rounds. The scalar loop runs once.
"""

import argparse
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import torch
from machine import machine
from numpy.typing import NDArray
from torch import Tensor

from zoo.kernels import bilateral
from zoo.models import pyramid_texture
from zoo.models.pyramid_texture import NATIVE, TORCH, Engine, PyramidTextureFilter
from zoo.tasks.filter import FAST_WINDOW

Image = NDArray[np.float32]


def scene(seed: int, side: int) -> tuple[Image, Image]:
    """A structure (shapes over shading) and the same under texture: (H, W, 3) in [0, 1].

    Each of about twelve shapes has a colour and one of five textures of its own period and strength.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    structure = 0.5 + 0.15 * np.stack(
        [(x * math.cos(a) + y * math.sin(a)) / side - 0.5 for a in rng.uniform(0, 6, 3)], 2
    )
    texture = np.zeros_like(structure)
    for _ in range(12):
        inside = _shape(rng, x, y, side)
        structure[inside] = rng.uniform(0.15, 0.85, 3)
        texture[inside] = (_pattern(rng, x, y) * rng.uniform(0.05, 0.15))[inside][:, None] * rng.uniform(0.5, 1, 3)
    return structure.astype(np.float32), np.clip(structure + texture, 0, 1).astype(np.float32)


def _shape(rng: np.random.Generator, x: Image, y: Image, side: int) -> NDArray[np.bool_]:
    """An ellipse or a rectangle, turned."""
    angle, (cx, cy), (a, b) = rng.uniform(0, 3), rng.uniform(0, side, 2), rng.uniform(side / 10, side / 3, 2)
    u = ((x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)) / a
    v = ((y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)) / b
    return u**2 + v**2 < 1 if rng.random() < 0.5 else np.maximum(abs(u), abs(v)) < 0.8


def _pattern(rng: np.random.Generator, x: Image, y: Image) -> Image:
    """Values in [-1, 1]: stripes, checkers, dots, a weave or noise, with a period of 3 to 9 pixels."""
    period, angle = rng.uniform(3, 9), rng.uniform(0, 3)
    u, v = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kind = rng.integers(5)
    if kind == 0:
        return np.sign(np.sin(2 * math.pi * u / period))
    if kind == 1:
        return np.sign(np.sin(math.pi * u / period) * np.sin(math.pi * v / period))
    if kind == 2:
        return np.where((u % period - period / 2) ** 2 + (v % period - period / 2) ** 2 < period**2 / 9, 1.0, -0.5)
    if kind == 3:
        return (np.sin(2 * math.pi * u / period) + np.sin(2 * math.pi * v / period)) / 2
    return rng.uniform(-1, 1, x.shape)


def planes(image: Image) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).contiguous()


# The same pyramid around other bilateral filters


def opencv_engine() -> Engine:
    """OpenCV's joint bilateral filter in the place of ours: another filter (L1 colour distance, a round window)."""
    import cv2

    def joint(image: Tensor, guide: Tensor, radius: int, sigma_s: float, sigma_r: float) -> Tensor:
        values, guides = (np.ascontiguousarray(x[0].permute(1, 2, 0).numpy()) for x in (image, guide))
        return planes(cv2.ximgproc.jointBilateralFilter(guides, values, 2 * radius + 1, sigma_r, sigma_s))

    return Engine("opencv", joint, NATIVE.resample)


def scalar_engine() -> Engine:
    """A compiled loop over pixels and neighbours, in float64, as one would write it first."""
    import numba

    @numba.njit
    def loop(values, guide, out, radius, sigma_s, sigma_r):
        height, width = values.shape[1:]
        for y in range(height):
            for x in range(width):
                a = b = c = weights = 0.0
                for v in range(max(0, y - radius), min(height, y + radius + 1)):
                    for u in range(max(0, x - radius), min(width, x + radius + 1)):
                        distance = 0.0
                        for k in range(3):
                            distance += (guide[k, v, u] - guide[k, y, x]) ** 2
                        apart = (v - y) ** 2 + (u - x) ** 2
                        weight = math.exp(-apart / (2 * sigma_s**2) - distance / (2 * sigma_r**2))
                        a += weight * values[0, v, u]
                        b += weight * values[1, v, u]
                        c += weight * values[2, v, u]
                        weights += weight
                out[0, y, x] = a / weights
                out[1, y, x] = b / weights
                out[2, y, x] = c / weights

    def joint(image: Tensor, guide: Tensor, radius: int, sigma_s: float, sigma_r: float) -> Tensor:
        out = torch.empty_like(image)
        loop(image[0].numpy(), guide[0].numpy(), out[0].numpy(), radius, sigma_s, sigma_r)
        return out

    return Engine("scalar", joint, NATIVE.resample)


def native_engine(cpu: str) -> Engine:
    """Ours, limited to a CPU's instructions."""
    return Engine(cpu, partial(bilateral.joint_bilateral, cpu=cpu), partial(bilateral.resample, cpu=cpu))


def filtered(engine: Engine, x: Tensor, **parameters: float) -> Tensor:
    """The filter on an engine that the package does not know."""
    pick = pyramid_texture.pick_engine
    pyramid_texture.pick_engine = lambda *_: engine
    try:
        return PyramidTextureFilter(**parameters)(x)
    finally:
        pyramid_texture.pick_engine = pick


# Speed


def seconds(run: Callable[[], object], clock: Callable[[], float] = time.thread_time) -> float:
    start = clock()
    run()
    return clock() - start


def speed(side: int, rounds: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    _, image = scene(0, side)
    x = planes(image)
    eight = (image * 255).astype(np.uint8)
    scalar = scalar_engine()
    filtered(scalar, x[:, :, :32, :32].double())  # compiles
    runs: dict[str, Callable[[], object]] = {
        "ours, float32": lambda: filtered(NATIVE, x),
        "ours, float64": lambda: filtered(NATIVE, x.double()),
        "ours, float32, AVX2 only": partial(filtered, native_engine("x86-64-v3"), x),
        "ours, --fast": lambda: PyramidTextureFilter(window=FAST_WINDOW)(x),
        "plain torch, float32": lambda: filtered(TORCH, x),
        "OpenCV jointBilateralFilter in the same pyramid": partial(filtered, opencv_engine(), x),
        "OpenCV l0Smooth": lambda: cv2.ximgproc.l0Smooth(eight),
        "OpenCV bilateralTextureFilter": lambda: cv2.ximgproc.bilateralTextureFilter(eight, fr=3, numIter=3),
        "OpenCV rollingGuidanceFilter": lambda: cv2.ximgproc.rollingGuidanceFilter(
            eight, d=23, sigmaColor=12, sigmaSpace=5
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for name in ("ours, float32", "ours, float64", "ours, float32, AVX2 only"):
        runs[name]()  # compiles
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    exact = []
    scalar_time = seconds(lambda: exact.append(filtered(scalar, x.double())))
    times["the same algorithm, scalar loop, numba, float64"] = [scalar_time] * rounds
    print(f"{side} x {side}, RGB, one thread, {rounds} rounds\n")
    print("| | seconds | times ours | largest difference |\n|---|---|---|---|")
    for name, taken in times.items():
        ratio = statistics.median(t / ours for t, ours in zip(taken, times["ours, float32"], strict=True))
        print(f"| {name} | {statistics.median(taken):.2f} | {ratio:.1f} | {_difference(name, runs, exact[0])} |")


def _difference(name: str, runs: dict[str, Callable[[], object]], exact: Tensor) -> str:
    if "ours" not in name and "torch" not in name and "pyramid" not in name:
        return ""
    return f"{(runs[name]() - exact).abs().max():.0e}"


def scaling(side: int, most: int, rounds: int) -> None:
    """Wall time by threads, which needs a machine with nothing else to do, and what CPU time alone says.

    With free cores, n threads take the part outside the strips and an n-th of the rest.
    """
    x = planes(scene(0, side)[1])
    filtered(NATIVE, x)
    wall: dict[int, list[float]] = {threads: [] for threads in range(1, most + 1)}
    in_all: dict[int, list[float]] = {threads: [] for threads in wall}
    for _ in range(rounds):
        for threads in wall:
            torch.set_num_threads(threads)
            start = time.process_time()
            wall[threads].append(seconds(lambda: filtered(NATIVE, x), time.perf_counter))
            in_all[threads].append(time.process_time() - start)
    alone = _outside_strips(x)
    print("| threads | wall seconds, best | speed-up, best | CPU seconds in all, median | speed-up with free cores |")
    print("|---|---|---|---|---|")
    for threads, taken in wall.items():
        cpu = statistics.median(in_all[threads])
        free = statistics.median(in_all[1]) / (alone + (cpu - alone) / threads)
        print(f"| {threads} | {min(taken):.3f} | {min(wall[1]) / min(taken):.2f} | {cpu:.3f} | {free:.2f} |")
    print(f"\nCPU seconds outside the strips, one thread: {alone:.3f}")


def _outside_strips(x: Tensor) -> float:
    torch.set_num_threads(1)
    inside = []
    over_strips = bilateral._over_strips
    bilateral._over_strips = lambda *args: inside.append(seconds(lambda: over_strips(*args)))
    try:
        return seconds(lambda: filtered(NATIVE, x)) - sum(inside)
    finally:
        bilateral._over_strips = over_strips


# Memory


def memory(sizes: list[tuple[int, int]]) -> None:
    print("| size | megapixels | peak above start, MB | float32 copies of it | CPU seconds |\n|---|---|---|---|---|")
    for height, width in sizes:
        command = [sys.executable, __file__, "--one", str(height), str(width)]
        peak, taken = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        copies = float(peak) / (height * width * 12)
        print(
            f"| {width} x {height} | {height * width / 1e6:.1f} | {float(peak) / 1e6:.0f} | {copies:.1f} | {taken} |",
            flush=True,
        )


def one(height: int, width: int) -> None:
    """Peak memory of a process that filters one 8-bit picture, the picture and the result included."""
    from zoo.tasks.filter import texture_filter

    torch.set_num_threads(1)
    texture_filter(np.zeros((32, 32, 3), np.uint8))  # compiles
    tile = (scene(0, 256)[1] * 255).astype(np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = np.tile(tile, (-(-height // 256), -(-width // 256), 1))[:height, :width]
    taken = seconds(lambda: texture_filter(image), time.process_time)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, f"{taken:.1f}")


# Quality


def psnr(a: Image, b: Image) -> float:
    return -10 * math.log10(float(np.mean((a.astype(np.float64) - b) ** 2)))


def ssim(a: Image, b: Image) -> float:
    """Wang et al. 2004: Gaussian window of 1.5, mean over pixels and channels."""
    import cv2

    blur = partial(cv2.GaussianBlur, ksize=(11, 11), sigmaX=1.5)
    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = blur(a), blur(b)
    var_a, var_b, both = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return float(
        np.mean((2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)))
    )


def total_variation(image: Image, weight: float, sigma: float, rounds: int = 4) -> Image:
    """Xu et al. 2012, relative total variation: a plain version of the paper's equations, solved directly."""
    import cv2
    from scipy.sparse import diags
    from scipy.sparse.linalg import cg

    height, width = image.shape[:2]
    count, output = height * width, image.astype(np.float64)
    for turn in range(rounds):
        window = max(sigma / 2**turn, 0.5)
        weights = []
        for axis in (0, 1):
            step = np.diff(output, axis=axis, append=output.take([-1], axis))
            total = cv2.GaussianBlur(step, (0, 0), window)
            inherent = np.maximum(np.abs(total).mean(2), 1e-3)
            windowed = cv2.GaussianBlur(1 / inherent, (0, 0), window)
            pulled = windowed / np.maximum(np.abs(step).mean(2), 2e-2)
            pulled[-1 if axis == 0 else slice(None), -1 if axis == 1 else slice(None)] = 0
            weights.append(weight * pulled.ravel())
        down, across = weights
        sums = down + across + np.roll(down, width) + np.roll(across, 1)
        matrix = diags(
            [1 + sums, -down[:-width], -down[:-width], -across[:-1], -across[:-1]],
            [0, width, -width, 1, -1],
            format="csr",
        )
        flat = image.reshape(count, 3).astype(np.float64)
        scale = diags(1 / matrix.diagonal())
        solved = [
            cg(matrix, flat[:, c], output.reshape(count, 3)[:, c], rtol=1e-3, maxiter=200, M=scale)[0] for c in range(3)
        ]
        output = np.stack(solved, 1).reshape(image.shape)
    return output.astype(np.float32)


def smoothers() -> Iterator[tuple[str, Callable[..., Image], dict[str, tuple[float, ...]]]]:
    """Name, function, and the grid of parameters that each is allowed to choose from."""
    import cv2

    def eight(image: Image) -> NDArray[np.uint8]:
        return (image * 255 + 0.5).astype(np.uint8)

    def l0(image: Image, weight: float, kappa: float) -> Image:
        return cv2.ximgproc.l0Smooth(eight(image), None, weight, kappa).astype(np.float32) / 255

    def bilateral_texture(image: Image, fr: float, rounds: float) -> Image:
        return (
            cv2.ximgproc.bilateralTextureFilter(eight(image), fr=int(fr), numIter=int(rounds)).astype(np.float32) / 255
        )

    def ours(image: Image, sigma_s: float, sigma_r: float) -> Image:
        return PyramidTextureFilter(sigma_s, sigma_r)(planes(image))[0].permute(1, 2, 0).numpy()

    yield "none (the textured picture)", lambda image: image, {}
    yield (
        "bilateral (OpenCV)",
        lambda image, s, r: cv2.bilateralFilter(image, -1, r, s),
        {"s": (3, 5, 8), "r": (0.1, 0.2, 0.35)},
    )
    yield (
        "guided (OpenCV)",
        lambda image, radius, eps: cv2.ximgproc.guidedFilter(image, image, int(radius), eps),
        {"radius": (3, 5, 9), "eps": (0.003, 0.01, 0.03)},
    )
    yield "relative total variation (own)", total_variation, {"weight": (0.005, 0.015, 0.03), "sigma": (2, 3, 5)}
    yield "L0 (OpenCV)", l0, {"weight": (0.02, 0.05, 0.1), "kappa": (1.5, 2)}
    yield (
        "rolling guidance (OpenCV)",
        lambda image, s, r: cv2.ximgproc.rollingGuidanceFilter(image, None, -1, r, s, 4),
        {"s": (2, 3, 5), "r": (0.05, 0.1, 0.2)},
    )
    yield "bilateral texture (OpenCV)", bilateral_texture, {"fr": (2, 3, 4), "rounds": (2, 3, 4)}
    yield "pyramid texture, the authors' defaults", partial(ours, sigma_s=5.0, sigma_r=0.05), {}
    yield "pyramid texture", ours, {"sigma_s": (3, 5, 7), "sigma_r": (0.03, 0.05, 0.07, 0.09)}


def quality(side: int, scenes: int) -> None:
    tuning = [scene(seed, side) for seed in range(100, 100 + scenes)]
    testing = [scene(seed, side) for seed in range(scenes)]
    print("| | parameters | PSNR | SSIM |\n|---|---|---|---|")
    for name, smooth, grid in smoothers():
        tries = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]

        def score(chosen: dict[str, float], smooth: Callable[..., Image] = smooth) -> float:
            return statistics.mean(psnr(smooth(textured, **chosen), true) for true, textured in tuning)

        best = max(tries, key=score) if len(tries) > 1 else tries[0]
        found = [(true, smooth(textured, **best)) for true, textured in testing]
        shown = ", ".join(f"{key} {value:g}" for key, value in best.items())
        scores = [statistics.mean(measure(a, b) for a, b in found) for measure in (psnr, ssim)]
        print(f"| {name} | {shown} | {scores[0]:.2f} | {scores[1]:.3f} |", flush=True)


# The approximation, and the GPU


def fast() -> None:
    from skimage import data

    torch.set_num_threads(1)
    exact, narrow = PyramidTextureFilter(), PyramidTextureFilter(window=FAST_WINDOW)
    print("| picture | PSNR to the exact filter | times as fast |\n|---|---|---|")
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        x = planes(getattr(data, name)().astype(np.float32) / 255)
        exact(x)
        ratio = statistics.median(seconds(lambda x=x: exact(x)) / seconds(lambda x=x: narrow(x)) for _ in range(5))
        print(f"| {name} | {psnr(exact(x).numpy(), narrow(x).numpy()):.1f} dB | {ratio:.2f} |")


def gpu() -> None:
    """Milliseconds a megapixel, and the share of the device's float32 arithmetic that they reach."""
    x = planes(scene(0, 1024)[1]).cuda()
    model = PyramidTextureFilter()
    taps = sum(
        (2 * math.ceil(s / 2 + 1) + 1) ** 2 * share + 2 * (2 * math.ceil(2 * s + 1) + 1) ** 2 * share
        for s, share in ((5 * 0.8**level, 0.64**level) for level in range(10))
    )
    taken = []
    for _ in range(5):
        torch.cuda.synchronize()
        taken.append(seconds(lambda: (model(x), torch.cuda.synchronize()), time.perf_counter))
    best = min(taken) / 1.048576
    print(torch.cuda.get_device_name(), f"{best * 1000:.1f} ms a megapixel, {taps * 25e6 / best / 1e12:.2f} Tflop/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(*args.one)
        return
    print(machine() + "\n")
    with torch.inference_mode():
        if args.memory:
            memory([(1024, 1024), (2160, 3840), (4096, 4096), *([(10_000, 10_000)] if args.large else [])])
        elif args.quality:
            quality(256, 4)
        elif args.fast:
            fast()
        elif args.gpu:
            gpu()
        elif args.threads > 1:
            scaling(args.side, args.threads, args.rounds)
        else:
            speed(args.side, args.rounds)


if __name__ == "__main__":
    main()
