#!/usr/bin/env python3
"""Records upstream's protobuf bodies of sample objects, as data for `protobuf/recorded_tests.rs`.

  record_protobuf.py PROTOBUF protobuf_samples.jsonl > new.jsonl

PROTOBUF is `protobuf/main.go` of this folder, built inside a Kubernetes source tree (`go build -overlay`, or copied to
cmd/protobuf). The objects are read from the given file, {"object": OBJECT} a line; their bytes are asked anew.
"""
import json, subprocess, sys


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    objects = [{"object": json.loads(line)["object"]} for line in open(sys.argv[2])]
    text = "\n".join(json.dumps(line) for line in objects)
    answer = subprocess.run([sys.argv[1]], input=text.encode(), capture_output=True, check=True)
    for line, told in zip(objects, map(json.loads, answer.stdout.splitlines())):
        print(json.dumps(line | {"bytes": told["bytes"]}, separators=(",", ":"), ensure_ascii=False))
    return 0


sys.exit(main())
