"""Any value of any type for any key is accepted, or ends in one clear message of ours."""

import random
import resource
import sys
import time
from collections.abc import Iterator

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from crvq.cli.arguments import tidy_arguments
from crvq.cli.preflight import check_command
from crvq.errors import ConfigError
from tests.conftest import ROOT

SHORT, LONG = 60, 2000
MOST_MIB = 512
"""More memory than all of a fuzzer's configurations may add."""
MOST_SECONDS = 5.0
"""CPU time of one configuration, far above what any takes."""
BASES = (
    [],
    ["method=aqlm"],
    ["method=gptvq"],
    ["method=pb_llm"],
    ["method=billm"],
    ["method=gptq", "budget.bits=2"],
    ["finetune=block_e2e"],
    ["finetune=paper", "calibration=redpajama"],
    ["eval=everything"],
    ["eval=papers", "model=llama-2-7b", "tracking=trackio"],
)
VALUES = (
    "null", "true", "false", "0", "1", "-1", "2", "3", "7", "64", "4096", "0.5", "-0.5", "1.5",
    "1e20", "1e308", "-1e308", "1e-300", "nan", "inf", "-inf", "123456789012345678901234567890",
    "18446744073709551616", "2%", "''", "' '", "'a b'", "..", ".", "../x", "/", "~", "-", "auto",
    "'\\u0000'", "'x'", "[]", "[1,2]", "[a,b]", "[true]", "[null]", "[[1]]", "[0.9,0.95]",
    "[1,2,3]", "{}", "{a:1}", "{a:{b:[1,{c:null}]}}", "'${seed}'", "'${nope}'", "'${oc.env:NOPE}'",
    "'???'", "'${'", "'" + "x" * 300 + "'", "'" + "/y" * 3000 + "'", "héllo", "'🙂'", "float32",
    "bfloat16", "int8", "cuda:0", "cuda:999999999999", "wikipedia", "none", "norms", "1_000",
    "0x10", "1:30", "on", "off", "yes", "2025-01-01", "'null'", "'true'", "'1'", "int(3.7)",
    "str(5)", "json_str('{\\\"a\\\":1}')",
)  # fmt: skip


@pytest.fixture(autouse=True)
def memory_and_time_are_bounded():
    """Fail where configurations add memory without bound."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert added < MOST_MIB


@pytest.fixture(scope="module")
def bases() -> Iterator[list[tuple[list[str], list[str]]]]:
    """Base configurations, each with its dotted keys."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield [(base, sorted(keys(compose("config", overrides=[*base])))) for base in BASES]


def keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """All dotted keys, sections too."""
    for key, value in config.items_ex(resolve=False):
        yield f"{prefix}{key}"
        if isinstance(value, DictConfig):
            yield from keys(value, f"{prefix}{key}.")


def draws(bases, count, seed):
    """Seeded command lines: a base, and one to three keys with odd values."""
    draw = random.Random(seed)
    for _ in range(count):
        base, known = draw.choice(bases)
        chosen = draw.sample(known, draw.choice((1, 1, 2, 3)))
        changes = [
            f"{draw.choice(('', '', '', '++', '+'))}{key}={draw.choice(VALUES)}" for key in chosen
        ]
        if draw.random() < 0.1:
            changes.append(f"~{draw.choice(known)}")
        if draw.random() < 0.1:
            changes.append(f"+{draw.choice(known)}.odd={draw.choice(VALUES)}")
        yield [*base, *changes]


def outcome(arguments):
    """None where a command line is accepted, else the message; never another exception."""
    begun = time.process_time()
    try:
        check_command(
            tidy_arguments(arguments),
            ROOT / "conf",
            "config",
        )
        message = None
    except ConfigError as error:
        message = str(error)
    assert time.process_time() - begun < MOST_SECONDS
    return message


def check(arguments):
    message = outcome(arguments)
    if message is None:
        return "accepted"
    lines = message.splitlines()
    assert all(line.strip() for line in lines), message
    assert 0 < len(lines) <= 8, message
    assert all(len(line) < 1200 for line in lines), message
    for word in ("Traceback", "pydantic", "Error(", "NoneType", "<class"):
        assert word not in message, message
    return "refused"


def fuzz(bases, count, seed, monkeypatch, capsys):
    # Devices, packages and tasks of this machine are not what is fuzzed.
    def unchecked(config, overrides, remote=False):
        return None

    monkeypatch.setattr("crvq.cli.preflight._check_surroundings", unchecked)
    ended = {"accepted": 0, "refused": 0}
    failures = []
    for arguments in draws(bases, count, seed):
        try:
            ended[check(arguments)] += 1
        except Exception as error:
            failures.append((str(arguments)[:300], f"{type(error).__name__}: {str(error)[:300]}"))
    report = "\n".join(f"{arguments}\n    {error}" for arguments, error in failures[:20])
    assert not failures, f"{len(failures)} of {count}:\n{report}"
    with capsys.disabled():
        sys.stdout.write(f"\n{count} configurations: {ended}\n")
    assert min(ended.values()) > count // 20


def test_a_few_configurations(bases, monkeypatch, capsys):
    fuzz(bases, SHORT, 0, monkeypatch, capsys)


@pytest.mark.faults
def test_many_configurations(bases, monkeypatch, capsys):
    fuzz(bases, LONG, 1, monkeypatch, capsys)


EXAMPLES = {
    "budget=-1": ["budget.bits=-1", "above 0"],
    "eval=null": ["eval=null", "eval=none"],
    "method=[1,2]": ["method=[1,2]", "group of options"],
    "model=7": ["model=7", "model=NAME"],
    "seed=1e20": ["seed=1e+20", "4294967295"],
    "+finetune.block={learning_rate: 0.1, epochs: 1, betas: [1, 2]}": ["betas", "less than 1"],
    "+finetune.block={learning_rate: 1e308, epochs: 1}": ["learning_rate=1e+308"],
    "+finetune.block={learning_rate: 0.1, epochs: true}": ["finetune.block.epochs=true"],
    "eval.perplexity.wikipedia.max_windows=true": ["max_windows=true", "neither a number"],
    "experiment=..": ["experiment=..", "set experiment=my-experiment"],
    "experiment=.": ["experiment=.", "folder"],
    "experiment=.hidden": ["experiment=.hidden", "set experiment=hidden"],
    "experiment=my exp": ["experiment=my exp", "set experiment=my-exp"],
    "experiment=a/b": ["set experiment=a-b"],
    "crvq=null": ["crvq=null"],
    "crvq.critical_ratio=2%": ["write 0.02"],
    "threads=true": ["threads=true"],
    "model.path='a\tb'": ["model.path"],
    "results_dir=''": ["results_dir"],
}


@pytest.mark.parametrize("argument", EXAMPLES)
def test_what_people_typed(argument):
    message = outcome([argument.replace("+finetune.block", "++finetune.block")])
    parts = EXAMPLES[argument]
    assert (message is None) == (parts is None), message
    for part in parts or ():
        assert part in message, message


def test_the_fuzzer_finds_what_is_not_caught(bases, monkeypatch, capsys):
    monkeypatch.setattr("crvq.cli.preflight.typed_config", lambda config: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        fuzz(bases, 8, 2, monkeypatch, capsys)
