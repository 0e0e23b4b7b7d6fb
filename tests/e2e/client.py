"""The official Python client against a cluster: python3 client.py KUBECONFIG. Says what failed by an exception.

Needs the package `kubernetes` (Debian: python3-kubernetes) and the image amphipod.local/server-wasm:v1.
"""

import json
import os
import sys
import tempfile
import threading
import time
import uuid

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock
from kubernetes.stream import stream

NS = "python"
PATIENCE = 120


def refused(code, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code, error
        return error
    raise AssertionError(f"{call} was not refused with {code}")


def until(what, check):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"never: {what}")


def core_objects(core):
    core.create_namespace({"metadata": {"name": NS}})
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"x": "1"}), data={"k": "v"})
    made = core.create_namespaced_config_map(NS, body)
    assert made.metadata.uid and made.data == {"k": "v"}
    refused(409, core.create_namespaced_config_map, NS, body)
    refused(404, core.read_namespaced_config_map, "none", NS)
    stale = core.read_namespaced_config_map("a", NS)
    core.patch_namespaced_config_map("a", NS, {"data": {"k": "w"}})
    refused(409, core.replace_namespaced_config_map, "a", NS, stale)
    assert [m.data["k"] for m in core.list_namespaced_config_map(NS, label_selector="x=1").items] == ["w"]
    page = core.list_namespaced_config_map(NS, limit=1)
    assert len(page.items) == 1 and page.metadata._continue
    core.delete_namespaced_config_map("a", NS)
    refused(404, core.read_namespaced_config_map, "a", NS)


def watching(core):
    version = core.list_namespaced_secret(NS).metadata.resource_version
    seen = []
    changes = watch.Watch()

    def follow():
        for change in changes.stream(core.list_namespaced_secret, NS, resource_version=version, timeout_seconds=PATIENCE):
            seen.append((change["type"], change["object"].metadata.name))
            if change["type"] == "DELETED":
                changes.stop()

    follower = threading.Thread(target=follow)
    follower.start()
    core.create_namespaced_secret(NS, {"metadata": {"name": "s"}, "stringData": {"a": "b"}})
    core.patch_namespaced_secret("s", NS, {"metadata": {"labels": {"c": "d"}}})
    core.delete_namespaced_secret("s", NS)
    follower.join(PATIENCE)
    assert seen == [("ADDED", "s"), ("MODIFIED", "s"), ("DELETED", "s")], seen


def applying(any_client):
    maps = any_client.resources.get(api_version="v1", kind="ConfigMap")

    def apply(value, **options):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": value}}
        # As text: clients of before 24 send no other body under this content type.
        return maps.server_side_apply(body=json.dumps(body), name="applied", namespace=NS, **options)

    apply("1", field_manager="one")
    try:
        apply("2", field_manager="two")
        raise AssertionError("a conflict was not told")
    except dynamic.exceptions.ConflictError as error:
        assert "conflict with" in str(error.body), error
    forced = apply("2", field_manager="two", force_conflicts=True)
    assert forced.data.a == "2"
    managers = {entry.manager for entry in forced.metadata.managedFields}
    assert "two" in managers and managers <= {"one", "two"}, managers
    assert maps.get(name="applied", namespace=NS).data.a == "2"
    maps.delete(name="applied", namespace=NS)


def custom_objects(api):
    schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "gears", "singular": "gear", "kind": "Gear"}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "gears.example.org"},
        "spec": {"group": "example.org", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    definitions = client.ApiextensionsV1Api(api)
    definitions.create_custom_resource_definition(definition)

    def established():
        status = definitions.read_custom_resource_definition("gears.example.org").status
        return any(c.type == "Established" and c.status == "True" for c in status.conditions or [])

    until("the definition is established", established)
    gears = client.CustomObjectsApi(api)
    where = ("example.org", "v1", NS, "gears")
    gear = {"apiVersion": "example.org/v1", "kind": "Gear", "metadata": {"name": "g"}, "spec": {"size": 1}}
    gears.create_namespaced_custom_object(*where, gear)
    gear["metadata"]["name"], gear["spec"]["size"] = "h", "big"
    refused(422, gears.create_namespaced_custom_object, *where, gear)
    gears.patch_namespaced_custom_object(*where, "g", {"spec": {"size": 2}})
    assert gears.get_namespaced_custom_object(*where, "g")["spec"] == {"size": 2}
    assert len(gears.list_namespaced_custom_object(*where)["items"]) == 1
    gears.delete_namespaced_custom_object(*where, "g")


def executing(core):
    container = {"name": "c", "image": "amphipod.local/server-wasm:v1"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1}
    until("the default account", lambda: core.list_namespaced_service_account(NS).items)
    core.create_namespaced_pod(NS, {"metadata": {"name": "p"}, "spec": spec})
    until("the Pod runs", lambda: core.read_namespaced_pod("p", NS).status.phase == "Running")
    said = stream(
        core.connect_get_namespaced_pod_exec, "p", NS, command=["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False
    )
    assert said.strip() == "hello", said
    core.delete_namespaced_pod("p", NS)


def leading():
    name, turns = f"lock-{uuid.uuid4().hex[:6]}", []
    lock = ConfigMapLock(name, NS, "me")
    done = threading.Event()

    def lead():
        turns.append("me")
        done.set()

    wanted = electionconfig.Config(
        lock, lease_duration=4, renew_deadline=3, retry_period=1, onstarted_leading=lead, onstopped_leading=None
    )
    threading.Thread(target=leaderelection.LeaderElection(wanted).run, daemon=True).start()
    assert done.wait(PATIENCE), "nobody leads"
    held, record = ConfigMapLock(name, NS, "other").get(name, NS)
    assert held and record.holder_identity == "me", record


def main():
    # The client turns certificates of a kubeconfig into files.
    tempfile.tempdir = os.environ.get("TMPDIR", tempfile.gettempdir())
    config.load_kube_config(sys.argv[1])
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    version = client.VersionApi(api).get_code()
    assert version.major == "1", version
    core_objects(core)
    watching(core)
    custom_objects(api)
    executing(core)
    leading()
    applying(dynamic.DynamicClient(api))
    core.delete_namespace(NS)
    print("all well")


if __name__ == "__main__":
    main()
