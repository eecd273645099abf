"""The processor that a run computes on, and one on which TensorFlow does not run."""

import platform
from pathlib import Path

import pytest

from trainer.common import cpu
from trainer.errors import ConfigError

XEON = (
    "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R) CPU @ 2.80GHz\n"
    "flags\t\t: fpu sse sse2 avx avx2 fma avx512f\nbugs\t\t: spectre_v1\n\n"
    "processor\t: 1\nmodel name\t: another\nflags\t\t: fpu\n"
)
EMULATED = "processor\t: 0\nmodel name\t: QEMU Virtual CPU version 2.5+\nflags\t\t: fpu sse sse2\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n"


def of(folder: Path, text: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "model", "instructions"),
    [
        (XEON, "Intel(R) Xeon(R) CPU @ 2.80GHz", "avx avx2 fma avx512f"),
        (EMULATED, "QEMU Virtual CPU version 2.5+", ""),
        (ARM, "0xd40", "asimd sve bf16"),
        ("", "", ""),
    ],
)
def test_a_processor_is_described_by_what_decides_the_bits(
    text: str, model: str, instructions: str, tmp_path: Path
) -> None:
    found = cpu.describe(of(tmp_path, text))
    assert found["model"] == model
    assert found["instructions"].split() == [platform.machine(), *instructions.split()]
    assert model in cpu.name(found)


def test_what_a_folder_says_of_a_processor_is_data() -> None:
    assert cpu.name({"model": "\x1b]0;x\x07" + "y" * 999, "instructions": None}).isprintable()
    assert len(cpu.name({"model": "y" * 999})) < 200
    assert cpu.name({}) == "unknown ()"


def test_a_processor_without_avx_is_refused_where_tensorflow_needs_it(tmp_path: Path) -> None:
    path = of(tmp_path, EMULATED)
    for machine in ("x86_64", "AMD64"):
        with pytest.raises(ConfigError, match=r"this processor lacks AVX.*arm64"):
            cpu.check(machine, path)
    cpu.check("aarch64", path)
    for text in (XEON, ARM, ""):  # some emulators show the processor of the machine itself
        cpu.check("x86_64", of(tmp_path, text))
    cpu.check("x86_64", tmp_path / "not-there")
