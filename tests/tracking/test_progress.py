import io
import logging
import re
import sys

import pytest
from rich.console import Console

from crvq.tracking.log import PROGRESS_LOGGER
from crvq.tracking.progress import ProgressBar


def _console(terminal, width=80):
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, no_color=True, _environ={}
    )


def _frames(console):
    """What was drawn, line by line, without control codes."""
    return re.split(r"\r|\n|\x1b\[[0-9;?]*[A-Za-z]", console.file.getvalue())


def _run(bar, make_row):
    with bar:
        bar.stage_started("perplexity/wikipedia", 2)
        bar.stage_advanced("perplexity/wikipedia")
        bar.stage_advanced("perplexity/wikipedia")
        bar.stage_finished("perplexity/wikipedia", 1.0)
        bar.stage_started("quantize", 30)
        row = make_row(12, "self_attn.k_proj", relative_loss=0.02512)
        bar.linear_quantized(row)
        bar._progress and bar._progress.refresh()
        bar.block_quantized(12, [row], 1.0)
        bar.stage_advanced("quantize")
        bar.message("asked 0.02, used 0.0139 [not markup]")


def test_terminal_shows_stages_the_linear_and_its_loss(make_row, caplog):
    console = _console(terminal=True)
    with caplog.at_level(logging.INFO):
        _run(ProgressBar(console), make_row)
    frames = _frames(console)
    drawn = [line for line in frames if line.startswith("quantize")]
    assert any("0/30" in line and "block 12 self_attn.k_proj 0.0251" in line for line in drawn)
    assert any("1/30" in line for line in drawn)
    assert any("left" in line for line in drawn)
    assert any(line.startswith("perplexity/wikipedia") and "2/2" in line for line in frames)
    assert all(len(line) <= 80 for line in frames)
    assert caplog.records == []


def test_messages_go_above_the_bar(make_row):
    console = _console(terminal=True)
    _run(ProgressBar(console), make_row)
    frames = [line.rstrip() for line in _frames(console)]
    message = frames.index("asked 0.02, used 0.0139 [not markup]")
    assert any(line.startswith("quantize") for line in frames[message + 1 :])


def test_no_terminal_means_a_plain_line_a_block(make_row, caplog):
    console = _console(terminal=False)
    with caplog.at_level(logging.INFO):
        _run(ProgressBar(console), make_row)
    assert console.file.getvalue() == ""
    assert {record.name for record in caplog.records} == {PROGRESS_LOGGER}
    assert [record.message for record in caplog.records] == [
        "block 12: relative loss mean 0.02512, max 0.02512, 2.000 bits, 1.0 s",
        "asked 0.02, used 0.0139 [not markup]",
    ]


def test_log_lines_to_the_terminal_go_above_the_bar_and_back(monkeypatch):
    console = _console(terminal=True)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    stream = sys.stderr
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    try:
        with ProgressBar(console) as bar:
            bar.stage_started("quantize", 2)
            logging.getLogger("other").warning("from a library")
        logging.getLogger("other").warning("afterwards")
    finally:
        logging.getLogger().removeHandler(handler)
    assert "from a library" in console.file.getvalue()
    assert stream.getvalue() == "afterwards\n"
    assert handler.stream is stream


def _fail(bar):
    with bar:
        bar.stage_started("quantize", 2)
        raise ValueError(bar._progress)


def test_a_failing_run_stops_the_bar():
    bar = ProgressBar(_console(terminal=True))
    with pytest.raises(ValueError) as caught:
        _fail(bar)
    (progress,) = caught.value.args
    assert not progress.live.is_started
    bar.stage_advanced("quantize")  # late events do no harm
