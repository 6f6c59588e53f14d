"""Compute COCO metrics from detections."""

from fcos_core.config.checks import METRICS
from fcos_core.evaluation.coco import check_evaluator, check_expected_results, coco_results, evaluate
from fcos_core.evaluation.predictions import Predictions
from fcos_core.evaluation.results import Results

__all__ = ["METRICS", "Predictions", "Results", "check_evaluator", "check_expected_results", "coco_results", "evaluate"]
