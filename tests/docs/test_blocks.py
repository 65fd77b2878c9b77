"""Every code block of README, the site's texts and CONTRIBUTING does what the page says, in the order of the page.

A comment on the line before a block says otherwise: `<!-- skip: why -->`, `<!-- slow: why -->`, or
`<!-- file: path -->` for a block that is a file's contents. A `text` block is what the block before it prints.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "docs" / "guides").glob("*.md"))
SLOW = ("add_a_family", "filter", "first_minutes", "ground", "publish", "scale", "search_videos", "teach")
BLOCK = re.compile(r"(?:<!-- (skip|slow|file): (.+?) -->\n)?```(\S*)\n(.*?)```", re.DOTALL)


class Block(NamedTuple):
    mark: str
    says: str
    language: str
    code: str


def blocks(path: Path) -> list[Block]:
    return [Block(*found) for found in BLOCK.findall(path.read_text(encoding="utf-8"))]


@pytest.fixture
def desk(tmp_path):
    """A folder with the pictures, and an environment whose `zoo`, `pip` and `pytest` are this interpreter's."""
    shutil.copytree(ROOT / "docs" / "pictures", tmp_path / "docs" / "pictures")
    shutil.copytree(ROOT / "cards", tmp_path / "cards")
    shutil.copy(ROOT / "hubconf.py", tmp_path)
    programs, site = tmp_path / "programs", tmp_path / "site"
    programs.mkdir()
    for name in ("zoo", "pip", "pytest"):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {name} "$@"\n')
        (programs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "PIP_TARGET": str(site),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return tmp_path, environment


INSTALLED = re.compile(r"^pip install '\.\[\w+\]' && ", re.MULTILINE)  # as zoo is where its tests run


def follow(path, desk, *, slow):
    folder, environment = desk
    printed = None
    for block in blocks(path):
        if block.mark == "skip" or (block.mark == "slow" and not slow):
            printed = None
        elif block.mark == "file":
            file = folder / block.says
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.code, encoding="utf-8")
        elif block.language in ("sh", "python"):
            command = ["bash", "-euc"] if block.language == "sh" else [sys.executable, "-c"]
            done = subprocess.run(
                [*command, INSTALLED.sub("", block.code)],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
            printed = done.stdout
        elif block.language == "text" and printed is not None:
            assert printed == block.code


@pytest.mark.parametrize("path", [p for p in PAGES if p.stem not in SLOW], ids=lambda path: path.stem)
def test_a_page_can_be_followed(path, desk):
    follow(path, desk, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [p for p in PAGES if p.stem in SLOW or any(block.mark == "slow" for block in blocks(p))],
    ids=lambda path: path.stem,
)
def test_a_slow_page_can_be_followed(path, desk):
    follow(path, desk, slow=True)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_block_says_its_language(path):
    found = blocks(path)
    assert len(found) == len(re.findall(r"^```", path.read_text(encoding="utf-8"), re.MULTILINE)) / 2
    assert {block.language for block in found} <= {"sh", "python", "text", "yaml", "toml", "{toctree}"}
    assert all(block.mark in ("file", "skip") for block in found if block.language in ("yaml", "toml"))


def test_the_readme_is_a_front_page():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if not line.startswith("|")) <= 120
