"""The service beyond loopback, with real processes: keys, TLS, logs without secrets."""

import json
import os
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from tokenstone.client import Client
from tokenstone.errors import InvalidFile, ServiceRefused, ServiceUnreachable

pytestmark = pytest.mark.slow
EVERYWHERE = "0.0.0.0"  # noqa: S104  that is what is tested


@pytest.fixture
def serve(marked, tmp_path, monkeypatch):
    """Start `tokenstone serve` on the test's data: (process, URL)."""
    monkeypatch.delenv("TOKENSTONE_API_KEY", raising=False)
    started = []

    def start(*arguments: str) -> tuple[subprocess.Popen, str]:
        process = marked.start("serve", "--json", "--port", "0", "--data", str(tmp_path / "data"), *arguments)
        line = process.stdout.readline()
        assert line, process.stderr.read()
        started.append(process)
        return process, json.loads(line)["url"]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def make_key(marked, tmp_path):
    """Make a key on the command line, while the service runs."""

    def make(*arguments: str) -> dict:
        made = marked.run("key", "create", "--name", "test", "--json", "--data", str(tmp_path / "data"), *arguments)
        assert made.returncode == 0, made.stderr
        return json.loads(made.stdout)

    return make


def log_of(process: subprocess.Popen) -> str:
    process.terminate()
    return process.communicate(timeout=30)[1]


def test_beyond_loopback_a_key_is_asked_for_and_appears_in_no_log(serve, make_key, marked, tmp_path):
    process, url = serve("--host", EVERYWHERE)
    assert httpx.get(f"{url}/v1/runs").status_code == 401
    made = make_key("--scope", "read")
    with Client(url, api_key=made["key"]) as client:
        assert list(client.runs()) == []
        with pytest.raises(ServiceRefused, match="the scope admin"):
            list(client.keys())
    other = make_key("--scope", "admin")
    revoked = marked.run("key", "revoke", made["prefix"], "--data", str(tmp_path / "data"))
    assert "is revoked" in revoked.stdout
    with Client(url, api_key=made["key"]) as client, pytest.raises(ServiceRefused, match="revoked"):
        list(client.runs())
    listed = marked.run("key", "list", "--json", "--data", str(tmp_path / "data"))
    assert {key["prefix"] for key in json.loads(listed.stdout)} == {made["prefix"], other["prefix"]}
    log = log_of(process)
    assert "there is no key with the scope admin yet" in log
    assert "keys cross the network in clear text" in log
    assert made["prefix"] in log  # who was refused is told
    for key in (made, other):
        assert key["key"].split("_", 2)[2] not in log + listed.stdout


def test_authentication_is_switched_off_in_so_many_words_alone(serve):
    process, url = serve("--host", EVERYWHERE, "--no-authentication")
    assert httpx.get(f"{url}/v1/runs").status_code == 200
    assert "everybody who reaches this address may do everything" in log_of(process)


def test_a_password_of_the_database_is_told_nowhere(marked, tmp_path):
    url = "postgresql+psycopg://user:swordfish@127.0.0.1:9/db"
    failed = marked.run("serve", "--port", "0", "--data", str(tmp_path), "--database", url)
    assert failed.returncode != 0
    assert "swordfish" not in failed.stdout + failed.stderr


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself."""
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-out", paths[0], "-keyout", paths[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return paths


def test_https(serve, certificate, monkeypatch):
    chain, key = certificate
    _, url = serve("--tls-certificate", str(chain), "--tls-key", str(key))
    assert url.startswith("https://")
    with pytest.raises(ServiceUnreachable, match="certificate"), Client(url) as client:
        client.run("x")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    with Client(url) as client:
        assert list(client.runs()) == []
    answer = httpx.get(f"{url}/healthz", verify=ssl.create_default_context(cafile=chain))
    assert "max-age" in answer.headers["strict-transport-security"]


def test_a_certificate_that_is_none_is_told_in_one_line(marked, tmp_path, certificate):
    _, key = certificate
    bad = tmp_path / "bad.pem"
    bad.write_text("my holiday diary")
    for arguments, what in (
        (["--tls-certificate", str(bad)], "not a certificate"),
        (["--tls-certificate", str(tmp_path / "none.pem")], "there is no file"),
        (["--tls-key", str(key)], "without a certificate"),
        (["--workers", "2"], "need PostgreSQL"),
    ):
        failed = marked.run("serve", "--port", "0", "--data", str(tmp_path / "data"), *arguments)
        assert (failed.returncode, failed.stderr.count("\n")) == (2, 1), failed.stderr
        assert what in failed.stderr


def test_the_client_takes_the_key_from_environment_or_file(serve, make_key, monkeypatch, tmp_path, marked):
    _, url = serve("--authentication")
    key = make_key("--scope", "read")["key"]
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    monkeypatch.setenv("TOKENSTONE_API_KEY_FILE", str(file))
    with Client(url) as client:
        assert list(client.runs()) == []
    fleet = marked.run("fleet", "--api", url, "--json")
    assert json.loads(fleet.stdout)["rows"] == []
    monkeypatch.setenv("TOKENSTONE_API_KEY", "tsk_wrong")
    with Client(url) as client, pytest.raises(ServiceRefused):
        list(client.runs())
    monkeypatch.delenv("TOKENSTONE_API_KEY")
    monkeypatch.setenv("TOKENSTONE_API_KEY_FILE", str(tmp_path / "nothing"))
    with pytest.raises(InvalidFile, match="cannot be read"):
        Client(url)
    assert "TOKENSTONE_API_KEY" not in os.environ
