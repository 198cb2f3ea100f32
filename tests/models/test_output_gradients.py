import pytest
import torch
from transformers import AutoModelForCausalLM

from crvq.models.output_gradients import squared_output_gradients


def test_they_are_autograds_and_leave_no_trace(tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder).eval().requires_grad_(False)
    names = ["model.layers.0.self_attn.v_proj", "model.layers.2.mlp.down_proj"]
    modules = {name: model.get_submodule(name) for name in names}
    windows = torch.arange(40).view(2, 20)
    found = squared_output_gradients(model, modules, windows, torch.float32)
    for name in names:
        squares = []
        for window in windows:
            kept = []

            def keep(module, inputs, output, kept=kept):
                kept.append(output.detach().requires_grad_(True))
                return kept[-1]

            handle = modules[name].register_forward_hook(keep)
            logits = model(input_ids=window[None]).logits[0, :-1]
            handle.remove()
            loss = -logits.log_softmax(-1)[torch.arange(19), window[1:]].sum()
            (gradient,) = torch.autograd.grad(loss, kept[-1])
            squares.append(gradient.square())
        assert found[name] == pytest.approx(float(torch.stack(squares).mean()), rel=1e-4)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._backward_hooks for module in model.modules())
