"""Published `utils.model_serialization`: weights of other names into a model."""

import logging
from collections.abc import Mapping

from torch import Tensor, nn

from fcos_core.weights.checkpointer import unwrapped
from fcos_core.weights.state_dict_file import state_dict_of
from fcos_core.weights.weight_matching import load_matching_weights

logger = logging.getLogger(__name__)


def load_state_dict(model: nn.Module, loaded_state_dict: Mapping[str, Tensor]) -> None:
    """Copy the tensors that belong to `model` into it and log a table, see `load_matching_weights`."""
    source = "the given state"
    load_matching_weights(unwrapped(model), state_dict_of(loaded_state_dict, source), source, logger)
