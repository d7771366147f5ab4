"""What transformers, rouge_score, scipy and scikit-learn make of a model that `eraser bench --suite tofu` has measured.

    pip install torch transformers peft rouge_score nltk scipy scikit-learn
    python benches/tofu_reference.py MODEL BENCH REFERENCE --suite DIR [--adapter DIR] [--retain REFERENCE]

BENCH is the directory of `eraser bench`, DIR that of the suite's files, REFERENCE the file that is written: the values of
every item, and the figures. Ends with an error where a value or a figure differs by more than 1e-3 of the larger of 1 and
itself, or a text at all. Formulas are those of open-unlearning's evaluation; that of extraction strength is the paper's.
"""
import argparse
import json
import math
import pathlib
import sys

import numpy as np
import torch
from rouge_score import rouge_scorer
from scipy.stats import hmean, ks_2samp
from sklearn.metrics import roc_auc_score
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("bench", type=pathlib.Path)
parser.add_argument("reference", type=pathlib.Path)
parser.add_argument("--suite", type=pathlib.Path, required=True)
parser.add_argument("--adapter")
parser.add_argument("--retain", type=pathlib.Path)
parser.add_argument("--forget", default="forget05")
parser.add_argument("--max-new-tokens", type=int, default=200)
args = parser.parse_args()
FILES = {"forget": f"{args.forget}_perturbed", "retain": "retain_perturbed", "real_authors": "real_authors_perturbed",
         "world_facts": "world_facts_perturbed", "holdout": args.forget.replace("forget", "holdout")}

tokenizer = AutoTokenizer.from_pretrained(args.model, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
if args.adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, args.adapter).eval()
rouge = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
summary = json.loads((args.bench / "bench.json").read_text())
subject = summary["subjects"][-1]


def ids(text):
    return tokenizer(text, add_special_tokens=False).input_ids


def chat(question):
    turn = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


@torch.no_grad()
def scored(prompt, answers):
    """Of each answer behind the prompt: its tokens' log-probabilities, and which of them are the likeliest."""
    labels = [ids(answer) + [tokenizer.eos_token_id] for answer in answers]
    longest = max(map(len, labels))
    rows = torch.tensor([prompt + label + [tokenizer.eos_token_id] * (longest - len(label)) for label in labels])
    # Causal, so what stands behind an answer changes nothing.
    logits = model(input_ids=rows).logits[:, len(prompt) - 1 : -1].double().log_softmax(-1)
    for row, label in zip(logits, labels):
        row, label = row[: len(label)], torch.tensor(label)
        yield row.gather(1, label[:, None])[:, 0].numpy(), (row.argmax(-1) == label).numpy()


