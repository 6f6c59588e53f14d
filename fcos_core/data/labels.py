"""Number the classes of annotation files, and compare the classes of two owners by name."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from fcos_core.data.coco_json import COCOTable
from fcos_core.errors import InputError

# Names that a message lists before it counts the rest.
_LISTED = 8
# The end of a name that `own_names` has made.
_NUMBERED = re.compile(r" \(id -?\d+\)$")


def own_names(table: COCOTable, order: str) -> dict[int, str]:
    """Return category id to name in the order of the labels that the file alone gives; names are unique.

    Categories of one name stay apart: their names get their ids. `order` is DATASETS.LABEL_ORDER.
    """
    ids = table.category_ids if order == "id" else table.category_order
    raw = dict(zip(table.category_ids, table.category_names, strict=True))
    counts = Counter(raw.values())
    names = {i: raw[i] if counts[raw[i]] == 1 else f"{raw[i]} (id {i})" for i in ids}
    if len(set(names.values())) < len(names):  # a name that reads like the id of another
        names = {i: f"{raw[i]} (id {i})" for i in ids}
    return names


def order_note(table: COCOTable, order: str) -> str:
    """Return a sentence for weights without class names if published code numbers this file otherwise, or ""."""
    if order == "file" or table.category_order == table.category_ids:
        return ""
    return (
        f"The weights have no class names, so labels follow the category ids of '{table.ann_file}'. The file lists its "
        "categories in another order, by which published code numbers labels: for weights of published code set "
        "DATASETS.LABEL_ORDER 'file'."
    )


def fewer_note(ann_file: str, listed: int, classes: int) -> str:
    """Return a sentence for weights without class names that have more classes than `ann_file` lists."""
    return (
        f"The weights have {classes} classes without names, but '{ann_file}' lists {listed}: these get labels 1 to "
        f"{listed}. That is right only if the weights were trained with these categories."
    )


def class_difference(listed: Sequence[str], wanted: Sequence[str], may_lack: bool) -> str:
    """Say in which classes a dataset that lists `listed` differs from `wanted`, in any order, or return "".

    With `may_lack` (DATASETS.FEWER_CATEGORIES) the dataset may list fewer.
    """
    unknown, lacking = _without(listed, wanted), _without(wanted, listed)
    if not unknown and (not lacking or may_lack):
        return ""
    parts = [f"lists {_quoted(unknown)} in addition"] * bool(unknown) + [f"lacks {_quoted(lacking)}"] * bool(lacking)
    alike = [(a, b) for a in unknown for b in lacking if plain_name(a) == plain_name(b)]
    hint = ""
    if alike:
        hint = (
            f" ({alike[0][0]!r} and {alike[0][1]!r} differ in case, spaces, hyphens or the encoding of accents alone)"
        )
    elif any(map(_NUMBERED.search, (*unknown, *lacking))):
        hint = " (several categories of one file have the same name and are told apart by their ids: give each its own)"
    return f"it {' and '.join(parts)}{hint}"


def check_classes(ann_file: str, listed: Sequence[str], wanted: Sequence[str], owner: str, may_lack: bool) -> None:
    """Raise InputError if the classes `listed` by `ann_file` are not the classes `wanted` by `owner`."""
    difference = class_difference(listed, wanted, may_lack)
    if not difference:
        return
    fewer = not _without(listed, wanted)
    advice = "; or, if it lists fewer on purpose, set DATASETS.FEWER_CATEGORIES True" if fewer else ""
    raise InputError(
        f"The categories of '{ann_file}' are not the classes of {owner}: {difference}. Give the same names, in any "
        f"order and with any ids{advice}."
    )


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return list((Counter(names) - Counter(others)).elements())


def _quoted(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more


def plain_name(name: str) -> str:
    """Return a class name without what people write in different ways: case, spaces, hyphens, kinds of accents."""
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold().strip()))


def alike_names(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names, two or more, that have the same `plain_name`."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[plain_name(name)].append(name)
    return [group for group in alike.values() if len(group) > 1]
