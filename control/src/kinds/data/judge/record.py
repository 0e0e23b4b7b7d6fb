#!/usr/bin/env python3
"""Records what upstream's registries say of changed sample objects, as data for `judged_tests.rs`.

  record.py JUDGE judgements.jsonl > new.jsonl

JUDGE is `main.go` of this folder, built inside a Kubernetes source tree (`go build -overlay`, or copied to cmd/judge).
The samples ("base" lines) and the changes are read from the given file; the answers are asked anew. To add a case, add a
line without answers: {"of": BASE, "as": "create"|"update"|SUBRESOURCE, "at": [PATH…], "to": VALUE (none: taken away)}.
"""
import copy, json, re, subprocess, sys

LONG = re.compile(r'^.*?: (?:Invalid value|Unsupported value|Forbidden|Required value)(?:: (?:"[^"]*"|-?\d+|null))?: (.{50,})$')


def ask(judge, cases):
    text = "\n".join(json.dumps(case) for case in cases)
    answer = subprocess.run([judge], input=text.encode(), capture_output=True, check=True)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def case(base, sub, new, old):
    out = {"Group": base["group"], "Version": base["version"], "Plural": base["plural"], "Sub": sub, "New": new}
    return out | ({"Old": old} if old is not None else {})


def changed(value, line):
    value = copy.deepcopy(value)
    if "at" in line:
        place = value
        for step in line["at"][:-1]:
            place = place[step]
        if "to" in line:
            place[line["at"][-1]] = line["to"]
        else:
            del place[line["at"][-1]]
    return value


def without_status(value):
    return {key: part for key, part in value.items() if key != "status"}


def question(bases, line):
    base = bases[line["of"]]
    if line["as"] == "create":
        return case(base, "", changed(without_status(base["object"]), line), None)
    sub = "" if line["as"] == "update" else line["as"]
    return case(base, sub, changed(base["stored"], line), base["stored"])


def answered(line, answer):
    errors = list(dict.fromkeys(error.split("\n")[0] for error in answer["errors"]))
    line = {key: line[key] for key in ("of", "as", "at", "to") if key in line} | {"errors": errors}
    generation = answer.get("object", {}).get("metadata", {}).get("generation")
    if not errors and generation is not None:
        line["generation"] = generation
    if not errors and answer.get("warnings"):
        line["warnings"] = answer["warnings"]
    return line


def packed(lines):
    counts = {}
    for line in lines:
        for found in filter(None, map(LONG.match, line["errors"])):
            counts[found[1]] = counts.get(found[1], 0) + 1
    words = sorted((word for word, count in counts.items() if count > 2), key=lambda word: -counts[word])
    for line in lines:
        for i, error in enumerate(line["errors"]):
            word = next((word for word in words if error.endswith(word)), None)
            if word:
                line["errors"][i] = error[: -len(word)] + "{%d}" % words.index(word)
    return words


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    judge, file = sys.argv[1:]
    lines = [line for line in map(json.loads, open(file)) if "words" not in line]
    bases = {line["base"]: line for line in lines if "base" in line}
    cases = [line for line in lines if "of" in line]
    made = ask(judge, [case(base, "", without_status(base["object"]), None) for base in bases.values()])
    for base, answer in zip(bases.values(), made):
        status = {"status": base["object"]["status"]} if "status" in base["object"] else {}
        base["stored"] = answer["object"] | status
    answers = ask(judge, [question(bases, line) for line in cases])
    cases = [answered(line, answer) for line, answer in zip(cases, answers)]
    words = packed(cases)
    plain = [{key: part for key, part in base.items() if key != "stored"} for base in bases.values()]
    for line in [{"words": words}, *plain, *cases]:
        print(json.dumps(line, separators=(",", ":"), ensure_ascii=False))
    return 0


sys.exit(main())
