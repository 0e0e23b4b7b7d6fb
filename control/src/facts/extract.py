#!/usr/bin/env python3
"""Turns the recorded bootstrap objects of an upstream API server into those that every cluster here has, too.

  extract.py FACTS_DIR > cluster.jsonl

FACTS_DIR holds bootstrap.json. A line is {"path": collection, "object": what is created there}. Roles and bindings are
not among them: `auth/defaults` has those. Descriptions are left out.
"""
import json, os, sys

KINDS = [("scheduling.k8s.io", "priorityclasses", "PriorityClass"),
         ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", "PriorityLevelConfiguration"),
         ("flowcontrol.apiserver.k8s.io", "flowschemas", "FlowSchema")]


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    recorded = json.load(open(os.path.join(sys.argv[1], "bootstrap.json")))
    for group, plural, kind in KINDS:
        path = f"/apis/{group}/v1/{plural}"
        for found in recorded[path]:
            body = {k: v for k, v in found.items() if k not in ("status", "description")}
            line = {"path": path, "object": {"apiVersion": f"{group}/v1", "kind": kind, **body}}
            print(json.dumps(line, separators=(",", ":")))
    return 0


sys.exit(main())
