import pytest

from crvq.report.entropy_note import entropy_note, entropy_saving


def with_bits(make_record, codes, entropy, weights=10):
    bits = {
        "codes": codes,
        "codes_entropy": entropy,
        "average_quantized_weights": 2.0,
        "average_all_weights": 3.0,
        "quantized_weights": weights,
        "all_weights": 20,
    }
    return make_record(bits=bits)


def test_a_saving_is_a_weights(make_record):
    assert entropy_saving(with_bits(make_record, 20.0, 15.0)) == pytest.approx(0.5)


def test_one_line_tells_the_span_of_all_runs(make_record):
    records = [with_bits(make_record, 20.0, e) for e in (15.0, 18.0, 17.0)]
    assert entropy_note(records) == [
        "Entropy coding of the codes could save 0.20 to 0.50 bits per weight (order 0)."
    ]
    assert "save 0.50 bits" in entropy_note(records[:1])[0]


def test_runs_that_do_not_tell_are_left_out(make_record):
    assert entropy_note([make_record(), {"label": "failed", "status": "failed"}]) == []
    assert len(entropy_note([make_record(), with_bits(make_record, 20.0, 15.0)])) == 1
