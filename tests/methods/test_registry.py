import pytest

from crvq.config import StrictModel
from crvq.errors import ConfigError
from crvq.methods import create_method, method_names, method_params, register_method
from crvq.methods.full_precision import FullPrecisionMethod, FullPrecisionParams
from crvq.methods.registry import algorithm_revisions
from crvq.vq.revision import SOLVER_REVISION


def test_an_unknown_method_says_which_was_meant():
    for ask in (method_params, lambda name: create_method(name, StrictModel(), 0)):
        with pytest.raises(ConfigError, match=r"method='crqv'.*full_precision.*mean 'crvq'"):
            ask("crqv")


def test_two_classes_cannot_have_one_name():
    with pytest.raises(ValueError, match="'crvq' is already CrvqMethod"):

        @register_method("crvq")
        class Other:
            Params = StrictModel
            quantizes = False

    assert method_params("crvq").__name__ == "CrvqParams"


def test_a_method_gets_its_parameters_and_seed():
    params = FullPrecisionParams()
    method = create_method("full_precision", params, 3)
    assert isinstance(method, FullPrecisionMethod)
    assert method.params is params
    assert not method.quantizes
    assert {"crvq", "full_precision"} <= set(method_names())


def test_revisions_name_the_method_and_the_solver_that_it_uses():
    assert algorithm_revisions("crvq") == {"crvq": 1, "solver": SOLVER_REVISION}
    assert algorithm_revisions("aqlm") == {"aqlm": 1, "solver": SOLVER_REVISION}
    assert algorithm_revisions("gptq") == {"gptq": 1}
    assert algorithm_revisions("full_precision") == {"full_precision": 1}
