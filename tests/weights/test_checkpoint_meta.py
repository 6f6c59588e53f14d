"""What a file says about the run that wrote it, and files of other programs."""

import pytest
import torch

from fcos_core.weights.checkpoint_meta import CheckpointMeta, read_meta


@pytest.mark.parametrize(
    ("others", "names"),
    [
        ({"categories": ["eel", "cod"]}, ["eel", "cod"]),
        ({"meta": {"CLASSES": ("eel", "cod"), "epoch": 12}}, ["eel", "cod"]),
        ({"meta": {"dataset_meta": {"classes": ["eel", "cod"]}}}, ["eel", "cod"]),
        ({"meta": {"CLASSES": ("person", *["traffic_light"] * 79)}}, None),
        ({"meta": {"CLASSES": None, "dataset_meta": 3}}, None),
        ({"meta": {"CLASSES": ("eel", 3)}}, None),
        ({"meta": "text", "categories": []}, None),
    ],
)
def test_class_names_of_this_project_and_of_mmdetection(others, names, tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(1)}, **others}, tmp_path / "file.pth")
    assert read_meta(str(tmp_path / "file.pth")) == CheckpointMeta(categories=names)
