"""The extras: those of the package, each with what it brings, and what is missing named."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from zoo.errors import InputError, UsageError
from zoo.extras import EXTRAS, missing, need

DECLARED = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
FOR_DEVELOPERS = {"docs", "test", "dev"}


def test_every_extra_of_the_package_is_known():
    assert set(EXTRAS) == set(DECLARED) - FOR_DEVELOPERS


def test_modules_come_with_their_extra():
    brought = packages_distributions()
    for extra, modules in EXTRAS.items():
        wanted = {_plain(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in _requirements(extra)}
        for module in modules:
            assert module not in brought or wanted & set(map(_plain, brought[module])), module


def _requirements(extra):
    """Those of the extras that an extra is made of, in their place."""
    for one in DECLARED[extra]:
        others = re.fullmatch(r"zoo\[(.+)\]", one)
        yield from (line for other in others[1].split(",") for line in _requirements(other)) if others else [one]


def _plain(name):
    return name.lower().replace("_", "-")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert missing("index") == ["pyarrow"]
    with pytest.raises(UsageError, match="Parquet needs pyarrow") as refused:
        need("index", "Parquet")
    assert refused.value.hint == "pip install 'zoo[index]'"
    with pytest.raises(InputError):
        need("index", "this file", InputError)
    monkeypatch.delitem(sys.modules, "pyarrow")
    need("index", "Parquet")
