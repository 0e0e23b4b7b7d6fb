#!/usr/bin/env python3
"""Turns recorded requests and an upstream API server's answers into test data for the served kinds.

  extract_cases.py FACTS_DIR > cases.jsonl

FACTS_DIR holds cases.json and answers.json. A line is one object's life: {"case", "steps": [{"m": method,
"sub": subresource or null, "how": content type of a patch, "b": body, "code", "want": object or message}]}. Only the
steps that create, replace or patch an object of a served kind in one place are kept.
"""
import json, os, re, sys

SERVED = {"namespaces", "nodes", "pods", "services", "endpointslices", "endpoints", "configmaps", "secrets",
          "serviceaccounts", "events", "leases", "deployments", "replicasets", "daemonsets", "statefulsets",
          "controllerrevisions", "replicationcontrollers", "podtemplates", "limitranges", "resourcequotas", "jobs",
          "cronjobs", "horizontalpodautoscalers", "poddisruptionbudgets", "persistentvolumes",
          "persistentvolumeclaims", "priorityclasses", "storageclasses"}
PATH = re.compile(r"^/(?:api|apis/([^/]+))/v1(?:/namespaces/\{ns\})?/([a-z]+)(?:/([^/?]+))?(?:/([a-z]+))?$")
PATCHES = {"application/merge-patch+json": "merge", "application/strategic-merge-patch+json": "strategic"}


def without(value, keys):
    if isinstance(value, dict):
        return {k: without(v, keys) for k, v in value.items() if k not in keys}
    return [without(v, keys) for v in value] if isinstance(value, list) else value


def step_line(step, answer):
    match = PATH.match(step["p"])
    body = answer.get("body")
    if not match or match[2] not in SERVED or not isinstance(body, dict) or step["m"] not in ("POST", "PUT", "PATCH"):
        return None
    how = PATCHES.get(step.get("h", {}).get("Content-Type")) if step["m"] == "PATCH" else None
    if step["m"] == "PATCH" and how is None or not isinstance(step.get("b"), dict):
        return None
    if answer["code"] in (403, 404, 405, 409):
        return None
    want = body["message"] if body.get("kind") == "Status" else without(body, {"managedFields"})
    return {"m": step["m"], "g": match[1] or "", "r": match[2], "sub": match[4], "how": how, "b": step["b"],
            "code": answer["code"], "want": want}


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    cases, answers = (json.load(open(os.path.join(sys.argv[1], n))) for n in ("cases.json", "answers.json"))
    for case in cases:
        steps = [s for s in map(step_line, case["steps"], answers[case["case"]]) if s]
        if steps and steps[0]["m"] == "POST":
            print(json.dumps({"case": case["case"], "steps": steps}, separators=(",", ":")))
    return 0


sys.exit(main())
