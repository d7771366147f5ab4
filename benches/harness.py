"""lm-evaluation-harness on local files, by its own task definitions, and the comparison with `eraser bench`.

    pip install lm-eval==0.4.13 torch transformers
    harness.py run --model DIR --data DIR --out FILE [--limit N] [--shots N] [--max-new-tokens N] [--url URL --served NAME] [TASK ..]
    harness.py convert --shared DIR --out DIR
    harness.py compare --harness FILE --bench DIR [--subject base]

`run`, which needs `pip install lm-eval[api]` to ask a URL, scores DIR/TASK.jsonl (columns of the dataset on the Hub; DIR/TASK.dev.jsonl holds examples) and writes, for each task,
the log-likelihoods and metrics of every item. `convert` makes such files from sets whose rows are {"query", "choices",
"gold"}. `compare` prints, for each task, the largest difference of a log-likelihood and whether every metric is the same.
"""
import argparse
import json
import math
import os
import pathlib
import sys
import tempfile

OWN = {"arc_easy": "arc/arc_easy.yaml", "arc_challenge": "arc/arc_challenge.yaml", "openbookqa": "openbookqa/openbookqa.yaml",
       "piqa": "piqa/piqa.yaml", "boolq": "super_glue/boolq/default.yaml", "rte": "glue/rte/default.yaml",
       "winogrande": "winogrande/default.yaml", "hellaswag": "hellaswag/hellaswag.yaml",
       "mmlu": "mmlu/default/_default_template_yaml",
       "wmdp_bio": "wmdp/wmdp_bio.yaml", "wmdp_chem": "wmdp/wmdp_chem.yaml", "wmdp_cyber": "wmdp/wmdp_cyber.yaml",
       "copa": "super_glue/copa/default.yaml", "social_iqa": "siqa/siqa.yaml", "lambada_openai": "lambada/lambada_openai.yaml",
       "coqa": "coqa/default.yaml", "gsm8k": "gsm8k/gsm8k.yaml", "mmlu_pro": "mmlu_pro/_default_template_yaml",
       "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml", "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml"}

# Tasks whose answers are written: for each filter of the harness, its metrics and their names here.
WRITTEN = {"coqa": {"none": {"em": "em", "f1": "f1"}},
           "gsm8k": {"strict-match": {"exact_match": "exact_match_strict"},
                     "flexible-extract": {"exact_match": "exact_match_flexible"}},
           "mmlu_pro": {"custom-extract": {"exact_match": "exact_match"}}}


def written(name, samples):
    """Items of a task of which the harness has a sample for each filter."""
    items = {}
    for sample in samples:
        item = items.setdefault(sample["doc_id"], {"loglikelihoods": [], "metrics": {}})
        item["text"] = sample["resps"][0][0]
        item["metrics"] |= {own: float(sample[metric]) for metric, own in WRITTEN[name][sample["filter"]].items()}
    return [items[i] for i in sorted(items)]


