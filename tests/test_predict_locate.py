import numpy as np
import pytest
import torch
from PIL import Image

from wordregion.data.tokens import Tokenizer
from wordregion.data.transforms import EvalTransform
from wordregion.errors import UsageError
from wordregion.models.zoo import for_locating, for_retrieval, xvlm_tiny
from wordregion.predict_locate import LocateFlags, Place, check_locate, draw_place, locate


def parts():
    torch.manual_seed(0)
    tokenizer = Tokenizer("scenes")
    model = xvlm_tiny(tokenizer.vocab_size, image_size=32, width=64, fusion_layers=1).eval()
    return model, tokenizer, EvalTransform(32), Image.new("RGB", (60, 40), "#336699")


def test_a_box_and_how_well_the_text_fits_it():
    model, tokenizer, transform, picture = parts()
    place = locate(model, tokenizer, transform, picture, "a red circle")
    x0, y0, x1, y1 = place.box
    assert 0 <= x0 < x1 <= 1
    assert 0 <= y0 < y1 <= 1
    assert 0 < place.score < 1
    assert place.caption("a red circle") == f"a red circle  {place.score:.2f}"
    alone = locate(for_locating(model), tokenizer, transform, picture, "a red circle")
    assert alone.box == pytest.approx(place.box)
    assert alone.score is None


def test_the_box_is_drawn_where_it_is():
    drawn = np.asarray(draw_place(Image.new("RGB", (200, 100)), Place((0.5, 0.5, 0.9, 0.9), None), "x"))
    assert drawn[50:90, 100:102].any()
    assert not drawn[:20, :80].any()


@pytest.mark.parametrize(
    ("text", "out", "message"), [(" ", "a.png", "text is empty"), ("x", "a.txt", "can't be written")]
)
def test_bad_requests_are_refused(tmp_path, text, out, message):
    with pytest.raises(UsageError, match=message):
        check_locate(LocateFlags(tmp_path / "p.png", text, tmp_path, tmp_path / out))


def test_a_model_without_box_head_is_refused():
    model, *rest = parts()
    with pytest.raises(UsageError, match="no box head"):
        locate(for_retrieval(model), *rest, "a red circle")
