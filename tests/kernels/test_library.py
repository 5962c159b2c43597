"""Where the kernels' library comes from, on machines of every kind: without a compiler, a disk, permissions …"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import types
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from patience import scaled

from ditkit.io import atomic
from ditkit.kernels import compiler, library
from ditkit.kernels.compiler import KernelsUnavailable
from ditkit.kernels.library import library_name, open_library
from ditkit.runtime.compile import why_not

OPEN = "from ditkit.kernels.library import open_library; print(open_library()._name)"


write = atomic.write_synced


def libraries(cache: Path) -> list[str]:
    """The files in the cache's folder."""
    return sorted(path.name for path in (cache / "kernels").iterdir())


def refusal() -> str:
    with pytest.raises(KernelsUnavailable) as caught:
        open_library()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    return str(caught.value)


def test_a_library_is_compiled_once_and_taken_from_the_cache_after_that(compilers, cache, fresh):
    compilers.add("cc")
    first = open_library()
    fresh()
    assert open_library()._name == first._name and compilers.compiled() == 1
    assert libraries(cache) == [f"{library_name()}{compiler.ENDING}"]
    assert (cache / "kernels").stat().st_mode & 0o777 == 0o700


def test_without_a_compiler_one_line_says_so(compilers, monkeypatch):
    assert refusal() == "there is no C compiler (cc, gcc or clang)"
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    assert refusal() == "there is no C compiler (cc, gcc or clang)"


def test_what_cc_names_comes_first_with_its_options_and_wherever_it_lies(compilers, monkeypatch, fresh):
    compilers.add("cc", "exit 1")
    mine = compilers.add("my compîler")
    for words in (str(mine), f"'{mine}' -m64 -DX='a b'"):
        monkeypatch.setenv("CC", words)
        open_library()
        fresh()
    assert compilers.compiled() == 2 and "-m64 -DX=a b -O3" in compilers.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("wrong", ("no-such-compiler", "'never closed", "", " "))
def test_a_cc_that_names_nothing_leaves_the_others(wrong, compilers, monkeypatch):
    compilers.add("gcc")
    monkeypatch.setenv("CC", wrong)
    open_library()


def test_a_cache_with_spaces_and_other_letters(compilers, monkeypatch, tmp_path):
    compilers.add("cc")
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "a cäche, 写し"))
    assert "写し" in open_library()._name


@pytest.mark.parametrize("installed", [False, True])
def test_a_mac_without_apples_tools_is_not_asked_to_install_them(installed, compilers, monkeypatch):
    compilers.add("cc")
    script = compilers.add("xcode-select")
    script.write_text(f"#!/bin/sh\nexit {0 if installed else 2}\n", encoding="utf-8")
    monkeypatch.setattr(compiler, "_STAND_INS", str(compilers.folder))
    monkeypatch.setattr(compiler, "sys", types.SimpleNamespace(platform="darwin"))
    compiler.apples_tools_are_missing.cache_clear()
    try:
        if installed:
            open_library()
        else:
            assert refusal() == "there is no C compiler (cc, gcc or clang)"
            assert "C++ compiler (`xcode-select --install`" in str(why_not(torch.device("cpu")))
        assert compilers.compiled() == installed == compilers.log.exists(), "not even asked what it is"
    finally:
        compiler.apples_tools_are_missing.cache_clear()


BROKEN = {
    "echo 'kernels.c: error: no such instruction' >&2; exit 1": "does not work: kernels.c: error: no such instruction",
    "exit 3": "does not work: it ended with 3",
    "kill -SEGV $$": "does not work: it ended with -11",
    ":": "does not work: it made nothing",
    ': > "$2"': "does not work: it made nothing",
    '/bin/mkdir "$2"': "does not work: it made nothing",
    'echo garbage > "$2"': "their library cannot be loaded",
    "/usr/bin/head -c 20000 '{built}' > \"$2\"": "their library is damaged: loading it ends with -7",
    '/bin/cp /bin/sh "$2"': "their library cannot be loaded",
}


@pytest.mark.parametrize(("does", "says"), BROKEN.items())
def test_a_broken_compiler_is_said_in_one_line_and_leaves_nothing_in_the_cache(does, says, compilers, cache, fresh):
    compilers.add("cc", does)
    assert says in refusal()
    assert libraries(cache) == []
    compilers.add("cc")
    fresh()
    open_library()


def test_the_next_compiler_is_asked_where_the_first_is_broken(compilers, fresh):
    compilers.add("cc", "exit 1")
    compilers.add("clang")
    open_library()
    assert compilers.compiled() == 2


