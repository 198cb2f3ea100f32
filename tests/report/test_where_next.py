from crvq.report.where_next import where_next


def test_names_the_files_and_a_sweep(make_record):
    text = "\n".join(where_next(make_record()))
    assert "results/default/r1/record.json" in text
    assert "-m crvq.critical_ratio=0,0.02,0.04" in text
    assert "wandb sync" not in text


def test_the_sweep_has_only_allowed_and_different_values(make_record):
    def ratios(ratio):
        text = "\n".join(where_next(make_record(params={"critical_ratio": ratio})))
        return text.split("critical_ratio=")[1]

    assert ratios(0) == "0,0.02"
    assert ratios(0.75) == "0,0.75"


def test_offline_runs_can_be_synced(make_record, tmp_path):
    (tmp_path / "default" / "r1" / "wandb").mkdir(parents=True)
    record = make_record(config={"results_dir": str(tmp_path)})
    assert f"wandb sync {tmp_path}/default/r1/wandb" in "\n".join(where_next(record))


def test_a_failed_run_can_go_on(make_record):
    text = "\n".join(where_next(make_record(status="failed")))
    assert "same command" in text
    assert "force=true" in text


def test_methods_without_a_ratio(make_record):
    record = make_record(config={"method": "rtn", "method_params": {}})
    assert "rtn.critical_ratio" not in "\n".join(where_next(record))
