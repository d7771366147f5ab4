"""Ten steps of methods on a real model beside PyTorch + PEFT: every loss of every step.

    python benches/methods_torch.py --eraser BINARY --model SMOLLM2 --harm harm.json --help-set help.json --work DIR

Both sides start from one adapter, see the same rows in the same order (4 a step) and use AdamW at a constant rate. `rmu, in full`
trains weights of the model itself, as RMU is published: there is no adapter then. The formulas are those of the papers as
`eraser methods` gives them. Prints a table, and ends with an error where a loss differs by more than
1e-3 of the larger of 1 and itself.
"""
import argparse
import contextlib
import copy
import hashlib
import json
import pathlib
import shutil
import struct
import subprocess
import sys

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

parser = argparse.ArgumentParser()
parser.add_argument("--eraser", required=True)
parser.add_argument("--model", required=True)
parser.add_argument("--harm", type=pathlib.Path, required=True)
parser.add_argument("--help-set", type=pathlib.Path, required=True)
parser.add_argument("--work", type=pathlib.Path, required=True)
parser.add_argument("--methods", nargs="+", default=["npo", "simnpo", "rmu", "rmu, in full", "circuit-breakers"])
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--rows", type=int, default=4)
parser.add_argument("--lr", type=float, default=1e-4)
args = parser.parse_args()
args.work.mkdir(parents=True, exist_ok=True)

tokenizer = AutoTokenizer.from_pretrained(args.model)
LAYERS = {"rmu": [6], "rmu, in full": [6], "circuit-breakers": [9, 19]}
# In these methods down_proj of these blocks is trained in full.
FULL, IN_FULL = ["rmu, in full"], [4, 5, 6]
STEERING = 2.0


