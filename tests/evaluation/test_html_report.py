"""The report of a test: the numbers are those of the metrics, and the file opens anywhere without a network."""

import json
import logging
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_core.data.coco import COCODataset
from fcos_core.data.own_dataset import OwnDataset
from fcos_core.evaluation import evaluate
from fcos_core.structures.bounding_box import BoxList

# Labels 1 to 5; the last has no box.
NAMES = ["</style><script>alert(1)</script>", "\"a\" & 'b'", "حيوان \u202eabc", "long " * 60, "<img src=http://x.y/z>"]
FILES = ["<script src='http://x.y/z.js'>.png", "b.png", "c\u202e.png", "damaged.png"]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def boxes_of(rows):
    """Return a BoxList of rows (x, y, width, height, label, score)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    boxes = BoxList(table[:, :4], (160, 120), "xywh").convert("xyxy")
    boxes.add_field("labels", table[:, 4].long())
    boxes.add_field("scores", table[:, 5])
    return boxes


@pytest.fixture(scope="module")
def tested(tmp_path_factory):
    """Evaluate detections with every kind of error, on images whose names are hostile; return folder and metrics."""
    folder = tmp_path_factory.mktemp("report")
    images, annotations = [], []
    for number, name in enumerate(FILES, 1):
        rng = np.random.default_rng(number)
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)).save(path)
        images.append({"id": number, "file_name": name, "width": 160, "height": 120})
        for label in (1, 2, 3, 4):
            box = [35 * label - 30, 10 * number, 30, 40]
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": box})
        crowd = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [0, 90, 160, 30]}
        annotations.append({**crowd, "iscrowd": 1})
    annotations = [{"iscrowd": 0, "area": 1200.0, **annotation} for annotation in annotations]
    categories = [{"id": label, "name": name} for label, name in enumerate(NAMES, 1)]
    tree = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "a.json").write_text(json.dumps(tree))
    dataset = COCODataset(str(folder / "images"), str(folder / "a.json"))
    (folder / "images" / "damaged.png").write_bytes(b"no image")
    predictions = {}
    for index in range(4):
        y = 10 * (index + 1)
        right = [(5, y, 30, 40, 1, 0.9), (40, y, 30, 40, 2, 0.6 + 0.1 * index), (75, y + 4, 30, 40, 3, 0.8)]
        wrong = [(40, y, 30, 40, 5, 0.7), (5, y + 1, 30, 40, 1, 0.4), (90, y, 30, 40, 3, 0.85), (150, 0, 9, 9, 2, 0.65)]
        others = [(115, y, 30, 20, 2, 0.3), (2, 95, 20, 20, 1, 0.95)]
        predictions[index] = boxes_of([*right, *wrong, *others])
    results = evaluate(dataset, predictions, folder / "out", report=True)
    return folder / "out", results


class Parts(HTMLParser):
    """Tags with their attributes, and rows of tables as texts of their cells."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.rows, self.in_cell = [], [], False
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self.in_cell:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def parts(tested):
    return Parts((tested[0] / "report.html").read_text(encoding="utf-8"))


def test_the_tables_have_the_numbers_of_the_metrics(tested, parts):
    rows = {row[0].strip(): row for row in parts.rows}
    for name, value in tested[1]["bbox"].items():
        assert rows[name][1] == ("-" if value == -1 else f"{value:.3f}")
    first, second, third, _, last = (
        next(row for row in parts.rows if len(row) == 9 and row[0] == name) for name in shown
    )
    per_class = list(tested[1]["AP per class"].values())
    assert [float(row[2]) for row in (first, second, third)] == pytest.approx(per_class[:3], abs=6e-4)
    # Class 1: four right detections of 0.9, found boxes of 4, duplicates of 0.4; those on the crowd do not count.
    assert first[1:2] + first[4:8] == ["4", "0.900", "1.000", "1.000", "1.000"]
    # Class 2: right from 0.6 to 0.9, wrong four times 0.65 and four times 0.3. F is 2R / (kept + 4): the highest of
    # 2/5, 4/6, 6/7 at 0.7, 6/11 and 8/12 is 6/7.
    assert second[1:2] + second[4:8] == ["4", "0.700", "1.000", "0.750", "0.857"]
    assert last[1:8] == ["0", "-", "-", "-", "-", "-", "-"]


# As names are shown: what could turn the text around is escaped.
shown = [*NAMES[:2], "حيوان \\u202eabc", NAMES[3][:40] + "…" + NAMES[3][-20:], NAMES[4]]


def test_the_thresholds_are_beside_the_report(tested):
    thresholds = json.loads((tested[0] / "thresholds.json").read_text())
    # No detection finds a box of the fourth class, and the fifth has none.
    assert list(thresholds) == NAMES[:3]
    assert thresholds[NAMES[0]] == pytest.approx(0.9) and thresholds[NAMES[1]] == pytest.approx(0.7)


