#!/usr/bin/env python3
"""Turns recorded facts of an upstream API server into the table that Amphipod embeds.

  extract.py FACTS_DIR [GO_DIR...] > builtin.jsonl

FACTS_DIR holds schemas.json, discovery.json and tables.json. GO_DIRs are checkouts with the Go declarations of the
API types; from them come three facts the wire shows but a schema cannot say: the order of fields, which optional
fields keep a zero value (pointers), and which are written even when nothing was set.

One JSON object a line. Definitions: {"n": name, "x": group-version-kinds, "m": map type, "u": unions, "t": alias
type, "p": fields}. A field is [name, type, flags, rest]. Type: s string, b bool, i int32, l int64, f double, y bytes,
d date-time, * anything, #name reference, [T list, {T map. Flags: r required; and on the wire k keep when set, n null
when not set, z drop
when zero, a always. rest (when there is any): e enum, d default, l list type, k list map keys, o map type, m merge
key, s patch strategy, q enum of items or values, g the Go type where its name shows in decoding errors. Resources: {"r": plural, ...}; see the code below.
"""
import json, os, re, sys

SCALARS = {("string", None): "s", ("boolean", None): "b", ("integer", "int32"): "i", ("integer", "int64"): "l",
           ("integer", None): "l", ("number", "double"): "f", ("number", None): "f", ("string", "byte"): "y",
           ("string", "date-time"): "d", ("object", None): "{*"}
REST = [("e", "enum"), ("d", "default"), ("l", "x-kubernetes-list-type"), ("k", "x-kubernetes-list-map-keys"),
        ("o", "x-kubernetes-map-type"), ("m", "x-kubernetes-patch-merge-key"), ("s", "x-kubernetes-patch-strategy")]


def type_code(schema):
    if "$ref" in schema:
        return "#" + schema["$ref"].rsplit("/", 1)[1]
    if schema.get("type") == "array":
        return "[" + type_code(schema.get("items", {}))
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return "{" + type_code(schema["additionalProperties"])
    return SCALARS.get((schema.get("type"), schema.get("format")), "*")


STRUCT = re.compile(r"^type (\w+) struct \{\n(.*?)^\}", re.M | re.S)
FIELD = re.compile(r"^\s+(?:(\w+)\s+)?(\S+)\s+`[^`]*json:\"([^\"]*)\"", re.M)


def go_structs(dirs):
    """{(package suffix, struct): [(json name or None when inlined, Go type, tag options)]}"""
    found = {}
    for root in dirs:
        for folder, _, files in os.walk(root):
            for name in files:
                if not name.endswith(".go") or name.endswith("_test.go") or "zz_" in name:
                    continue
                package = "/".join(folder.replace(os.sep, "/").split("/")[-2:])
                text = open(os.path.join(folder, name), encoding="utf-8").read()
                for struct in STRUCT.finditer(text):
                    body = re.sub(r"^\s*//.*$", "", struct[2], flags=re.M)
                    found[package, struct[1]] = [go_field(f) for f in FIELD.finditer(body)]
    return found


def go_field(match):
    name, kind, tag = match[1], match[2], match[3].split(",")
    inline = not tag[0] and (name is None or "inline" in tag)
    return (None if inline else tag[0] or name, kind, tag[1:])


def package_of(definition):
    parts = definition.split(".")
    return "/".join(parts[-3:-1]), parts[-1]


def flat_fields(structs, package, name):
    """The JSON fields of a Go struct in wire order, inlined structs flattened."""
    for json_name, kind, options in structs.get((package, name), []):
        if json_name is not None:
            yield json_name, kind, options
            continue
        prefix, _, short = kind.lstrip("*").rpartition(".")
        yield from flat_fields(structs, "meta/v1" if prefix == "metav1" else prefix or package, short)


def wire_mode(kind, options, code, definitions):
    if kind.startswith("*"):
        return "k" if "omitempty" in options or "omitzero" in options else "n"
    structure = code.startswith("#") and not kind.startswith(("[", "map"))
    if "omitzero" in options:
        return "z"
    if "omitempty" in options and not structure:
        return "z"
    if structure and definitions.get(code[1:], {}).get("type") == "string" and "omitempty" in options \
            and not code.endswith(("Time", "Quantity", "IntOrString")):
        return "z"
    return "a"


GO_SCALARS = {"s": "string", "b": "bool", "i": "int32", "l": "int64", "f": "float64", "y": "[]uint8", "*": "interface {}"}


