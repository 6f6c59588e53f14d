"""FCOS on the features of a backbone: head, then losses or detections."""

from collections.abc import Sequence

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.errors import InputError, require
from fcos_core.modeling.fcos.head import FCOSHead
from fcos_core.modeling.fcos.locations import compute_locations
from fcos_core.modeling.fcos.loss import FCOSLoss
from fcos_core.modeling.fcos.postprocess import FCOSPostProcessor
from fcos_core.modeling.fcos.targets import DEFAULT_RANGES
from fcos_core.structures.bounding_box import BoxList


class FCOS(nn.Module):
    """Head, loss and post-processing.

    Args:
        head: gives (class logits, box regression, centerness), lists over the levels.
        strides: pixels a cell of each level.
        loss: losses of head outputs against targets.
        postprocess: head outputs to detections.
    """

    def __init__(self, head: nn.Module, strides: Sequence[int], loss: FCOSLoss, postprocess: FCOSPostProcessor) -> None:
        super().__init__()
        self.head = head
        self.strides = tuple(strides)
        self.loss = loss
        self.postprocess = postprocess

    def forward(
        self,
        features: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        targets: Sequence[BoxList] | None = None,
        batch_targets: Sequence[BoxList] | None = None,
    ) -> dict[str, Tensor] | list[BoxList]:
        """Losses when `targets` are given, otherwise detections; see `FCOSLoss` and `FCOSPostProcessor`."""
        outputs = self.head(features)
        locations = compute_locations(features, self.strides)
        if targets is not None:
            return self.loss(locations, *outputs, targets, batch_targets)
        return self.postprocess(locations, *outputs, image_sizes)


def build_fcos(cfg: Config, in_channels: int) -> FCOS:
    """FCOS as MODEL.FCOS says, on levels of `in_channels` channels.

    Raises:
        InputError: settings that do not fit each other or are not built yet.
    """
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
    head = FCOSHead(in_channels, fcos.NUM_CLASSES - 1, num_levels, fcos.NUM_CONVS, fcos.PRIOR_PROB)
    loss = FCOSLoss([tuple(limits) for limits in ranges], fcos.LOSS_GAMMA, fcos.LOSS_ALPHA)
    postprocess = FCOSPostProcessor(fcos.INFERENCE_TH, fcos.PRE_NMS_TOP_N, fcos.NMS_TH, cfg.TEST.DETECTIONS_PER_IMG)
    return FCOS(head, fcos.FPN_STRIDES, loss, postprocess)