@pytest.mark.parametrize("hangs", ("_SECONDS", "_SECONDS_TO_ANSWER"))
def test_a_compiler_that_hangs_is_not_waited_for_and_asked_once_only(hangs, compilers, monkeypatch):
    monkeypatch.setattr(compiler, hangs, 0.5)
    script = compilers.add("cc", "/bin/sleep 60")
    if hangs == "_SECONDS_TO_ANSWER":
        script.write_text("#!/bin/sh\n/bin/sleep 60", encoding="utf-8")
    began = time.monotonic()
    assert "no answer within 0.5 seconds" in refusal() == refusal()
    assert time.monotonic() - began < scaled(10)


def test_a_compiler_that_cannot_be_started(compilers):
    compilers.add("cc").write_bytes(b"\x7fELF of another processor")
    assert "does not work: Exec format error" in refusal()


def test_without_a_folder_for_temporary_files(compilers, monkeypatch, tmp_path):
    compilers.add("cc")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert "they cannot be compiled" in refusal()


def test_a_library_that_was_made_of_other_structs_is_refused(compilers, built, monkeypatch, tmp_path):
    monkeypatch.undo()
    source = tmp_path / "other.c"
    source.write_text("long size_of(int n) { return 8; } long attention_scratch() { return 0; } void use_openmp() {}")
    made = tmp_path / "other.so"
    subprocess.run([compiler.compilers()[0][0], "-shared", "-fPIC", source, "-o", made], check=True)
    with pytest.raises(KernelsUnavailable, match="lays out NormForward in another way"):
        library._load(made)


@pytest.mark.parametrize("damage", ("truncated", "changed", "empty", "a folder"))
def test_a_damaged_library_in_the_cache_is_compiled_again(damage, compilers, cache, fresh):
    compilers.add("cc")
    path = Path(open_library()._name)
    fresh()
    content = path.read_bytes()
    path.unlink()  # this process still uses the old one
    if damage == "a folder":
        path.mkdir()
    else:
        changed = content[:100] + bytes([content[100] ^ 1]) + content[101:]
        path.write_bytes({"truncated": content[:-100], "changed": changed, "empty": b""}[damage])
    again = Path(open_library()._name)
    assert compilers.compiled() == 2 and again.read_bytes() == content
    assert (again == path) == (damage != "a folder")


def no_room(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def full(path: Path, content: bytes) -> object:
    return no_room() if "cache" in path.parts else write(path, content)


@pytest.mark.parametrize("trouble", ("full", "a link", "another user's", "a file", "not to be made", "read-only"))
def test_where_the_cache_cannot_hold_it_a_library_is_compiled_for_this_process(trouble, compilers, cache, monkeypatch):
    compilers.add("cc")
    folder = cache / "kernels"
    cache.mkdir()
    if trouble == "full":
        monkeypatch.setattr(
            atomic, "write_synced", lambda path, content: no_room() if cache in path.parents else write(path, content)
        )
    elif trouble == "a link":
        (cache / "elsewhere").mkdir()
        folder.symlink_to(cache / "elsewhere")
    elif trouble == "another user's":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    elif trouble == "a file":
        folder.write_text("")
    elif trouble == "not to be made":
        monkeypatch.setenv("DITKIT_CACHE", "/proc/nowhere")
    else:
        monkeypatch.setattr(tempfile, "TemporaryFile", no_room)
    path = Path(open_library()._name)
    assert path.is_file() and cache not in path.resolve().parents
    assert not folder.is_dir() or list(folder.iterdir()) == []


@contextmanager
def mounted(folder: Path, options: str):
    folder.mkdir(parents=True)
    if subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root mounts file systems")
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "-l", folder], check=True)


@pytest.mark.faults
@pytest.mark.parametrize("options", ("noexec", "size=64k", "ro"))
def test_file_systems_that_take_no_library_or_run_none(options, compilers, cache):
    compilers.add("cc")
    with mounted(cache, options):
        path = Path(open_library()._name)
        assert cache not in path.parents and compilers.compiled() == 1
        assert options == "ro" or libraries(cache) == []


@pytest.mark.faults
def test_where_nothing_can_be_executed_one_line_says_so(compilers, cache, tmp_path, monkeypatch):
    compilers.add("cc")
    with mounted(tmp_path / "noexec", "noexec"):
        monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "noexec"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "noexec"))
        assert "their library cannot be loaded" in refusal()


