"""Models on disk: a folder with ``model.safetensors`` and ``model.json``, from which the model is built again.

``model.json`` describes the structure, part by part, so that a folder needs nothing but itself.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from wordregion.drafts import draft_of
from wordregion.errors import CheckpointError, WordregionError
from wordregion.models.fusion import FusionModel
from wordregion.models.grounder import Grounder
from wordregion.models.official import fill_official, is_official, layout_of
from wordregion.models.official_glip import fill_glip, is_glip
from wordregion.models.report import LoadReport, fill, tied_groups
from wordregion.models.store_grounder import KIND, build_grounder, describe_grounder
from wordregion.nn.decoder import AnswerDecoder
from wordregion.nn.fusion import FusionBlock, FusionEncoder
from wordregion.nn.heads import AssignHead, BoxHead, ClassHead, MaskHead, MatchHead, MlpHead, ReplacedHead
from wordregion.nn.pair_fusion import PairFusion
from wordregion.nn.text import TextEncoder
from wordregion.nn.vision import TimmVision
from wordregion.nn.weights import read_weights
from wordregion.nn.word_prior import WordPrior
from wordregion.nn.word_region import WordRegionHead

WEIGHTS, STRUCTURE = "model.safetensors", "model.json"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What a description that isn't one raises."""


@dataclass(frozen=True)
class Part:
    """How a part is described and built again.

    Attributes:
        describe: the part to the JSON values of its arguments.
        build: (those values, the model's text encoder) to the part.
    """

    describe: Callable[[Any], dict[str, Any]]
    build: Callable[[dict[str, Any], TextEncoder], nn.Module]


def _fusion(encoder: FusionEncoder | PairFusion) -> dict[str, Any]:
    block = encoder.layers[0].first if isinstance(encoder, PairFusion) else encoder.layers[0]
    assert isinstance(block, FusionBlock)
    return {
        "width": block.cross.out.in_features,
        "image_width": block.cross.kv.in_features,
        "layers": len(encoder.layers),
        "heads": block.attention.heads,
        "inner": block.feed_forward.up.out_features,
        "eps": block.feed_forward.norm.eps,
        "dropout": block.feed_forward.dropout,
    }


def _decoder(decoder: AnswerDecoder) -> dict[str, Any]:
    block = decoder.layers[0]
    assert isinstance(block, FusionBlock)
    return {
        "question_width": block.cross.kv.in_features,
        "layers": len(decoder.layers),
        "heads": block.attention.heads,
        "inner": block.feed_forward.up.out_features,
        "eps": block.feed_forward.norm.eps,
        "dropout": block.feed_forward.dropout,
    }


PARTS: dict[str, Part] = {
    "FusionEncoder": Part(_fusion, lambda given, text: FusionEncoder(**given)),
    "PairFusion": Part(_fusion, lambda given, text: PairFusion(FusionEncoder(**given))),
    "ClassHead": Part(
        lambda head: {"width": head.out.in_features, "classes": head.out.out_features},
        lambda given, text: ClassHead(**given),
    ),
    "AssignHead": Part(lambda head: {"width": head.in_features}, lambda given, text: AssignHead(**given)),
    "MlpHead": Part(
        lambda head: {"width": head.hidden.in_features, "outputs": head.out.out_features},
        lambda given, text: MlpHead(**given),
    ),
    "BoxHead": Part(lambda head: {"width": head.mlp.hidden.in_features}, lambda given, text: BoxHead(**given)),
    "MatchHead": Part(lambda head: {"width": head.in_features}, lambda given, text: MatchHead(**given)),
    "ReplacedHead": Part(
        lambda head: {"width": head.dense.in_features},
        lambda given, text: ReplacedHead(**given),
    ),
    "WordRegionHead": Part(
        lambda head: {
            "width": head.word_proj.in_features,
            "image_width": head.place_proj.in_features,
            "embed": head.place_proj.out_features,
            "dropout": head.dropout,
        },
        lambda given, text: WordRegionHead(**given),
    ),
    "MaskHead": Part(lambda head: {"eps": head.norm.eps}, lambda given, text: MaskHead(text.word_embeddings, **given)),
    "WordPrior": Part(
        lambda head: {"width": head.image.shape[1], "images": head.image.shape[0], "words": len(head.word)},
        lambda given, text: WordPrior(**given),
    ),
    "AnswerDecoder": Part(
        _decoder,
        lambda given, text: AnswerDecoder(copy.deepcopy(text.body.embeddings), **given),
    ),
}
"""Fusion encoders and heads by class name; a new head adds a row."""


