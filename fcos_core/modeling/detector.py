"""The detector: backbone and FCOS."""

from collections.abc import Sequence

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.errors import InputError
from fcos_core.modeling.backbone import build_backbone
from fcos_core.modeling.fcos.fcos import FCOS, build_fcos
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ImageList, to_image_list


class Detector(nn.Module):
    """Images to losses or detections.

    Args:
        backbone: (N, 3, H, W) to a list of levels, finest first.
        rpn: FCOS on those levels; named as in published checkpoints.
    """

    def __init__(self, backbone: nn.Module, rpn: FCOS) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn

    def forward(
        self,
        images: ImageList | Tensor | Sequence[Tensor],
        targets: Sequence[BoxList] | None = None,
        batch_targets: Sequence[BoxList] | None = None,
    ) -> dict[str, Tensor] | list[BoxList]:
        """Losses in training, detections in evaluation.

        Args:
            images: (N, 3, H, W), height and width multiples of 32, as the config's transforms give them; other
                forms as in `to_image_list`.
            targets: in training, per image boxes with field "labels", (M,) int64, 1-based, in pixels of `images`.
            batch_targets: in training on a part of a batch, the targets of all its parts, `targets` among them;
                all parts have the size of `images`. See `FCOSLoss`.

        Returns:
            In training `loss_cls`, `loss_reg` and `loss_centerness`, scalars. In evaluation per image a BoxList
            "xyxy" in pixels of `images` with fields "scores" and "labels", best first.

        Raises:
            ValueError: training without targets.
        """
        if self.training and targets is None:
            raise ValueError("In training mode the detector needs targets")
        images = to_image_list(images, size_divisible=32)
        features = self.backbone(images.tensors)
        if not self.training:
            return self.rpn(features, images.image_sizes)
        return self.rpn(features, images.image_sizes, targets, batch_targets)


def build_detection_model(cfg: Config) -> Detector:
    """The detector that `cfg` describes, on the CPU, in training mode, randomly initialized.

    Raises:
        InputError: settings that are unknown, do not fit each other, or are not built yet.
    """
    check_values(cfg)
    if cfg.MODEL.USE_SYNCBN:
        raise InputError("MODEL.USE_SYNCBN (later FCOS) is not built yet; HRNet models take MODEL.SYNCBN.")
    if cfg.MODEL.META_ARCHITECTURE != "GeneralizedRCNN" or cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
        raise InputError("Only FCOS is built: META_ARCHITECTURE GeneralizedRCNN without masks and keypoints.")
    if cfg.TEST.BBOX_AUG.ENABLED:
        raise InputError("Test-time augmentation (TEST.BBOX_AUG.ENABLED) is not built yet.")
    backbone = build_backbone(cfg)
    return Detector(backbone, build_fcos(cfg, backbone.out_channels))
