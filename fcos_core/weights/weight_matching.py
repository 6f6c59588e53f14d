"""Match the tensors of a weights file with those of a model."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from fcos_core.errors import InputError
from fcos_core.utils.text import Block, printable

# Prefix of the body's keys in a detector.
BODY = "backbone.body."
_HEAD = "rpn."
# Keys of classifiers, which ImageNet files of HRNet and ResNet hold beside the body.
_CLASSIFIERS = ("incre_modules.", "downsamp_modules.", "final_layer.", "classifier.", "fc.")


@dataclass
class WeightMatching:
    """Result of matching the keys and shapes of a weights file with those of a model.

    Attributes:
        loaded: model key to the file key with the same shape.
        missing: model keys without a file key.
        unexpected: file keys without a model key.
        not_wanted: file keys of a classifier, which no detector has.
        mismatched: (model key, shape in the file, shape in the model) where the shapes differ.
        unusable: loaded model keys that got NaN, infinite numbers, or negative variances.
    """

    loaded: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    not_wanted: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, torch.Size, torch.Size]] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)

    @property
    def is_normal(self) -> bool:
        """True if no warning is due: every key has its counterpart, or the file holds exactly a backbone body."""
        only_body = all(key.startswith(BODY) for key in self.loaded)
        whole_body = not any(key.startswith(BODY) and not _is_offset(key) for key in self.missing)
        return not self.unexpected and not self.mismatched and (not self.missing or (only_body and whole_body))

    def table(self, source: str) -> Block:
        """Format the counts and the first names of each kind as lines for the log."""
        mismatched = [f"{key} {_shape(theirs)} -> {_shape(ours)}" for key, theirs, ours in self.mismatched]
        left = "(left at initialization)"
        rows = [
            ("loaded", len(self.loaded), ""),
            ("missing", len(self.missing), _examples(self.missing, left)),
            ("unexpected", len(self.unexpected), _examples(self.unexpected)),
            ("not wanted", len(self.not_wanted), _examples(self.not_wanted)),
            ("shape mismatch", len(mismatched), _examples(mismatched, left)),
        ]
        lines = [f"  {name:<14}  {count:>5}  {printable(names)}".rstrip() for name, count, names in rows]
        return Block("\n".join([f"Weights of {printable(source)} into the model:", *lines]))


def load_matching_weights(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str, logger: logging.Logger
) -> WeightMatching:
    """Copy the matching tensors of a file's `state` into `model` in place, in the model's dtypes, and log a table.

    Tensors of the head (keys under rpn.) whose shapes differ, as for another number of classes, keep their
    initialization. `source` names the file in errors and in the log. NaN, infinite numbers and negative variances are
    loaded with a warning. Raise InputError if the file is of another model, or its tensors are of a kind that cannot
    be weights; `model` is unchanged then.
    """
    check_kinds(state, source)
    targets = model.state_dict()
    matching = match_state_dicts(targets, state)
    check_same_model(matching, targets, state, source)
    # All are converted before the first is copied: an error must not leave a model that is changed in part.
    values = {key: _converted(state[ours], targets[key], ours, source) for key, ours in matching.loaded.items()}
    matching.unusable = unusable_tensors(values)
    with torch.no_grad():
        for key, value in values.items():
            targets[key].copy_(value)
    logger.log(logging.INFO if matching.is_normal else logging.WARNING, "%s", matching.table(source))
    if matching.unusable:
        logger.warning("%s", unusable_sentence(matching.unusable, f"'{source}'"))
    return matching


def check_kinds(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise InputError if a tensor of a file's `state` is nested, quantized, without data, sparse or complex."""
    for key, value in state.items():
        # Most attributes of a nested tensor, its shape among them, raise an error.
        kinds = {
            "nested": value.is_nested,
            "quantized": value.is_quantized,
            "on the device meta, without data": value.is_meta,
            "sparse": not value.is_nested and value.layout != torch.strided,
            "complex": value.is_complex(),
        }
        if kind := next((name for name, applies in kinds.items() if applies), ""):
            raise InputError(
                f"'{source}' cannot be loaded: its tensor '{key}' is {kind}. Save the weights as plain tensors of "
                "floating-point numbers."
            )