def sample(row):
    messages = [{"role": "user", "content": row["input"]}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    question = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(row["output"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    return question, answer


sets = {"harm": args.harm, "help": args.help_set}
sets = {name: [sample(row) for row in json.loads(path.read_text())] for name, path in sets.items()}
base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
start = args.work / "start"
torch.manual_seed(0)
made = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
# An adapter that changes something: at one that does not, circuit breakers have no gradient but rounding.
with torch.no_grad():
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.02)
made.save_pretrained(start)
base = made.unload()


def direction(width, seed=42, name=b"control-vector"):
    """The direction of rmu in a run with this seed: ChaCha with 8 rounds, 24 bits a number."""
    key = hashlib.sha256(seed.to_bytes(8, "little") + len(name).to_bytes(8, "little") + name).digest()
    words = []
    for block in range(-(-width // 16)):
        first = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), block, 0, 0, 0]
        x = list(first)
        quarters = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
        quarters += [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
        for a, b, c, d in 4 * quarters:
            for to, by, turned, bits in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]:
                x[to] = (x[to] + x[by]) & 0xFFFFFFFF
                mixed = x[turned] ^ x[to]
                x[turned] = (mixed << bits | mixed >> (32 - bits)) & 0xFFFFFFFF
        words += [(s + t) & 0xFFFFFFFF for s, t in zip(first, x)]
    u = torch.tensor([(word >> 8) / 2**24 for word in words[:width]])
    return u / u.norm()


class Sides:
    """A model with the adapter, and without; or one whose weights are trained, and the same as it was."""

    def __init__(self, in_full):
        self.frozen = None
        if in_full:
            self.frozen, self.model = base, copy.deepcopy(base).train().requires_grad_(False)
            for block in IN_FULL:
                self.model.model.layers[block].mlp.down_proj.weight.requires_grad_(True)
        else:
            self.model = PeftModel.from_pretrained(base, start, is_trainable=True).train()

    def run(self, sample, frozen=False):
        """Logits, and the residual stream behind the embedding and every block."""
        question, answer = sample
        caught = []
        model = self.frozen if frozen and self.frozen else self.model
        blocks = (model.base_model.model if hasattr(model, "disable_adapter") else model).model.layers
        hooks = [blocks[0].register_forward_pre_hook(lambda _, x: caught.append(x[0][0]))]
        keep = lambda _, __, out: caught.append((out if torch.is_tensor(out) else out[0])[0])
        hooks += [block.register_forward_hook(keep) for block in blocks]
        ids = torch.tensor([question + answer])
        if frozen:
            with torch.no_grad(), contextlib.nullcontext() if self.frozen else model.disable_adapter():
                logits = model(input_ids=ids).logits[0]
        else:
            logits = model(input_ids=ids).logits[0]
        for hook in hooks:
            hook.remove()
        return logits, caught

    def nll(self, sample, frozen=False):
        question, answer = sample
        logits, _ = self.run(sample, frozen)
        return F.cross_entropy(logits[len(question) - 1 : -1], torch.tensor(answer), reduction="none")

    def states(self, sample, blocks, answers_only=True):
        part = slice(len(sample[0]) if answers_only else 0, None)
        pairs = zip(self.run(sample)[1], self.run(sample, frozen=True)[1])
        pairs = [(ours[part], theirs[part]) for ours, theirs in pairs]
        return pairs if blocks is None else [pairs[b + 1] for b in blocks]


def terms(method, sides, harm, kept, progress):
    """Each term with its weight."""
    if method in ("npo", "simnpo"):
        retain = torch.cat([sides.nll(s) for s in kept]).mean()
        if method == "npo":
            beta, weight = 0.1, 1.0
            losses = torch.stack([sides.nll(s).sum() - sides.nll(s, frozen=True).sum() for s in harm])
        else:
            beta, weight = 4.5, 0.125
            losses = torch.stack([sides.nll(s).mean() for s in harm])
        return {"harm": (weight, -2 / beta * F.logsigmoid(beta * losses).mean()), "help": (1.0, retain)}
    blocks = LAYERS[method]
    if method.startswith("rmu"):
        target = STEERING * direction(base.config.hidden_size)
        steered = [((sides.states(s, blocks)[0][0] - target) ** 2).mean() for s in harm]
        drifted = [((a - b) ** 2).mean() for s in kept for a, b in sides.states(s, blocks)]
        return {"harm": (1.0, torch.stack(steered).mean()), "help": (1.0, torch.stack(drifted).mean())}
    rerouted = [[F.cosine_similarity(a, b, dim=-1) for a, b in sides.states(s, blocks, False)] for s in harm]
    rerouted = sum(torch.relu(torch.cat(of)).mean() for of in zip(*rerouted))
    away = torch.cat([torch.norm(a - b, dim=-1) for s in kept for a, b in sides.states(s, None, False)]).mean()
    return {"harm": (10 * (1 - progress), rerouted), "help": (10 * progress, away)}


def torch_side(method):
    sides = Sides(method in FULL)
    optimiser = torch.optim.AdamW([p for p in sides.model.parameters() if p.requires_grad], lr=args.lr, weight_decay=0.0)
    for step in range(args.steps):
        pick = lambda rows: [rows[(step * args.rows + i) % len(rows)] for i in range(args.rows)]
        found = terms(method, sides, pick(sets["harm"]), pick(sets["help"]), step / (2 * args.steps))
        loss = sum(weight * value for weight, value in found.values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        yield loss.item(), {name: value.item() for name, (_, value) in found.items()}
    if not sides.frozen:
        sides.model.unload()


def our_side(method):
    out = args.work / method.replace(", ", "-").replace(" ", "-")
    name = method.split(",")[0]
    shutil.rmtree(out, ignore_errors=True)
    command = [args.eraser, "train", "--method", name, "--model", args.model, "--harm", args.harm, "--help-set", args.help_set]
    command += f"--steps {args.steps} --micro-batch {args.rows} --grad-accum 1 --lr {args.lr} --schedule constant".split()
    command += "--max-length 1024 --order file --templates model --warmup-steps 0 --json".split()
    command += ["--out", out]
    if method in FULL:
        command += ["--full", "--targets", "down", "--layers", ",".join(map(str, IN_FULL))]
    else:
        command += ["--lora-dropout", "0", "--init-adapter", start]
    if method in LAYERS:
        command += ["--loss-layers", ",".join(map(str, LAYERS[method]))]
    if name == "rmu":
        command += ["--steering", str(STEERING)]
    lines = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in map(json.loads, lines) if isinstance(line.get("step"), int)]


worst = 0.0
print("| method | losses, first and last step | largest difference |\n| --- | --- | --- |")
for method in args.methods:
    ours, gap, losses = our_side(method), 0.0, []
    for line, (loss, values) in zip(ours, torch_side(method), strict=True):
        pairs = [(line["loss"], loss)] + [(line[f"l_{name}"], value) for name, value in values.items()]
        gap = max([gap] + [abs(a - b) / max(1.0, abs(b)) for a, b in pairs])
        losses.append((line["loss"], loss))
    (a, b), (c, d) = losses[0], losses[-1]
    print(f"| `{method}` | {a:.4f} and {b:.4f}, {c:.4f} and {d:.4f} | {gap:.1e} |", flush=True)
    worst = max(worst, gap)
sys.exit(not worst <= 1e-3)
