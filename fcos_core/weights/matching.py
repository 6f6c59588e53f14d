"""Which tensor of a weights file goes where in a model."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from fcos_core.errors import InputError

_BACKBONE = "backbone."
_BODY = "backbone.body."
_HEAD = "rpn."
# Keys of classifiers, which ImageNet files hold beside the body; features.18 is MobileNetV2's.
_CLASSIFIERS = (
    "incre_modules.",
    "downsamp_modules.",
    "final_layer.",
    "classifier.",
    "features.18.",
    "fc.",
    "fc1000",
    "pred",
)


@dataclass
class Matching:
    """How the keys of a weights file meet those of a model."""

    # Model key to file key, of one shape.
    loaded: dict[str, str] = field(default_factory=dict)
    # Model keys that the file has nothing for.
    missing: list[str] = field(default_factory=list)
    # File keys that the model has no place for.
    unexpected: list[str] = field(default_factory=list)
    # File keys of a classifier, which no detector has a place for.
    not_wanted: list[str] = field(default_factory=list)
    # Model keys whose file shape differs: (key, shape in the file, shape in the model).
    mismatched: list[tuple[str, torch.Size, torch.Size]] = field(default_factory=list)

    @property
    def is_normal(self) -> bool:
        """Whether nothing calls for a warning: all is in place, or the file is of a body alone."""
        body_alone = all(key.startswith(_BODY) for key in self.loaded)
        neck_and_head = not any(key.startswith(_BODY) for key in self.missing)
        return not self.unexpected and not self.mismatched and (not self.missing or (body_alone and neck_and_head))

    def table(self, source: str) -> str:
        """The counts and the first names of each kind, as lines for the log."""
        mismatched = [f"{key} {_shape(theirs)} -> {_shape(ours)}" for key, theirs, ours in self.mismatched]
        left = "(left at initialization)"
        rows = [
            ("loaded", len(self.loaded), ""),
            ("missing", len(self.missing), _examples(self.missing, left)),
            ("unexpected", len(self.unexpected), _examples(self.unexpected)),
            ("not wanted", len(self.not_wanted), _examples(self.not_wanted)),
            ("shape mismatch", len(mismatched), _examples(mismatched, left)),
        ]
        lines = [f"  {name:<14}  {count:>5}  {names}".rstrip() for name, count, names in rows]
        return "\n".join([f"Weights of {source} into the model:", *lines])


def load_matching(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str, logger: logging.Logger
) -> Matching:
    """Copy what matches of `state` into `model` in place, in the model's dtypes, and log a table of it.

    A head (keys under rpn.) of other shapes, as for another number of classes, is left at initialization.

    Args:
        source: what the error and the log call the file.

    Raises:
        InputError: the file is of another model; the model is as it was.
    """
    targets = model.state_dict()
    matching = compare(targets, state)
    check_same_model(matching, targets, state, source)
    with torch.no_grad():
        for key, file_key in matching.loaded.items():
            targets[key].copy_(state[file_key])
    logger.log(logging.INFO if matching.is_normal else logging.WARNING, "%s", matching.table(source))
    return matching


def match_keys(model_keys: Iterable[str], file_keys: Iterable[str]) -> dict[str, str]:
    """Model key to the file key that serves it, for those that have one.

    A file key matches a model key that equals it or ends in "." and it; the longest match wins. Of several
    model keys with the same match the shortest has it, so that a stem's `conv1.weight` goes nowhere else.
    """
    file_keys = set(file_keys)
    taker: dict[str, str] = {}
    for model_key in model_keys:
        file_key = next((name for name in _names(model_key) if name in file_keys), None)
        if file_key is not None:
            taker[file_key] = min(taker.get(file_key, model_key), model_key, key=len)
    return {model_key: file_key for file_key, model_key in taker.items()}


def compare(model: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> Matching:
    """Match the keys and shapes of `state`, a file's, with those of `model`, a model's state dict.

    What a file may well lack is not counted as missing: offsets of deformable convolutions, running
    statistics where it has none, and num_batches_tracked, which counts nowhere.
    """
    pairs = match_keys(model, state)
    matching = Matching()
    has_statistics = any(_is_statistic(key) for key in state)
    for key, ours in model.items():
        if key in pairs and state[pairs[key]].shape == ours.shape:
            matching.loaded[key] = pairs[key]
        elif key in pairs:
            matching.mismatched.append((key, state[pairs[key]].shape, ours.shape))
        elif _is_due(key, has_statistics):
            matching.missing.append(key)
    used = set(pairs.values())
    for key in state:
        if key in used:
            continue
        if key.startswith(_CLASSIFIERS):
            matching.not_wanted.append(key)
        elif not key.endswith("num_batches_tracked"):
            matching.unexpected.append(key)
    return matching


def check_same_model(
    matching: Matching, model: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str
) -> None:
    """Refuse a file that nothing matches, or whose backbone is not the model's.

    Raises:
        InputError: a sentence with the counts and an example of what differs.
    """
    advice = "check MODEL.WEIGHT and MODEL.BACKBONE.CONV_BODY"
    if not matching.loaded and not matching.mismatched:
        raise InputError(
            f"'{source}' is of another model: none of its {len(state)} keys (e.g. {next(iter(state), 'none')}) "
            f"is among the model's {len(model)} (e.g. {next(iter(model), 'none')}); {advice}."
        )
    differing = [entry for entry in matching.mismatched if not entry[0].startswith(_HEAD)]
    if differing:
        key, theirs, ours = differing[0]
        raise InputError(
            f"'{source}' is of another model: '{key}' is {_shape(theirs)} in the file and {_shape(ours)} in the "
            f"model, and {len(differing) - 1} more differ; {advice}."
        )
    lacking = [key for key in matching.missing if key.startswith(_BODY) and not _is_statistic(key)]
    foreign = list(_foreign_body_keys(matching.unexpected, model))
    if lacking or foreign:
        raise InputError(
            f"'{source}' is of another model: of the backbone it lacks {len(lacking)} parameters"
            f"{_for_example(lacking)} and has {len(foreign)} that the model has not{_for_example(foreign)}; "
            f"{advice}."
        )


def _names(model_key: str) -> Iterator[str]:
    yield from _suffixes(model_key)
    # A file without deformable convolutions has the plain one's weight for the one inside.
    if ".conv2.conv." in model_key:
        yield from _suffixes(model_key.replace(".conv2.conv.", ".conv2."))


def _suffixes(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.partition(".")[2]


def _is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var"))


def _is_due(key: str, has_statistics: bool) -> bool:
    if key.endswith("num_batches_tracked") or ".offset." in key:
        return False
    return has_statistics or not _is_statistic(key)


def _foreign_body_keys(unexpected: Iterable[str], model: Mapping[str, torch.Tensor]) -> Iterator[str]:
    # ImageNet files name the parts of the body without its prefix: layer3.22.conv1.weight.
    parts = {key.removeprefix(_BODY).partition(".")[0] for key in model if key.startswith(_BODY)}
    for key in unexpected:
        if key.startswith(_BODY) or key.partition(".")[0] in parts:
            yield key


def _shape(size: torch.Size) -> str:
    return "x".join(map(str, size)) or "scalar"


def _examples(names: list[str], note: str = "") -> str:
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{listed} {note}".strip() if names else ""


def _for_example(names: list[str]) -> str:
    return f" (e.g. {names[0]})" if names else ""