def unusable_tensors(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the keys of the tensors with NaN, infinite numbers, or negative variances of a BatchNorm."""
    return [
        key
        for key, value in state.items()
        if value.is_floating_point()
        and not (torch.isfinite(value).all() and (not key.endswith("running_var") or (value >= 0).all()))
    ]


def unusable_sentence(keys: list[str], source: str) -> str:
    """Say which tensors of `source`, a file in quotes or a detector, make every result wrong."""
    return (
        f"{source} has NaN, infinite numbers or negative variances in {len(keys)} tensors: {_examples(keys)}. Its "
        "training has failed or the file is damaged: name an earlier checkpoint."
    )


def _converted(value: torch.Tensor, target: torch.Tensor, key: str, source: str) -> torch.Tensor:
    """Return `value` in the dtype of the model's `target`; raise InputError if it is of another kind of number."""
    if target.is_floating_point() and not value.is_floating_point():
        raise InputError(
            f"'{source}' cannot be loaded: '{key}' is {value.dtype} in the file and {target.dtype} in the model. Save "
            "the weights as floating-point numbers."
        )
    try:
        return value.detach().to(target.dtype)
    # Some dtypes only store numbers that a library of their own packs.
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"'{source}' cannot be loaded: '{key}' is {value.dtype}, which PyTorch does not convert to {target.dtype}. "
            "Save the weights as float32."
        ) from error


def match_state_dicts(model: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> WeightMatching:
    """Match the keys and shapes of a model's state dict with those of a file's `state`.

    Not counted as missing: num_batches_tracked, which no computation uses, and running statistics if the file has
    none at all.
    """
    pairs = match_keys(model, state)
    matching = WeightMatching()
    has_statistics = any(_is_statistic(key) for key in state)
    for key, ours in model.items():
        if key in pairs and state[pairs[key]].shape == ours.shape:
            matching.loaded[key] = pairs[key]
        elif key in pairs:
            matching.mismatched.append((key, state[pairs[key]].shape, ours.shape))
        elif not _is_counter(key) and (has_statistics or not _is_statistic(key)):
            matching.missing.append(key)
    used = set(pairs.values())
    unused = [key for key in state if key not in used]
    matching.not_wanted = [key for key in unused if is_of_classifier(key)]
    matching.unexpected = [key for key in unused if not is_of_classifier(key) and not _is_counter(key)]
    return matching


def match_keys(model_keys: Iterable[str], file_keys: Iterable[str]) -> dict[str, str]:
    """Return the file key of each model key that has one.

    A file key matches a model key that equals it or ends in "." and it; the longest match wins. If one file key is
    the best match of several model keys, the shortest of them gets it: a stem's `conv1.weight` goes to no block. The
    convolution X.conv beside the offsets X.offset of a deformable layer also takes the plain convolution X of a file.
    """
    file_keys, model_keys = set(file_keys), list(model_keys)
    deformable = {key.removesuffix("offset.weight") for key in model_keys if key.endswith(".offset.weight")}
    model_key_of: dict[str, str] = {}
    for model_key in model_keys:
        layer, found, parameter = model_key.rpartition("conv.")
        plain = [layer + parameter] if found and layer in deformable else []
        suffixes = sorted((suffix for name in [model_key, *plain] for suffix in _suffixes(name)), key=len, reverse=True)
        file_key = next((suffix for suffix in suffixes if suffix in file_keys), None)
        if file_key is not None:
            model_key_of[file_key] = min(model_key_of.get(file_key, model_key), model_key, key=len)
    return {model_key: file_key for file_key, model_key in model_key_of.items()}


def check_same_model(
    matching: WeightMatching, model: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor], source: str
) -> None:
    """Raise InputError if a file has no key of the model, or another backbone."""
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
    lacking = [
        key for key in matching.missing if key.startswith(BODY) and not _is_statistic(key) and not _is_offset(key)
    ]
    # ImageNet files name the parts of the body without its prefix: layer3.22.conv1.weight.
    parts = {key.removeprefix(BODY).partition(".")[0] for key in model if key.startswith(BODY)}
    foreign = [key for key in matching.unexpected if key.startswith(BODY) or key.partition(".")[0] in parts]
    if lacking or foreign:
        raise InputError(
            f"'{source}' is of another model: its backbone lacks {len(lacking)} parameters of the model"
            f"{_for_example(lacking)} and has {len(foreign)} that the model lacks{_for_example(foreign)}; "
            f"{advice}."
        )


def is_of_classifier(key: str) -> bool:
    """Return True for a key of the layers that an ImageNet file has behind the body."""
    return key.startswith(_CLASSIFIERS)


def _suffixes(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.partition(".")[2]


def _is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var"))


def _is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def _is_offset(key: str) -> bool:
    """Return True for the layer of a deformable convolution that no ImageNet file has: its offsets begin untrained."""
    return ".offset." in key


def _shape(size: torch.Size) -> str:
    return "x".join(map(str, size)) or "scalar"


def _examples(names: list[str], note: str = "") -> str:
    listed = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{listed} {note}".strip() if names else ""


def _for_example(names: list[str]) -> str:
    return f" (e.g. {names[0]})" if names else ""
