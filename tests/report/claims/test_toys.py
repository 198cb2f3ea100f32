import pandas as pd
import pytest

from crvq.report.claims import without_toys


@pytest.mark.parametrize(("weights", "kept"), [(1e6, False), (135e6, True), (None, True)])
def test_models_of_a_few_weights_say_nothing(weights, kept):
    runs = pd.DataFrame({"run_id": ["a", "b"], "bits.all_weights": [weights, 7e9]})
    assert ("a" in set(without_toys(runs)["run_id"])) is kept
    assert "b" in set(without_toys(runs)["run_id"])


def test_without_runs_there_is_nothing_to_leave_out():
    assert without_toys(pd.DataFrame()).empty
