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

import psutil
import pytest
from deploy_support import USER, needs_another_user

FOLDER = Path(__file__).parents[2] / "deploy/docker"
DOCKERFILES = sorted(FOLDER.glob("*.Dockerfile"))


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

        def start(path: Path, command: list[str], prefix: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
            told = environment(path) | {"TOKENSTONE_DATA": volume, "XDG_STATE_HOME": volume} | more
            told |= {"PATH": f"{image}/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/nonexistent"}
            user = {} if prefix else {"user": USER, "group": USER, "extra_groups": []}
            process = subprocess.Popen(
                [*prefix, str(image / "bin" / command[0]), *command[1:]], env=told, cwd=volume, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **user,
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


@needs_another_user
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


# What compose and the chart ask for: own name spaces for mounts and processes, the machine's root read-only at /host,
# the images' user, and none of root's rights.
IN_NAME_SPACES = """
mount --rbind / "$0" && mount --make-rslave "$0" && mount -o remount,bind,ro "$0"
exec setpriv --reuid 10001 --regid 10001 --clear-groups --bounding-set=-all --no-new-privs "$@"
"""


def name_spaces_are_allowed() -> bool:
    try:
        return subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode == 0
    except OSError:
        return False


@needs_another_user
@pytest.mark.skipif(not name_spaces_are_allowed(), reason="name spaces are not allowed here")
@pytest.mark.slow
def test_the_agent_sees_the_machine_from_name_spaces_like_its_containers(container):
    path = FOLDER / "agent.Dockerfile"
    host = container.volume / "host"
    host.mkdir()
    listen = f"127.0.0.1:{free_port()}"
    settings = {"TOKENSTONE_LISTEN": listen, "TOKENSTONE_API": "http://127.0.0.1:9", "TOKENSTONE_ROOT": str(host)}
    prefix = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", IN_NAME_SPACES, str(host))
    outer = container(path, last(path, "CMD"), prefix, **settings)
    assert not becomes_healthy(container, path, **settings)
    text = urllib.request.urlopen(f"http://{listen}/metrics", timeout=10).read().decode()
    for source in ("cpu", "memory", "ethernet", "disk", "filesystem"):
        assert re.search(rf'tokenstone_source_up{{[^}}]*source="{source}"[^}}]*}} 1', text), source
    # The machine's file system, and not that of a container, by its own name.
    root = os.statvfs("/")
    size = re.search(r'filesystem_size_bytes{[^}]*mountpoint="/"[^}]*} (\S+)', text)[1]
    assert float(size) == root.f_blocks * root.f_frsize
    assert (container.volume / "tokenstone/spool/lock").exists()
    [agent] = psutil.Process(outer.pid).children()
    agent.terminate()
    assert outer.wait(30) == 0


@needs_another_user
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
