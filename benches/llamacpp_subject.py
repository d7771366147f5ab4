"""Served subjects on llama.cpp's own server: a base and its hardened model, by endpoint beside loaded.

    pip install xllamacpp
    python benches/llamacpp_subject.py --eraser BINARY --model MODEL --adapter ADAPTER --templates DIR --questions FILE --work DIR

xllamacpp is llama.cpp's server in a Python wheel. Both models are exported as GGUF in f32, each is served, and `eraser eval`
asks the two servers; then it loads the same model and adapter in f32. Prints how many greedy answers are the same, and those
that are not. llama.cpp keeps back the bytes of a character that the last token leaves unfinished; a text read here ends with
the replacement character then, which is taken off before texts are compared.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

SERVER = """
import sys, time, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port, p.n_ctx, p.n_parallel, p.use_jinja = sys.argv[1], int(sys.argv[2]), 8192, 4, True
p.cache_type_k = p.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
server = xllamacpp.Server(p)
while True: time.sleep(60)
"""

parser = argparse.ArgumentParser()
for name in ("--eraser", "--model", "--adapter", "--templates", "--questions"):
    parser.add_argument(name, required=True)
parser.add_argument("--work", type=pathlib.Path, required=True)
parser.add_argument("--limit", default="10")
parser.add_argument("--max-new-tokens", default="32")
parser.add_argument("--port", type=int, default=8801)
args = parser.parse_args()
args.work.mkdir(parents=True, exist_ok=True)


def eraser(*words):
    subprocess.run([args.eraser, *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def evaluate(out, *subjects):
    eraser("eval", "--model", args.model, *subjects, "--attacks", "direct,template,prefill", "--templates", args.templates,
           "--judges", "keyword", "--questions", f"unseen={args.questions}", "--limit", args.limit,
           "--max-new-tokens", args.max_new_tokens, "--out", args.work / out)


def wait(port):
    for _ in range(120):
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models").read()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(1)
    sys.exit(f"nothing answers at port {port}")


servers, subjects = [], []
try:
    for at, (name, adapter) in enumerate({"base": [], "hardened": ["--adapter", args.adapter]}.items()):
        file, port = args.work / f"{name}.gguf", args.port + at
        eraser("export", "--model", args.model, *adapter, "--format", "gguf", "--dtype", "f32", "--force", "--out", file)
        servers.append(subprocess.Popen([sys.executable, "-c", SERVER, file, str(port)], stderr=subprocess.DEVNULL))
        listed = json.loads(wait(port))
        subjects += ["--subject", f"{name}=http://127.0.0.1:{port}/v1#{listed['data'][0]['id']}"]
    evaluate("served", *subjects)
finally:
    for server in servers:
        server.kill()
evaluate("loaded", "--base-dtype", "f32", "--compute", "f32", "--adapter", f"hardened={args.adapter}")

same = total = 0
for name in ("base", "hardened"):
    for kind in ("direct", "template", "prefill"):
        sides = [{(row["id"], row["attack"]): row["response"].rstrip("\ufffd")
                  for row in map(json.loads, open(args.work / side / "eval" / name / f"{kind}.jsonl"))}
                 for side in ("served", "loaded")]
        for key, text in sides[1].items():
            total += 1
            same += sides[0][key] == text
            if sides[0][key] != text:
                print(f"{name} {key[1]}: {sides[0][key]!r}, loaded {text!r}")
print(f"{same} of {total} greedy answers the same")
