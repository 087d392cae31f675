import pytest
import torch

from wordregion.errors import CheckpointError
from wordregion.models.official import albef_names, from_albef, resize_positions, to_albef
from wordregion.models.zoo import albef_tiny


def model():
    return albef_tiny(40, image_size=32, width=32, vision_layers=1, text_layers=6, fusion_layers=2, embed=16)


def test_there_and_back_without_loss():
    own = model().state_dict()
    back = from_albef(own, to_albef(own))
    assert back.keys() == own.keys()
    for name, value in own.items():
        torch.testing.assert_close(back[name], value, rtol=0, atol=0)


def test_stacked_matrices_take_their_parts_in_order():
    assert albef_names("fusion.layers.0.cross.kv.weight") == [
        "text_encoder.bert.encoder.layer.6.crossattention.self.key.weight",
        "text_encoder.bert.encoder.layer.6.crossattention.self.value.weight",
    ]
    assert albef_names("vision.body.norm.bias", momentum=True) == ["visual_encoder_m.norm.bias"]
    assert albef_names("temperature", momentum=True) == ["temp"]


def test_a_missing_or_misshapen_tensor_is_named():
    own = model().state_dict()
    theirs = to_albef(own)
    with pytest.raises(CheckpointError, match=r"visual_encoder\.pos_embed"):
        from_albef(own, theirs | {"visual_encoder.pos_embed": torch.zeros(1, 3, 32)})
    del theirs["temp"]
    with pytest.raises(CheckpointError, match="lacks temp"):
        from_albef(own, theirs)


def test_positions_keep_the_first_row_and_constants():
    table = torch.cat([torch.full((1, 1, 4), 7.0), torch.full((1, 16, 4), 2.0)], dim=1)
    bigger = resize_positions(table, 36)
    assert bigger.shape == (1, 37, 4)
    assert (bigger[:, 0] == 7).all()
    torch.testing.assert_close(bigger[:, 1:], torch.full((1, 36, 4), 2.0))
