"""Measures of quality: arrays in, floats out."""

from zoo.metrics.reid import ReidScores, reid_scores
from zoo.metrics.rerank import rerank
from zoo.metrics.verification import tpr_at_fpr

__all__ = ["ReidScores", "reid_scores", "rerank", "tpr_at_fpr"]
