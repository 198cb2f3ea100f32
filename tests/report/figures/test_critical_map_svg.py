import re
import sys
from xml.etree import ElementTree

import pandas as pd
import pytest

from crvq.errors import CrvqError
from crvq.report.figures import critical_map_svg as svg

LISTED = {"q<": ["3 1", "1 2", "1 7", "0 7"], "down": ["15 4", "4 3", "2 1", "5 6"]}


@pytest.fixture
def layers():
    rows = [
        {
            "block": block,
            "kind": kind,
            "in_features": 8 if kind == "q<" else 16,
            "critical_in_features": listed[block],
        }
        for block in range(4)
        for kind, listed in LISTED.items()
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("theme", svg.THEMES.values())
def test_recurring_channels_have_their_own_colour(layers, theme):
    text = svg.critical_map_svg(layers, "model <x>", theme, ["q<", "down"])
    root = ElementTree.fromstring(text)
    paths = root.findall("{http://www.w3.org/2000/svg}path")
    cells = {theme.other: 0, theme.recurring: 0}
    for path in paths:
        cells[path.attrib["fill"]] += path.attrib["d"].count("M")
    # q: channels 1 and 7 are critical in at least two of four blocks; down: channel 4.
    assert cells == {theme.recurring: 3 + 2 + 2, theme.other: 16 - 7}
    assert "2 channels are critical in at least half: 1, 7" in text


def test_a_cell_lies_at_its_channel_and_block(layers):
    rows = layers[layers["kind"] == "q<"]
    text = svg.critical_map_svg(rows, "", svg.THEMES["light"], ["q<"])
    drawn = {
        (round((float(x) - 34) / (412 / 8)), round((float(y) - 62 - 40) / 4))
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)h", text)
    }
    assert drawn == {(3, 0), (1, 0), (1, 1), (2, 1), (1, 2), (7, 2), (0, 3), (7, 3)}


def test_unknown_kinds_are_refused_with_those_that_are_there(layers):
    with pytest.raises(CrvqError, match="it has the kinds down, q<"):
        svg.critical_map_svg(layers, "", svg.THEMES["light"], ["mlp.up_proj"])


def test_the_picture_of_the_readme_is_the_one_of_its_record(tmp_path, monkeypatch):
    run = "results/reference/smollm2-main-table/SmolLM2_135M_Instruct_Q4_1-crvq-c55cfd6ece6a"
    monkeypatch.setattr(sys, "argv", ["critical_map_svg", run, str(tmp_path)])
    svg.main()
    for theme in svg.THEMES:
        name = f"critical_map_{theme}.svg"
        with open(f"docs/{name}", encoding="utf-8") as committed:
            assert (tmp_path / name).read_text() == committed.read()
