"""What the tests of deployment share: the files as data, and the package as an image would have it."""

import json
import re
import shutil
import site
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from api.settings import Settings
from collector.config import AgentSettings

ROOT = Path(__file__).parents[2]
# What the settings do not list: read by clients, by the commands' options and by the compose file itself.
OTHER_NAMES = {"API_KEY_FILE", "CONFIG", "PRESET", "PRICE_PER_DEVICE_HOUR"}
NAMES = {name.upper() for name in (*Settings.model_fields, *AgentSettings.model_fields)} | OTHER_NAMES
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def setting_names() -> set[str]:
    """Every environment variable that Tokenstone reads."""
    return {f"TOKENSTONE_{name}" for name in NAMES}


class Missing(Exception):
    """A variable that compose asks for."""


@pytest.fixture(scope="session")
def compose():
    """Read docker-compose.yml as compose does, with these variables: `${A:-b}`, `${A:?what to do}`."""

    def read(**variables: str) -> dict:
        def value(match: re.Match) -> str:
            name, operator, rest = match.groups()
            if variables.get(name):
                return variables[name]
            if operator == ":?":
                raise Missing(f"{name}: {rest}")
            return rest or ""

        return yaml.safe_load(VARIABLE.sub(value, (ROOT / "docker-compose.yml").read_text()))

    return read


@pytest.fixture(scope="session")
def wheel():
    """The wheel that `pip install .` makes of the repository as the images' build context holds it."""
    with tempfile.TemporaryDirectory(prefix="tokenstone-wheel-") as folder:
        source = Path(folder) / "source"
        allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        for name in allowed:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                source.mkdir(exist_ok=True)
                shutil.copy(ROOT / name, source / name)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        subprocess.run([*command, "--wheel-dir", folder, str(source)], check=True, capture_output=True, timeout=120)
        [built] = Path(folder).glob("*.whl")
        yield built


@pytest.fixture(scope="session")
def image(wheel):
    """A folder like the images' /opt/tokenstone, with a user's rights to read it and nothing of this repository in it.

    What Tokenstone depends on is borrowed from the packages of this environment, since no image can be built here.
    """
    with tempfile.TemporaryDirectory(prefix="tokenstone-image-") as folder:
        home = Path(folder)
        home.chmod(0o755)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True, timeout=60)
        python = home / "bin/python"
        target = next(home.glob("lib/python*/site-packages"))
        # A line that is a path is taken as it is: an editable install behind it is not followed.
        borrowed = [path for path in sys.path if path.endswith("site-packages")] or site.getsitepackages()
        install = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps"]
        subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=60)
        (target / "borrowed.pth").write_text("\n".join(borrowed) + "\n")
        for script in ("healthy", "make-keys"):
            shutil.copy(ROOT / "deploy/docker" / script, home / "bin" / script)
        yield home


@pytest.fixture(scope="session")
def serve():
    """A real service on a free port of this machine, as long as the block runs."""

    @contextmanager
    def started(data: Path, *arguments: str):
        command = [sys.executable, "-P", "-m", "cli", "serve", "--json", "--port", "0", "--data", str(data), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                yield json.loads(process.stdout.readline())["url"]
            finally:
                process.terminate()

    return started
