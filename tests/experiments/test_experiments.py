"""Every sweep that is shipped composes, is well typed, and is what its table needs."""

import pytest

from crvq.tracking.run_id import run_id
from tests.experiments.conftest import FOLDER

NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
SIZES = {
    "model_size_opt": ["OPT-125M", "OPT-350M", "OPT-1.3B", "OPT-2.7B", "OPT-6.7B", "OPT-13B"],
    "model_size_llama": ["LLaMA-7B", "LLaMA-13B", "LLaMA-2-7B", "LLaMA-2-13B", "LLaMA-3-8B"],
    "model_size_qwen": ["Qwen2.5-0.5B", "Qwen3-0.6B-Base", "Qwen2.5-7B", "Qwen3-8B-Base"],
}


@pytest.mark.parametrize("name", NAMES)
def test_every_job_composes_and_types_and_is_a_run_of_its_own(name, planned):
    jobs = planned(f"+experiments={name}")
    assert len(jobs) > 1
    assert len({run_id(job) for job in jobs}) == len(jobs)
    assert len({job.experiment for job in jobs}) == 1
    assert jobs[0].experiment != "default"


@pytest.mark.parametrize("name", NAMES)
def test_its_header_says_how_to_run_it(name):
    header = [line for line in (FOLDER / f"{name}.yaml").read_text().splitlines() if "#" in line]
    assert header[0] == "# @package _global_"
    assert f"#   python run.py +experiments={name}" in header


def test_critical_ratio_has_the_papers_ratios(planned):
    ratios = [job.method_params.critical_ratio for job in planned("+experiments=critical_ratio")]
    assert ratios == [0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16]


def test_extended_codebooks_are_counted_and_sized(planned):
    layouts = {
        (job.method_params.extended_codebooks, job.method_params.extended_bits)
        for job in planned("+experiments=extended_codebooks")
    }
    assert {layout for layout in layouts if layout[0]} == {
        (m - 1, bits) for m in (2, 3, 4, 5) for bits in (4, 6, 8)
    }
    assert len(layouts) == 13


@pytest.mark.parametrize(("name", "models"), SIZES.items(), ids=SIZES)
def test_model_sizes_are_those_of_the_paper_and_more(name, models, planned):
    jobs = planned(f"+experiments={name}")
    assert list(dict.fromkeys(job.model.name for job in jobs)) == models


def test_longer_codes_at_both_lengths(planned):
    layouts = {
        (job.method_params.codebook_bits, job.method_params.group_size)
        for name in ("base_vq", "base_vq_16bit")
        for job in planned(f"+experiments={name}")
    }
    assert layouts >= {(12, 4), (12, 16), (16, 4), (16, 16)}


def test_seeds_reach_calibration_too(planned):
    assert {(job.seed, job.calibration.seed) for job in planned("+experiments=seeds")} == {
        (0, 0),
        (1, 1),
        (2, 2),
    }
