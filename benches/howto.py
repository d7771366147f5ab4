"""Do allowed how-to skills of a real model survive? Uses a running `eraser serve` of base and adapters, and instructions from
databricks-dolly (JSONL with `prompt`, whose text stands between `### Instruction:` and `### Response:`) or the safe questions
of XSTest (CSV), which look like harmful ones.

    howto.py answer  --url URL --data FILE .. --out DIR [--n 60]   base answers how-to questions: DIR/retain.jsonl, DIR/held-out.jsonl
    howto.py measure --url URL --out DIR [--harm FILE]          mean negative log-likelihood, nats per token, of the base's own
                                                                answers under every served model; of harm answers beside them

`answer` before training (retain.jsonl is a retain set), `measure` after it.
"""
import argparse
import csv
import concurrent.futures
import json
import pathlib
import re
import urllib.request


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def models(url):
    with urllib.request.urlopen(f"{url}/v1/models") as response:
        return [m["id"] for m in json.load(response)["data"]]


def questions(path):
    if path.endswith(".csv"):
        texts = [row["prompt"] for row in csv.DictReader(open(path, newline="")) if row["label"] == "safe"]
    else:
        text = lambda line: json.loads(line)["prompt"].split("### Instruction:\n")[-1].split("\n\n### Response")[0].strip()
        texts = [text(line) for line in open(path)]
    how = re.compile(r"(?i)\b(how (do|can|to|would|should)|steps|recipe|tips|best way|ways to)\b")
    return [t for t in texts if how.search(t) and len(t) < 160]


def answer(a):
    base = models(a.url)[0]
    found = list(dict.fromkeys(q for path in a.data for q in questions(path)))[: 2 * a.n]

    def ask(question):
        body = {"model": base, "messages": [{"role": "user", "content": question}], "max_tokens": 96, "temperature": 0,
                "repetition_penalty": 1.1}
        return {"input": question, "output": post(f"{a.url}/v1/chat/completions", body)["choices"][0]["message"]["content"]}

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(ask, found))
    out = pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("retain", rows[::2]), ("held-out", rows[1::2])):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
        print(name, len(part))


def measure(a):
    out = pathlib.Path(a.out)
    sets = {name: [json.loads(line) for line in open(out / f"{name}.jsonl")] for name in ("retain", "held-out")}
    if a.harm:
        rows = json.loads(pathlib.Path(a.harm).read_text()) if a.harm.endswith(".json") else map(json.loads, open(a.harm))
        sets["harm"] = list(rows)[: a.n]

    def nll(model, row):
        # The prompt's own length is what the same text without the answer has.
        prompt = f"<|im_start|>user\n{row['input']}<|im_end|>\n<|im_start|>assistant\n"
        score = lambda text: post(f"{a.url}/v1/completions", {"model": model, "prompt": text, "max_tokens": 0, "logprobs": 0, "echo": True})
        whole = score(prompt + row["output"])["choices"][0]["logprobs"]["token_logprobs"]
        start = len(score(prompt)["choices"][0]["logprobs"]["token_logprobs"])
        return -sum(whole[start:]), len(whole) - start

    for name, rows in sets.items():
        for model in models(a.url):
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                found = [pair for pair in pool.map(lambda row: nll(model, row), rows) if pair[1] > 0]
            total, tokens = (sum(x) for x in zip(*found))
            print(f"{name:9} {model:16} {total / tokens:.4f} nats per token, {len(found)} answers")


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("do", choices=["answer", "measure"])
p.add_argument("--url", required=True)
p.add_argument("--out", required=True)
p.add_argument("--data", nargs="+")
p.add_argument("--harm")
p.add_argument("--n", type=int, default=60)
a = p.parse_args()
{"answer": answer, "measure": measure}[a.do](a)
