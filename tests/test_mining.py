import torch

from wordregion.mining import hard_negatives


def test_never_draws_a_positive_and_follows_the_similarity():
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 2.0, 0.0]]).repeat(4000, 1)
    same = torch.tensor([[True, False, False]]).repeat(4000, 1)
    index, valid = hard_negatives(similarity, same)
    assert valid.all()
    assert not (index == 0).any()
    expected = torch.tensor([2.0, 0.0]).softmax(0)[0]
    assert abs((index == 1).float().mean() - expected) < 0.03


def test_vanishing_weights_fall_back_to_uniform():
    torch.manual_seed(0)
    similarity = torch.tensor([[0.0, -1000.0, -1000.0]]).repeat(2000, 1)
    same = torch.tensor([[True, False, False]]).repeat(2000, 1)
    index, valid = hard_negatives(similarity, same)
    assert valid.all()
    assert abs((index == 1).float().mean() - 0.5) < 0.05


def test_a_row_of_positives_has_no_negative():
    index, valid = hard_negatives(torch.zeros(2, 2), torch.tensor([[True, True], [True, False]]))
    assert valid.tolist() == [False, True]
    assert index[1] == 1


def test_hardness_softens_the_choice():
    torch.manual_seed(0)
    similarity = torch.tensor([[9.0, 2.0, 0.0]]).repeat(4000, 1)
    same = torch.tensor([[True, False, False]]).repeat(4000, 1)
    for hardness in (1.0, 0.5, 0.0):
        index, _ = hard_negatives(similarity, same, hardness=hardness)
        expected = torch.sigmoid(torch.tensor(2.0 * hardness))
        assert abs((index == 1).float().mean() - expected) < 0.03
