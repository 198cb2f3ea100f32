from typing import get_args

from crvq.report import finished_runs
from crvq.tracking.csv_files import layer_columns
from crvq.tracking.events import LayerRow
from crvq.tracking.record_schema import Bits
from crvq.weights.bits import BIT_PARTS, BitCount, BitPart


def test_parts_add_up_part_by_part():
    one = BitCount(codes=1, codebooks=2, scales=3, permutation=4, other=5)
    both = one + BitCount(codes=10, other=100)
    assert both == BitCount(codes=11, codebooks=2, scales=3, permutation=4, other=105)
    assert both.total == 125
    assert BitCount(**both.as_dict()) == both


def test_every_list_of_parts_is_the_one_of_the_bit_count():
    """A new part is declared in `BitCount` alone: records, rows and tables follow."""
    assert set(get_args(BitPart)) == set(BIT_PARTS)
    assert set(BIT_PARTS) < set(Bits.model_fields)
    assert {f"bits_{part}" for part in BIT_PARTS} < set(
        layer_columns(LayerRow(0, "a", "a", 1, 1, 0, 0.0, 0.0, 0, 0.0, 1.0))
    )
    assert {f"bits.{part}" for part in BIT_PARTS} < set(finished_runs._OPTIONAL)
