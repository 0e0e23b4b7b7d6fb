#!/usr/bin/env python3
"""Turns upstream's generated.proto files into the field numbers that Amphipod embeds.

  protobuf.py builtin.jsonl PROTO_DIR... > protobuf.jsonl

PROTO_DIRs are checkouts that hold generated.proto files. One JSON object a line: {"n": definition, "f": [[number,
JSON name], ...]}. A name that begins with @ is the definition of a struct that JSON has inlined. Definitions are those
of builtin.jsonl and what they inline; fields that builtin.jsonl does not have are left out.
"""
import json, os, re, sys

MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^\s+(?:optional |repeated )?(map<\w+, *[\w.]+>|[\w.]+) (\w+) = (\d+);", re.M)
PACKAGE = re.compile(r"^package ([\w.]+);", re.M)


def messages(roots):
    """{full name: [(type, name, number)]}, with the k8s prefix that definitions have."""
    found = {}
    for root in roots:
        for folder, _, files in os.walk(root):
            if "generated.proto" not in files:
                continue
            text = re.sub(r"^\s*//.*$", "", open(os.path.join(folder, "generated.proto"), encoding="utf-8").read(), flags=re.M)
            package = definition_name(PACKAGE.search(text)[1])
            for message in MESSAGE.finditer(text):
                found[f"{package}.{message[1]}"] = [(qualify(f[1], package), f[2], int(f[3])) for f in FIELD.finditer(message[2])]
    return found


def definition_name(proto):
    name = re.sub(r"^k8s\.io\.", "io.k8s.", proto.lstrip("."))
    return re.sub(r"^io\.k8s\.(\w+)_(\w+)\.", r"io.k8s.\1-\2.", name)


def plain(name):
    """Schemas of schemas spell some fields in their own way: `$ref`, `x-kubernetes-list-type`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def qualify(kind, package):
    if kind.startswith("map<") or kind in ("string", "bool", "int32", "int64", "double", "bytes"):
        return kind
    return definition_name(kind) if "." in kind else f"{package}.{kind}"


def main():
    known = {}
    for line in open(sys.argv[1], encoding="utf-8"):
        row = json.loads(line)
        if isinstance(row.get("n"), str):
            known[row["n"]] = {p[0] for p in row.get("p", [])}
    protos, done = messages(sys.argv[2:]), set()
    todo = [(name, names) for name, names in sorted(known.items()) if name in protos]
    while todo:
        name, names = todo.pop(0)
        if name in done:
            continue
        done.add(name)
        rows = []
        for kind, field, number in protos[name]:
            match = field if field in names else next((n for n in names if plain(n) == plain(field)), None)
            if match:
                rows.append([number, match])
            elif any(part[1] in names for part in protos.get(kind, [])):
                rows.append([number, "@" + kind])
                todo.append((kind, names))
        if rows:
            print(json.dumps({"n": name, "f": rows}, separators=(",", ":")))


main()
