"""Names of Caffe2 ResNet blobs (MSRA R-50 and R-101, FAIR X-101) as keys of the ResNet body."""

import re

_STEM = {"conv1_w": "stem.conv1.weight", "res_conv1_bn_s": "stem.bn1.weight", "res_conv1_bn_b": "stem.bn1.bias"}
_RESIDUAL = re.compile(r"res([2-5])_(\d+)_branch(1|2a|2b|2c)_(w|bn_s|bn_b)")
_CONV_AND_NORM = {
    "1": ("downsample.0", "downsample.1"),
    "2a": ("conv1", "bn1"),
    "2b": ("conv2", "bn2"),
    "2c": ("conv3", "bn3"),
}
# Solver state, the classifier, and biases of convolutions before a normalization, which Caffe2 never read.
_NOT_WANTED = re.compile(r".*_momentum|weight_order|fc1000.*|pred.*|conv1_b|res\d_\d+_branch\d[abc]?_b")


def key_of_blob(blob: str) -> str | None:
    """Return the key of a blob in a ResNet body; None for an unwanted blob, an unknown name unchanged.

    >>> key_of_blob("res4_5_branch2b_bn_s")
    'layer3.5.bn2.weight'
    """
    if _NOT_WANTED.fullmatch(blob):
        return None
    match = _RESIDUAL.fullmatch(blob)
    if match is None:
        return _STEM.get(blob, blob)
    stage, block, branch, kind = match.groups()
    conv, norm = _CONV_AND_NORM[branch]
    parameter = {"w": f"{conv}.weight", "bn_s": f"{norm}.weight", "bn_b": f"{norm}.bias"}[kind]
    return f"layer{int(stage) - 1}.{block}.{parameter}"
