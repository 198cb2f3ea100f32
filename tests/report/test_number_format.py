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
        ("duration", 42.4, "42 s"),
        ("duration", 133.0, "2.2 min"),
        ("duration", 1204.0, "20 min"),
        ("duration", 6120.0, "1.7 h"),
        ("duration", 36_000.0, "10 h"),
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


@pytest.mark.parametrize(
    ("style", "mean", "std", "shown"),
    [
        ("perplexity", 50.123, 1.5, "50.1 ± 1.5"),
        ("perplexity", 45.0, 7.0711, "45.0 ± 7.1"),
        ("perplexity", 1103.2, 25.31, "1,103 ± 25"),
        ("perplexity", 1159.4, 174.2, "1,159 ± 174"),
        ("perplexity", 39.3, 0.996, "39.3 ± 1.0"),
        ("perplexity", 4.2e6, 31e3, "4.20e6 ± 0.03e6"),
        ("percent", 0.1, 0.02, "+10.0 ± 2.0 %"),
        ("loss", 0.0226, 5.14e-05, "0.02260 ± 0.00005"),
        ("accuracy", 0.405, 0.049, "40.5 ± 4.9"),
        ("bits", 1.1, 1e-4, "1.1000 ± 0.0001"),
        ("bits", 1.1, 1e-9, "1.100"),  # rounding of sums, not a spread
        ("duration", 520.0, 30.0, "8.7 ± 0.5 min"),
        ("memory", 1024**3 * 1.5, 1024**3 * 0.02, "1.50 ± 0.02 GiB"),
        ("memory", 1024**3 * 1.5, 1024**3 * 0.0007, "1.50 GiB"),
        ("duration", 42.5, 0.4, "42 s"),
        ("value", 0.02, 0.001, "0.0200 ± 0.0010"),
    ],
)
def test_a_mean_has_the_digits_of_its_spread(style, mean, std, shown):
    assert format_cell(style, mean, std) == shown


@pytest.mark.parametrize("std", [None, math.nan, 0.0], ids=str)
def test_no_spread_is_not_shown(std):
    assert format_cell("bits", 2.0, std) == "2.000"


def test_an_infinite_mean_has_no_spread():
    assert format_cell("perplexity", math.inf, math.nan) == "inf"
