"""Know a detector whose weights are random or not finite, so that nobody tests it without a word."""

from torch import nn

from fcos_core.errors import InputError
from fcos_core.weights.weight_matching import WeightMatching, unusable_sentence, unusable_tensors

_MARK = "_untrained_parameters"


def mark_untrained(model: nn.Module, matching: WeightMatching | None) -> None:
    """Note which parameters no file has given: those that `matching` has not loaded; None: all of them."""
    loaded = matching.loaded if matching else {}
    # Training and load_state_dict write in place, which changes a parameter's version.
    setattr(model, _MARK, {k: p._version for k, p in model.named_parameters() if k not in loaded})


def check_trained(model: nn.Module) -> None:
    """Check a detector that is to be tested.

    Raises:
        InputError: parameters that `mark_untrained` noted are all as they were then, at random; or the detector has
            NaN, infinite numbers or negative variances.
    """
    marked = getattr(model, _MARK, {})
    now = {key: parameter._version for key, parameter in model.named_parameters()}
    if marked and all(now.get(key) == version for key, version in marked.items()):
        raise InputError(
            f"Testing needs weights: {len(marked)} parameters of the detector, such as {next(iter(marked))}, are "
            "random. Name the file of a trained detector in MODEL.WEIGHT, or the folder of its training in OUTPUT_DIR."
        )
    if unusable := unusable_tensors(model.state_dict()):
        raise InputError(unusable_sentence(unusable, "The detector to test"))
