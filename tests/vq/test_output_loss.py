import pytest
import torch

from crvq.vq import tiles
from crvq.vq.hessian import output_loss
from tests.vq.coded_examples import second_moment


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_it_is_the_trace_by_its_definition(rows_at_once, monkeypatch):
    monkeypatch.setattr(tiles, "_CPU_ELEMENTS", rows_at_once * 12)
    error = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    h = second_moment(12, 1)
    exact = sum(float(e.double() @ h.double() @ e.double()) for e in error)
    assert output_loss(error, h) == pytest.approx(exact, rel=1e-5)


def test_no_error_costs_nothing():
    assert output_loss(torch.zeros(3, 4), torch.eye(4)) == 0.0
