"""Which wheel of onnxruntime-gpu runs on which card."""

import pytest

from inference_pio.machine.wheels import LEAST_DRIVER, WHEELS, Support, find_wheel, numbers


@pytest.mark.parametrize(
    ("version", "capability", "support"),
    [
        ("1.16.3", "6.1", Support.NATIVE),
        ("1.20.2", "6.1", Support.NATIVE),
        ("1.22.0", "6.1", Support.COMPATIBLE),
        ("1.26.0", "6.1", Support.COMPATIBLE),
        ("1.27.0", "6.1", Support.NONE),
        ("1.31.1", "6.1", Support.NONE),
        ("1.20.2", "8.6", Support.COMPATIBLE),
        ("1.20.2", "9.0", Support.COMPATIBLE),
        ("1.26.0", "12.0", Support.COMPATIBLE),
        ("1.27.0", "10.3", Support.COMPATIBLE),
        ("1.31.1", "10.0", Support.NONE),
        ("1.31.1", "8.9", Support.NATIVE),
        ("1.31.1", "12.1", Support.COMPATIBLE),
        ("1.31.1", "5.2", Support.NONE),
        ("1.40", "7.5", Support.NATIVE),
        ("1.26.0+cu128", "6.0", Support.NATIVE),
    ],
)
def test_support(version, capability, support):
    assert find_wheel(version).support(capability) is support


def test_versions():
    assert find_wheel("1.15.0") is None
    assert numbers("1.20.2") == (1, 20, 2) and numbers("9.10.2.21rc1") == (9, 10, 2, 21) and numbers("x") == ()
    assert [wheel.version for wheel in WHEELS] == sorted(wheel.version for wheel in WHEELS)
    assert {wheel.cuda for wheel in WHEELS} <= set(LEAST_DRIVER)