def run(a):
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=tempfile.mkdtemp())
    import lm_eval
    from lm_eval.tasks import TaskManager

    home = pathlib.Path(lm_eval.__file__).parent / "tasks"
    data = pathlib.Path(a.data)
    names = a.tasks or sorted(p.stem for p in data.glob("*.jsonl") if p.stem in OWN)
    made = pathlib.Path(tempfile.mkdtemp())
    for name in names:
        files = {"test": str(data.absolute() / f"{name}.jsonl")}
        if (data / f"{name}.dev.jsonl").exists():
            files["dev"] = str(data.absolute() / f"{name}.dev.jsonl")
        config = [f"include: {home / OWN[name]}", f"task: local_{name}", "tag: null", "dataset_path: json", "dataset_name: null",
                  "dataset_kwargs:", "  data_files:", *[f"    {k}: {v}" for k, v in files.items()],
                  "training_split: null", "validation_split: null", "test_split: test",
                  f"fewshot_split: {'dev' if 'dev' in files else 'test'}"]
        if name == "mmlu":
            # One file of many subjects, where the harness has a task for each.
            subjects = {json.loads(line)["subject"] for line in open(files["test"])}
            assert len(subjects) == 1, "one subject at a time"
            subject = subjects.pop().replace("_", " ")
            config.append(f'description: "The following are multiple choice questions (with answers) about {subject}.\\n\\n"')
        if name == "mmlu_pro":
            # One file of one category, where the harness has a task for each.
            categories = {json.loads(line)["category"] for line in open(files["test"])}
            assert len(categories) == 1, "one category at a time"
            config.append('description: "The following are multiple choice questions (with answers) about ' + categories.pop()
                          + '. Think step by step and then finish your answer with \\"the answer is (X)\\" where X is the '
                          'correct letter choice.\\n"')
        if name in WRITTEN and a.max_new_tokens:
            ends = {"coqa": ["\nQ:"], "gsm8k": ["Question:", "</s>", "<|im_end|>"], "mmlu_pro": ["Question:"]}[name]
            config += ["generation_kwargs:", f"  until: {json.dumps(ends)}", "  do_sample: false", "  temperature: 0.0",
                       f"  max_gen_toks: {a.max_new_tokens}"]
        if name == "gsm8k":
            # In the order of the file; `eraser bench` takes the same where it takes all.
            config += ["fewshot_config:", "  sampler: first_n"]
        if name.startswith("truthfulqa"):
            # Without the questions that its authors put before each; they are given to `eraser bench` as a preamble.
            config.append('doc_to_text: "Q: {{question}}\\nA:"')
        (made / f"{name}.yaml").write_text("\n".join(config) + "\n")
    if a.url:
        model = "local-completions"
        args = {"base_url": a.url, "model": a.served, "tokenizer": a.model, "num_concurrent": 8, "max_length": 2048}
    else:
        model, args = "hf", {"pretrained": a.model, "dtype": "float32", "device": "cpu"}
    result = lm_eval.simple_evaluate(
        model=model, model_args=args, batch_size=8, limit=a.limit,
        tasks=[f"local_{n}" for n in names], num_fewshot=a.shots, log_samples=True, bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(made)))
    out = {}
    for name in names:
        metrics = result["results"][f"local_{name}"]
        if name in WRITTEN:
            rows = written(name, result["samples"][f"local_{name}"])
            value = {own: metrics[f"{metric},{f}"] for f, all in WRITTEN[name].items() for metric, own in all.items()}
            out[name] = {"metrics": value, "items": rows}
            continue
        own = {"truthfulqa_mc1": {"acc": "mc1"}, "truthfulqa_mc2": {"acc": "mc2"}}.get(name, {})
        # pass@k style filters hold the same numbers; `none` is the filter that does nothing.
        value = {own.get(k.split(",")[0], k.split(",")[0]): v for k, v in metrics.items()
                 if k.endswith(",none") and not k.startswith("acc_bytes") and "stderr" not in k and k.split(",")[0] in ("acc", "acc_norm", "perplexity")}
        samples = sorted(result["samples"][f"local_{name}"], key=lambda s: s["doc_id"])
        if name == "lambada_openai":
            # The one answer is scored; its perplexity is that of the item.
            rows = [{"loglikelihoods": [round(float(s["filtered_resps"][0][0]), 6)],
                     "metrics": {"acc": float(s["acc"])}} for s in samples]
            out[name] = {"metrics": value, "items": rows}
            continue
        rows = [{"loglikelihoods": [round(float(r[0]), 6) for r in s["filtered_resps"]],
                 "metrics": {own.get(m, m): float(s[m]) for m in ("acc", "acc_norm") if m in s}} for s in samples]
        out[name] = {"metrics": value, "items": rows}
    pathlib.Path(a.out).write_text(json.dumps(out, indent=None, separators=(",", ":")) + "\n")


