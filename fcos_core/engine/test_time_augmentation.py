"""Test-time augmentation: detect on several views of each image and merge what is found."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from fcos_core.config import Config
from fcos_core.deploy.compiler import compile_for_inference
from fcos_core.errors import InputError
from fcos_core.modeling.detector import Detector
from fcos_core.modeling.fcos.fcos import FCOS
from fcos_core.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList, boxlist_iou, cat_boxlist
from fcos_core.structures.image_list import ByteImages, ImageList, ImageViews
from fcos_core.weights.checkpointer import unwrapped


class AugmentedDetector(nn.Module):
    """Detector whose boxes come from several views of each image: other sizes and mirror images.

    Args:
        detector: images to a list of BoxList, which `merge` takes.
        merge: from the boxes of all views of one image, on its first view, to the detections, best first. Boxes of an
            earlier view come first.
    """

    def __init__(self, detector: nn.Module, merge: Callable[[BoxList], BoxList]) -> None:
        super().__init__()
        self.detector, self.merge = detector, merge

    @torch.no_grad()
    def forward(self, images: ImageViews | ByteImages | ImageList) -> list[BoxList]:
        """Return the detections of each image, in pixels of its first view; other images are one view."""
        if not isinstance(images, ImageViews):
            return [self.merge(boxes) for boxes in self.detector(images)]
        found = []
        for view, flipped in zip(images.views, images.flipped, strict=True):
            boxes = self.detector(view)
            found.append([each.transpose(FLIP_LEFT_RIGHT) for each in boxes] if flipped else boxes)
        return [self.merge(_on_first(views)) for views in zip(*found, strict=True)]


def make_tested_detector(cfg: Config, model: nn.Module, compile: bool = False) -> nn.Module:
    """Make the detector that TEST.BBOX_AUG asks for, compiled if `compile` is set; without either it is `model`.

    It shares the weights of `model`, unless it is compiled.

    Raises:
        InputError: there is to be augmentation and `model` is not made by `build_detection_model`; or TEST.PRECISION
            does not fit the device.
    """
    augmentation, detector = cfg.TEST.BBOX_AUG, unwrapped(model)
    if isinstance(model, AugmentedDetector) or not (augmentation.ENABLED or compile):
        return model
    if not isinstance(detector, Detector):
        raise InputError(
            f"TEST.BBOX_AUG.ENABLED is True, but the detector to test is a {type(detector).__name__}: give one that "
            "build_detection_model made, or set TEST.BBOX_AUG.ENABLED False."
        )
    tested: nn.Module = detector
    votes = augmentation.MERGE_TYPE == "soft-vote"
    if augmentation.ENABLED and not votes:
        rpn = detector.rpn
        candidates = FCOS(rpn.head, rpn.assigner, rpn.loss, rpn.postprocess.giving_candidates())
        tested = Detector(detector.backbone, candidates)
    if compile:
        tested = compile_for_inference(tested, precision=cfg.TEST.PRECISION)
    if augmentation.ENABLED:
        best = cfg.TEST.DETECTIONS_PER_IMG
        vote = partial(_best_of_vote, augmentation.VOTE_TH, cfg.MODEL.FCOS.INFERENCE_TH, best)
        tested = AugmentedDetector(tested, vote if votes else detector.rpn.postprocess.merge)
    tested.category_names = detector.category_names
    return tested.eval()


def soft_vote(boxes: BoxList, vote_threshold: float, score_threshold: float) -> BoxList:
    """Merge boxes of the same object by soft voting, as ATSS tests with several scales.

    The best box b of a class gathers the boxes of the class whose IoU with it is `vote_threshold` or more, itself
    included. They become the box sum(s_i * b_i) / sum(s_i) with the score of b, where s_i are their scores. Each of
    them also stays by itself with the score s_i * (1 - IoU(b, b_i)), if this is above `score_threshold`: it may be
    another object close by. The rest of the class is merged in the same way.

    Args:
        boxes: of one image, "xyxy", with the fields "scores" (N,) and "labels" (N,), in any order.
        vote_threshold: above 0, at most 1.
        score_threshold: 0 or more.

    Returns:
        The boxes with both fields on the CPU, best first; of equal scores the earlier comes first.
    """
    boxes = boxes.to("cpu")
    boxes = boxes[boxes.get_field("scores").sort(descending=True, stable=True).indices]
    scores, labels = boxes.get_field("scores"), boxes.get_field("labels")
    iou = boxlist_iou(boxes, boxes).masked_fill_(labels[:, None] != labels, 0).fill_diagonal_(1)
    merged, lower, waiting = boxes.bbox.clone(), torch.zeros_like(scores), torch.ones_like(labels, dtype=torch.bool)
    is_best = torch.zeros_like(waiting)
    for best in range(len(boxes)):
        if waiting[best]:
            voters = (waiting & (iou[best] >= vote_threshold)).nonzero().squeeze(1)
            waiting[voters], is_best[best] = False, True
            if len(voters) > 1:
                weights = scores[voters, None].clamp(min=1e-12)  # all scores may be 0
                merged[best] = (boxes.bbox[voters] * weights).sum(dim=0) / weights.sum()
                lower[voters] = scores[voters] * (1 - iou[best, voters])
    stays = lower > score_threshold
    result = boxes.copy_with_fields(())
    result.bbox = torch.cat([merged[is_best], boxes.bbox[stays]])
    result.add_field("scores", torch.cat([scores[is_best], lower[stays]]))
    result.add_field("labels", torch.cat([labels[is_best], labels[stays]]))
    return result[result.get_field("scores").sort(descending=True, stable=True).indices]


def _best_of_vote(vote_threshold: float, score_threshold: float, count: int, boxes: BoxList) -> BoxList:
    return soft_vote(boxes, vote_threshold, score_threshold)[:count]


def _on_first(views: Sequence[BoxList]) -> BoxList:
    """Join the boxes of one image's views, scaled to the size of the first."""
    return cat_boxlist([boxes.resize(views[0].size) for boxes in views])
