"""Measures of quality: arrays in, floats out."""

from zoo.metrics.grounding import FrameTube, GroundingScores, grounding_scores

__all__ = ["FrameTube", "GroundingScores", "grounding_scores"]