def test_errors_are_counted_by_kind(parts):
    rows = {row[0]: row[1] for row in parts.rows}
    # In each of four images: a box of class 2 detected as class 5; a detection at IoU 1/3 with its box of class 3; a
    # duplicate; one in the corner; and one of class 2 at IoU 0.38 with the box of class 4, which is missed.
    expected = {"class": "4", "location": "4", "both": "4", "duplicate": "4", "background": "4", "missed": "4"}
    assert {kind: rows[kind] for kind in expected} == expected


def test_the_file_is_whole_and_no_name_is_markup(tested, parts):
    tags = {tag for tag, _ in parts.tags}
    assert not tags & {"script", "img", "iframe", "object", "base"}
    links = [value for _, attributes in parts.tags for key, value in attributes.items() if key in ("href", "src")]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    policy = next(
        attributes["content"] for tag, attributes in parts.tags if tag == "meta" and "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none'")
    content = (tested[0] / "report.html").read_text(encoding="utf-8")
    assert "\u202e" not in content and content.count("damaged.png&#x27; ") >= 1


# The images are loaded again as elements that say how wide they are, and that the event "load" waits for.
PROBE = """<script>
const copies = [...document.querySelectorAll("svg image")].map(image => {
  const copy = new Image();
  copy.style.display = "none";
  copy.src = image.href.baseVal;
  return document.body.appendChild(copy);
});
addEventListener("load", () => {
  const entries = performance.getEntriesByType("resource").map(entry => entry.name);
  const loaded = entries.filter(name => !name.startsWith("data:"));
  const wide = document.documentElement.scrollWidth > innerWidth;
  document.title = JSON.stringify({widths: copies.map(copy => copy.naturalWidth), loaded, wide});
});
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")
def test_a_browser_shows_it_without_an_error_and_without_a_network(tested, tmp_path):
    content = (tested[0] / "report.html").read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    # Without the policy, which would keep the page from loading anything, and the script from running.
    probed.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", content) + PROBE, encoding="utf-8")
    for page in (tested[0] / "report.html", probed):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=400,800"]
        command = [CHROMIUM, *options, "--dump-dom", page.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in result.stderr, result.stderr
    outcome = json.loads(re.search(r"<title>(\{.*?\})</title>", result.stdout)[1])
    assert len(outcome["widths"]) > 8 and min(outcome["widths"]) > 0
    assert outcome["loaded"] == []
    # A phone shows the page without scrolling sideways.
    assert not outcome["wide"]


def test_many_classes_leave_the_matrix_readable(tmp_path):
    images = [{"id": 1, "file_name": "a.png", "width": 160, "height": 120}]
    Image.new("RGB", (160, 120)).save(tmp_path / "a.png")
    categories = [{"id": label, "name": f"class {label}"} for label in range(1, 121)]
    box = {"id": 1, "image_id": 1, "category_id": 110, "bbox": [0, 0, 30, 30], "area": 900, "iscrowd": 0}
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [box], "categories": categories}))
    dataset = COCODataset(str(tmp_path), str(tmp_path / "a.json"))
    evaluate(dataset, {0: boxes_of([(0, 0, 30, 30, 119, 0.9)])}, tmp_path / "out", report=True)
    content = (tmp_path / "out" / "report.html").read_text()
    assert "Only the 100 classes with the most errors of 120 are shown." in content
    rows = [row for row in Parts(content).rows if len(row) == 102]
    assert [row[0] for row in rows[-3:]] == ["class 110", "class 119", "background"]
    assert ["class 110", "class 119", "1"] in Parts(content).rows


class Own:
    """A user's own dataset, whose images have no files."""

    CLASSES = ("background", "pear")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Image.new("RGB", (160, 120)), self.get_groundtruth(index), index

    def get_img_info(self, index):
        return {"height": 120, "width": 160}

    def get_groundtruth(self, index):
        return boxes_of([(10, 10, 50, 50, 1, 1)])


def test_an_own_dataset_gets_a_report(tmp_path):
    evaluate(OwnDataset(Own()), {0: boxes_of([(10, 10, 50, 50, 1, 0.5)])}, tmp_path, report=True)
    assert "image 1" in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"pear": 0.5}


def test_without_detections_or_annotations(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    evaluate(OwnDataset(Own()), {}, tmp_path, report=True)
    assert "No detection finds a box of pear: thresholds.json has no threshold for it." in caplog.text
    assert (tmp_path / "report.html").is_file() and json.loads((tmp_path / "thresholds.json").read_text()) == {}
    image = {"id": 1, "file_name": "a.png", "width": 160, "height": 120}
    (tmp_path / "a.json").write_text(json.dumps({"images": [image]}))
    evaluate(COCODataset(str(tmp_path), str(tmp_path / "a.json"), check_files=False), {}, tmp_path / "out", report=True)
    assert not (tmp_path / "out" / "report.html").exists() and "The dataset has no annotations" in caplog.text
