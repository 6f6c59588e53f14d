"""COCO metrics from detections."""

from fcos_core.evaluation.coco import METRICS, check_expected_results, coco_results, evaluate

__all__ = ["METRICS", "check_expected_results", "coco_results", "evaluate"]