def convert(a):
    shared, out = pathlib.Path(a.shared), pathlib.Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = lambda path: [json.loads(line) for line in open(shared / path)]
    letters = lambda r: {"text": r["choices"], "label": [chr(65 + i) for i in range(len(r["choices"]))]}
    key = lambda r: chr(65 + r["gold"])

    def write(name, found):
        (out / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in found))

    for name in ("arc_easy", "arc_challenge"):
        write(name, [{"question": r["query"], "choices": letters(r), "answerKey": key(r)}
                     for r in rows(f"arc_normalized/{name}.test.jsonl")])
    write("openbookqa", [{"question_stem": r["query"], "choices": letters(r), "answerKey": key(r)}
                         for r in rows("bench/openbook_qa.jsonl")])
    write("piqa", [{"goal": r["query"].removeprefix("Question: ").removesuffix("\n"), "sol1": r["choices"][0],
                    "sol2": r["choices"][1], "label": r["gold"]} for r in rows("bench/piqa.jsonl")])
    boolq = []
    for r in rows("bench/boolq.jsonl"):
        passage, question = r["query"].removeprefix("Passage: ").rsplit("\nQuestion: ", 1)
        boolq.append({"passage": passage, "question": question.removesuffix("?"), "label": r["gold"]})
    write("boolq", boolq)
    winogrande = []
    for r in rows("bench/winogrande.jsonl"):
        shared_start = os.path.commonprefix(r["context_options"])
        assert "_" not in shared_start
        options = [c[len(shared_start):] for c in r["context_options"]]
        winogrande.append({"sentence": f"{shared_start}_ {r['continuation']}", "option1": options[0], "option2": options[1],
                           "answer": str(r["gold"] + 1)})
    write("winogrande", winogrande)
    import csv
    with open(shared / "rte_glue/dev.tsv", newline="") as file:
        write("rte", [{"sentence1": r["sentence1"], "sentence2": r["sentence2"], "label": int(r["label"])}
                      for r in csv.DictReader(file, delimiter="\t")])


def compare(a):
    theirs = json.load(open(a.harness))
    apart = {}
    for name, task in theirs.items():
        lines = [json.loads(line) for line in open(pathlib.Path(a.bench) / "bench" / a.subject / f"{name}.jsonl")]
        assert len(lines) == len(task["items"]), name
        worst, same = 0.0, True
        means = {m: 0.0 for m in task["metrics"]}
        for ours, item in zip(lines, task["items"]):
            worst = max([worst] + [abs(x - y) for x, y in zip(ours["loglikelihoods"], item["loglikelihoods"])])
            same &= all(abs(ours["metrics"][m] - v) < 1e-6 for m, v in item["metrics"].items())
            same &= ours.get("text") == item.get("text")
        for m in means:
            means[m] = sum(line["metrics"][m] for line in lines) / len(lines)
        if "perplexity" in means:
            means["perplexity"] = math.exp(-sum(line["loglikelihoods"][0] for line in lines) / len(lines))
        apart[name] = worst
        shown = ", ".join(f"{m} {means[m]:.4f} / {v:.4f}" for m, v in task["metrics"].items())
        print(f"{name:14} n {len(lines):4}  largest difference {worst:.1e}  items {'equal' if same else 'DIFFER'}  {shown}")
    sys.exit(max(apart.values()) > 2e-3)


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
sub = p.add_subparsers(required=True)
c = sub.add_parser("run")
c.set_defaults(do=run)
c.add_argument("--model", required=True)
c.add_argument("--data", required=True)
c.add_argument("--out", required=True)
c.add_argument("--limit", type=int)
c.add_argument("--shots", type=int, default=0)
c.add_argument("--max-new-tokens", type=int, help="of tasks whose answers are written")
c.add_argument("--url", help="of a server's /v1/completions, which is asked in place of the model in DIR")
c.add_argument("--served", help="name of the model there")
c.add_argument("tasks", nargs="*")
c = sub.add_parser("convert")
c.set_defaults(do=convert)
c.add_argument("--shared", required=True)
c.add_argument("--out", required=True)
c = sub.add_parser("compare")
c.set_defaults(do=compare)
c.add_argument("--harness", required=True)
c.add_argument("--bench", required=True)
c.add_argument("--subject", default="base")
a = p.parse_args()
a.do(a)
