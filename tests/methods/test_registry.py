"""Names, fields and limits of methods."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

import methods


def test_names_come_from_the_folder() -> None:
    assert {"ademvl", "blind", "frozen", "memvp"} <= set(methods.names())
    assert "kernels" not in methods.names()
    assert "layers" not in methods.names()


def test_names_are_listed_without_torch() -> None:
    code = "import sys, methods, tasks; methods.names(); tasks.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(methods.UnknownName, match="unknown method 'adem-vl'; did you mean 'ademvl'"):
        methods.get("adem-vl")
    with pytest.raises(methods.UnknownName, match="known: ademvl, blind"):
        methods.get("zzz")


def test_an_unknown_field_gets_a_suggestion() -> None:
    with pytest.raises(ValueError, match="ademvl has no field 'alfa'; did you mean 'alpha'"):
        methods.get("ademvl", alfa=1.0)
    with pytest.raises(ValueError, match="frozen has no field 'alpha'; known: none"):
        methods.get("frozen", alpha=1.0)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("ademvl", {"drop_ratio": 1.0}, "drop_ratio must be below 1, got 1.0"),
        ("ademvl", {"drop_ratio": -0.1}, "drop_ratio must be at least 0"),
        ("ademvl", {"scales": (256, 60)}, "scales must be square numbers, got 60"),
        ("ademvl", {"scales": ()}, "scales must name at least one"),
        ("memvp", {"slots": 0}, "slots must be at least 1, got 0"),
        ("blind", {"of": "blind"}, "blind.of must name another method"),
        ("blind", {"of": "ademv"}, "did you mean 'ademvl'"),
        ("blind", {"fields": (("alfa", 1),)}, "no field 'alfa'"),
    ],
)
def test_values_out_of_range_are_refused(name: str, fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        methods.get(name, **fields)


@dataclass(frozen=True, kw_only=True)
class Limited(methods.Method):
    whole: float | None = methods.setting(None, "", low=-1, high=2)
    open: float | None = methods.setting(None, "", above=-1, below=2)
    every: tuple[int, ...] = methods.setting((), "", above=0, high=9)

    def attach(self, model: methods.VLModel, seed: int) -> methods.Attachment:
        raise NotImplementedError


def test_limits_of_every_kind_are_held() -> None:
    assert Limited(whole=-1, every=(1, 9)).open is None
    assert Limited(whole=2, open=0.5) != Limited()
    for fields, said in (
        ({"whole": -1.5}, "whole must be at least -1, got -1.5"),
        ({"whole": 2.5}, "whole must be at most 2, got 2.5"),
        ({"open": -1}, "open must be above -1, got -1"),
        ({"open": 2}, "open must be below 2, got 2"),
        ({"every": (1, 0)}, "every must be above 0, got 0"),
        ({"every": (10, 1)}, "every must be at most 9, got 10"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            Limited(**fields)  # type: ignore[arg-type]


def test_lists_are_as_good_as_tuples() -> None:
    assert methods.get("ademvl", scales=[64, 16]) == methods.get("ademvl", scales=(64, 16))


def test_defaults_are_the_papers() -> None:
    ademvl, memvp = methods.get("ademvl"), methods.get("memvp")
    found = (ademvl.alpha, ademvl.beta, ademvl.drop_ratio, ademvl.scales, ademvl.hidden, ademvl.vision_adapter)  # type: ignore[attr-defined]
    assert found == (0.1, 0.01, 0.1, (256, 64), 128, 12)
    found = (memvp.scale, memvp.image_scale, memvp.slots, memvp.dropout, memvp.hidden, memvp.vision_adapter)  # type: ignore[attr-defined]
    assert found == (0.1, 0.01, 320, 0.1, 128, 12)
