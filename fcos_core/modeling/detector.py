"""The detector, a backbone with FCOS on its levels."""

from collections.abc import Sequence

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.config.checks import check_values
from fcos_core.modeling.backbone import build_backbone
from fcos_core.modeling.fcos.fcos import FCOS, build_fcos
from fcos_core.modeling.fcos.targets import AssignedTargets
from fcos_core.structures.bounding_box import BoxList
from fcos_core.structures.image_list import ByteImages, ImageList, to_image_list


class Detector(nn.Module):
    """Backbone and FCOS: images to losses in training, to detections in evaluation.

    The backbone maps (N, 3, H, W) to a list of levels, finest first. Its method level_sizes(height, width) gives the
    (height, width) of each level for images of that padded size; without the method, the detector takes
    ceil(size / stride). Published checkpoints call FCOS `rpn`.

    Attributes:
        category_names: name of each label, from label 1 on, of the file that gave the weights of the class layer; () if
            the file has no names; None if the class layer is new.
    """

    category_names: tuple[str, ...] | None = None

    def __init__(self, backbone: nn.Module, rpn: FCOS) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn

    def forward(
        self,
        images: ImageList | ByteImages | Tensor | Sequence[Tensor],
        targets: Sequence[BoxList] | AssignedTargets | None = None,
    ) -> dict[str, Tensor] | list[BoxList]:
        """Return losses in training mode, detections in evaluation mode.

        Args:
            images: (N, 3, H, W), height and width multiples of 32, normalized; other forms as in `to_image_list`.
            targets: in training, boxes of each image with field "labels", (M,) int64, 1-based, in pixels of `images`;
                or for a part of a batch, its part of the targets that `assign_targets` gave for the whole batch.

        Returns:
            In training `loss_cls`, `loss_reg` and `loss_centerness`, scalars. In evaluation a BoxList per image,
            "xyxy" in pixels of `images` with fields "scores" and "labels", best first.

        Raises:
            ValueError: in training, targets are missing.
            InputError: the backbone gives levels of other sizes than it says.
        """
        if self.training and targets is None:
            raise ValueError("In training mode the detector needs targets")
        images = to_image_list(images, size_divisible=32)
        if not self.training:
            targets = None
        elif not isinstance(targets, AssignedTargets):
            targets = self.assign_targets(images.padded_size, targets)
        return self.rpn(self.backbone(images.tensors), images.image_sizes, images.padded_size, targets)

    def assign_targets(self, padded_size: tuple[int, int], targets: Sequence[BoxList]) -> AssignedTargets:
        """Assign the boxes of a process's whole share of a batch, see `forward` and `TargetAssigner`.

        `padded_size` is the (height, width) of the padded images in pixels.
        """
        if hasattr(self.backbone, "level_sizes"):
            level_sizes = self.backbone.level_sizes(*padded_size)
        else:
            level_sizes = [tuple(-(-side // stride) for side in padded_size) for stride in self.rpn.strides]
        parameter = next(self.parameters())
        return self.rpn.assigner(level_sizes, padded_size, targets, parameter.dtype, parameter.device)


def build_detection_model(cfg: Config) -> Detector:
    """Build the detector of `cfg` on the CPU, in training mode, randomly initialized.

    Raise InputError if a setting is unknown or does not fit another one.
    """
    check_values(cfg)
    backbone = build_backbone(cfg)
    return Detector(backbone, build_fcos(cfg, backbone.out_channels))
