"""docker-compose.yml: a sound model, safe by default, and what is missing says what to do. No engine runs it here."""

import os
import re
import shutil
import stat
import subprocess
import sys

import pytest
import yaml
from compose_spec import PyCompose

SET = {"TOKENSTONE_SECRETS": "./secrets", "TOKENSTONE_CLUSTER": "lab"}
LONG_RUNNING = {"postgres", "service", "prometheus", "grafana", "agent", "agent-nvidia", "agent-amd"}


@pytest.fixture
def model(compose):
    return compose(**SET)


@pytest.fixture
def services(model):
    return model["services"]


def test_it_is_valid_by_the_compose_specification(model, compose):
    assert set(PyCompose.from_yaml(yaml.safe_dump(model)).service_names()) == LONG_RUNNING | {"keys"}
    # The check does look: a key that nobody knows is refused.
    broken = compose(**SET)
    broken["services"]["grafana"]["restrat"] = "always"
    with pytest.raises(ValueError, match="restrat"):
        PyCompose.from_yaml(yaml.safe_dump(broken))


@pytest.mark.parametrize("name", sorted(SET))
def test_a_variable_that_is_missing_says_what_to_do(compose, name):
    with pytest.raises(Exception, match=f"{name}: run deploy/compose/setup first"):
        compose(**SET | {name: ""})


@pytest.fixture
def podman_compose(root, tmp_path):
    """`podman-compose config`: another's implementation of compose. Of podman it only wants to know the version."""
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho podman version 5.2.0\n")
    podman.chmod(0o755)

    def config(**variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "podman_compose", "--file", root / "docker-compose.yml"]
        for profile in ("cpu", "nvidia", "amd"):
            command += ["--profile", profile]
        told = {"PATH": f"{tmp_path}:/usr/bin:/bin"} | variables
        return subprocess.run([*command, "config"], check=False, env=told, capture_output=True, text=True, timeout=30)

    return config


def test_another_implementation_reads_the_same(podman_compose, compose):
    variables = SET | {"TOKENSTONE_PORT": "9000", "COMPOSE_PROFILES": "nvidia"}
    result = podman_compose(**variables)
    assert result.returncode == 0, result.stderr
    theirs, ours = yaml.safe_load(result.stdout)["services"], compose(**variables)["services"]
    assert set(theirs) == set(ours)
    for name, service in ours.items():
        # They make words of numbers.
        told = {key: str(value) for key, value in service.get("environment", {}).items()}
        assert theirs[name].get("environment", {}) == told
        for key in ("image", "command", "ports", "volumes", "read_only", "cap_drop", "profiles"):
            assert theirs[name].get(key) == service.get(key), (name, key)


@pytest.mark.parametrize("name", sorted(SET))
def test_another_implementation_says_the_same_of_what_is_missing(podman_compose, name):
    result = podman_compose(**{key: value for key, value in SET.items() if key != name})
    assert result.returncode != 0
    assert f"{name} is missing a value: run deploy/compose/setup first" in result.stderr


def test_no_password_stands_in_it(root, services, model):
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|KEY", variable)
            assert not secret or variable.endswith(("_FILE", "__FILE")), f"{name}: {variable}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {variable} holds a password"
    assert all(set(secret) == {"file"} for secret in model["secrets"].values())
    ignored = (root / ".gitignore").read_text().splitlines()
    assert {"/.env", "/secrets/"} <= set(ignored)


def test_images_are_pinned_by_version(services):
    for service in services.values():
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d+\.\d+", tag), service["image"]


