import pytest

from wordregion.drafts import draft_of


def stopped(path):
    with draft_of(path) as draft:
        draft.write_text("half of the sec")
        raise KeyboardInterrupt


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    path = tmp_path / "a.json"
    with draft_of(path) as draft:
        draft.write_text("first")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        stopped(path)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
