"""NVIDIA GPUs on the bus and the loaded driver, read from copies of the system's files."""

import pytest

from inference_pio.machine import pci
from inference_pio.machine.pci import PASCAL, loaded_driver, nvidia_devices


@pytest.fixture
def bus(tmp_path, monkeypatch):
    """Puts a device on the bus: vendor, class and device as the system spells them."""
    monkeypatch.setattr(pci, "DEVICES", tmp_path)

    def put(address, vendor, kind, device):
        folder = tmp_path / address
        folder.mkdir()
        for name, text in (("vendor", vendor), ("class", kind), ("device", device)):
            (folder / name).write_text(text + "\n")

    return put


def test_devices(bus):
    bus("0000:00:02.0", "0x8086", "0x030000", "0x9b41")  # graphics of the CPU
    bus("0000:01:00.0", "0x10de", "0x030000", "0x1c03")  # GTX 1060 6GB
    bus("0000:01:00.1", "0x10de", "0x040300", "0x10f1")  # its sound
    bus("0000:02:00.0", "0x10de", "0x030200", "0x2335")  # H200
    bus("0000:03:00.0", "0x10de", "0x030000", "broken")
    assert nvidia_devices() == [0x1C03, 0x2335]
    assert 0x1C03 in PASCAL and 0x2335 not in PASCAL


@pytest.mark.parametrize("device", [0x1B06, 0x1B38, 0x1BB3, 0x1C02, 0x1C82, 0x1D10, 0x1D52])
def test_pascal(device):
    assert device in PASCAL


@pytest.mark.parametrize("device", [0x15F7, 0x1DB1, 0x1E04, 0x1F82, 0x2684])
def test_others(device):
    assert device not in PASCAL


def test_no_bus(tmp_path, monkeypatch):
    monkeypatch.setattr(pci, "DEVICES", tmp_path / "absent")
    assert nvidia_devices() == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  590.44.01  Fri Dec 5 2025\nGCC version: 12.2.0", "590.44.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95  Release Build", "580.95"),
        ("", None),
    ],
)
def test_drivers(tmp_path, monkeypatch, text, version):
    monkeypatch.setattr(pci, "DRIVER", tmp_path / "version")
    assert loaded_driver() is None
    (tmp_path / "version").write_text(text)
    assert loaded_driver() == version
