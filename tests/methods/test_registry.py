from typing import get_args

import pytest

from crvq.config import StrictModel
from crvq.errors import ConfigError
from crvq.methods import Method, create_method, method_names, method_params, register_method
from crvq.methods.catalog import CATALOG
from crvq.methods.full_precision import FullPrecisionMethod, FullPrecisionParams
from crvq.methods.registry import algorithm_revisions, fits_budget, method_quantizes
from crvq.vq.choices import ImportanceName
from crvq.vq.importance import importance_names
from crvq.vq.revision import SOLVER_REVISION


def test_an_unknown_method_says_which_was_meant():
    for ask in (method_params, lambda name: create_method(name, StrictModel(), 0)):
        with pytest.raises(ConfigError, match=r"method='crqv'.*full_precision.*mean 'crvq'"):
            ask("crqv")


def test_two_classes_cannot_have_one_name():
    with pytest.raises(ValueError, match=r"'crvq' is already that of crvq\.methods\.crvq"):

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


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_the_catalog_says_what_the_methods_say(name):
    method = create_method(name, method_params(name)(), 0)
    assert type(method).Params is method_params(name)
    assert type(method).quantizes == method_quantizes(name)
    assert type(method).fits_budgets == fits_budget(name)
    assert fits_budget(name) == (type(method).fit_budget is not Method.fit_budget)


def test_a_class_that_differs_from_its_entry_is_refused():
    class Other(Method):
        Params = StrictModel

    Other.__module__ = CATALOG["rtn"].module
    Other.__qualname__ = "RtnMethod"
    with pytest.raises(ValueError, match="'rtn' differs from its entry in the catalog"):
        register_method("rtn")(Other)


def test_the_forms_of_importance_are_those_that_can_be_asked_for():
    assert set(importance_names()) == set(get_args(ImportanceName))
