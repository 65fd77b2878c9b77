"""Measures of quality: arrays in, floats out."""

from zoo.metrics.retrieval import RetrievalScores, retrieval_scores

__all__ = ["RetrievalScores", "retrieval_scores"]
