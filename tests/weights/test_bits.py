from crvq.weights import BitCount


def test_parts_add_up_part_by_part():
    one = BitCount(codes=1, codebooks=2, scales=3, permutation=4, other=5)
    both = one + BitCount(codes=10, other=100)
    assert both == BitCount(codes=11, codebooks=2, scales=3, permutation=4, other=105)
    assert both.total == 125
    assert BitCount(**both.as_dict()) == both
