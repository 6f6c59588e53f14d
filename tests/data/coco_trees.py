"""Make the contents of annotation files."""

from typing import Any


def annotation(number: int, image_id: int, bbox: Any, category_id: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox, **more}


def tree_of(sizes: list[tuple[int, int]], boxes_each: int = 1) -> dict[str, Any]:
    """Return images 1, 2, ... with these (width, height), each with boxes of category 1."""
    images = [{"id": i, "width": w, "height": h, "file_name": f"{i}.png"} for i, (w, h) in enumerate(sizes, start=1)]
    annotations = [
        annotation(boxes_each * (image["id"] - 1) + k + 1, image["id"], [1, 2, 10 + k, 12])
        for image in images
        for k in range(boxes_each)
    ]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
