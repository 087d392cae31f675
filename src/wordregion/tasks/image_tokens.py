"""Image tokens of student and teacher, encoded no oftener than needed.

Shape letters: I images, N image tokens, V image width.
"""

import hashlib
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from wordregion.distributed.parallelize import full_state
from wordregion.drafts import draft_of
from wordregion.errors import CheckpointError, UsageError
from wordregion.fingerprint import state_fingerprint
from wordregion.models.fusion import FusionModel
from wordregion.nn.regions import Views, has_local_layers, pool_regions
from wordregion.schema import Batch, Regions

AT_ONCE, AT_ONCE_ON_CPU = 32, 4
"""Images encoded at a time where tokens are kept: a batch for small heads may exceed what an encoder should hold.
The maps of a few photos fit a CPU's caches, so it encodes them faster than many (``benchmarks/encode.py``)."""


def at_once(device: torch.device) -> int:
    """How many images to encode at a time on a device."""
    return AT_ONCE_ON_CPU if device.type == "cpu" else AT_ONCE


class ImageTokens:
    """Encodes the images of a batch.

    With `keep`, every picture is encoded once and its tokens stay in memory (pictures x N x V values, on the encoder's
    device, in its precision), found again by its pixels, whichever records show it, or by its record where the pixels
    were left out (`StepLoader.leave_out`). It needs a frozen encoder, and saves work only where the transform draws
    nothing. Of a ResNet whose last stages are trained, the map before them is kept. What is kept is no part of a
    checkpoint: a resumed run encodes anew, unless it lies in a folder, where later runs with the same encoder and
    precision find it.

    Args:
        keep: False = encode every time, True = keep in memory, a folder = there as well, a file a picture.
    """

    def __init__(self, keep: bool | Path = False) -> None:
        self.keep = keep is not False
        self._folder = keep if isinstance(keep, Path) else None
        self._own: Path | None = None
        self._kept: dict[str, Tensor] = {}
        self._of_key: dict[int, str] = {}

    def student(self, model: FusionModel, batch: Batch, summary_alone: bool = False) -> Float[Tensor, "I #N V"]:
        """Tokens by the student.

        Args:
            model: the student.
            batch: whose images.
            summary_alone: only the first token of each image is asked for; where tokens are kept, it saves a copy.

        Raises:
            UsageError: if tokens are kept and the student's image encoder is sharded, or trained from its first layer.
        """
        if not self.keep:
            return model.encode_image(batch.image)
        lower = model.vision.frozen_stages() if not is_frozen(model.vision) else []
        check_kept(model.vision, "keep_image_tokens", "image", "vision", partly=bool(lower))
        kept = self._fixed(model, batch, lower)
        if lower:
            return model.vision.upper(torch.stack(kept))
        return torch.stack([tokens[:1] for tokens in kept] if summary_alone else kept)

    def _fixed(self, model: FusionModel, batch: Batch, lower: list[nn.Module]) -> list[Tensor]:
        """Each image's tokens by a frozen encoder, or its map by the frozen stages `lower`."""
        encode = model.vision.lower if lower else model.encode_image
        keys = self._names(batch)
        with torch.no_grad():
            files = self._files(nn.ModuleList(lower) if lower else model.vision, batch.image.device)
            new: dict[str, int] = {}
            for row, key in enumerate(keys):
                if key in self._kept or key in new:
                    continue
                found = None if files is None else _read(files / f"{key}.safetensors")
                if found is None:
                    new[key] = row
                else:
                    self._kept[key] = found.to(batch.image.device)
            order = list(new.values())
            together = at_once(batch.image.device)
            for begin in range(0, len(order), together):
                rows = order[begin : begin + together]
                for row, tokens in zip(rows, encode(batch.image[rows]), strict=True):
                    self._kept[keys[row]] = tokens.clone()
                    if files is not None:
                        with draft_of(files / f"{keys[row]}.safetensors") as draft:
                            save_file({"tokens": tokens.detach().cpu().contiguous()}, draft)
            return [self._kept[key] for key in keys]

    def _names(self, batch: Batch) -> list[str]:
        """Each picture by its pixels; one that came without by those that its record had before."""
        numbers = batch.image_key.tolist()
        here = (~batch.image[:, 0, 0, 0].isnan()).nonzero().flatten().tolist()
        pixels = batch.image.cpu() if here else batch.image
        for row in here:
            self._of_key[numbers[row]] = hashlib.blake2b(pixels[row].numpy().data, digest_size=16).hexdigest()
        return [self._of_key[number] for number in numbers]

    def known(self, model: FusionModel, teacher: FusionModel | None, batch: Batch) -> Int[Tensor, "I"] | None:
        """``image_key`` of a batch that was encoded, whose pixels are needed no more; None if they are."""
        if not self.keep or (teacher is not None and not is_frozen(model.vision)):
            return None
        return batch.image_key

    def _files(self, encoder: nn.Module, device: torch.device) -> Path | None:
        """Where the tokens of this encoder in this precision lie; None if they are not kept in a folder."""
        if self._folder is None:
            return None
        if self._own is None:
            half = torch.is_autocast_enabled(device.type)
            precision = torch.get_autocast_dtype(device.type) if half else torch.float32
            self._own = self._folder / f"{encoder_name(encoder)}-{str(precision).removeprefix('torch.')}"
            self._own.mkdir(parents=True, exist_ok=True)
        return self._own

    def views(self, model: FusionModel, batch: Batch, regions: Regions, summary_alone: bool = False) -> Views:
        """Tokens by the student of the images and of regions of them; arguments as for `student`.

        Raises:
            UsageError: if tokens are kept and regions need layers of the encoder, or if it is trained or sharded.
        """
        if len(regions.text) and has_local_layers(model.vision):
            if self.keep:
                raise UsageError(
                    "keep_image_tokens: a ViT needs its last layers for regions. Set it to False, or use a CNN or Swin."
                )
            return model.encode_views(batch.image, regions.box, regions.image)
        tokens = self.student(model, batch, summary_alone and not len(regions.text))
        return pool_regions(tokens, regions.box, regions.image, model.vision.grid)

    def teacher_views(
        self, model: FusionModel, teacher: FusionModel, batch: Batch, regions: Regions, views: Views
    ) -> Views:
        """Views by the teacher: the student's own where its encoder is frozen, since neither moves."""
        return views if is_frozen(model.vision) else ImageTokens().views(teacher, batch, regions)

    def teacher(
        self, model: FusionModel, teacher: FusionModel, batch: Batch, image_INV: Float[Tensor, "I N V"]
    ) -> Float[Tensor, "I N V"]:
        """Tokens by the teacher: the student's own `image_INV` where its encoder is frozen, since neither moves."""
        return image_INV if is_frozen(model.vision) else teacher.encode_image(batch.image)

    def __len__(self) -> int:
        return len(self._kept)


def encoder_name(module: nn.Module) -> str:
    """By its structure and the values of its weights and buffers; call it on all ranks."""
    return state_fingerprint(full_state(module), repr(module))


def _read(path: Path) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        return load_file(path)["tokens"]
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged ({error}). Delete it; it is made anew.") from error


def check_kept(encoder: nn.Module, setting: str, kind: str, name: str, partly: bool = False) -> None:
    """Checks that what an encoder gives, or `partly` what its first parts give, may be kept.

    Raises:
        UsageError: if it is trained, or sharded: processes that lack other images or texts would wait for each other.
    """
    if not (partly or is_frozen(encoder)):
        raise UsageError(f"{setting} needs a frozen {kind} encoder. Set freeze=('{name}.',) in AdamW.")
    if any(isinstance(part, FSDPModule) for part in encoder.modules()):
        raise UsageError(f"{setting} needs the whole encoder in each process. Choose --parallel ddp.")


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing in it is trained."""
    return not any(parameter.requires_grad for parameter in module.parameters())
