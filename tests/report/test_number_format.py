import math

import pytest

from crvq.report.number_format import format_cell


@pytest.mark.parametrize(
    ("style", "value", "shown"),
    [
        ("perplexity", 9.999, "10.00"),
        ("perplexity", 12345.6, "12,346"),
        ("perplexity", 999999.0, "999,999"),
        ("perplexity", 177601286928311.0, "1.8e14"),
        ("perplexity", 1e6, "1.0e6"),
        ("perplexity", math.inf, "inf"),
        ("bits", 1.0625, "1.062"),
        ("accuracy", 0.12345, "12.3"),
        ("percent", -0.0651, "-6.5 %"),
        ("percent", 0.1, "+10.0 %"),
        ("loss", 0.000123456, "0.000123"),
        ("duration", 119.4, "119 s"),
        ("duration", 3665.0, "1:01:05 h"),
        ("memory", 1024**2 * 1.5, "1.5 MiB"),
        ("memory", 1024**3 * 1.5, "1.50 GiB"),
        ("value", 0.02, "0.02"),
        ("value", 8.0, "8"),
        ("integer", 576.0, "576"),
        ("text", "a", "a"),
    ],
)
def test_styles(style, value, shown):
    assert format_cell(style, value) == shown


@pytest.mark.parametrize("style", ["text", "perplexity", "bits", "duration", "memory"])
@pytest.mark.parametrize("value", [None, math.nan], ids=str)
def test_missing_values_are_a_dash(style, value):
    assert format_cell(style, value) == "-"


def test_a_spread_has_the_digits_of_its_mean():
    assert format_cell("perplexity", 50.123, 1.5) == "50.12 ± 1.50"
    assert format_cell("perplexity", 1103.2, 25.31) == "1,103 ± 25"
    assert format_cell("perplexity", 4.2e6, 31e3) == "4.2e6 ± 3.1e4"
    assert format_cell("percent", 0.1, 0.02) == "+10.0 % ± 2.0 %"


@pytest.mark.parametrize("std", [None, math.nan, 0.0], ids=str)
def test_no_spread_is_not_shown(std):
    assert format_cell("bits", 2.0, std) == "2.000"


def test_an_infinite_mean_has_no_spread():
    assert format_cell("perplexity", math.inf, math.nan) == "inf"
