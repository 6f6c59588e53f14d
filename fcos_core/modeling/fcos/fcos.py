"""FCOS on the features of a backbone: head outputs to losses or detections."""

from collections.abc import Sequence

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.errors import InputError, require
from fcos_core.modeling.fcos.head import FCOSHead
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor
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
        self, features: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], targets: AssignedTargets | None = None
    ) -> dict[str, Tensor] | list[BoxList]:
        """Return losses if `targets` are given, otherwise detections; see `FCOSLoss` and `FCOSPostProcessor`."""
        outputs = self.head(features)
        if targets is not None:
            return self.loss(*outputs, targets)
        return self.postprocess(compute_locations(features, self.strides), *outputs, image_sizes)


def build_fcos(cfg: Config, in_channels: int) -> FCOS:
    """Build FCOS on levels of `in_channels`; raise InputError for settings that do not fit or are not built yet."""
    fcos = cfg.MODEL.FCOS
    later = {
        "CENTER_SAMPLING_RADIUS": fcos.CENTER_SAMPLING_RADIUS > 0,
        "IOU_LOSS_TYPE": fcos.IOU_LOSS_TYPE != "iou",
        "NORM_REG_TARGETS": fcos.NORM_REG_TARGETS,
        "CENTERNESS_ON_REG": fcos.CENTERNESS_ON_REG,
        "USE_DCN_IN_TOWER": fcos.USE_DCN_IN_TOWER,
    }
    asked = [f"MODEL.FCOS.{key} {fcos[key]}" for key, wanted in later.items() if wanted]
    if asked:
        raise InputError(f"Options of later FCOS are not built yet: {', '.join(asked)}.")
    require(in_channels % 32 == 0, "The neck's number of output channels", in_channels, "a multiple of 32")
    num_levels = len(fcos.FPN_STRIDES)
    ranges = fcos.TARGET_ASSIGN or DEFAULT_RANGES[num_levels]
    assigner = TargetAssigner(fcos.FPN_STRIDES, [(lowest, highest) for lowest, highest in ranges])
    head = FCOSHead(in_channels, fcos.NUM_CLASSES - 1, num_levels, fcos.NUM_CONVS, fcos.PRIOR_PROB)
    loss = FCOSLoss(fcos.LOSS_GAMMA, fcos.LOSS_ALPHA)
    postprocess = FCOSPostProcessor(fcos.INFERENCE_TH, fcos.PRE_NMS_TOP_N, fcos.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG)
    return FCOS(head, assigner, loss, postprocess)
