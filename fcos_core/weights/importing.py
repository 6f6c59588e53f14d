"""Take weights as their framework has published them: this project's names, and a check of the config."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fcos_core.config import Config
from fcos_core.errors import InputError
from fcos_core.weights.checkpoint_meta import CheckpointMeta
from fcos_core.weights.conventions import CONVENTIONS, IMAGENET_RESNET, check_conventions, check_own_conventions
from fcos_core.weights.frameworks import Imported, import_state
from fcos_core.weights.weight_matching import check_kinds
from fcos_core.weights.zoo import published_conventions


def import_weights(
    model: nn.Module, state: Mapping[str, Tensor], source: str, meta: CheckpointMeta, cfg: Any, logger: logging.Logger
) -> Mapping[str, Tensor]:
    """Return a file's `state` under this project's names; log what was renamed, and warn of unfit conventions.

    Args:
        model: the detector that the weights are for. Only this project's ResNets need the changes to an ImageNet file.
        state: key to tensor, as the file has them.
        source: the file, URL or name that it was read from.
        meta: the file's description of its run; a run's own file is compared with its own config.
        cfg: the config that `model` was built from; anything but a `Config` is not compared.
        logger: gets a line and perhaps a warning.

    Raises:
        InputError: the file is not what its keys say, or an ImageNet ResNet would compute wrong features.
    """
    imported = recognize(state, source)
    name = conventions_of(source, meta, imported)
    if name == IMAGENET_RESNET and "backbone.body.stem.conv1.weight" not in model.state_dict():
        imported, name = None, ""
    if imported:
        logger.info(
            "'%s' is %s: its %d tensors get this project's names.", source, imported.framework, len(imported.state)
        )
    if name and isinstance(cfg, Config):
        check_conventions(cfg, name, source, logger)
    elif meta.config and isinstance(cfg, Config):
        check_own_conventions(cfg, meta.config, source, logger)
    return imported.state if imported else state


def recognize(state: Mapping[str, Tensor], source: str) -> Imported | None:
    """Import a file's `state`; None if it is not of another framework. Raise InputError if it is not what it seems."""
    check_kinds(state, source)
    try:
        return import_state(state)
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise InputError(
            f"'{source}' has keys of another framework's FCOS, but not its tensors ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); download it again, or convert the detector that it belongs to."
        ) from error


def conventions_of(source: str, meta: CheckpointMeta, imported: Imported | None) -> str:
    """Return the name of the conventions that a file was trained under; "" if it is a run's own or not known."""
    if imported:
        name = imported.conventions
    else:
        name = meta.conventions or ("" if meta.config else published_conventions(source))
    return name if name in CONVENTIONS else ""