@torch.no_grad()
def written(prompts, together=10):
    """Greedy answers, those of like length together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for at in range(0, len(order), together):
        part = order[at : at + together]
        batch = tokenizer.pad({"input_ids": [prompts[i] for i in part]}, return_tensors="pt")
        out = model.generate(**batch, max_new_tokens=args.max_new_tokens, do_sample=False, repetition_penalty=1.0,
                             pad_token_id=tokenizer.eos_token_id)
        found = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1]:], skip_special_tokens=True)
        for i, text in zip(part, found):
            texts[i] = text
    return texts


def measured(name, rows):
    prompts = [ids(chat(row["question"])) for row in rows]
    texts = written(prompts) if "perturbed_answer" in rows[0] else None
    items = []
    for i, (row, prompt) in enumerate(zip(rows, prompts)):
        wrong = row.get("perturbed_answer", [])
        paraphrase = [row["paraphrased_answer"]] if "paraphrased_answer" in row else []
        found = list(scored(prompt, [row["answer"], *paraphrase, *wrong]))
        losses = [-float(logprobs.mean()) for logprobs, _ in found]
        logprobs, likeliest = (x[:-1] for x in found[0])
        k = next(k for k in range(len(likeliest) + 1) if likeliest[k:].all())
        lowest = np.sort(logprobs)[: max(1, int(len(logprobs) * 0.4))]
        item = {"probability": math.exp(-losses[0]), "min_k": float(lowest.mean()),
                "extraction_strength": 1 - k / len(likeliest), "exact_memorization": float(likeliest.mean())}
        if wrong:
            right, of_wrong = losses[len(paraphrase)], losses[1 + len(paraphrase):]
            item["ratio"] = math.exp(-np.mean(of_wrong)) / (math.exp(-right) + 1e-10)
            ratio = item["ratio"]
            item["truth_ratio"] = min(ratio, 1 / (ratio + 1e-10)) if name == "forget" else max(0, 1 - ratio)
            item["text"] = texts[i]
            item["rougeL_recall"] = rouge.score(row["answer"], texts[i].strip())["rougeL"].recall
            if name in ("real_authors", "world_facts"):
                p = item["probability"]
                item["probability"] = p / (p + sum(math.exp(-x) for x in of_wrong) + 1e-10)
        items.append(item)
    return items


def of(items, key):
    return [item[key] for item in items]


def area(sets):
    seen, unseen = (of(sets[name], "min_k") for name in ("forget", "holdout"))
    return roc_auc_score([1] * len(seen) + [0] * len(unseen), seen + unseen)


ours, theirs, faults, worst, values, texts = {}, {}, [], 0.0, 0, 0


def compare(what, found, wanted):
    global worst, values
    values += 1
    gap = math.inf if found is None else abs(found - wanted) / max(1.0, abs(wanted))
    worst = max(worst, gap)
    if not gap <= 1e-3:
        faults.append(f"{what}: {found}, here {wanted}")


for name, file in FILES.items():
    lines = (args.bench / "bench" / subject["name"] / f"tofu_{name}.jsonl").read_text().splitlines()
    ours[name] = sorted((json.loads(line) for line in lines), key=lambda item: item["id"])
    rows = [json.loads(line) for line in (args.suite / f"{file}.jsonl").read_text().splitlines()]
    theirs[name] = measured(name, [rows[item["id"]] for item in ours[name]])
    for item, wanted in zip(ours[name], theirs[name]):
        for metric, value in item["metrics"].items():
            compare(f"{name} {item['id']} {metric}", value, wanted[metric])
        if "text" in wanted:
            texts += 1
            if item["text"] != wanted["text"]:
                faults.append(f"{name} {item['id']}: {item['text']!r}, here {wanted['text']!r}")

figures = {(f"tofu_{name}", metric): float(np.mean(of(items, metric))) for name, items in theirs.items()
           for metric in items[0] if metric not in ("text", "ratio", "min_k")}
nine = [np.mean(of(theirs[name], metric)) for name in ("retain", "real_authors", "world_facts")
        for metric in ("probability", "rougeL_recall", "truth_ratio")]
figures["tofu", "model_utility"] = float(hmean(nine))
reference = 0.5
if args.retain:
    logged = json.loads(args.retain.read_text())["sets"]
    inverse = lambda sets: 1 / (np.array(of(sets["forget"], "ratio")) + 1e-10)
    figures["tofu", "forget_quality"] = float(ks_2samp(inverse(theirs), inverse(logged)).pvalue)
    reference = area(logged)
figures["tofu", "privleak"] = ((1 - area(theirs)) - (1 - reference)) / (1 - reference + 1e-10) * 100
for row in subject["utility"]:
    compare(f"{row['task']} {row['metric']}", row["value"], figures[row["task"], row["metric"]])
shown = {f"{task} {metric}": value for (task, metric), value in figures.items()}
args.reference.write_text(json.dumps({"figures": shown, "sets": theirs}, indent=1, ensure_ascii=False) + "\n")
print(f"{args.bench}: {values} values and figures, largest difference {worst:.1e}; {texts} texts; {len(faults)} faults")
print("\n".join(faults))
sys.exit(bool(faults))
