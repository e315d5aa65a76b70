"""The Helm chart, rendered by Helm's own engine (helm-python-sdk) and held against Kubernetes' published schemas.

Not shown: that a cluster admits it. ServiceMonitors are checked by the operator's field names, rules by promtool.
"""

import json
import shutil
import subprocess
import warnings

import helm_python
import pytest
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

KUBERNETES = ("1.27.0", "1.37.0")
# API reference of the Prometheus operator, monitoring.coreos.com/v1: Endpoint and RelabelConfig.
ENDPOINT = {"port", "interval", "honorLabels", "scheme", "tlsConfig", "authorization", "relabelings"}
RELABELING = {"sourceLabels", "targetLabel", "replacement", "action", "regex", "separator"}
EVERYTHING = {
    "cluster": "lab",
    "image": {"registry": "registry.example/", "tag": "1.2.3", "pullSecrets": ["pull"]},
    "service": {
        "tlsSecret": "tls", "extraEnv": {"TOKENSTONE_ACCESS_LOG": True}, "nodeSelector": {"a": "b"},
        "tolerations": [{"operator": "Exists"}],
        "ingress": {"enabled": True, "host": "tokenstone.example", "className": "nginx", "tlsSecret": "web",
                    "annotations": {"a": "b"}},
    },
    "agent": {"runtimeClassName": "nvidia", "caSecret": "ca", "extraEnv": {"TOKENSTONE_SAMPLE_SECONDS": 2}},
    "monitoring": {"labels": {"release": "prometheus"}},
    "dashboards": {"annotations": {"grafana_folder": "Tokenstone"}},
    "networkPolicy": {"enabled": True, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
}  # fmt: skip
BARE = {
    "service": {"enabled": False}, "agent": {"api": "https://elsewhere:8470"},
    "monitoring": {"enabled": False}, "dashboards": {"enabled": False},
}  # fmt: skip


@pytest.fixture(scope="module")
def chart(root):
    with helm_python.Chart.load(root / "deploy/helm/tokenstone") as loaded:
        yield loaded


@pytest.fixture
def render(chart):
    def objects(values=None, name="tokenstone"):
        # Rendering alone does not hold the values against the schema; installing does.
        chart.validate_schema(values or {})
        texts = chart.render(values or {}, name=name, namespace="measuring")
        documents = (d for path, text in texts.items() if path.endswith(".yaml") for d in yaml.safe_load_all(text))
        return {(d["kind"], d["metadata"]["name"]): d for d in documents if d}

    return objects


def container(thing):
    [only] = thing["spec"]["template"]["spec"]["containers"]
    return only


def variables(thing):
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container(thing)["env"]}


def test_helm_lint_finds_nothing(root):
    report = helm_python.lint(root / "deploy/helm/tokenstone", strict=True)
    assert report["errors"] == []
    assert [m["error"] for m in report["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize(
    ("values", "version"),
    [(EVERYTHING, KUBERNETES[0]), (EVERYTHING, KUBERNETES[1]), ({}, KUBERNETES[1]), (BARE, KUBERNETES[1])],
    ids=["everything, old", "everything", "defaults", "bare"],
)
def test_objects_are_valid_in_old_and_new_kubernetes(render, values, version):
    objects = render(values)
    for (kind, name), thing in objects.items():
        if thing["apiVersion"] != "monitoring.coreos.com/v1":
            kubernetes_validate.validate(thing, version, strict=True)
        assert len(name) <= 63, (kind, name)
    assert ("DaemonSet", "tokenstone-agent") in objects


def test_the_schema_check_looks(render):
    broken = render()["DaemonSet", "tokenstone-agent"]
    broken["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="hostNetwrok"):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"service": {"replicas": 0}}, "replicas"),
        ({"agent": {"prot": 1}}, "prot"),
        ({"cluster": "not a name"}, "cluster"),
        ({"agent": {"extraEnv": {"lower case": "x"}}}, "lower case"),
    ],
)
def test_wrong_values_are_named(render, values, complaint):
    with pytest.raises(helm_python.HelmError, match=complaint):
        render(values)


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"service": {"enabled": False}}, "say where the agents' service is"),
        ({"service": {"ingress": {"enabled": True}}}, "under which name the service is reached"),
        ({"networkPolicy": {"enabled": True}}, "name who may reach the service"),
    ],
)
def test_values_that_do_not_go_together_say_what_to_do(render, values, advice):
    with pytest.raises(helm_python.HelmError, match=advice):
        render(values)


