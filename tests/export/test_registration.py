"""Registration in every order of imports, each in a process of its own."""

import subprocess
import sys
import textwrap

import pytest

LOAD = """
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.model.layers[0].mlp.up_proj).__name__, "transformers" in sys.modules)
"""
ORDERS = {
    "crvq first": """
        import sys
        from crvq.export.registration import install
        install()
        assert "torch" not in sys.modules and "transformers" not in sys.modules
        from transformers import AutoModelForCausalLM
    """,
    "transformers first": """
        import sys
        from transformers import AutoModelForCausalLM
        from crvq.export.registration import install
        install()
    """,
    "transformers first, its models too": """
        import sys
        import transformers.quantizers.auto
        from transformers import AutoModelForCausalLM, LlamaForCausalLM
        from crvq.export.registration import install
        install(); install()
    """,
    "a name of the module": """
        import sys
        from crvq.export.registration import install
        install(); install()
        import transformers.quantizers.auto
        import transformers.quantizers
        from transformers import AutoModelForCausalLM
        install()
    """,
    "reloaded": """
        import importlib, sys
        import crvq.export.registration
        crvq.export.registration.install()
        importlib.reload(crvq.export.registration).install()
        from transformers import AutoModelForCausalLM
    """,
    "code of the folder": """
        import sys
        from functools import partial
        from transformers import AutoModelForCausalLM as Auto
        class AutoModelForCausalLM:
            from_pretrained = partial(Auto.from_pretrained, trust_remote_code=True)
    """,
}


@pytest.mark.parametrize("order", ORDERS)
def test_from_pretrained_gives_packed_layers(order, packed_folder, fresh):
    program = textwrap.dedent(ORDERS[order]) + LOAD
    if order == "crvq first":  # an interpreter of its own: `fresh` has imported torch
        found = subprocess.run(
            [sys.executable, "-c", program, packed_folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    else:
        found = fresh.run(program, packed_folder)
    assert found.stdout.split() == ["QuantizedLinear", "True"], found.stderr


def test_installing_is_cheap():
    program = """
        import sys, time
        begun = time.process_time()
        from crvq.export.registration import install
        install()
        print(time.process_time() - begun, "torch" in sys.modules)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    seconds, torch = found.stdout.split()
    assert float(seconds) < 0.2
    assert torch == "False"
