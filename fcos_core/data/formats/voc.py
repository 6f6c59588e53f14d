"""Read Pascal VOC: an XML file for each image, in Annotations/ or beside the images, and lists in ImageSets/Main."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from fcos_core.data.formats.source import (
    AnnotatedImage,
    Box,
    ImageFiles,
    Problem,
    Unusable,
    last_part,
    number,
    read_text,
    split_in,
)
from fcos_core.utils.files import files_below

_LISTS = ("train", "val", "test", "trainval")


def read_voc(folder: Path, images: ImageFiles, first_pixel: int, problems: list[Problem]) -> list[AnnotatedImage]:
    """Read every XML file below `folder`.

    The image of an XML file is the one of the same name, or else the one that its <filename> gives. Objects marked
    <difficult> are ignored, as VOC's own evaluation does. The lists train, val and test (else trainval) of
    ImageSets/Main give the split, or else folders of these names.

    Args:
        folder: the dataset.
        images: where the images are.
        first_pixel: number of the first pixel: 1, as in VOC, where xmax is the last pixel of the box; with 0, numbers
            are edges, and xmax is one more.
        problems: gets the faults; an XML file that cannot be understood is left out.
    """
    files = [path for path in files_below(folder) if path.suffix.lower() == ".xml"]
    lists = _read_lists(folder, problems)
    listed = {name: split for split in reversed(list(lists)) for name in lists[split]}
    found: list[AnnotatedImage] = []
    for file in files:
        try:
            image = _read_file(file, images, first_pixel, problems)
        except Unusable as error:
            problems.append(error.problem(file))
            continue
        image.split = listed.get(file.stem, "") if lists else split_in(file.relative_to(folder).parent.parts)
        found.append(image)
    _report_unlisted({file.stem for file in files}, listed, folder, problems)
    annotated = {image.path for image in found} | {path for file in files for path in _beside(images, file)}
    problems += [
        Problem(f"{path}", "no XML file is about it", "image") for path in images.paths if path not in annotated
    ]
    return found


def _beside(images: ImageFiles, file: Path) -> list[Path]:
    try:
        path = images.find_beside(file, "")
    except Unusable:
        return []
    return [path] if path else []


def _read_lists(folder: Path, problems: list[Problem]) -> dict[str, list[str]]:
    """Return the names in the lists of ImageSets by split; an image of two lists stays in the first."""
    lists: dict[str, list[str]] = {}
    for path in files_below(folder):
        if "ImageSets" in path.parts and "Main" in path.parts and path.stem in _LISTS and path.suffix == ".txt":
            try:
                names = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
            except Unusable as error:
                problems.append(Problem(f"{path}", str(error)))
                continue
            lists.setdefault(path.stem, []).extend(names)
    if "train" in lists or "val" in lists:
        lists.pop("trainval", None)
    elif "trainval" in lists:
        lists["train"] = lists.pop("trainval")
    counts = Counter(name for names in lists.values() for name in set(names))
    for name in (name for name, count in counts.items() if count > 1):
        problems.append(Problem(f"{folder}/ImageSets", f"{name!r} is in several lists; the first by name counts"))
    return lists


def _report_unlisted(stems: set[str], listed: dict[str, str], folder: Path, problems: list[Problem]) -> None:
    problems += [
        Problem(f"{folder}/ImageSets", f"the list {listed[name]!r} names {name!r}, which has no XML file", "image")
        for name in listed
        if name not in stems
    ]


@dataclass
class _Node:
    """An XML element, its text and the line that it begins on."""

    name: str
    line: int
    text: str = ""
    children: "list[_Node]" = field(default_factory=list)

    def all(self, name: str) -> "list[_Node]":
        return [child for child in self.children if child.name == name]

    def value(self, name: str) -> str | None:
        found = self.all(name)
        return found[0].text.strip() if found else None


def _parse(path: Path) -> _Node:
    """Parse an XML file; ElementTree would not tell the lines of its elements."""
    parser = expat.ParserCreate()
    top = _Node("", 0)
    open_nodes = [top]

    def start(name: str, _: dict[str, str]) -> None:
        node = _Node(name, parser.CurrentLineNumber)
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def add(text: str) -> None:
        open_nodes[-1].text += text

    def refuse(name: str, *_: object) -> None:
        # Entities can stand for files of this machine, or for texts that fill its memory.
        raise Unusable(f"it defines the entity {name!r}, which annotations have no use for", parser.CurrentLineNumber)

    parser.StartElementHandler, parser.CharacterDataHandler, parser.EntityDeclHandler = start, add, refuse
    parser.EndElementHandler = lambda _: open_nodes.pop()
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise Unusable(f"the XML is broken: {expat.ErrorString(error.code)}", error.lineno) from error
    except OSError as error:
        raise Unusable(f"it cannot be read ({error.strerror})") from error
    if top.children[0].name != "annotation":
        raise Unusable(f"it is no VOC annotation: it holds <{top.children[0].name}>, not <annotation>", 1)
    return top.children[0]


def _read_file(file: Path, images: ImageFiles, first_pixel: int, problems: list[Problem]) -> AnnotatedImage:
    root = _parse(file)
    name = root.value("filename") or ""
    path = images.find_beside(file, name)
    if path is None:
        raise Unusable(f"its image is missing: neither {file.stem}.* nor the <filename> {name!r} is in {images.folder}")
    other = last_part(name)
    if other and other not in (path.name.lower(), path.stem.lower()) and _other(images, other, path):
        problems.append(
            Problem(f"{file}", f"<filename> is {name!r}, another image of the dataset; {path.name!r} is taken")
        )
    boxes = [_box(node, first_pixel) for node in root.all("object")]
    return AnnotatedImage(path, file, boxes, size=_size(root))


def _other(images: ImageFiles, name: str, path: Path) -> bool:
    try:
        return images.find(name) not in (None, path)
    except Unusable:
        return True


def _size(root: _Node) -> tuple[int, int] | None:
    """Return <size>; some tools write 0 for what they do not know."""
    for node in root.all("size")[:1]:
        width, height = (number(node.value(name), f"<{name}>", node.line) for name in ("width", "height"))
        return (int(width), int(height)) if width > 0 and height > 0 else None
    return None


def _box(node: _Node, first_pixel: int) -> Box:
    name = node.value("name")
    if not name:
        raise Unusable("an <object> has no <name>", node.line)
    if not node.all("bndbox"):
        raise Unusable(f"the <object> {name!r} has no <bndbox>", node.line)
    bounds = node.all("bndbox")[0]
    corners = ("xmin", "ymin", "xmax", "ymax")
    x1, y1, x2, y2 = (number(bounds.value(corner), f"<{corner}> of {name!r}", bounds.line) for corner in corners)
    # Pixels from 1 to xmax end at the edge xmax; the pixel before the first ends where it begins.
    edges = (x1 - first_pixel, y1 - first_pixel, x2, y2)
    return Box(name, edges, node.line, is_ignored=node.value("difficult") in ("1", "true", "True"))