def test_pods_are_confined(render):
    for (kind, _), thing in render(EVERYTHING).items():
        if kind in {"Deployment", "DaemonSet"}:
            pod, context = thing["spec"]["template"]["spec"], container(thing)["securityContext"]
            # A Service called tokenstone sets TOKENSTONE_PORT=tcp://... in every pod that lets it.
            assert pod["enableServiceLinks"] is False
            assert pod["automountServiceAccountToken"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"]["drop"] == ["ALL"]
    service = render()["Deployment", "tokenstone"]
    assert service["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    agent = container(render()["DaemonSet", "tokenstone-agent"])
    assert agent["securityContext"]["capabilities"]["add"] == ["DAC_READ_SEARCH", "SYS_PTRACE"]


def test_secrets_are_referred_to_and_never_written(render):
    objects = render(EVERYTHING)
    assert not [kind for kind, _ in objects if kind == "Secret"]
    database = variables(objects["Deployment", "tokenstone"])["TOKENSTONE_DATABASE"]
    assert database == {"secretKeyRef": {"name": "tokenstone-database", "key": "url"}}
    key = variables(objects["DaemonSet", "tokenstone-agent"])["TOKENSTONE_API_KEY"]
    assert key == {"secretKeyRef": {"name": "tokenstone-keys", "key": "agent"}}


def test_settings_have_names_that_tokenstone_reads(render, setting_names):
    for (kind, _), thing in render(EVERYTHING).items():
        if kind in {"Deployment", "DaemonSet"}:
            assert {name for name in variables(thing) if name.startswith("TOKENSTONE_")} <= setting_names


def test_agents_reach_the_service_and_see_their_node(render):
    agent = render({"cluster": "lab"})["DaemonSet", "tokenstone-agent"]
    told = variables(agent)
    assert told["TOKENSTONE_API"] == "http://tokenstone.measuring.svc:8470"
    assert told["TOKENSTONE_CLUSTER"] == "lab"
    assert told["TOKENSTONE_NODE"] == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    pod = agent["spec"]["template"]["spec"]
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    mounts = {mount["name"]: mount for mount in container(agent)["volumeMounts"]}
    assert mounts["host"] == {
        "name": "host", "mountPath": told["TOKENSTONE_ROOT"], "readOnly": True, "mountPropagation": "HostToContainer",
    }  # fmt: skip
    assert told["TOKENSTONE_SPOOL_DIR"].startswith(mounts["state"]["mountPath"])
    assert pod["tolerations"] == [{"operator": "Exists"}]
    secure = render(EVERYTHING)["DaemonSet", "tokenstone-agent"]
    assert variables(secure)["TOKENSTONE_API"] == "https://tokenstone.measuring.svc:8470"
    assert variables(secure)["SSL_CERT_FILE"] == "/ca/ca.crt"


def test_a_release_of_another_name_does_not_collide(render):
    assert ("Deployment", "second-tokenstone") in render(name="second")


def test_service_monitors_have_the_operators_fields(render):
    monitors = [thing for (kind, _), thing in render(EVERYTHING).items() if kind == "ServiceMonitor"]
    services = [thing for (kind, _), thing in render(EVERYTHING).items() if kind == "Service"]
    assert len(monitors) == 2
    for monitor in monitors:
        assert monitor["metadata"]["labels"]["release"] == "prometheus"
        [endpoint] = monitor["spec"]["endpoints"]
        assert set(endpoint) <= ENDPOINT
        assert all(set(step) <= RELABELING for step in endpoint.get("relabelings", []))
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        [service] = [s for s in services if wanted <= s["metadata"]["labels"].items()]
        assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    agent = next(m for m in monitors if m["metadata"]["name"].endswith("-agent"))
    assert {step["targetLabel"] for step in agent["spec"]["endpoints"][0]["relabelings"]} == {"node", "cluster"}


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool")
def test_rules_are_the_ones_of_the_repository_and_prometheus_takes_them(render, root, tmp_path):
    files = sorted((root / "dashboards/prometheus").glob("*.rules.yml"))
    rules = [thing["spec"] for (kind, _), thing in render().items() if kind == "PrometheusRule"]
    assert files
    assert rules == [yaml.safe_load(file.read_text()) for file in files]
    for number, spec in enumerate(rules):
        (tmp_path / f"{number}.yml").write_text(yaml.safe_dump(spec))
    result = subprocess.run(
        ["promtool", "check", "rules", *tmp_path.iterdir()], check=False, capture_output=True, text=True, timeout=30
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_boards_are_the_ones_of_the_repository(render, root):
    boards = {path.name: json.loads(path.read_text()) for path in (root / "dashboards/json").glob("*.json")}
    maps = [thing for (kind, _), thing in render(EVERYTHING).items() if kind == "ConfigMap"]
    assert boards
    assert {name: json.loads(text) for thing in maps for name, text in thing["data"].items()} == boards
    for thing in maps:
        assert thing["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert thing["metadata"]["annotations"] == {"grafana_folder": "Tokenstone"}
        assert len(json.dumps(thing)) < 1_000_000, "a ConfigMap holds 1 MiB at most"


def test_the_job_of_training_is_valid(root):
    objects = list(yaml.safe_load_all((root / "deploy/kubernetes/train-job.yaml").read_text()))
    for thing in objects:
        for version in KUBERNETES:
            kubernetes_validate.validate(thing, version, strict=True)
    _, job = objects
    told, spec = variables(job), job["spec"]
    assert spec["completions"] == spec["parallelism"] == int(told["NODES"]) == len(told["HOSTS"].split(","))
    assert container(job)["resources"]["limits"]["nvidia.com/gpu"] == told["DEVICES"]


@pytest.mark.parametrize("index", ["0", "1"])
def test_the_job_of_training_starts_torchrun_on_each_pod_and_the_first_tells_the_service(root, tmp_path, index):
    """Its script, with programs that only say how they were called."""
    _, job = yaml.safe_load_all((root / "deploy/kubernetes/train-job.yaml").read_text())
    [script] = container(job)["args"]
    for name in ("tokenstone", "torchrun"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    told = {name: value for name, value in variables(job).items() if isinstance(value, str)}
    result = subprocess.run(
        [*container(job)["command"], script], check=True, capture_output=True, text=True, timeout=20,
        env=told | {"PATH": f"{tmp_path}:/usr/bin:/bin", "JOB_COMPLETION_INDEX": index},
    )  # fmt: skip
    spec, run = result.stdout.splitlines()
    assert spec == "tokenstone train --preset gpu-8 --nproc 16 --write-spec /scratch/spec.json"
    ours = (
        f"torchrun --nnodes 2 --nproc-per-node 8 --node-rank {index} --master-addr tokenstone-train-0.tokenstone-train"
    )
    assert ours in run
    assert run.startswith("tokenstone job --spec /scratch/spec.json --facts /scratch/facts.json") == (index == "0")
