from crvq.report.identical_jobs import identical_jobs


def test_says_which_and_why(make_record):
    records = [
        make_record(
            f"r{ratio}",
            params={"critical_ratio": ratio},
            effective={"critical_ratio": used},
            result_digest=digest,
        )
        for ratio, used, digest in ((0.01, 8 / 576, "a"), (0.02, 8 / 576, "a"), (0.5, 0.5, "b"))
    ]
    (sentence,) = identical_jobs(records)
    assert sentence == (
        "CRVQ · λ=0.01 → 0.0139 and CRVQ · λ=0.02 → 0.0139 gave the same quantized "
        "model, bit for bit: critical_ratio comes to 0.0139 in each."
    )


def test_without_an_explanation(make_record):
    records = [
        make_record(
            f"r{n}",
            params={"codebooks": n},
            effective={"critical_ratio": 0.0139},
            result_digest="a",
        )
        for n in (1, 2, 3)
    ]
    (sentence,) = identical_jobs(records)
    assert sentence.startswith(
        "CRVQ · λ=0.02 → 0.0139 codebooks=1, CRVQ · λ=0.02 → 0.0139 codebooks=2 "
    )
    assert "comes to" not in sentence


def test_the_same_run_twice_unknown_digests_and_failed_jobs_are_nothing(make_record):
    same = make_record("r1", result_digest="a")
    unknown = [make_record(f"u{n}", params={"codebooks": n}) for n in (1, 2)]
    assert identical_jobs([same, same, *unknown, {"label": "x", "status": "failed"}]) == []
