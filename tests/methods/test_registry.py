import pytest

from crvq.config import StrictModel
from crvq.errors import ConfigError
from crvq.methods import Method, create_method, method_names, method_params, register_method
from crvq.methods.full_precision import FullPrecisionMethod, FullPrecisionParams
from crvq.methods.registry import METHODS, algorithm_revisions
from crvq.vq.revision import SOLVER_REVISION


def test_an_unknown_method_says_which_was_meant():
    for ask in (method_params, lambda name: create_method(name, StrictModel(), 0)):
        with pytest.raises(ConfigError, match=r"method='crqv'.*full_precision.*mean 'crvq'"):
            ask("crqv")


def test_two_classes_cannot_have_one_name():
    with pytest.raises(ValueError, match="'crvq' is already CrvqMethod"):

        @register_method("crvq")
        class Other(Method):
            Params = StrictModel

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


def test_a_method_needs_one_function_and_has_defaults_for_the_rest():
    class Smallest(Method):
        Params = StrictModel

        def quantize_block(self, block, linears):
            yield from ()

    method = Smallest(StrictModel(), 0)
    assert method.quantizes
    assert not method.fits_budgets
    assert list(method.prepare_blocks(4)) == []
    assert method.prepare([], {}) is None
    assert method.on_block_stored({}) is None
    assert method.shared_tensors() == method.effective([]) == {}
    with pytest.raises(ConfigError, match=r"budget\.bits=2: Smallest has no rule.*budget=layout"):
        method.fit_budget(2.0, [])


def test_only_methods_can_be_registered():
    with pytest.raises(TypeError, match=r"'other': .*Other is no subclass of Method"):

        @register_method("other")
        class Other:
            pass

    assert "other" not in method_names()


def test_a_methods_own_fit_budget_is_declared():
    for name in method_names():
        kind = METHODS.get(name)
        assert kind.fits_budgets == (kind.fit_budget is not Method.fit_budget), name
