"""GLIP's data side, box coding and focal loss against the original's numbers."""

from tests.parity.glip_data import DATA, verdicts


def test_every_entry_is_the_originals():
    found = list(verdicts(DATA))
    assert len(found) > 50
    assert [v for v in found if not v.good] == []
