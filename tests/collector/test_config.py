"""Settings from arguments and environment, and one clear error for what is wrong."""

import pytest

from collector.config import AgentSettings, environment_name, load_settings
from collector.listen import ListenAddress
from collector.registry import SOURCES, build_sources
from tokenstone.errors import InvalidFile, InvalidValue, UnknownName


def test_arguments_win_over_the_environment_which_wins_over_defaults(monkeypatch):
    monkeypatch.setenv("TOKENSTONE_LISTEN", "127.0.0.1:9999")
    monkeypatch.setenv("TOKENSTONE_API", "http://service:8000/")
    monkeypatch.setenv("TOKENSTONE_SOURCES", "cpu, memory")
    settings = load_settings(listen="none", node="n1", api=None)
    assert settings.listen is None
    assert settings.api == "http://service:8000"
    assert settings.sources == ("cpu", "memory")
    assert settings.sample_seconds == 1.0
    assert load_settings(node="n1", api="none").api is None
    assert load_settings(node="n1", api="https://other").api == "https://other"
    assert load_settings(node="n1").listen == ListenAddress("127.0.0.1", 9999)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9478", ("", 9478)),
        ("10.0.0.1:0", ("10.0.0.1", 0)),
        ("[::1]:80", ("::1", 80)),
        ("localhost:65535", ("localhost", 65535)),
    ],
)
def test_listen_addresses(text, address):
    assert load_settings(listen=text, node="n").listen == address


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"listen": "9478"}, "listen (TOKENSTONE_LISTEN): '9478' is not HOST:PORT"),
        ({"listen": "::1:80"}, "is not HOST:PORT"),
        ({"listen": "h:70000"}, "is not HOST:PORT"),
        ({"api": "service:8000"}, "api (TOKENSTONE_API)"),
        ({"api": "ftp://service"}, "api (TOKENSTONE_API)"),
        ({"node": "a node"}, "node (TOKENSTONE_NODE)"),
        ({"sample_seconds": 0}, "sample_seconds (TOKENSTONE_SAMPLE_SECONDS)"),
        ({"sample_seconds": float("nan")}, "sample_seconds"),
        ({"window_seconds": "soon"}, "window_seconds"),
        ({"sample_seconds": 20}, "window_seconds (10) is shorter than sample_seconds (20)"),
        ({"spool_max_bytes": 10}, "spool_max_bytes"),
        ({"root": "/no/such/folder"}, "root '/no/such/folder' is not a folder"),
    ],
)
def test_each_wrong_setting_is_named(given, message):
    with pytest.raises(InvalidValue) as caught:
        load_settings(**{"node": "n"} | given)
    assert message in str(caught.value)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(InvalidValue, match=r"listen .*; .*spool_max_bytes"):
        load_settings(node="n", listen="x", spool_max_bytes=-1)


def test_the_key_is_never_shown(monkeypatch):
    monkeypatch.setenv("TOKENSTONE_API_KEY", "open-sesame")
    settings = load_settings(node="n")
    assert settings.api_key.get_secret_value() == "open-sesame"
    assert "open-sesame" not in f"{settings!r} {settings.model_dump_json()}"


def test_every_setting_has_its_own_environment_variable():
    names = [environment_name(field) for field in AgentSettings.model_fields]
    assert len(set(names)) == len(names)
    assert all(name.startswith("TOKENSTONE_") for name in names)


def test_sources_can_be_chosen_and_left_out():
    names = [
        source.name for source in build_sources(load_settings(node="n", sources="cpu,disk", exclude_sources="disk"))
    ]
    assert names == ["cpu", "agent"]
    names = [source.name for source in build_sources(load_settings(node="n"))]
    assert names == [name for name in SOURCES if name in names] + ["agent"]
    assert {"nvml", "cpu", "infiniband", "nfs", "job_use", "attribution", "filesystem"} <= set(names)


def test_an_unknown_source_is_refused_with_what_there_is():
    with pytest.raises(UnknownName, match=r"unknown source 'gpu'.*nvml"):
        build_sources(load_settings(node="n", exclude_sources="gpu"))


def test_a_file_comes_after_flags_and_environment(monkeypatch, tmp_path):
    file = tmp_path / "agent.toml"
    file.write_text(
        'cluster = "lab"\nsample_seconds = 2.0\nwindow_seconds = 20\nsources = ["cpu", "disk"]\nlisten = ":1"\n'
    )
    monkeypatch.setenv("TOKENSTONE_CONFIG", str(file))
    monkeypatch.setenv("TOKENSTONE_WINDOW_SECONDS", "30")
    settings = load_settings(node="n", listen=":2")
    assert (settings.cluster, settings.sample_seconds, settings.window_seconds) == ("lab", 2.0, 30.0)
    assert (settings.sources, settings.listen) == (("cpu", "disk"), ListenAddress("", 2))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("cluster = ", InvalidFile, "is not TOML"),
        ('clutser = "lab"', UnknownName, "did you mean 'cluster'"),
        ("sample_seconds = 0", InvalidValue, "sample_seconds"),
        (None, InvalidFile, "cannot be read: No such file or directory"),
    ],
)
def test_a_bad_file_is_one_clear_error(monkeypatch, tmp_path, text, error, message):
    file = tmp_path / "agent.toml"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv("TOKENSTONE_CONFIG", str(file))
    with pytest.raises(error, match=message):
        load_settings(node="n")
