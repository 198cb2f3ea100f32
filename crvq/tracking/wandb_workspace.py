"""The same panels for every W&B project: bits against perplexity, blocks, cost, comparison.

python -m crvq.tracking.wandb_workspace ENTITY/PROJECT   # after `wandb login`; once a project
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from crvq.errors import CrvqError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Section, Workspace

_DATASETS = ("wikipedia", "wikitext2", "c4")
_BITS = "bits/average_quantized_weights"
_ALL_BITS = "bits/average_all_weights"


class WorkspaceError(CrvqError):
    """The workspace could not be made."""


def build_workspace(
    entity: str, project: str, datasets: Sequence[str] = _DATASETS, name: str = "CRVQ"
) -> Workspace:
    """Return the workspace as an object; asks no server.

    Args:
        entity: W&B user or team.
        project: W&B project.
        datasets: names of ``eval.perplexity`` whose perplexity gets panels.
        name: of the saved view.

    Raises:
        WorkspaceError: wandb-workspaces is not installed.
    """
    if find_spec("wandb_workspaces") is None:
        raise WorkspaceError(
            "the package wandb-workspaces is not installed; run `pip install 'crvq[workspace]'` "
            "(in a checkout `pip install -c constraints.txt -e '.[workspace]'`)"
        )
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[_results(datasets), _blocks(), _cost(), _comparison()],
        settings=ws.WorkspaceSettings(x_axis="block", max_runs=100),
        runset_settings=ws.RunsetSettings(
            pinned_columns=[
                "config:method",
                f"summary:{_BITS}",
                *(f"summary:{_perplexity(dataset)}" for dataset in datasets),
            ]
        ),
    )


def save_workspace(workspace: Workspace) -> str:
    """Save it as a new view of its project.

    Returns:
        Its address.

    Raises:
        WorkspaceError: no login, no connection, or no such entity; says what to do.
    """
    import wandb

    where = f"{workspace.entity}/{workspace.project}"
    try:
        wandb.setup(settings=wandb.Settings(silent=True))
        if not wandb.login(anonymous="never", timeout=1):
            raise WorkspaceError(
                "there is no W&B login here: run `wandb login`, or set WANDB_API_KEY"
            )
        workspace.save()
    except WorkspaceError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WorkspaceError(
            f"the workspace of {where} could not be saved ({reason}). Check the connection, that "
            f"`wandb login` was done, and that {where} is yours to write"
        ) from error
    return workspace.url


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crvq.tracking.wandb_workspace", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("project", metavar="ENTITY/PROJECT")
    parser.add_argument(
        "--datasets",
        nargs="+",
        default=list(_DATASETS),
        metavar="NAME",
        help="names of eval.perplexity (default: %(default)s)",
    )
    parser.add_argument("--name", default="CRVQ", help="of the view (default: %(default)s)")
    parsed = parser.parse_args(arguments)
    entity, _, project = parsed.project.partition("/")
    if not entity or not project or "/" in project:
        parser.error(f"{parsed.project!r}: give ENTITY/PROJECT, as in the project's address")
    try:
        url = save_workspace(build_workspace(entity, project, parsed.datasets, parsed.name))
    except CrvqError as error:
        _say(f"error: {error}", stderr=True)
        return 1
    _say(url)
    return 0


def _results(datasets: Sequence[str]) -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    keys = [_perplexity(dataset) for dataset in datasets]
    pareto = [
        wr.ScatterPlot(
            title=f"{dataset}: bits per weight against perplexity",
            x=wr.SummaryMetric(_BITS),
            y=wr.SummaryMetric(key),
            log_y=True,
        )
        for dataset, key in zip(datasets, keys, strict=True)
    ]
    bars = [
        wr.BarPlot(title=f"{dataset}: perplexity", metrics=[wr.SummaryMetric(key)])
        for dataset, key in zip(datasets, keys, strict=True)
    ]
    ratio = wr.ParallelCoordinatesPlot(
        title="critical ratio, bits, perplexity",
        columns=[
            wr.ParallelCoordinatesPlotColumn(metric=wr.Config("method_params.critical_ratio")),
            wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(_BITS)),
            *(
                wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(key), log=True)
                for key in keys
            ),
        ],
    )
    weight = wr.BarPlot(
        title="bits per weight", metrics=[wr.SummaryMetric(_BITS), wr.SummaryMetric(_ALL_BITS)]
    )
    return ws.Section(name="Results", panels=[*pareto, *bars, ratio, weight], is_open=True)


def _blocks() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    lines = {
        "relative loss, mean over linears": "relative_loss/mean",
        "relative loss, worst linear": "relative_loss/max",
        "bits per weight": "bits/block",
        "seconds": "seconds/block",
    }
    panels: list[Any] = [
        wr.LinePlot(title=title, x="block", y=[key], log_y=key.startswith("relative_loss"))
        for title, key in lines.items()
    ]
    return ws.Section(name="Blocks", panels=panels, is_open=True)


def _cost() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    stages: list[Any] = [
        wr.SummaryMetric(f"seconds/{stage}") for stage in ("quantize", "calibrate")
    ]
    return ws.Section(
        name="Cost",
        panels=[
            wr.BarPlot(title="seconds", metrics=stages),
            wr.BarPlot(title="peak memory", metrics=[wr.SummaryMetric("peak_memory_bytes")]),
        ],
    )


def _comparison() -> Section:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    return ws.Section(
        name="Runs",
        panels=[wr.RunComparer(diff_only="split"), wr.WeavePanelSummaryTable(table_name="layers")],
    )


def _perplexity(dataset: str) -> str:
    return f"perplexity/{dataset}/quantized"


def _say(text: str, stderr: bool = False) -> None:
    Console(stderr=stderr).print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
