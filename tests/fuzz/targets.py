"""What an attacker may write, given to what reads it: cards, headers, packed weights, config.json.

A target takes bytes and lets through what a user may see, one of zoo's errors. Anything else is a finding: another
exception, more than two seconds, more memory than four times the input and what the reader needs anyway, a file
outside its folder.
"""

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from zoo.errors import ZooError

SECONDS = 2.0
TIMES = 4
SPARE = 30_000_000  # bytes: decoded JSON of the largest header allowed, and the network itself

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))
ARCHITECTURE = "reste_resnet20_cifar"
SMALL = {"depths": [1, 1, 1], "widths": [8, 8, 8], "num_classes": 2}  # 8 binary layers would take 4 times as long


def card(data: bytes) -> None:
    from zoo.registry.card import read_card

    path = FOLDER / "net.a.md"
    path.write_bytes(data)
    read_card(path)


def header(data: bytes) -> None:
    from zoo.hub.checkpoint import read_contents

    path = FOLDER / "header.safetensors"
    path.write_bytes(data)
    read_contents(path)


def packed(data: bytes) -> None:
    from zoo.build import check_file
    from zoo.registry.names import resolve

    path = FOLDER / "packed.safetensors"
    path.write_bytes(data)
    check_file(path, resolve(ARCHITECTURE), {})


def config(data: bytes) -> None:
    """config.json is read by timm, whose own complaints are Python's."""
    import timm

    import zoo  # noqa: F401

    folder = FOLDER / "folder"
    folder.mkdir(exist_ok=True)
    if not (folder / "model.safetensors").exists():
        (folder / "model.safetensors").write_bytes(seeds()["packed"][0])
    (folder / "config.json").write_bytes(data)
    try:
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError, IndexError):
        return


TARGETS: dict[str, Callable[[bytes], None]] = {"card": card, "header": header, "packed": packed, "config": config}


def check(target: str, data: bytes) -> None:
    """Run one case.

    Raises:
        AssertionError: It took too long, too much memory, or wrote where it should not.
        Exception: Whatever the target should not have raised.
    """
    start = time.process_time()
    measure = target in ("card", "header")  # tracing makes the others ten times as slow, and torch is not traced
    if measure:
        tracemalloc.start()
    message = ""
    try:
        TARGETS[target](data)
    except ZooError as error:
        message = error.message
    finally:
        peak = tracemalloc.get_traced_memory()[1] if measure else 0
        tracemalloc.stop()
    assert "\n" not in message, message
    assert len(message) < 2000, message
    assert peak <= TIMES * len(data) + SPARE, f"{peak} bytes for {len(data)}"
    took = time.process_time() - start
    assert took < SECONDS, f"{took:.1f} s"
    there = {path.name for path in FOLDER.iterdir()}
    assert there <= {"net.a.md", "header.safetensors", "packed.safetensors", "folder"}, there


def seeds() -> dict[str, list[bytes]]:
    """Good inputs, and bad ones of every sort known, to start from."""
    import torch
    from safetensors.torch import save

    import zoo
    from zoo import settings
    from zoo.hub.checkpoint import facts_for
    from zoo.layers.packing import FORMAT, pack

    cards = [path.read_bytes() for path in sorted(settings.card_folder().glob("*.md"))[:3]]
    torch.manual_seed(0)
    model = zoo.create_model(ARCHITECTURE, **SMALL)
    file = save(pack(model), facts_for(ARCHITECTURE, SMALL, FORMAT))
    state = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}
    config = {
        "architecture": ARCHITECTURE,
        "num_classes": 2,
        "model_args": SMALL,
        "pretrained_cfg": {"input_size": [3, 32, 32], "classifier": "fc", "first_conv": "conv1", "num_classes": 2},
    }
    return {
        "card": [*cards, *(b"---\n" + text + b"\n---\nText\n" for text in ODD_YAML)],
        "header": [save(state), save(state, facts_for("net", {})), file, *ODD_HEADERS],
        "packed": [file, *(_with_args(file, args) for args in ODD_ARGS)],
        "config": [json.dumps(config | change).encode() for change in ODD_CONFIGS],
    }


def _with_args(file: bytes, args: object) -> bytes:
    """A file whose metadata asks for another network."""
    size = int.from_bytes(file[:8], "little")
    table = json.loads(file[8 : 8 + size])
    facts = json.loads(table["__metadata__"]["zoo"]) | {"builder_args": args}
    table["__metadata__"]["zoo"] = json.dumps(facts)
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def _framed(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


BOMB = b"\n".join(b"x%d: &x%d [%s]" % (i, i, b",".join([b"*x%d" % (i - 1)] * 9)) for i in range(1, 10))
ODD_YAML = [
    b"x0: &x0 [a]\n" + BOMB,
    b"builder_args: &a {b: *a}",
    b"x: !!python/object/apply:os.system [exit]",
    b"date: 2026-13-45",
    b"x: 0x" + b"f" * 5000,
    b"x: " + b"9" * 5000,
    b"x: 1:2:3:4e400",
    b"x: " + b"[" * 5000,
    b"? {a: [b]}\n: c",
    b"builder: ../../etc/passwd:x\nname: /etc/passwd",
    b"builder: C:\\x:net\nname: ..\\..\\x",
    b"x: \xff\xfe",
    b"<<: {a: 1}",
    b"x: !!binary not base64",
    b"x: !!timestamp 99999-01-01",
    b"\x00",
]
ODD_HEADERS = [
    b"\xff" * 16,
    _framed(b'{"a":' + b"[" * 100_000),
    _framed(b"{" + b",".join(b'"%d":0' % i for i in range(2000)) + b"}"),
    _framed(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,0]}}'),
    _framed(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[],"data_offsets":[0,0]}}'
    ),
    _framed(b'{"../../a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    _framed(b'{"__metadata__":{"zoo":"[' + b"[" * 50_000 + b'"}}'),
    _framed(b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[NaN,Infinity]}}'),
    _framed(b'{"a":{"dtype":["F32"],"shape":{"0":1},"data_offsets":"ab"}}'),
]
ODD_ARGS = [
    {"depths": [10**9, 1, 1]},
    {"depths": [10**5, 10**5, 10**5]},
    {"widths": [10**12] * 3},
    {"num_classes": 10**18},
    {"num_classes": -1},
    {"in_chans": 2**63},
    {"depths": "abc"},
    {"act_bits": 1e400},
    {"stem": {"a": [1]}},
    {"shortcut": None},
    {"init": "all", "estimator": ["reste"]},
    {"file": "/etc/passwd", "pretrained_cfg": {}},
    {"__class__": 1},
    [],
    None,
]
ODD_CONFIGS: list[dict[str, object]] = [
    {},
    {"architecture": "../../../etc/passwd"},
    {"architecture": "hf-hub:x/y"},
    {"architecture": "local-dir:/etc"},
    {"num_classes": 10**12},
    {"model_args": {**SMALL, "depths": [10**9, 1, 1]}},
    {"model_args": {**SMALL, "num_classes": 10**12}},
    {"model_args": {"pretrained_strict": False}},
    {"model_args": {**SMALL, "cache_dir": "/etc", "features_only": True}},
    {"pretrained_cfg": {"file": "/etc/passwd", "input_size": [10**9, 32, 32], "num_classes": 2}},
    {"pretrained_cfg": {"url": "http://127.0.0.1:9/x", "custom_load": True, "num_classes": 2, "input_size": [3, 8, 8]}},
    {"label_names": {"a": [1]}},
]
