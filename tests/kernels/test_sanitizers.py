"""The kernels under the compiler's sanitizers, for each width of vectors that this processor has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from patience import scaled

import ditkit.kernels

pytestmark = [pytest.mark.faults, pytest.mark.slow]
SOURCE = Path(ditkit.kernels.__file__).parent / "source" / "kernels.c"
DRIVER = Path(__file__).parent / "sanitized.c"
FLAGS = [
    "-std=gnu11",
    "-O1",
    "-g",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-w",
]
FOUND = "undefined,address,float-cast-overflow"


@pytest.mark.parametrize("architecture", ("native", "x86-64-v3", "x86-64"))
def test_nothing_is_read_or_written_beside_a_buffer_and_nothing_is_undefined(architecture, tmp_path):
    compiler = next(filter(None, map(shutil.which, ("clang", "gcc", "cc"))), None)  # clang finds more
    if compiler is None:
        pytest.skip("no C compiler")
    program = tmp_path / "sanitized"
    command = [compiler, *FLAGS, f"-march={architecture}", f"-fsanitize={FOUND}", "-fno-sanitize-recover=all"]
    empty = tmp_path / "empty.c"
    empty.write_text("int main(void) { return 0; }", encoding="utf-8")
    able = subprocess.run([*command, str(empty), "-o", str(program)], capture_output=True, text=True)
    if able.returncode:
        pytest.skip(f"this compiler has no sanitizers for {architecture}: {able.stderr[-300:]}")
    command += [f'-DKERNELS="{SOURCE}"', str(DRIVER), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, timeout=scaled(120))
    done = subprocess.run([program], capture_output=True, text=True, timeout=scaled(280))
    assert (done.returncode, done.stdout) == (0, "nothing found\n"), done.stderr[:3000]