@pytest.mark.faults
def test_processes_that_compile_at_once_get_a_library_each_can_use(compilers, cache):
    compilers.add("cc", "/bin/sleep 1; /bin/cp '{built}' \"$2\"")
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [process.communicate(timeout=scaled(60)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ends
    assert len({out for out, _ in ends}) == 1 and len(libraries(cache)) == 1


THREADS = """
import os, torch
from pathlib import Path
from ditkit.kernels.blocks import FastBlocks
from ditkit.models.dit import DiT
from ditkit.config import ModelConfig

def counts():
    files = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return len(os.listdir("/proc/self/task")), len([file for file in files if "omp" in Path(file).name])

torch.set_num_threads(2)
for _ in range(3):
    torch.mm(torch.ones(512, 512), torch.ones(512, 512)), torch.ones(1 << 20).exp()
before = counts()
network = DiT(ModelConfig(patch=2, width=64, depth=2, heads=2), channels=1, size=(16, 16), classes=1)
network.fast_blocks = FastBlocks(network.config)
for _ in range(3):
    network(torch.randn(4, 1, 16, 16), torch.ones(4), torch.zeros(4, dtype=torch.int64)).sum().backward()
after = counts()
assert before == after and after[0] >= 2, (before, after)
from ditkit.kernels.library import _openmp
assert all(_openmp())
print(*after)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux' /proc")
def test_kernels_compute_with_the_threads_of_torch(compilers):
    """One OpenMP runtime is loaded, and no thread is started beside those that torch has."""
    compilers.add("cc")
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=scaled(60))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == "1"


# --- libraries that come with the package


@pytest.fixture
def prebuilt(built, tmp_path, monkeypatch):
    """`prebuilt(architecture, content)` puts a library where a wheel has them; the processor has AVX2."""
    monkeypatch.setattr(compiler, "_PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(compiler, "_ARM", False)
    monkeypatch.setattr(compiler, "processor", lambda: "flags : fpu abm avx avx2 bmi1 bmi2 f16c fma movbe")

    def add(architecture: str, content: bytes | None = None) -> Path:
        path = compiler._prebuilt(architecture)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(built.read_bytes() if content is None else content)
        return path

    return add


def test_without_a_compiler_a_library_of_the_package_is_taken_that_the_processor_can_run(compilers, prebuilt):
    assert "no C compiler" in refusal()
    prebuilt("x86-64-v4"), prebuilt("armv8-a")
    library._library.cache_clear()
    assert "no C compiler" in refusal()
    path = prebuilt("x86-64-v3")
    library._library.cache_clear()
    assert open_library()._name == str(path)


def test_the_widest_vectors_come_first_and_a_damaged_library_is_left_out(compilers, prebuilt, monkeypatch):
    monkeypatch.setattr(compiler, "processor", lambda: "flags : " + compiler._ARCHITECTURES["x86-64-v4"])
    paths = [prebuilt("x86-64-v4", b"garbage"), prebuilt("x86-64-v3")]
    assert compiler.prebuilt_libraries() == paths
    assert open_library()._name == str(paths[1])


def test_a_working_compiler_is_preferred_and_a_broken_one_is_not(compilers, prebuilt, fresh):
    path = prebuilt("x86-64-v3")
    compilers.add("cc", "exit 1")
    assert open_library()._name == str(path)
    compilers.add("cc")
    fresh()
    assert open_library()._name != str(path)


def test_the_name_of_a_library_of_the_package_changes_with_the_processor(compilers, prebuilt, monkeypatch):
    prebuilt("x86-64-v3")
    name = library_name()
    before = compiler.processor()
    monkeypatch.setattr(compiler, "processor", lambda: f"{before} another")
    assert name.startswith(f"{sys.platform}-x86-64-v3-") and library_name() != name


def test_arm_processors_get_libraries_of_their_own(prebuilt, monkeypatch):
    paths = {name: prebuilt(name) for name in compiler._ARCHITECTURES}
    monkeypatch.setattr(compiler, "_ARM", True)
    assert compiler.prebuilt_libraries() == [paths["armv8-a"]]


@pytest.mark.faults
def test_what_a_release_builds_is_what_is_looked_for(fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "_PREBUILT", tmp_path / "prebuilt")
    architecture = next((name for name in compiler._ARCHITECTURES if name.startswith("arm") == compiler._ARM), "")
    monkeypatch.setenv("DITKIT_KERNELS_ARCH", "")
    path = compiler.prebuild(architecture)
    monkeypatch.setattr(compiler, "processor", lambda: compiler._ARCHITECTURES[architecture])
    assert compiler.prebuilt_libraries() == [path]
