#!/usr/bin/env python3
"""Records what upstream says of expressions as validations of a policy, as data for `policy/checked_tests.rs`.

  record_expressions.py JUDGE judgements.jsonl expressions.jsonl > new.jsonl

JUDGE is `main.go` of this folder (see `record.py`); the policy around the expressions is the sample of judgements.jsonl. A line
is [EXPRESSION, ANSWER]; the answer, asked anew, is empty or the first line of the refusal. To add a case, add [EXPRESSION, ""].
"""
import copy, json, subprocess, sys


def policy(judgements):
    for line in map(json.loads, open(judgements)):
        if line.get("base") == "validatingadmissionpolicies":
            line["object"].pop("status", None)
            for key in ["variables", "auditAnnotations", "matchConditions"]:
                line["object"]["spec"].pop(key, None)
            return line
    sys.exit("there is no sample of a policy")


def asked(base, expression):
    new = copy.deepcopy(base["object"])
    new["spec"]["validations"] = [{"expression": expression}]
    return {"Group": base["group"], "Version": base["version"], "Plural": base["plural"], "Sub": "", "New": new}


def told(expression, errors):
    if not errors:
        return ""
    if ": Internal error: " in errors[0]:
        return errors[0].split(": Internal error: ", 1)[1]
    return errors[0].split("Invalid value: " + json.dumps(expression, ensure_ascii=False) + ": ", 1)[1].split("\n")[0]


def main(judge, judgements, expressions):
    base = policy(judgements)
    found = [json.loads(line)[0] for line in open(expressions)]
    text = "\n".join(json.dumps(asked(base, expression)) for expression in found)
    answers = subprocess.run([judge], input=text.encode(), capture_output=True, check=True).stdout.splitlines()
    for expression, answer in zip(found, answers, strict=True):
        print(json.dumps([expression, told(expression, json.loads(answer)["errors"])], ensure_ascii=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
