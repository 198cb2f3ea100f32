"""Zero-shot scores and agreement as the page lists them."""

import pytest

from crvq.report.dashboard.page import write_dashboard

from .browser import opened
from .conftest import agreement, zero_shot

pytestmark = pytest.mark.browser


@pytest.fixture
def listed(browser, save_run, tmp_path):
    """Rows of cells of each table of the section, the heads first."""

    def tables(*runs):
        for number, changes in enumerate(runs):
            save_run(f"a/{number}", params={"critical_ratio": number / 10}, **changes)
        write_dashboard(tmp_path / "results", tmp_path / "page.html")
        with opened(browser, tmp_path / "page.html") as page:
            return page.locator("#scores table").evaluate_all(
                "all => all.map(table => [...table.rows].map(row => "
                "[...row.cells].map(cell => cell.textContent)))"
            )

    return tables


def test_runs_with_other_tasks_or_limits_stand_in_tables_of_their_own(listed):
    first = {"arc": zero_shot(0.5, limit=100), "piqa": zero_shot(0.7, limit=100)}
    other = {"arc": zero_shot(0.9, limit=1000)}
    one, two = listed({"zero_shot": first}, {"zero_shot": other}, {"zero_shot": first})
    assert one[0] == ["run", "arc, first 100", "piqa, first 100", "average", "recovery"]
    assert [row[0] for row in one[1:]] == [
        "chance",
        "full precision, tiny",
        "critical_ratio=0",
        "critical_ratio=0.2",
    ]
    assert one[3][3] == "60.0"
    assert two[0][1] == "arc, first 1000"
    assert [row[-2] for row in two[1:]] == ["25.0", "60.0", "90.0"]


def test_full_precision_is_set_against_chance_and_so_is_the_recovery(listed):
    guess = zero_shot(0.69, chance=0.5)
    guess["metrics"]["acc"]["full_precision"] = 0.32
    ((_, _, full, run),) = listed({"zero_shot": {"boolq": guess}})
    assert full[1] == "▼ 32.0 ± 2.0"
    assert run[1] == "69.0 ± 2.0"
    assert run[-1] == "(215.6 %)"


def test_each_full_precision_is_listed_once(listed):
    same, changed = zero_shot(0.5), zero_shot(0.5)
    changed["metrics"]["acc"]["full_precision"] = 0.7
    (table,) = listed(*({"zero_shot": {"arc": one}} for one in (same, same, changed)))
    full = [row[1] for row in table if row[0].startswith("full precision")]
    assert full == ["60.0 ± 2.0", "70.0 ± 2.0"]


def test_agreement_at_two_contexts_is_two_texts(listed):
    entries = [{"agreement": {"wiki": agreement(0.5, context=context)}} for context in (64, 128)]
    ((_, one, two),) = listed(*entries)
    assert one[1] == "wiki (context 64, 63 tokens)"
    assert two[1] == "wiki (context 128, 63 tokens)"
