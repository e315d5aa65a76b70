"""The images: what their files say is run here from a clean environment, as another user, since no engine runs here.

Not shown: that the base images exist under their tags, and what else a build in a container may meet.
"""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from zipfile import ZipFile

import pytest

FOLDER = Path(__file__).parents[2] / "deploy/docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))
USER = 10001


def instructions(path: Path) -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]


def environment(path: Path) -> dict[str, str]:
    """What ENV sets, but PATH."""
    words = [word for name, rest in instructions(path) if name == "ENV" for word in shlex.split(rest)]
    return {name: value for name, _, value in (word.partition("=") for word in words) if name != "PATH"}


def last(path: Path, name: str) -> list[str]:
    """The command of the last instruction of this name, such as CMD."""
    rest = [rest for instruction, rest in instructions(path) if instruction == name][-1]
    return json.loads(rest[rest.index("[") :])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path):
    hadolint = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([hadolint, "--no-color", path], check=False, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_small_pinned_and_of_an_ordinary_user(path, root):
    steps = instructions(path)
    bases = [rest.split()[0] for name, rest in steps if name == "FROM"]
    stages = {rest.split()[-1] for name, rest in steps if name == "FROM" and " AS " in rest}
    for base in set(bases) - stages:
        assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm", base)
    assert len(bases) > 1, "what builds does not ship"
    assert [rest for name, rest in steps if name == "USER"] == [f"{USER}:{USER}"]
    ignored = (root / ".dockerignore").read_text().splitlines()
    for name, rest in steps:
        if name == "COPY" and "--from" not in rest and rest != ". .":
            for source in rest.split()[:-1]:
                assert (root / source).is_file(), source
                assert any(f"!{parent}" in ignored for parent in Path(source).parents), f"{source} is ignored"


def test_the_wheel_holds_what_is_no_python(wheel, root):
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = ("tokenstone", "collector", "workloads", "api", "dashboards", "cli")
    listed = subprocess.run(["git", "ls-files", *packages], cwd=root, capture_output=True, text=True, check=True).stdout
    data = {name for name in listed.split() if (root / name).is_file()}
    assert {"api/migrations/script.py.mako", "tokenstone/hardware/catalogue.toml", "tokenstone/prices.toml"} <= data
    assert data <= names, f"not in the wheel: {sorted(data - names)}"
    assert not [name for name in names if name.startswith(("tests/", "docs/", "bench/"))]


@pytest.fixture
def container(image):
    """Run a command as the image would: its user, its environment, nothing of ours, one folder that may be written."""
    with tempfile.TemporaryDirectory(prefix="tokenstone-volume-") as volume:
        Path(volume).chmod(0o755)
        os.chown(volume, USER, USER)
        running = []

        def start(path: Path, command: list[str], **more: str) -> subprocess.Popen[str]:
            told = environment(path) | {"TOKENSTONE_DATA": volume, "XDG_STATE_HOME": volume} | more
            told |= {"PATH": f"{image}/bin:/usr/bin:/bin", "HOME": "/nonexistent"}
            program = str(image / "bin" / command[0])
            process = subprocess.Popen(
                [program, *command[1:]], env=told, cwd=volume, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, user=USER, group=USER, extra_groups=[],
            )  # fmt: skip
            running.append(process)
            return process

        start.volume = Path(volume)
        yield start
        for process in running:
            process.kill()
            process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def becomes_healthy(container, path: Path, **settings: str) -> str:
    """Ask as HEALTHCHECK does until it says yes; its last words if it never does."""
    words = "never asked"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        process = container(path, last(path, "HEALTHCHECK"), **settings)
        words = process.communicate(timeout=30)[1]
        if process.returncode == 0:
            return ""
        time.sleep(0.5)
    return words


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the images' user")


@needs_root
@pytest.mark.slow
def test_the_service_runs_as_in_its_image(container):
    path = FOLDER / "service.Dockerfile"
    port = free_port()
    keys = container.volume / "keys"
    for name in ("agent", "prometheus"):
        (keys / name).mkdir(parents=True)
        os.chown(keys / name, USER, USER)
    for word in ("made a key", "is there already"):
        made = container(path, ["make-keys", str(keys)])
        out, err = made.communicate(timeout=60)
        assert made.returncode == 0, err
        assert out.count(word) == 2
    settings = {"TOKENSTONE_PORT": str(port), "TOKENSTONE_HOST": "127.0.0.1", "TOKENSTONE_AUTHENTICATION": "true"}
    service = container(path, last(path, "CMD"), **settings)
    assert not becomes_healthy(container, path, **settings)
    key = (keys / "prometheus/key").read_text().strip()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {key}"})
    assert b"tokenstone_ingest" in urllib.request.urlopen(request, timeout=10).read()
    service.send_signal(signal.SIGTERM)
    assert service.wait(30) == 0


@needs_root
@pytest.mark.slow
def test_the_agent_runs_as_in_its_image(container):
    path = FOLDER / "agent.Dockerfile"
    port = free_port()
    settings = {"TOKENSTONE_LISTEN": f"127.0.0.1:{port}", "TOKENSTONE_API": "http://127.0.0.1:9"}
    agent = container(path, last(path, "CMD"), **settings)
    assert not becomes_healthy(container, path, **settings)
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    assert re.search(r'tokenstone_source_up{[^}]*source="cpu"[^}]*} 1', text)
    assert (container.volume / "tokenstone/spool/lock").exists()
    agent.send_signal(signal.SIGTERM)
    assert agent.wait(30) == 0


@needs_root
def test_a_health_check_says_why_not(container):
    path, port = FOLDER / "service.Dockerfile", str(free_port())
    process = container(path, last(path, "HEALTHCHECK"), TOKENSTONE_PORT=port)
    assert process.wait(20) == 1
    assert f"no answer from http://127.0.0.1:{port}/readyz" in process.stderr.read()


def test_commands_and_settings_exist(setting_names):
    from cli.main import app  # noqa: PLC0415

    known = {command.name for command in app.registered_commands}
    for path in DOCKERFILES:
        for rest in (rest for name, rest in instructions(path) if name == "CMD"):
            program, command, *_ = json.loads(rest)
            assert (program, command in known) == ("tokenstone", True)
        assert {name for name in environment(path) if name.startswith("TOKENSTONE_")} <= setting_names
