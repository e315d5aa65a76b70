"""The units: systemd reads them without complaint, confines them, and their settings exist."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
UNITS = sorted(FOLDER.glob("*.service"))
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


@pytest.fixture(params=UNITS, ids=lambda path: path.name)
def unit(request, tmp_path):
    """The unit, with the program of this environment in the place of the installed one."""
    text = request.param.read_text().replace("/opt/tokenstone/bin", str(Path(sys.executable).parent))
    path = tmp_path / request.param.name
    path.write_text(text)
    return path


@needs_systemd
def test_systemd_has_nothing_to_say(unit):
    command = ["systemd-analyze", "verify", "--recursive-errors=no", unit]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
def test_units_are_confined(unit):
    # 10 is everything a root process may do; systemd calls what is below 5 "ok" and below 2 "safe".
    most = {"tokenstone.service": 20, "tokenstone-agent.service": 32}[unit.name]
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={most}", unit]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout[-300:]


@pytest.mark.parametrize("path", [*UNITS, *sorted(FOLDER.glob("*.env"))], ids=lambda path: path.name)
def test_settings_have_names_that_tokenstone_reads(path, setting_names):
    names = set(re.findall(r"^#?(?:Environment=)?(TOKENSTONE_\w+)=", path.read_text(), flags=re.MULTILINE))
    assert names
    assert names <= setting_names