def save_model(model: FusionModel | Grounder, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Writes ``model.safetensors`` (tied weights once) and ``model.json``.

    Args:
        model: built of parts that this module knows.
        folder: made if it is not there.
        state: the model's whole state dict, where the model itself is sharded.

    Raises:
        CheckpointError: if the model has a part that `PARTS` does not list.
    """
    folder = Path(folder)
    structure = describe_grounder(model) if isinstance(model, Grounder) else describe(model)
    folder.mkdir(parents=True, exist_ok=True)
    with draft_of(folder / STRUCTURE) as draft:
        draft.write_text(json.dumps(structure, indent=1) + "\n")
    save_weights(model, folder / WEIGHTS, state)  # last: a folder with weights is whole


def describable(model: nn.Module) -> bool:
    """Whether `save_model` can describe the model."""
    return isinstance(model, Grounder) or (
        isinstance(model, FusionModel)
        and all(type(part).__name__ in PARTS for part in (model.fusion, *model.heads.values()))
    )


def save_weights(
    model: nn.Module, path: Path, state: dict[str, Tensor] | None = None, trained_only: bool = False
) -> None:
    """Writes a model's tensors as safetensors, tied ones once; the file appears when it is complete.

    Args:
        model: whose they are.
        path: of the file.
        state: the model's whole state dict, where the model itself is sharded.
        trained_only: leave out the parameters that are not trained.
    """
    whole = model.state_dict() if state is None else state
    frozen = {name for name, value in model.named_parameters(remove_duplicate=False) if not value.requires_grad}
    names = [group[0] for group, _ in tied_groups(model) if not trained_only or group[0] not in frozen]
    try:
        with draft_of(path) as draft:
            save_file({name: whole[name].detach().cpu().contiguous() for name in names}, str(draft))
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: can't be written ({error}). Free space on its disk, or mend its folder."
        ) from error


@overload
def load_model(source: str | Path) -> FusionModel: ...
@overload
def load_model(source: str | Path, kind: type[Grounder]) -> Grounder: ...
@overload
def load_model(source: str | Path, kind: None) -> FusionModel | Grounder: ...
def load_model(
    source: str | Path, kind: type[FusionModel] | type[Grounder] | None = FusionModel
) -> FusionModel | Grounder:
    """The model that `save_model` wrote, in evaluation mode.

    Args:
        source: a folder, or the name of a hub repository that holds one.
        kind: `Grounder` for a detector; None for whichever it is.

    Raises:
        CheckpointError: if there is no such folder or repository, or it is damaged, incomplete, or of another kind.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _from_hub(str(source))
    try:
        found = _read(folder)
        detector = found.get("kind") == KIND
        if kind is not None and detector is not (kind is Grounder):
            raise CheckpointError(f"{folder}: holds {'a' if detector else 'no'} detector. Load a {kind.__name__}.")
    except DAMAGE as error:
        raise _damaged(folder, error) from error
    try:
        model = build_grounder(found) if detector else build(found)
    except WordregionError:
        raise
    except Exception as error:  # a wrong number is found out anywhere in the parts, timm's and transformers' too
        raise _damaged(folder, error) from error
    start_from(model, folder)
    return model.eval()


def image_size_of(folder: Path) -> int:
    """Side in pixels of the images of the model that `save_model` wrote, without loading it.

    Raises:
        CheckpointError: if the folder describes none.
    """
    try:
        return int(_read(folder)["vision"]["image_size"])
    except DAMAGE as error:
        raise _damaged(folder, error) from error


def _read(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / STRUCTURE).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"{folder}: has no {STRUCTURE}. Give a folder that save_model or train wrote.") from error


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split())[:120]
    return CheckpointError(f"{folder / STRUCTURE}: damaged ({type(error).__name__}: {reason}). Write it again.")


