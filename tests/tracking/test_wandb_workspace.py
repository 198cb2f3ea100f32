"""The workspace's panels, against the keys of a real offline run."""

import pytest
import wandb_workspaces.reports.v2 as wr

from crvq.pipeline.run import run
from crvq.tracking.json_values import flatten
from crvq.tracking.record_schema import read_record
from crvq.tracking.wandb_workspace import WorkspaceError, build_workspace, main, save_workspace
from tests.tracking.offline_run import finished_offline_run, items


def keys_of(workspace):
    """Keys that its panels read: of the configuration, of summaries and of histories."""
    config, summary, history = set(), set(), set()

    def sort_in(metric):
        if isinstance(metric, wr.Config):
            config.add(metric.name)
        elif isinstance(metric, wr.SummaryMetric):
            summary.add(metric.name)
        else:
            history.add(metric)

    for panel in (panel for section in workspace.sections for panel in section.panels):
        if isinstance(panel, wr.ScatterPlot):
            metrics = [panel.x, panel.y]
        elif isinstance(panel, wr.LinePlot):
            metrics = [panel.x, *panel.y]
        elif isinstance(panel, wr.BarPlot):
            metrics = panel.metrics
        elif isinstance(panel, wr.ParallelCoordinatesPlot):
            metrics = [column.metric for column in panel.columns]
        else:
            assert isinstance(panel, wr.RunComparer | wr.WeavePanelSummaryTable)
            metrics = []
        for metric in metrics:
            sort_in(metric)
    for column in workspace.runset_settings.pinned_columns:
        section, _, name = column.partition(":")
        {"config": config, "summary": summary, "run": set()}[section].add(name)
    return config, summary, history


def test_every_panel_reads_what_a_real_run_has(compose_run, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(compose_run("tracking=offline", "tracking.tags=[t]", "tracking.group=g"))
    records = finished_offline_run(folder)
    (started,) = [record.run for record in records if record.HasField("run")]
    history = [items(record.history.item) for record in records if record.HasField("history")]
    summary = {}
    for record in records:
        summary |= items(record.summary.update)

    workspace = build_workspace("me", "crvq", ["file"])
    in_config, in_summary, in_history = keys_of(workspace)
    assert in_config <= flatten(items(started.config.update)).keys()
    assert in_summary <= summary.keys()
    blocks = [row for row in history if "block" in row]
    assert [row["block"] for row in blocks] == [0, 1, 2]
    assert all(in_history <= row.keys() for row in blocks)
    assert "perplexity/file/quantized" in in_summary

    # What `wandb sync` would upload is the whole run.
    record = read_record(folder)
    assert (started.run_id, started.run_group, list(started.tags)) == (record["run_id"], "g", ["t"])
    uploaded = items(started.config.update)
    assert {name: uploaded[name] for name in record["config"]} == record["config"]
    for name, value in flatten({"bits": record["bits"]}, separator="/").items():
        assert summary[name] == value
    tables = [row for row in history if row.get("layers/_type") or "layers" in row]
    assert len(tables) == 1
    (path,) = folder.glob("wandb/offline-run-*/files/media/table/layers*.table.json")
    assert path.stat().st_size > 0


def test_the_spec_can_be_written_for_the_server():
    spec = build_workspace("me", "crvq", ["c4"])._to_model().model_dump_json(by_alias=True)
    assert "summary:perplexity/c4/quantized" in spec
    assert "config:method_params.value.critical_ratio" in spec


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("crvq.tracking.wandb_workspace.find_spec", lambda name: None)
    with pytest.raises(WorkspaceError, match=r"pip install 'crvq\[workspace\]'"):
        build_workspace("me", "crvq")


def test_without_a_connection_it_says_what_to_check(monkeypatch):
    workspace = build_workspace("me", "crvq")
    monkeypatch.setattr("wandb.login", lambda **options: True)

    def refused(self):
        raise ConnectionError("nobody\nanswers")

    monkeypatch.setattr(type(workspace), "save", refused)
    with pytest.raises(WorkspaceError, match=r"me/crvq could not be saved \(nobody answers\)"):
        save_workspace(workspace)


@pytest.mark.parametrize("place", ["me", "/crvq", "me/", "me/crvq/x"])
def test_a_project_without_its_owner_is_refused(place, capsys):
    with pytest.raises(SystemExit) as stop:
        main([place])
    assert stop.value.code == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err


def test_nobody_logged_in_is_an_error_and_an_exit_code(monkeypatch, capsys):
    monkeypatch.setattr("wandb.login", lambda **options: False)
    assert main(["me/crvq"]) == 1
    assert "wandb login" in capsys.readouterr().err
