import pytest
from torch import nn

from crvq.errors import SourceError
from crvq.models.blocks import find_blocks
from tests.architectures import ARCHITECTURES, build


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_decoders_blocks_are_found(name):
    model = build(name)
    path, blocks = find_blocks(model)
    assert len(blocks) == model.config.num_hidden_layers
    assert list(model.get_submodule(path)) == blocks


def test_the_largest_list_of_equal_blocks_with_linears_wins():
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    model.large = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(2))
    model.mixed = nn.ModuleList([nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64))])
    model.norms = nn.ModuleList(nn.LayerNorm(10_000) for _ in range(2))
    model.empty = nn.ModuleList()
    path, blocks = find_blocks(model)
    assert path == "large"
    assert blocks == list(model.large)


def test_a_model_without_blocks_is_refused():
    with pytest.raises(SourceError, match="Linear has no list of equal blocks"):
        find_blocks(nn.Linear(2, 2))
