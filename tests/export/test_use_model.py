"""``crvq export``, ``crvq generate``, ``crvq chat``: what people type, and what they see."""

import io
import shutil
import sys

import pytest

from crvq.cli import main as command
from crvq.cli.use_model import main
from crvq.export import load
from crvq.pipeline.run import run


def test_export_then_generate(compose_run, tmp_path, capsys):
    folder = run(compose_run("eval=none"))
    assert main(["export", str(folder), str(tmp_path / "out")]) == 0
    assert "crvq generate" in capsys.readouterr().out
    assert main(["generate", str(tmp_path / "out"), "w1 w2 w3", "--max-new-tokens", "4"]) == 0
    printed = capsys.readouterr().out.split()
    model = load(tmp_path / "out")
    ids = model.tokenizer("w1 w2 w3", return_tensors="pt").input_ids
    tokens = model.generate(ids, do_sample=False, max_new_tokens=4, pad_token_id=0)
    assert printed == model.tokenizer.decode(tokens[0]).split()
    assert printed[:3] == ["w1", "w2", "w3"]
    assert main(["export", str(folder), str(tmp_path / "out")]) == 1
    assert "not an empty folder" in capsys.readouterr().err


def test_sampling_depends_on_the_seed_alone(packed_folder, capsys):
    said = []
    for seed in (0, 0, 1):
        options = ["--sample", "--temperature", "5", "--seed", str(seed), "--max-new-tokens", "12"]
        assert main(["generate", str(packed_folder), "w1", *options]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


def test_chat_keeps_the_conversation(packed_folder, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(packed_folder, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] }} {% endfor %}w9"
    )
    seen = []
    model = load(folder)
    monkeypatch.setattr("crvq.export.load", lambda *_, **__: model, raising=False)
    original = model.generate

    def watched(**options):
        seen.append(options["input_ids"][0].tolist())
        return original(**options)

    object.__setattr__(model, "generate", watched)
    monkeypatch.setattr("sys.stdin", io.StringIO("w1 w2\n\nw3\n/quit\nw4\n"))
    assert main(["chat", str(folder), "--max-new-tokens", "3"]) == 0
    assert len(seen) == 2
    assert seen[0] == [1, 2, 9]
    assert seen[1][:2] == [1, 2]
    assert seen[1][-2:] == [3, 9]
    assert len(seen[1]) == 2 + 3 + 2
    capsys.readouterr()
    monkeypatch.undo()
    assert main(["chat", str(packed_folder)]) == 1
    assert "no chat template" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "nowhere", "w1"], "is no folder"),
        (["export", "nowhere", "out"], "no record.json"),
        (["generate", "nowhere", "w1", "--dtype", "int4"], "float32, bfloat16 or float16"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 1
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_the_crvq_command_takes_them(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["crvq", "generate", "nowhere", "w1"])
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 1
    assert "is no folder" in capsys.readouterr().err
