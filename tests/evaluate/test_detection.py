"""Average precision of what sees colours: by samples, by a file in COCO's layout, over two processes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import distributed as dist
from torchvision.transforms.v2 import functional as F

from tests.evaluate.painted import CLASSES, TOKENIZER, Detections, Seeing, painted, plain
from tests.processes import in_two_processes
from wordregion.data.datasets import CocoInstances
from wordregion.data.ground_collate import GroundCollator
from wordregion.data.prompts import Wording
from wordregion.errors import UsageError
from wordregion.evaluate.detection import measure_detection

CPU = torch.device("cpu")


def measure(ask=None, dataset=None, transform=plain, **settings):
    settings = {"measure": "coco", "batch": 2, "device": CPU, "progress": False, **settings}
    return measure_detection(ask or Seeing(), dataset or Detections(), GroundCollator(TOKENIZER), transform, **settings)


def test_a_perfect_detector_is_at_100_for_any_number_of_prompts() -> None:
    for per_prompt, prompts in ((40, 1), (2, 2), (1, 3)):
        seeing = Seeing()
        result = measure(seeing, per_prompt=per_prompt)
        assert result.metrics == pytest.approx({"raw/coco/AP": 100, "raw/coco/AP50": 100, "raw/coco/AP75": 100})
        assert len(set(seeing.prompts)) == prompts
        assert seeing.pictures == 9  # each picture once, not once a prompt
        assert result.items == "9 images and 3 classes"


def test_the_wording_of_classes_is_asked_and_the_protocol_named() -> None:
    seeing = Seeing()
    wordings = [Wording("red", "a ", " circle"), Wording("green", "a "), Wording("blue", "", " star")]
    result = measure(seeing, classes=wordings, protocol="finetuned_on_1shot")
    assert set(seeing.prompts) == {"a red circle. a green. blue star"}
    assert result.metrics["finetuned_on_1shot/coco/AP"] == pytest.approx(100)


def test_what_is_not_found_counts() -> None:
    class Colourblind(Seeing):
        def answer(self, batch, place, prompt):
            found = super().answer(batch, place, prompt)
            seen = found.label != 0
            return replace(found, box=found.box[seen], score=found.score[seen], label=found.label[seen])

    assert measure(Colourblind()).metrics["raw/coco/AP"] == pytest.approx(100 * 2 / 3)


def coco_file(folder: Path, **of_image: object) -> CocoInstances:
    images, notes = [], []
    for number in range(7):
        image, shown = painted(number)
        big = F.resize(image, [image.shape[1] * 4, 160], F.InterpolationMode.NEAREST)
        Image.fromarray((big * 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        height, width = big.shape[1:]
        images.append({"id": 50 + number, "file_name": f"{number}.png", "width": width, "height": height, **of_image})
        for name, (x0, y0, x1, y1) in shown:
            bbox = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height]
            kind = 10 * (CLASSES.index(name) + 1)
            notes.append({"id": len(notes), "image_id": 50 + number, "category_id": kind, "bbox": bbox, "iscrowd": 0})
    categories = [{"id": 10 * (i + 1), "name": name, "frequency": "rcf"[i]} for i, name in enumerate(CLASSES)]
    path = folder / "instances_val.json"
    path.write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return CocoInstances(path, folder)


def to_tensor(sample, rng=None):
    return replace(sample, images=(F.to_dtype(F.pil_to_tensor(sample.images[0]), torch.float32, scale=True),))


def test_a_file_in_cocos_layout_is_the_truth(tmp_path: Path) -> None:
    dataset = coco_file(tmp_path)
    result = measure(dataset=dataset, transform=to_tensor)
    assert result.metrics["raw/coco/AP"] == pytest.approx(100)
    assert {"raw/coco/APm"} <= set(result.metrics)
    row = next(row for row in result.found if row["score"] > 0.5)
    assert (row["image_id"], row["category_id"]) == (51, 20)
    assert row["bbox"] == pytest.approx([0, 0, 80, 48])


def test_lvis_is_measured_in_both_ways(tmp_path: Path) -> None:
    dataset = coco_file(tmp_path, neg_category_ids=[], not_exhaustive_category_ids=[])
    metrics = measure(dataset=dataset, transform=to_tensor, measure="lvis", per_prompt=1).metrics
    assert set(metrics) == {f"raw/{way}/{ap}" for way in ("lvis", "lvis_fixed") for ap in ("AP", "APr", "APc", "APf")}
    assert all(value == pytest.approx(100) for value in metrics.values())


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="knows no classes"):
        measure(dataset=Detections(classes=()))
    with pytest.raises(UsageError, match="2 wordings for 3"):
        measure(classes=["a", "b"])
    with pytest.raises(UsageError, match="'green_square', which is none"):
        measure(dataset=Detections(classes=("red circle", "blue star")))


def _process(rank, world, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    (Path(folder) / f"{rank}.json").write_text(measure(per_prompt=2).to_json())
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over a file needs POSIX")
def test_two_processes_return_what_one_returns(tmp_path: Path) -> None:
    in_two_processes(_process, 2, str(tmp_path))
    one = measure(per_prompt=2).to_json()
    assert [(tmp_path / f"{rank}.json").read_text() for rank in (0, 1)] == [one, one]
