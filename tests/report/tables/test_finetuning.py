from crvq.report.tables import finetuning_table


def tuned(make_run, value, *stages, **params):
    finetune = {stage: {"epochs": 2} for stage in stages}
    return make_run(value, config={"finetune": finetune}, **params)


def test_stages_of_one_setting_stand_together_in_order(runs_of, make_run):
    runs = runs_of(
        tuned(make_run, 20.0, "block", "end_to_end"),
        make_run(50.0),
        tuned(make_run, 30.0, "block"),
        make_run(70.0, reorder="none"),
    )
    table = finetuning_table(runs)
    assert table.frame["stage"].tolist() == ["none", "block", "block + end to end"]
    assert table.frame["perplexity: wiki, 64"].tolist() == [50.0, 30.0, 20.0]
    assert table.frame["label"].nunique() == 1


def test_without_fine_tuned_runs(runs_of, make_run):
    for runs in (runs_of(), runs_of(make_run())):
        assert "experiments=finetune" in finetuning_table(runs).missing()
