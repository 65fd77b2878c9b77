"""Measures of quality: arrays in, floats out."""

from zoo.metrics.grounding import FrameTube, GroundingScores, grounding_scores
from zoo.metrics.reid import ReidScores, reid_scores
from zoo.metrics.rerank import rerank
from zoo.metrics.retrieval import RetrievalScores, retrieval_scores
from zoo.metrics.verification import tpr_at_fpr

__all__ = [
    "FrameTube",
    "GroundingScores",
    "ReidScores",
    "RetrievalScores",
    "grounding_scores",
    "reid_scores",
    "rerank",
    "retrieval_scores",
    "tpr_at_fpr",
]
