"""Linears from files and methods by name, for the solver's benchmarks."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from crvq.methods import LinearInput, Method, create_method, method_params
from crvq.vq.hessian import Hessian

CONF = Path(__file__).parents[1] / "conf"


def method_of(name: str, changes: list[str]) -> Method:
    """The method of ``conf/method/<name>.yaml`` with ``changes`` as on the command line."""
    with initialize_config_dir(str(CONF), version_base=None):
        composed = compose("config", [f"method={name}", *changes])
    values = OmegaConf.to_container(composed.get(composed.method), resolve=True)
    params = method_params(composed.method).model_validate(values)
    return create_method(composed.method, params, seed=0)


def read_linears(folder: Path) -> list[LinearInput]:
    """A block's linears as a method gets them; equal second moments are shared."""
    shared: list[Hessian] = []
    linears = []
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        moment = tensors["second_moment"]
        hessian = next((c for c in shared if c.matrix.equal(moment)), None)
        if hessian is None:
            hessian = Hessian(moment)
            shared.append(hessian)
        linears.append(LinearInput(path.stem, path.stem, tensors["weight"].float(), hessian, 0))
    return linears