def test_services_are_confined_and_their_logs_bounded(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert service["restart"] == ("on-failure" if name == "keys" else "unless-stopped"), name
        assert not service.get("privileged"), name


def test_nothing_is_published_beyond_this_machine_unless_asked_for(services, compose):
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    opened = compose(**SET, TOKENSTONE_BIND="10.0.0.1", TOKENSTONE_PORT="9000")["services"]
    assert opened["service"]["ports"] == ["10.0.0.1:9000:8470"]
    assert opened["agent"]["environment"]["TOKENSTONE_API"] == "http://127.0.0.1:9000"


def test_who_waits_for_health_waits_for_something_that_tells(root, services):
    dockerfiles = {
        name: root / service["build"]["dockerfile"] for name, service in services.items() if "build" in service
    }
    for name in LONG_RUNNING:
        own = "test" in services[name].get("healthcheck", {})
        assert own or "HEALTHCHECK --interval" in dockerfiles[name].read_text(), name
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other == "keys" else "service_healthy"
            assert how["condition"] == expected, f"{name} waits for {other}"


def test_settings_have_names_that_tokenstone_reads(services, setting_names):
    for name, service in services.items():
        told = {key for key in service.get("environment", {}) if key.startswith("TOKENSTONE_")}
        assert told <= setting_names | {"TOKENSTONE_PROMETHEUS_URL"}, name


def test_what_is_mounted_is_there_and_volumes_are_declared(root, services, model):
    for service in services.values():
        for mount in service.get("volumes", []):
            source = mount["source"] if isinstance(mount, dict) else mount.split(":")[0]
            if source.startswith("./"):
                assert (root / source).exists(), source
            elif not source.startswith("/"):
                assert source in model["volumes"], source


def test_one_agent_runs_by_profile_and_sees_the_machine(services):
    agents = {name: services[name] for name in ("agent", "agent-nvidia", "agent-amd")}
    assert [agent["profiles"] for agent in agents.values()] == [["cpu"], ["nvidia"], ["amd"]]
    for agent in agents.values():
        assert agent["network_mode"] == "host"
        assert agent["environment"]["TOKENSTONE_ROOT"] == "/host"
        [host] = [m for m in agent["volumes"] if isinstance(m, dict) and m["source"] == "/"]
        assert host["read_only"] is True
        assert host["target"] == "/host"
    [device] = agents["agent-nvidia"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu", "utility"]}


@pytest.fixture
def checkout(root, tmp_path):
    """A copy of what setup needs, and a way to run it."""
    (tmp_path / "deploy/compose").mkdir(parents=True)
    shutil.copy(root / "deploy/compose/setup", tmp_path / "deploy/compose/setup")

    def setup(*arguments: str) -> str:
        command = [tmp_path / "deploy/compose/setup", *arguments]
        return subprocess.run(command, cwd="/", check=True, capture_output=True, text=True, timeout=20).stdout

    return tmp_path, setup


def test_setup_draws_passwords_and_writes_all_that_compose_asks_for(checkout, compose):
    folder, setup = checkout
    setup("lab-1")
    lines = [line for line in (folder / ".env").read_text().splitlines() if not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert compose(**settings)["services"]["agent"]["environment"]["TOKENSTONE_CLUSTER"] == "lab-1"
    assert settings["COMPOSE_PROFILES"] in {"cpu", "nvidia", "amd"}
    secrets = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert set(secrets) == set(compose(**settings)["secrets"])
    assert all(re.fullmatch("[A-Za-z0-9]{32}", text) for text in secrets.values())
    assert len(set(secrets.values())) == 2
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600


def test_setup_leaves_alone_what_is_there(checkout):
    folder, setup = checkout
    setup()
    before = (folder / "secrets/postgres-password").read_text(), (folder / ".env").read_text()
    assert "left as it is" in setup("another")
    assert ((folder / "secrets/postgres-password").read_text(), (folder / ".env").read_text()) == before


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_prometheus_accepts_its_configuration(root, tmp_path):
    text = (root / "deploy/compose/prometheus.yml").read_text()
    (tmp_path / "key").write_text("tsk_x")
    text = text.replace("/keys/key", str(tmp_path / "key")).replace(
        "/etc/prometheus/rules", os.fspath(root / "dashboards/prometheus")
    )
    (tmp_path / "prometheus.yml").write_text(text)
    result = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr + result.stdout
