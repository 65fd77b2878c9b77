"""PSLT against the authors' code: logits, stages, gradients, one block alone, pyramids at padded and odd sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from tests.goldens import Golden, fill, golden_cases, normal
from zoo.convert import rename
from zoo.models.pslt import PSLT, LadderBlock, LadderStage

CLASSIFIERS = [Golden(name) for name in ("pslt_tiny", "pslt_base", "pslt_reduced_448", "pslt_reduced_grad")]
PYRAMIDS = [*golden_cases("pslt_features_*"), Golden("pslt_reduced_240x135")]
ARGUMENTS = ("embed_dim", "num_classes", "conv_depths", "depths", "num_heads")


def network(case: Golden) -> PSLT:
    """Our network with the authors' state, converted and loaded strictly; a backbone without norm and head."""
    args = {key: value for key, value in case.facts["config"].items() if key in ARGUMENTS}
    model = PSLT(**{"num_classes": 0, **args}).eval()
    if "logits" not in case.arrays:
        model.norm = nn.Identity()
    model.load_state_dict(rename(case.authors_state(), model.authors_keys))
    return model


def tolerance(case: Golden) -> dict[str, float]:
    return case.facts["tolerance"].get("logits") or case.facts["tolerance"]


def watched(model: PSLT, x: Tensor) -> dict[str, Tensor]:
    """Logits, and the maps that the goldens name, as (B, C, H, W)."""
    seen = {}
    block = model.stage2.blocks[0]
    modules = {"stem": model.stem, **{f"stage{i}": model.get_submodule(f"stage{i}") for i in range(4)}}
    modules |= {"entry_of_stage2": model.stage2.entry, "entry_of_stage3": model.stage3.entry, "stage2_block0": block}
    modules |= {f"stage2_block0_branch{i}": branch for i, branch in enumerate(block.branches)}
    for name, module in modules.items():
        module.register_forward_hook(lambda m, args, y, name=name: seen.__setitem__(name, y.detach()))
    seen["logits"] = model(x)
    return seen


