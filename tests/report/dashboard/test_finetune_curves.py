import pandas as pd

from crvq.finetune.curve import CurvePoint
from crvq.report.dashboard.finetune_curves import finetune_curves
from crvq.tracking.csv_files import write_finetune


def read(tmp_path, *points):
    path = tmp_path / "finetune.csv"
    write_finetune(path, points)
    return finetune_curves(pd.read_csv(path))


def point(stage, block, step, train, validation):
    return CurvePoint(stage, block, 0.5, step, train, validation, 1e-4, 1.0)


def test_a_curve_a_stage_and_block(tmp_path):
    assert read(
        tmp_path,
        point("block", 0, 0, None, 3.0),
        point("block", 0, 8, 2.5, 2.0),
        point("block", 1, 0, None, 9.0),
        point("end_to_end", None, 0, None, float("inf")),
        point("end_to_end", None, 4, 1.0, 0.5),
    ) == [
        {"stage": "block", "block": 0, "step": [0, 8], "train": [None, 2.5], "validation": [3, 2]},
        {"stage": "block", "block": 1, "step": [0], "train": [None], "validation": [9]},
        {
            "stage": "end_to_end",
            "block": None,
            "step": [0, 4],
            "train": [None, 1],
            "validation": [None, 0.5],
        },
    ]


def test_no_curves(tmp_path):
    assert read(tmp_path) == []
    assert finetune_curves(pd.DataFrame()) == []
    assert finetune_curves(pd.DataFrame({"step": [1]})) == []
