"""Every field of a run declares whether it changes the result, and the identity follows it."""

from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, Field

from crvq.config import CalibrationConfig, ModelConfig, RunConfig, StrictModel
from crvq.config.evaluation import (
    AgreementConfig,
    EvalConfig,
    GenerationConfig,
    PerplexityConfig,
    SpeedConfig,
)
from crvq.config.finetune import BlockConfig, CodesConfig, EndToEndConfig, FinetuneConfig
from crvq.config.model import WheelPart
from crvq.config.strict import Neutral, NeutralAt, is_neutral, neutral_fields
from crvq.config.zero_shot import ZeroShotConfig
from crvq.methods import method_names, method_params
from crvq.tracking.run_id import run_id

NEUTRAL = {
    "experiment",
    "run",
    "threads",
    "placement",
    "dry_run",
    "force",
    "if_locked",
    "reuse",
    "eval_only",
    "results_dir",
    "cache_dir",
    "model.name",
    "model.note",
    "model.architecture",
    "finetune.end_to_end.microbatch",
    "finetune.end_to_end.save_every",
    "finetune.end_to_end.gradient_checkpointing",
    "finetune.end_to_end.sharding",
    "eval",
    "tracking",
}
"""A new neutral field is a decision: it is added here, with thought."""


def full_config(method: str = "crvq") -> RunConfig:
    """A run in which every section is there, so that every field can be changed."""
    wheel = WheelPart(requirement="model==1.0", sha256="0" * 64, member="part")
    return RunConfig(
        model=ModelConfig(name="tiny", source="embedded", wheels=(wheel,)),
        method=method,
        method_params=method_params(method)(),
        calibration=CalibrationConfig(),
        finetune=FinetuneConfig(
            block=BlockConfig(learning_rate=0.01, epochs=1, codes=CodesConfig()),
            end_to_end=EndToEndConfig(learning_rate=0.01, epochs=1, codes=CodesConfig()),
        ),
        eval=EvalConfig(
            perplexity={"wiki": PerplexityConfig()},
            agreement=AgreementConfig(),
            generation=GenerationConfig(),
            speed=SpeedConfig(),
            zero_shot=ZeroShotConfig(tasks=("piqa",)),
        ),
    )


def leaves(value: Any, neutral: bool = False, path: tuple[Any, ...] = ()) -> list[Any]:
    """``(path, neutral)`` of every field of a model and its sections."""
    found = []
    for name, field in type(value).model_fields.items():
        inner, here = getattr(value, name), neutral or is_neutral(field)
        parts = inner.items() if isinstance(inner, dict) else [(None, inner)]
        for key, part in parts:
            steps = (*path, name) if key is None else (*path, name, key)
            if isinstance(part, BaseModel):
                found += leaves(part, here, steps)
            else:
                found.append((steps, here))
    return found


def changed(value: Any, path: tuple[Any, ...]) -> Any:
    """``value`` with another value at ``path``; cross-field checks are not asked."""
    name, *rest = path
    if isinstance(value, dict):
        return {**value, name: changed(value[name], tuple(rest))}
    inner = getattr(value, name)
    other = changed(inner, tuple(rest)) if rest else another(type(value), name, inner)
    return value.model_copy(update={name: other})


def another(model: type[BaseModel], name: str, value: Any) -> Any:
    """Another value of a field's type."""
    if name == "method":
        return "gptq" if value != "gptq" else "crvq"
    annotation = model.model_fields[name].annotation
    options = [
        option
        for part in (annotation, *get_args(annotation))
        if get_origin(part) is Literal
        for option in get_args(part)
    ]
    if options:
        return next(option for option in options if option != value)
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return value[:-1] if value else ("x",)
        case None:
            kinds = {str: "x", int: 7, float: 0.5, dict: {"x": {"y": 1}}}
            parts = [get_origin(part) or part for part in get_args(annotation)]
            sections = [part() for part in parts if issubclass(part, BaseModel)]
            return next(iter([*sections, *(kinds[part] for part in parts if part in kinds)]))
    raise AssertionError(f"no other value of {model.__name__}.{name}={value!r}")


CASES = [
    pytest.param(method, path, neutral, id=f"{method}-{'.'.join(map(str, path))}")
    for method in method_names()
    for path, neutral in leaves(full_config(method))
    if method == "crvq" or path[0] == "method_params"
]


@pytest.mark.parametrize(("method", "path", "neutral"), CASES)
def test_a_field_changes_the_id_unless_it_is_declared_neutral(method, path, neutral):
    one = full_config(method)
    two = changed(one, path)
    assert (one.identity() == two.identity()) == neutral
    assert (run_id(one)[-12:] == run_id(two)[-12:]) == neutral


def test_the_neutral_fields_are_these():
    assert neutral_fields(RunConfig) == NEUTRAL


@pytest.mark.parametrize("method", method_names())
def test_no_parameter_of_a_method_is_neutral(method):
    assert not neutral_fields(method_params(method))


class Inner(StrictModel):
    label: Annotated[str, Neutral] = "a"
    size: int = 1


class Outer(StrictModel):
    one: Inner = Inner()
    maybe: Inner | None = None
    named: dict[str, Inner] = Field(default_factory=dict)
    listed: tuple[Inner, ...] = ()
    added: Annotated[int, NeutralAt(0)] = 0
    only_labels: "Labels | None" = None


class Labels(StrictModel):
    text: Annotated[str, Neutral] = ""


Outer.model_rebuild()


def test_the_identity_is_derived_section_by_section():
    outer = Outer(named={"x": Inner(size=2)}, listed=(Inner(), Inner(size=3)), added=5)
    assert outer.identity() == {
        "one": {"size": 1},
        "maybe": None,
        "named": {"x": {"size": 2}},
        "listed": [{"size": 1}, {"size": 3}],
        "added": 5,
        "only_labels": None,
    }


def test_a_field_at_its_neutral_value_and_an_empty_section_are_left_out():
    identity = Outer(added=0, only_labels=Labels()).identity()
    assert "added" not in identity
    assert "only_labels" not in identity
    assert "added" in Outer(added=1).identity()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("budget", "if_infeasible"), "error"),
        (("model", "wheels"), ()),
        (("method_params", "warm_start"), False),
    ],
    ids=str,
)
def test_fields_that_came_later_are_absent_at_their_first_value(path, value):
    config = full_config()
    section = getattr(config, path[0]).model_copy(update={path[1]: value})
    identity = config.model_copy(update={path[0]: section}).identity()
    assert path[1] not in identity[path[0]]


def test_neutral_fields_of_sections_are_named_with_dots():
    assert neutral_fields(Outer) == {
        "one.label",
        "maybe.label",
        "named.label",
        "listed.label",
        "only_labels.text",
    }


def test_windows_of_a_forward_pass_count_only_with_fine_tuning():
    def ids(finetune: FinetuneConfig) -> int:
        config = full_config().model_copy(update={"finetune": finetune})
        return len({run_id(changed(config, ("calibration", "batch_size"))), run_id(config)})

    assert ids(FinetuneConfig()) == 1
    assert ids(full_config().finetune) == 2
