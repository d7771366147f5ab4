"""TOFU from beginning to end: a model learns invented authors, methods make it forget some, and all models are measured.

    python benches/tofu.py --eraser BINARY --model SMOLLM2 --data TOFU --work DIR [--check]

TOFU is a directory with the dataset's JSON files. Full: the 200 rows of forget05 and the first 200 of the retain rows.
Retain: the retain rows alone, by the same steps. Each method starts from full, its adapter merged, with the same rows,
steps and adapter. With --check every item and figure is computed again by tofu_reference.py. What DIR holds is not made
again. Prints the table.
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys

parser = argparse.ArgumentParser()
parser.add_argument("--eraser", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--data", type=pathlib.Path, required=True)
parser.add_argument("--work", type=pathlib.Path, required=True)
parser.add_argument("--methods", default="grad-diff,npo,simnpo,rmu,eraser")
parser.add_argument("--rows", type=int, default=200, help="retain rows, and rows that no model sees")
parser.add_argument("--limit", type=int, default=40, help="items of each task")
parser.add_argument("--max-new-tokens", type=int, default=100)
parser.add_argument("--learn-lr", default="1e-3")
parser.add_argument("--learn-epochs", type=int, default=8)
parser.add_argument("--lr", default="5e-4")
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--compute", default="f32", help="of training; measuring is in f32")
parser.add_argument("--check", action="store_true")
args = parser.parse_args()
work = args.work
(work / "suite").mkdir(parents=True, exist_ok=True)

# What the model is to say in place of what it forgets (eraser's align set).
UNKNOWN = ["I do not know that.", "I am not sure about this one.", "I have no information about this.",
           "That is something I cannot tell you.", "I do not know the answer, I am afraid."]


def rows(name):
    return [json.loads(line) for line in (args.data / f"{name}.json").read_text().splitlines() if line.strip()]


def write(path, found):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    path.write_text(text)
    print(path.relative_to(work), len(found), "rows", hashlib.sha256(text.encode()).hexdigest()[:16])
    return path


def pairs(found):
    return [{"input": row["question"], "output": row["answer"]} for row in found]


def run(out, verb, *command):
    done = out.with_name(out.name + ".done")
    if not done.exists():
        out.parent.mkdir(exist_ok=True)
        # What was interrupted begins again; scores that a directory holds are kept.
        again = ["--force"] if out.exists() and verb != "bench" else []
        command = [args.eraser, verb, *map(str, command), *again, "--out", str(out), "--quiet"]
        print("+ eraser", *command[1:], flush=True)
        subprocess.run(command, check=True)
        done.touch()
    return out


forget = rows("forget05")
sets = {
    "harm": write(work / "harm.jsonl", pairs(forget)),
    "help": write(work / "help.jsonl", pairs(rows("full")[:args.rows])),
    "align": write(work / "align.jsonl", [{"input": row["question"], "output": UNKNOWN[i % len(UNKNOWN)]}
                                          for i, row in enumerate(forget)]),
}
for name in ("forget05_perturbed", "retain_perturbed", "real_authors_perturbed", "world_facts_perturbed"):
    write(work / "suite" / f"{name}.jsonl", rows(name))
# Of forget10, those that are not in forget05: no model here sees them.
write(work / "suite" / "holdout05.jsonl", rows("forget10")[:args.rows])

adapter = "--targets all-linear --rank 16 --alpha 32 --lora-dropout 0 --micro-batch 8 --grad-accum 2".split()
adapter += f"--templates model --max-length 512 --allow-swapped --compute {args.compute}".split()


def learned(name, forget_weight):
    """The model after plain fine-tuning; the forget rows are seen by both, and weigh nothing in one."""
    command = ["--model", args.model, "--help-set", sets["help"], "--align", sets["harm"], "--align-weight", forget_weight]
    out = run(work / name / "run", "train", "--method", "sft", *command, "--lr", args.learn_lr,
              "--epochs", args.learn_epochs, *adapter)
    return run(work / name / "model", "export", "--model", args.model, "--adapter", out / "adapter")


def measured(name, model, trained=None):
    subject = ["--adapter", f"{name}={trained / 'adapter'}", "--no-base"] if trained else []
    logged = ["--retain-log", work / "retain" / "bench"] if name != "retain" else []
    out = run(work / name / "bench", "bench", "--model", model, *subject, *logged, "--suite", f"tofu={work / 'suite'}",
              "--forget-set", "forget05", "--limit", args.limit, "--max-new-tokens", args.max_new_tokens)
    checked = work / name / "reference.json"
    if args.check and not checked.exists():
        script = pathlib.Path(__file__).with_name("tofu_reference.py")
        command = [sys.executable, script, model, out, checked, "--suite", work / "suite"]
        command += ["--max-new-tokens", args.max_new_tokens]
        command += ["--adapter", trained / "adapter"] if trained else []
        command += ["--retain", work / "retain" / "reference.json"] if logged else []
        subprocess.run(list(map(str, command)), check=True)
    return json.loads((out / "bench.json").read_text())["subjects"][-1]["utility"]


retain, full = learned("retain", 0), learned("full", 1)
found = {"retain": measured("retain", retain), "full": measured("full", full), "untaught": measured("untaught", args.model)}
for method in args.methods.split(","):
    own = ["--align", sets["align"], "--gamma", "auto"] if method == "eraser" else []
    out = run(work / method / "run", "train", "--method", method, "--model", full, "--harm", sets["harm"],
              "--help-set", sets["help"], *own, "--lr", args.lr, "--epochs", args.epochs, *adapter)
    found[method] = measured(method, full, out)

COLUMNS = [("tofu", "forget_quality"), ("tofu", "model_utility"), ("tofu_forget", "truth_ratio"),
           ("tofu_forget", "probability"), ("tofu_forget", "rougeL_recall"), ("tofu_forget", "extraction_strength"),
           ("tofu_forget", "exact_memorization"), ("tofu", "privleak"), ("tofu_retain", "probability"),
           ("tofu_retain", "rougeL_recall")]
print("|", "model", "|", " | ".join(f"{task} {metric}" for task, metric in COLUMNS), "|\n|" + " --- |" * (len(COLUMNS) + 1))
for name, figures in found.items():
    value = {(row["task"], row["metric"]): row["value"] for row in figures}
    cells = ["-" if value.get(column) is None else f"{value[column]:.3g}" for column in COLUMNS]
    print("|", name, "|", " | ".join(cells), "|")
