"""Every array of the group ``ve/`` of ALBEF's reference numbers, computed with this library.

A run's setting is read from its name: ``nodistill``, ``alpha0``, ``alpha04`` and so on.
"""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.parity.albef_pretrain import alpha_of
from tests.parity.golden import Golden, images
from tests.parity.released import gradient_tables, released_model
from wordregion.models.official import to_official
from wordregion.models.two_images import pair_logits
from wordregion.schema import Batch
from wordregion.tasks.classify import Classify, ClassifyTask
from wordregion.tasks.teacher import update_teacher

LAYOUT = "albef/entailment"


def arrays(golden: Golden, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, array) of everything in the group that `names` asks for and this module knows."""
    batch = _batch(golden)
    if "ve/logits" in names:
        with torch.no_grad():
            model = released_model(golden, "ve", LAYOUT)
            yield "ve/logits", pair_logits(model, batch, model.encode_image(batch.image), "entail")
    for run in dict.fromkeys(found[0] for name in names if (found := _run_of(name))):
        yield from _run(golden, batch, run)


def _run_of(name: str) -> re.Match | None:
    """``ve/alpha04/loss`` and ``ve/alpha04__grad_l2`` -> ``ve/alpha04``."""
    return re.match(r"ve/\w*?(nodistill|alpha\d+)(?=/|__|$)", name)


def _batch(golden: Golden) -> Batch:
    rows = golden.inputs["ve_text_ids"]
    ids = torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])
    count = len(ids)
    return Batch(
        image=images((4, 3, 384, 384))[:count],
        image_key=torch.arange(count),
        token_ids=ids,
        token_mask=ids != 0,
        text_image=torch.arange(count),
        target={"label": torch.tensor(golden.inputs["ve_targets"])},
    )


def _run(golden: Golden, batch: Batch, run: str) -> Iterator[tuple[str, Tensor]]:
    found = _run_of(run)
    assert found is not None
    distill = 0.0 if found[1] == "nodistill" else alpha_of(found[1])
    task = ClassifyTask(released_model(golden, "ve", LAYOUT), Classify("entail", distill=distill, ramp_steps=0)).eval()
    if task.teacher is not None:
        task.teacher.load_state_dict(released_model(golden, "ve", LAYOUT, momentum=True).state_dict())
        update_teacher(task.teacher, task.model, task.settings.momentum)  # the original's forward begins with it
        for name, value in to_official(task.teacher.state_dict(), LAYOUT, momentum=True).items():
            yield f"{run}/after_update/{name}", value
    output = task(batch, task.counts(batch))
    output.loss.backward()
    yield f"{run}/loss", output.loss
    yield from gradient_tables(golden, run, task.model, LAYOUT)
