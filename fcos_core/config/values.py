"""Give values of YAML files, command lines and scripts the types of their keys."""

import ast
import re
import warnings
from typing import Any, NoReturn

from fcos_core.errors import InputError


class Plain(str):
    """Text that stands in a YAML file without quotes."""


# Kinds of elements where the current value does not say it.
_ELEMENTS: dict[str, type] = {
    "DATASETS.TRAIN": str,
    "DATASETS.TEST": str,
    "INPUT.PIXEL_MEAN": float,
    "INPUT.PIXEL_STD": float,
    "LOG.TRACKERS": str,
    "MODEL.BACKBONE.CHECKPOINT_STAGES": int,
    "TEST.BBOX_AUG.SCALES": int,
}
# Texts that may be left empty in a YAML file; an empty value of another text is a line that was not finished.
_MAY_BE_EMPTY = ("MODEL.WEIGHT", "TEST.BEST_METRIC")
_EMPTY = ("", "~", "null", "Null", "NULL", "None")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_LONGEST_NUMBER = 40
_LONGEST_SHOWN = 80
_NAMES = {"str": "string", "Plain": "string", "int": "integer", "bool": "boolean", "NoneType": "null"}


class _Misfit(Exception):
    """The value does not have the wanted type."""


def coerce(raw: Any, default: Any, key: str, where: str) -> Any:
    """Convert `raw` to the type of `default`; text means what the type makes of it, such as 1e5 for an integer.

    Args:
        raw: text of a command line; text, list or None of a YAML file; or a value of a script.
        default: the key's present value; None: any type fits.
        key, where: for the message.

    Raises:
        InputError: the value has another type.
    """
    if default is None:
        return _literal(raw) if type(raw) is str else resolve(raw)
    if raw is None or (isinstance(raw, Plain) and raw in _EMPTY):
        return _empty(default, key, where)
    kind = type(default)
    try:
        return _sequence(raw, kind, _element_kind(default, key)) if kind in (list, tuple) else _scalar(raw, kind)
    except _Misfit:
        if isinstance(raw, tuple):  # of a script; check_values has a rule for every list
            return kind(raw)
        _refuse(raw, default, key, where)


def resolve(raw: Any) -> Any:
    """Return what plain text of a YAML file means where no key says the type: a boolean, a number, None or text."""
    if isinstance(raw, list):
        return [resolve(item) for item in raw]
    if not isinstance(raw, Plain):
        return raw
    if raw in _EMPTY:
        return None
    if raw.lower() in ("true", "false"):
        return _BOOLEANS[raw.lower()]
    number = _number(raw)
    return str(raw) if number is None else number


def shown(value: Any) -> str:
    """Return `value` as Python writes it, cut where it is long."""
    text = repr(str(value) if isinstance(value, str) else value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _number(text: str) -> int | float | None:
    """Return the number that `text` is, or None.

    The notations of Python and of YAML are known: 1_000, 0x1F, 0o17, 1e5, .5, .inf. A leading zero, as in 010, is
    not: it is 8 for some programs and 10 for others.
    """
    if len(text) > _LONGEST_NUMBER or _has_leading_zero(text):
        return None
    try:
        return int(text, 0)
    except ValueError:
        pass
    try:
        return float(re.sub(r"^([-+]?)\.(?=inf|nan)", r"\1", text.lower()))
    except ValueError:
        return None


def _has_leading_zero(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?0[0-9_]*[1-9][0-9_]*", text))


def _literal(text: str) -> Any:
    """Evaluate a Python literal, such as "(800,)"; return other text as it is."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes in text
            return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return str(text)


def _scalar(raw: Any, kind: type) -> Any:
    value = raw
    if isinstance(raw, str) and kind is bool:
        value = _BOOLEANS.get(raw.lower())
    elif isinstance(raw, str) and kind in (int, float):
        value = _number(raw)
        value = _literal(raw) if value is None else value
    elif isinstance(raw, str):
        # Quotes may come twice, from a shell and from a habit.
        unquoted = _literal(raw) if raw[:1] in ("'", '"') else raw
        value = str(unquoted) if isinstance(unquoted, str) else str(raw)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and kind is str:
        return str(_checked(value, int) if isinstance(value, int) else value)
    if is_number and kind is float:
        return _checked(value, float)
    if is_number and kind is int and value == value // 1:
        return _checked(value, int)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Misfit
    return value


def _checked(value: int | float, kind: type) -> Any:
    try:
        value = kind(value)
    except (OverflowError, ValueError) as error:
        raise _Misfit from error
    if isinstance(value, int) and abs(value) >= 2**63:
        raise _Misfit
    return value


def _sequence(raw: Any, kind: type, element_kind: type | None) -> Any:
    value = _literal(raw) if isinstance(raw, str) else raw
    if not isinstance(value, (list, tuple)):
        raise _Misfit
    return kind(_element(item, element_kind) for item in value)


def _element(item: Any, kind: type | None) -> Any:
    if kind is not None:
        return _scalar(item, kind)
    if isinstance(item, (list, tuple)):
        return type(item)(_element(inner, kind) for inner in item)
    value = resolve(item)
    if not isinstance(value, (str, bool, int, float)):
        raise _Misfit
    return _checked(value, int) if type(value) is int else value


def _element_kind(default: list[Any] | tuple[Any, ...], key: str) -> type | None:
    kinds = {type(item) for item in default} & {str, bool, int, float}
    return _ELEMENTS.get(key) or (kinds.pop() if len(kinds) == 1 else None)


def _empty(default: Any, key: str, where: str) -> Any:
    if isinstance(default, (list, tuple)):
        return type(default)()
    if key in _MAY_BE_EMPTY:
        return ""
    raise InputError(
        f"{where}: {key!r} is empty (a ~ alone, too, means nothing in YAML): write {_article(default)}, such as "
        f"{shown(default)}, or leave the key out."
    )


def _refuse(raw: Any, default: Any, key: str, where: str) -> NoReturn:
    wanted, example = _article(default), default
    kind = _element_kind(default, key) if isinstance(default, (list, tuple)) else None
    if kind is not None:
        wanted += f" of {_NAMES.get(kind.__name__, kind.__name__)}s"
        example = default or type(default)(["NAME" if kind is str else kind(1)])
    raise InputError(f"{where}: {key!r} takes {wanted}, such as {shown(example)}; {_reason(raw, default)}.")


def _reason(raw: Any, default: Any) -> str:
    if isinstance(raw, str) and _has_leading_zero(raw):
        return f"{raw} is a number of base 8 for some programs and of base 10 for others: write it without the first 0"
    is_short = not isinstance(raw, str) or len(raw) <= _LONGEST_SHOWN
    value = resolve(raw) if is_short else str(raw)
    value = _literal(value) if is_short and isinstance(value, str) else value
    sequences = (list, tuple)
    if isinstance(value, type(default)) or (isinstance(value, sequences) and isinstance(default, sequences)):
        return f"not {shown(value)}"
    return f"{shown(value)} is {_article(value) if is_short else 'too long'}"


def _article(value: Any) -> str:
    """Return the name of the type of `value` with its article, such as "an integer"."""
    name = _NAMES.get(type(value).__name__, type(value).__name__)
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