def start_from(
    model: FusionModel | Grounder,
    path: str | Path,
    new: tuple[str, ...] = (),
    seed: Callable[[str], str] = lambda name: name,
) -> LoadReport:
    """Fills a model from a trained one, of other heads or another image size perhaps. Position embeddings are resized.

    Args:
        model: takes the values, in place.
        path: a run's folder, a weight file of ours, or a released checkpoint of the original (opened safely).
        new: prefixes of the names that may keep their constructor value, for example ``("heads.",)``.
        seed: our name to the name in a file of ours that gives its value where the file lacks the name itself, for
            example a decoder's layers from the fusion encoder's.

    Returns:
        what was loaded, renamed, resized, left new and ignored.

    Raises:
        CheckpointError: if the file is missing or damaged, lacks a parameter that is not under `new`, or has another
            shape of it.
    """
    path = Path(path)
    file = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise CheckpointError(f"{path}: has no {WEIGHTS}. Give the folder of a finished run, or finish it (--resume).")
    state = read_weights(file)
    if isinstance(model, Grounder) and is_glip(state):
        return fill_glip(model, state, str(file))
    if isinstance(model, FusionModel) and is_official(state):
        return fill_official(model, state, layout_of(model), str(file), new)
    names = {name: ((name,) if name in state else (seed(name),)) for name in model.state_dict()}
    return fill(model, state, names, str(file), new)


def describe(model: FusionModel) -> dict[str, Any]:
    """The structure of a model as JSON values.

    Raises:
        CheckpointError: if the model has a part that `PARTS` does not list.
    """
    vision, text = model.vision, model.text
    return {
        "vision": {
            "name": vision.name,
            "image_size": vision.image_size,
            "drop_path": vision.drop_path,
            "settings": vision.settings,
            "subsample_first": vision.subsample_first,
            "fold_norms": vision.fold_norms,
            "components": None if vision.components is None else vision.width,
        },
        "text": {"config": json.loads(text.body.config.to_json_string()), "pool": text.pool},
        "fusion": _part(model.fusion),
        "heads": {name: _part(head) for name, head in model.heads.items()},
        "embed": model.image_proj.out_features,
        "places": model.places is not None,
    }


def build(structure: dict[str, Any]) -> FusionModel:
    """A model of that structure with random values."""
    given = dict(structure["text"]["config"])
    given.pop("transformers_version", None)
    text = TextEncoder(AutoConfig.for_model(given.pop("model_type"), **given), structure["text"]["pool"])
    vision = TimmVision(**structure["vision"])
    fusion, heads = structure["fusion"], structure["heads"]
    return FusionModel(
        vision=vision,
        text=text,
        fusion=_built(fusion, text),  # type: ignore[arg-type]
        heads={name: _built(head, text) for name, head in heads.items()},
        embed=structure["embed"],
        places=structure.get("places", False),
    )


def _part(part: nn.Module) -> dict[str, Any]:
    kind = type(part).__name__
    if kind not in PARTS:
        raise CheckpointError(
            f"{kind}: models with this part can't be described. Add it to wordregion.models.store.PARTS."
        )
    return {"kind": kind, **PARTS[kind].describe(part)}


def _built(described: dict[str, Any], text: TextEncoder) -> nn.Module:
    given = dict(described)
    part = PARTS[given.pop("kind")]
    for name, value in given.items():
        if name not in ("eps", "dropout") and (type(value) is not int or value < 1):
            raise ValueError(f"{name}={value!r}")
    return part.build(given, text)


def _from_hub(name: str) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS, STRUCTURE]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"{name}: neither a folder nor a repository that the hub gives out ({type(error).__name__}). Correct it."
        ) from error
