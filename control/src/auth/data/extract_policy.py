#!/usr/bin/env python3
"""Turns recorded bootstrap objects of an upstream API server into the default policy that Amphipod embeds.

  extract_policy.py FACTS_DIR > policy.jsonl

FACTS_DIR holds bootstrap.json. One object a line: {"k": kind, "s": namespace, "n": name, "l": labels besides the one
that all have, "r": rules, "a": aggregation rule, "t": role reference [kind, name], "u": subjects}. A rule is
[verbs, groups, resources, names, URLs] with empty tails left out; a subject is [kind, name, namespace when there is one].
"""
import json, sys

BASE = "/apis/rbac.authorization.k8s.io/v1/"
KINDS = [("clusterroles", "ClusterRole"), ("clusterrolebindings", "ClusterRoleBinding"), ("roles", "Role"),
         ("rolebindings", "RoleBinding")]
MARK = "kubernetes.io/bootstrapping"
# Of the recording's vendor, not of upstream.
FOREIGN = ("openshift", "service-ca-cert-publisher")


def rule(r):
    row = [r.get(k, []) for k in ("verbs", "apiGroups", "resources", "resourceNames", "nonResourceURLs")]
    while row and not row[-1]:
        row.pop()
    return row


def line(kind, o):
    meta, out = o["metadata"], {"k": kind}
    if meta.get("namespace"):
        out["s"] = meta["namespace"]
    out["n"] = meta["name"]
    labels = {k: v for k, v in meta.get("labels", {}).items() if k != MARK}
    if labels:
        out["l"] = labels
    if "rules" in o:
        out["r"] = [rule(r) for r in o["rules"] or []]
    if o.get("aggregationRule"):
        out["a"] = o["aggregationRule"]
    if "roleRef" in o:
        out["t"] = [o["roleRef"]["kind"], o["roleRef"]["name"]]
        out["u"] = [[s["kind"], s["name"]] + ([s["namespace"]] if s.get("namespace") else []) for s in o.get("subjects") or []]
    return out


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    facts = json.load(open(sys.argv[1] + "/bootstrap.json"))
    for plural, kind in KINDS:
        for o in sorted(facts[BASE + plural], key=lambda o: (o["metadata"].get("namespace", ""), o["metadata"]["name"])):
            if not any(word in o["metadata"]["name"] for word in FOREIGN):
                print(json.dumps(line(kind, o), separators=(",", ":")))
    return 0


sys.exit(main())
