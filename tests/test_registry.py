import pytest

from crvq.errors import ConfigError
from crvq.registry import Registry


def test_names_are_unique_and_listed_in_order():
    registry: Registry[type] = Registry("thing")

    @registry.register("one")
    class One:
        pass

    registry.add("another", int)
    assert registry.names() == list(registry) == ["another", "one"]
    assert registry.get("one") is One
    assert "one" in registry
    assert ["one"] not in registry
    with pytest.raises(ValueError, match=r"thing 'one' is already .*One"):
        registry.add("one", int)
    assert registry.get("one") is One


def test_a_reloaded_module_replaces_its_own_entry():
    registry: Registry[object] = Registry("thing")
    for _ in range(2):

        class Same:
            pass

        registry.add("same", Same)
    assert registry.get("same") is Same


def test_an_unknown_name_lists_all_and_suggests_the_nearest():
    registry: Registry[int] = Registry("thing")
    registry.add("importance", 1)
    registry.add("weight", 2)
    with pytest.raises(
        ConfigError, match=r"thing='importence' is not known; known: importance, weight\. Did you"
    ):
        registry.get("importence")
    with pytest.raises(
        ConfigError, match=r"thing='zzz' is not known; known: importance, weight\.$"
    ):
        registry.get("zzz")
    registry.remove("weight")
    registry.remove("weight")
    assert registry.names() == ["importance"]
