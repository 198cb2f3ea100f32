import io

import pytest
from rich.console import Console

from crvq.report.zero_shot_table import AT_CHANCE, BELOW_CHANCE, chance_flag, zero_shot_table


def printed(records, width=100):
    console = Console(file=io.StringIO(), width=width, no_color=True, _environ={})
    console.print(zero_shot_table(records))
    return console.file.getvalue()


def task(full=0.6, quantized=0.45, stderr=0.02, chance=0.25, **more):
    acc = {"full_precision": full, "full_precision_stderr": stderr, "chance": chance}
    if quantized is not None:
        acc |= {"quantized": quantized, "quantized_stderr": stderr, "recovery": quantized / full}
    about = {"samples": 100, "available": 570, "shots": 0, "lm_eval": "0.4", "data": "here"}
    return {"metrics": {"acc": acc}, **about, **more}


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return line.split()


def test_nothing_without_scores(make_record):
    assert zero_shot_table([make_record()]) is None


def test_a_run_with_errors_recovery_and_chance(make_record):
    text = printed([make_record(zero_shot={"arc_easy": task()})])
    cells = row(text, "arc_easy  ")
    expected = ["arc_easy", "acc", "60.0", "±", "2.0", "45.0", "±", "2.0", "75.0", "%", "25.0"]
    assert cells == expected
    assert "arc_easy (the first 100 of 570): 0-shot, lm-eval 0.4, here" in text


@pytest.mark.parametrize(
    ("score", "flag"), [(0.29, AT_CHANCE), (0.22, AT_CHANCE), (0.2, BELOW_CHANCE), (0.3, "")]
)
def test_flags(score, flag, make_record):
    assert chance_flag(score, 0.02, 0.25) == flag
    cells = row(printed([make_record(zero_shot={"arc_easy": task(quantized=score)})]), "arc_easy  ")
    assert [cell for cell in cells if cell in (AT_CHANCE, BELOW_CHANCE)] == [flag] * bool(flag)


def test_no_flag_where_chance_or_error_is_unknown():
    assert chance_flag(0.25, None, 0.25) == chance_flag(0.25, 0.1, None) == ""
    assert chance_flag(None, 0.1, 0.25) == ""


def test_full_precision_alone(make_record):
    cells = row(printed([make_record(zero_shot={"piqa": task(quantized=None)})]), "piqa  ")
    assert cells == ["piqa", "acc", "60.0", "±", "2.0", "-", "-", "25.0"]


def test_two_runs_are_named(make_record):
    records = [
        make_record(f"r{n}", params={"critical_ratio": n / 10}, zero_shot={"piqa": task()})
        for n in (0, 1)
    ]
    text = printed(records)
    assert "λ=0.1" in text
    assert text.count("piqa  ") == 2


def test_many_runs_have_a_row_each_and_a_mean(make_record):
    records = [
        make_record(
            f"r{n}",
            params={"critical_ratio": n / 10},
            zero_shot={"arc_easy": task(quantized=0.4 + n / 100), "piqa": task(quantized=0.5)},
        )
        for n in range(3)
    ]
    text = printed(records)
    assert row(text, "CRVQ · λ=0.2") == ["CRVQ", "·", "λ=0.2", "42.0", "50.0", "46.0"]
    assert row(text, "full precision") == ["full", "precision", "60.0", "60.0", "60.0"]
    assert row(text, "chance  ") == ["chance", "25.0", "25.0", "25.0"]


def test_no_mean_over_a_part_of_the_tasks(make_record):
    records = [
        make_record(f"r{n}", params={"critical_ratio": n / 10}, zero_shot=tasks)
        for n, tasks in enumerate([{"piqa": task(), "boolq": task()}] * 2 + [{"piqa": task()}])
    ]
    assert row(printed(records), "CRVQ · λ=0.2")[3:] == ["45.0", "-", "-"]


def test_recovery_is_in_brackets_where_full_precision_guesses(make_record):
    text = printed([make_record(zero_shot={"boolq": task(full=0.32, quantized=0.69, chance=0.5)})])
    cells = row(text, "boolq  ")
    assert cells[2:6] == ["32.0", "±", "2.0", BELOW_CHANCE]
    assert cells[9:11] == ["(215.6", "%)"]


def test_other_limits_have_columns_and_means_of_their_own(make_record):
    records = [
        make_record(
            f"r{n}",
            params={"critical_ratio": n / 10},
            zero_shot={name: task(quantized=0.4, limit=limit) for name in ("arc", "piqa")},
        )
        for n, limit in enumerate((100, 100, 1000))
    ]
    text = printed(records, width=200)
    assert row(text, "CRVQ · λ=0.1")[3:] == ["40.0", "40.0", "-", "-", "40.0", "-"]
    assert row(text, "CRVQ · λ=0.2")[3:] == ["-", "-", "40.0", "40.0", "-", "40.0"]
    assert row(text, "chance  ")[1:] == ["25.0"] * 6


def test_six_tasks_and_their_mean_fit_80_columns(make_record):
    names = ("winogrande", "piqa", "hellaswag", "arc_easy", "arc_challenge", "boolq")
    scores = {name: task(quantized=0.25, limit=100) for name in names}
    records = [make_record(params={"codebooks": n}, zero_shot=scores) for n in (1, 2, 3)]
    lines = printed(records, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    (head,) = [line.split() for line in lines if "winogrande" in line and "mean" in line]
    assert head[-4:] == ["arc_easy", "challenge", "boolq", "mean"]
    assert row("\n".join(lines), "full precision  ")[-1] == "60.0"
    assert "first 100" not in " ".join(lines[:5])  # said once, below