def go_name(code):
    """The Go type that a type code stands for when nothing is renamed."""
    if code.startswith("["):
        return "[]" + go_name(code[1:])
    if code.startswith("{"):
        return "map[string]" + go_name(code[1:])
    return ".".join(code.split(".")[-2:]) if code.startswith("#") else GO_SCALARS.get(code, code)


def shown_go_type(kind, version):
    """A Go type as its errors print it: packages by their last name, the outer pointer gone."""
    kind = re.sub(r"\b[a-z]\w*\.(?=[A-Z])", lambda m: "v1." if m[0] in ("metav1.", "corev1.", "apiv1.") else m[0], kind.lstrip("*"))
    return re.sub(r"(?<![\w.])(?=[A-Z])", version + ".", kind).replace("[]byte", "[]uint8")


def definition_line(name, schema, structs, definitions):
    line = {"n": name}
    if "x-kubernetes-group-version-kind" in schema:
        line["x"] = [[g["group"], g["version"], g["kind"]] for g in schema["x-kubernetes-group-version-kind"]]
    for short, long in (("m", "x-kubernetes-map-type"), ("u", "x-kubernetes-unions")):
        if long in schema:
            line[short] = schema[long]
    properties = schema.get("properties")
    if properties is None:
        line["t"] = type_code(schema)
        return line
    package, short = package_of(name)
    wire = {f: (kind, options) for f, kind, options in flat_fields(structs, package, short)}
    order = [f for f in wire if f in properties] + sorted(set(properties) - set(wire))
    required = set(schema.get("required", []))
    line["p"] = [field_row(f, properties[f], f in required, wire.get(f), definitions, package.split("/")[-1]) for f in order]
    return line


def field_row(name, schema, required, wire, definitions, version):
    code = type_code(schema)
    mode = wire_mode(*wire, code, definitions) if wire else ("a" if required else "k")
    rest = {short: schema[long] for short, long in REST if long in schema}
    items = schema.get("items") or schema.get("additionalProperties") or {}
    if "enum" in items:
        rest["q"] = items["enum"]
    if wire and not re.match("#.*(Time|Quantity|IntOrString)$", code) and shown_go_type(wire[0], version) != go_name(code):
        rest["g"] = shown_go_type(wire[0], version)
    row = [name, code, ("r" if required else "") + mode]
    return row + [rest] if rest else row


def resource_lines(discovery, tables, schemas):
    kinds = {}
    for name, schema in schemas.items():
        for g in schema.get("x-kubernetes-group-version-kind", []):
            kinds.setdefault((g["group"], g["version"], g["kind"]), name)
    for document in (discovery["api"], discovery["apis"]):
        for group in document["items"]:
            for version in group["versions"]:
                for r in version["resources"]:
                    yield resource_line(group["metadata"].get("name", ""), version["version"], r, kinds, tables)


def resource_line(group, version, r, kinds, tables):
    own = r["responseKind"]
    gvk = (own["group"] or group, own["version"] or version, own["kind"])
    path = f"/apis/{group}/{version}/" if group else f"/api/{version}/"
    line = {"r": r["resource"], "g": group, "v": version, "k": gvk[2], "i": r["singularResource"],
            "n": r["scope"] == "Namespaced", "verbs": r["verbs"], "def": kinds.get(gvk)}
    for short, long in (("s", "shortNames"), ("c", "categories")):
        if r.get(long):
            line[short] = r[long]
    if r.get("subresources"):
        line["sub"] = [[s["subresource"], sub_gvk(s["responseKind"], group, version), s["verbs"]]
                       for s in r["subresources"]]
    columns = tables.get(path + r["resource"])
    if columns:
        line["cols"] = [[c["name"], c["type"], c["format"], c["priority"]] for c in columns]
    return line


def sub_gvk(kind, group, version):
    if kind["group"] == "" and kind["version"] == "":
        return [group, version, kind["kind"]]
    return [kind["group"], kind["version"], kind["kind"]]


def main():
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    facts = {n: json.load(open(os.path.join(sys.argv[1], n + ".json"))) for n in ("schemas", "discovery", "tables")}
    structs = go_structs(sys.argv[2:])
    out = [definition_line(n, s, structs, facts["schemas"]) for n, s in sorted(facts["schemas"].items())]
    out += resource_lines(facts["discovery"], facts["tables"], facts["schemas"])
    for line in out:
        print(json.dumps(line, separators=(",", ":"), sort_keys=False))
    return 0


sys.exit(main())
