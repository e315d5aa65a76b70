"""Builds the stand-ins for vendors' libraries other than NVIDIA's."""

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent.parent / "fixtures"


def compile_stub(source: Path, library: Path, more: str = "") -> None:
    """Compile the C file `source`, and the text `more` after it, to a shared library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler on PATH to build the stand-in")
    library.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-shared", "-fPIC", "-Wall", "-Werror", "-x", "c", "-", "-o", str(library)]
    subprocess.run([compiler, *flags], input=source.read_text() + more, text=True, check=True)


def build_amd(folder: Path) -> None:
    """Make `folder` a ROCM_PATH. The binding looks up every function at once: those the stand-in lacks say no."""
    stub = FIXTURES / "amdsmi/amdsmi_stub.c"
    spec = importlib.util.find_spec("amdsmi")
    if spec is None or spec.origin is None:
        pytest.skip("amdsmi is not installed")
    wrapper = (Path(spec.origin).parent / "amdsmi_wrapper.py").read_text()
    wanted = set(re.findall(r"_libraries\['libamd_smi.so'\]\.(\w+)", wrapper))
    missing = sorted(name for name in wanted if not re.search(rf"\b{name}\(", stub.read_text()))
    compile_stub(stub, folder / "lib/libamd_smi.so", "".join(f"int {name}(void) {{ return 2; }}\n" for name in missing))


def build_moorethreads(folder: Path) -> Path:
    """Build Moore Threads' library in `folder` and return it."""
    library = folder / "libmtml.so.2"
    compile_stub(FIXTURES / "mtml/mtml_stub.c", library)
    return library
