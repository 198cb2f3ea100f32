import pytest
import torch

from crvq.errors import ConfigError
from crvq.models.precision import resolve_device


def gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(("count", "kind"), [(0, "cpu"), (2, "cuda")])
def test_auto_takes_a_gpu_where_there_is_one(monkeypatch, count, kind):
    gpus(monkeypatch, count)
    assert resolve_device("auto").type == kind
    assert resolve_device("cpu").type == "cpu"


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there(monkeypatch, name, count):
    gpus(monkeypatch, count)
    with pytest.raises(ConfigError, match=rf"device={name} .* sees {count}; set device=cpu"):
        resolve_device(name)


def test_a_gpu_that_is_there(monkeypatch):
    gpus(monkeypatch, 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x", ""])
def test_what_is_no_device(name):
    with pytest.raises(ConfigError, match="allowed: auto, cpu, cuda"):
        resolve_device(name)
