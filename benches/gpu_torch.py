"""What PyTorch + PEFT (bf16) does of the same work on a GPU: steps of the published recipe, and greedy answers.

    python benches/gpu_torch.py MODEL --sets DIR --rows 16 --steps 10 --new 128

A step is three forwards with the adapter (harm, help, align), two without it, one backward and AdamW; both KL terms are over
answers. Prints one JSON line: tokens/s of training without the first two steps, padding not counted, and new tokens/s
behind the first of each answer.
"""
import argparse
import json
import pathlib
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--sets", type=pathlib.Path, required=True)
parser.add_argument("--rows", type=int, default=16)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--new", type=int, default=128)
args = parser.parse_args()

torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(args.model)
base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).cuda()
lora = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
model = get_peft_model(base, lora).train()
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-5, weight_decay=0.0)


def prompt(row):
    messages = [{"role": "user", "content": row["input"]}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def sample(row):
    question = tokenizer(prompt(row), add_special_tokens=False)["input_ids"]
    answer = tokenizer(row["output"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return (question + answer)[:512], ([-100] * len(question) + answer)[:512]


sets = {name: [sample(r) for r in json.loads((args.sets / f"{name}.json").read_text())] for name in ("harm", "help", "align")}


def batch(rows, step):
    picked = [rows[(step * args.rows + i) % len(rows)] for i in range(args.rows)]
    width = -(-max(len(ids) for ids, _ in picked) // 8) * 8
    padded = lambda values, fill: torch.tensor([[fill] * (width - len(v)) + list(v) for v in values], device="cuda")
    ids, labels = zip(*picked)
    mask = padded([[1] * len(x) for x in ids], 0)
    return {"input_ids": padded(ids, 0), "labels": padded(labels, -100), "attention_mask": mask}


def divergence(logits, reference, labels):
    keep = torch.zeros_like(labels, dtype=torch.bool)
    keep[:, :-1] = labels[:, 1:] != -100
    p, q = (F.log_softmax(x[keep].float(), -1) for x in (logits, reference))
    return F.kl_div(p, q, log_target=True, reduction="none").sum(-1).mean()


tokens = seconds = 0.0
for step in range(args.steps):
    batches = {name: batch(rows, step) for name, rows in sets.items()}
    torch.cuda.synchronize()
    start = time.perf_counter()
    out = {name: model(**b) for name, b in batches.items()}
    with torch.no_grad(), model.disable_adapter():
        reference = {name: model(**batches[name]).logits for name in ("help", "align")}
    loss = torch.clamp(20.0 - out["harm"].loss, min=0.0)
    for name, logits in reference.items():
        loss = loss + divergence(out[name].logits, logits, batches[name]["labels"])
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    torch.cuda.synchronize()
    if step >= 2:
        seconds += time.perf_counter() - start
        tokens += sum(int(b["attention_mask"].sum()) for b in batches.values())
del out, reference, loss

rows = json.loads((args.sets / "harm.json").read_text())[: args.rows]
tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
inputs = tokenizer([prompt(r) for r in rows], return_tensors="pt", padding=True, add_special_tokens=False).to("cuda")
inputs.pop("token_type_ids", None)
base.eval()
with torch.no_grad(), model.disable_adapter():
    took = {}
    for new in (args.new, 1, args.new):
        torch.cuda.synchronize()
        start = time.perf_counter()
        base.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        torch.cuda.synchronize()
        took[new] = time.perf_counter() - start
# Behind the first token of each answer: prompts do not count.
rate = len(rows) * (args.new - 1) / (took[args.new] - took[1])
print(json.dumps({"train": tokens / seconds, "generate": rate, "peak_gb": torch.cuda.max_memory_allocated() / 2**30}))
