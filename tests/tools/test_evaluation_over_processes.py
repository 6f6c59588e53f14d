"""Testing command on one, two and four processes: tables and detections are equal to the last digit."""

import json
import re

from PIL import Image


def test_tables_do_not_depend_on_the_number_of_processes(trained, workspace, tmp_path):
    # The second image becomes a portrait, which shares its batch with no landscape.
    path = workspace.folder / "images" / "2.png"
    with Image.open(path) as image:
        image.rotate(90, expand=True).save(path)
    workspace.dataset["images"][1].update(width=64, height=72)
    workspace.write()
    # Five images make three batches: of four processes, two get two images, one gets one and one gets none.
    words = ("MODEL.WEIGHT", str(trained.out / "model_final.pth"), "MODEL.FCOS.INFERENCE_TH", "0.001")
    outcomes = []
    for count in (1, 2, 4):
        out = tmp_path / str(count)
        evaluator = "faster_coco_eval" if count == 2 else "pycocotools"
        more = ("TEST.EVALUATOR", evaluator, "OUTPUT_DIR", str(out))
        result = workspace.run_processes(count, "test_net.py", *words, *more)
        assert result.returncode == 0, result.stderr
        results = out / "inference" / "tiny"
        # The table ends where the next line of the log begins with its date.
        table = re.split(r"\n\d{4}-", (out / "log.txt").read_text().partition("COCO metrics")[2])[0]
        files = ("bbox.json", "coco_results.json", "thresholds.json", "report.html")
        outcomes.append((*((results / name).read_text() for name in files), table))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert len(json.loads(outcomes[0][0])) > 100 and "AP per class" in outcomes[0][4]
