"""Which device a model goes to: each worker takes its own."""

from __future__ import annotations

import pytest

from spr.errors import ConfigError
from spr.models import devices
from spr.models.devices import check_devices, device_named
from spr.store.runtime import RuntimeConfig, Seat, take_seat

FOUR = ["cpu", *(f"cuda:{n}" for n in range(4))]


@pytest.mark.parametrize("number", range(6))
def test_a_seat_decides_where_the_configuration_does_not(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "devices", lambda: FOUR)
    take_seat(Seat.of(RuntimeConfig(), number))
    own = f"cuda:{number % 4}"
    named = [device_named(name) for name in ("auto", "cuda", "cuda:2", "cpu", "spread")]
    take_seat(Seat())
    assert named == [own, own, "cuda:2", "cpu", "spread"]


def test_who_works_alone_takes_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "devices", lambda: FOUR)
    assert device_named("auto") == device_named("cuda") == "cuda:0"
    take_seat(Seat.of(RuntimeConfig(devices="cuda:2")))
    assert device_named("auto") == "cuda:2"
    take_seat(Seat())
    monkeypatch.setattr(devices, "devices", lambda: ["cpu"])
    assert device_named("auto") == "cpu"


def test_the_cpu_of_a_process_group_is_the_cpu() -> None:
    """Processes that train together on a CPU are told cpu:0, and found no such device."""
    assert device_named("cpu:0") == device_named("cpu:1") == "cpu"


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "devices", lambda: FOUR)
    check_devices(("cuda:3", "cpu"))
    with pytest.raises(ConfigError, match=r"runtime\.devices: found 'cuda:4', expected auto or devices of"):
        check_devices(("cuda:0", "cuda:4"))
    with pytest.raises(ConfigError, match=r"model\.device: found 'cuda:9'"):
        device_named("cuda:9", "model.device")
