"""FCOS on the features of a backbone: head outputs to losses or detections."""

import logging
from collections.abc import Sequence

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.errors import require
from fcos_core.modeling.fcos.box_coder import BoxCoder
from fcos_core.modeling.fcos.head import FCOSHead
from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor
from fcos_core.modeling.fcos.score import ScoreRule
from fcos_core.modeling.fcos.targets import DEFAULT_RANGES, AssignedTargets, TargetAssigner
from fcos_core.structures.bounding_box import BoxList


class FCOS(nn.Module):
    """Head, target assignment, loss and post-processing. `strides`, one a level, are those of the assigner."""

    def __init__(
        self, head: nn.Module, assigner: TargetAssigner, loss: FCOSLoss, postprocess: FCOSPostProcessor
    ) -> None:
        super().__init__()
        self.head, self.loss, self.postprocess = head, loss, postprocess
        self.assigner, self.strides = assigner, assigner.strides

    def forward(
        self,
        features: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        padded_size: tuple[int, int],
        targets: AssignedTargets | None = None,
    ) -> dict[str, Tensor] | list[BoxList]:
        """Return losses if `targets` are given, otherwise detections; see `FCOSLoss` and `FCOSPostProcessor`.

        `image_sizes` and `padded_size` are the (height, width) in pixels of each image, and of all with padding.
        """
        outputs = self.head(features)
        if targets is not None:
            return self.loss(*outputs, targets)
        return self.postprocess(self.locations(features, padded_size), *outputs, image_sizes)

    def locations(self, features: Sequence[Tensor], padded_size: tuple[int, int]) -> list[Tensor]:
        """Return the positions in pixels (L_l, 2) of the cells of every level."""
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        return self.assigner.locations(sizes, padded_size, features[0].dtype, features[0].device)


# What later FCOS was published with, beside its options: key, value, and the value that HRNet-FCOS has.
_LATER = (("SCORE", "sqrt", "product"), ("LOSS_NORMALIZER", "positives", "positives_and_images"))

logger = logging.getLogger(__name__)


def build_fcos(cfg: Config, in_channels: int) -> FCOS:
    """Build FCOS on levels of `in_channels`; raise InputError for settings that do not fit."""
    fcos = cfg.MODEL.FCOS
    _note_assumptions(cfg)
    require(in_channels % 32 == 0, "The neck's number of output channels", in_channels, "a multiple of 32")
    coder = BoxCoder(fcos.NORM_REG_TARGETS, continuous=fcos.PIXELS == "continuous")
    head = FCOSHead(
        in_channels,
        fcos.NUM_CLASSES - 1,
        fcos.FPN_STRIDES,
        fcos.NUM_CONVS,
        fcos.PRIOR_PROB,
        coder,
        quality_on_boxes=fcos.CENTERNESS_ON_REG,
        deformable=fcos.USE_DCN_IN_TOWER,
    )
    ranges = fcos.TARGET_ASSIGN or DEFAULT_RANGES[len(fcos.FPN_STRIDES)]
    assigner = TargetAssigner(
        fcos.FPN_STRIDES,
        [(lowest, highest) for lowest, highest in ranges],
        fcos.CENTER_SAMPLING_RADIUS,
        coder.continuous,
        corners=fcos.LOCATIONS == "corner",
    )
    loss = FCOSLoss(
        fcos.LOSS_GAMMA,
        fcos.LOSS_ALPHA,
        fcos.IOU_LOSS_TYPE,
        coder.normalized,
        fcos.BOX_QUALITY,
        fcos.LOSS_NORMALIZER,
    )
    postprocess = FCOSPostProcessor(
        fcos.INFERENCE_TH,
        fcos.PRE_NMS_TOP_N,
        fcos.NMS_TH,
        cfg.TEST.DETECTIONS_PER_IMG,
        coder,
        ScoreRule(fcos.SCORE == "sqrt", fcos.CANDIDATES == "score", fcos.RANK_BY == "class"),
        clip_after_nms=fcos.CLIP == "after_nms",
        drop_empty=fcos.DROP_EMPTY,
    )
    return FCOS(head, assigner, loss, postprocess)


def _note_assumptions(cfg: Config) -> None:
    """Say which conventions hold if a published YAML file of later FCOS, which has no keys for them, is built."""
    fcos, resnets = cfg.MODEL.FCOS, cfg.MODEL.RESNETS
    options = {
        "MODEL.FCOS.CENTER_SAMPLING_RADIUS": fcos.CENTER_SAMPLING_RADIUS > 0,
        "MODEL.FCOS.IOU_LOSS_TYPE": fcos.IOU_LOSS_TYPE != "iou",
        "MODEL.FCOS.NORM_REG_TARGETS": fcos.NORM_REG_TARGETS,
        "MODEL.FCOS.CENTERNESS_ON_REG": fcos.CENTERNESS_ON_REG,
        "MODEL.FCOS.USE_DCN_IN_TOWER": fcos.USE_DCN_IN_TOWER,
        "MODEL.RESNETS.STAGE_WITH_DCN": any(resnets.STAGE_WITH_DCN),
        "MODEL.BACKBONE.CONV_BODY": cfg.MODEL.BACKBONE.CONV_BODY.startswith("MNV2"),
    }
    used = [key for key, is_used in options.items() if is_used]
    chosen = any(fcos[key] != ours or cfg.was_merged(f"MODEL.FCOS.{key}") for key, _, ours in _LATER)
    if used and not chosen:
        ours = " and ".join(f"MODEL.FCOS.{key} '{value}'" for key, _, value in _LATER)
        theirs = " and ".join(f"'{value}'" for _, value, _ in _LATER)
        logger.warning(
            "The config has an option of later FCOS (%s) and does not set how scores and losses are computed: %s are "
            "assumed, as in HRNet-FCOS. Later FCOS was published with %s.",
            used[0],
            ours,
            theirs,
        )
