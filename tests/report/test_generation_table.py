from rich.console import Console

from crvq.report.generation_table import generation_table


def shown(records):
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(generation_table(records))
    return console.export_text()


def said(text, quantized="x", prompt="Once", full="upon"):
    return {
        "prompt": prompt,
        "max_new_tokens": 4,
        "full_precision": full,
        "quantized": quantized,
        **text,
    }


def test_models_stand_side_by_side_under_their_prompt(make_record):
    records = [
        make_record("a", {"critical_ratio": 0.0}, generations=[said({}, "ssss")]),
        make_record("b", {"critical_ratio": 0.02}, generations=[said({}, "a time")]),
    ]
    lines = [line.strip() for line in shown(records).splitlines() if line.strip()]
    start = lines.index("Once")
    assert lines[start + 1].split(None, 2) == ["full", "precision", "… upon"]
    assert lines[start + 2].startswith("CRVQ · λ=0 ")
    assert "ssss" in lines[start + 2]
    assert lines[start + 3].startswith("CRVQ · λ=0.02")
    assert len([line for line in lines if "upon" in line]) == 1  # full precision once


def test_marks_and_line_breaks_are_shown_as_they_are(make_record):
    text = shown([make_record(generations=[said({}, "[bold]\n\nx", prompt="[red]a")])])
    assert "[bold]⏎⏎x" in text
    assert "[red]a" in text


def test_silence_is_told(make_record):
    assert "(ends at once)" in shown([make_record(generations=[said({}, "")])])


def test_runs_without_continuations_have_no_table(make_record):
    assert generation_table([make_record()]) is None
