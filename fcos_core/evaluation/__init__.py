"""COCO metrics from detections."""

from fcos_core.evaluation.coco import check_expected_results, coco_results, evaluate

__all__ = ["check_expected_results", "coco_results", "evaluate"]
