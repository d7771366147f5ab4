"""Compares a GGUF file of Gemma 3 in `eraser serve` with transformers on the weights that `eraser export` writes of it.

    eraser export --model FILE --out DIR                # f32
    eraser serve --model FILE --port 8478
    gguf_texts.py http://127.0.0.1:8478 DIR FILE TEXT   # TEXT: running text, as wiki.test.raw of WikiText-2

Prints the largest difference between an exported weight and what the gguf package makes of the file's blocks; how many
of 20 greedy texts of 40 tokens are the same; the perplexity of 20 windows of 512 tokens on both sides. Needs torch,
transformers and gguf.
"""
import json
import math
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PARTS = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
OTHERS = ["def fibonacci(n):\n", "Die Hauptstadt von Frankreich ist", "東京は日本の", "1 2 3 5 8 13", "- apples\n- pears\n-",
          "SELECT name FROM"]
url, home, file, running = sys.argv[1:5]
tokenizer = AutoTokenizer.from_pretrained(home, padding_side="left")
model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32).eval()


def post(body):
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=1000))["choices"][0]


def weights():
    state, worst, kinds = model.state_dict(), 0.0, {}
    tensors = gguf.GGUFReader(file).tensors
    for tensor in tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        name = WHOLE.get(tensor.name)
        if name is None:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{PARTS[part]}.weight"
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy()).float()
        # GGUF holds 1 + w of Gemma's norms.
        values = values.reshape(state[name].shape) - (1.0 if "norm" in name else 0.0)
        worst = max(worst, (values - state[name]).abs().max().item())
    print(len(tensors), "tensors", kinds, "largest difference", worst, flush=True)


def texts(name, text):
    lines = [line.strip() for line in text.split("\n") if len(line) > 300][:14]
    prompts = [" ".join(line.split()[:24]) for line in lines] + OTHERS
    ask = lambda prompt: post({"model": name, "prompt": prompt, "max_tokens": 40, "temperature": 0})["text"]
    with ThreadPoolExecutor(len(prompts)) as pool:
        ours = list(pool.map(ask, prompts))
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    with torch.no_grad():
        rows = model.generate(**batch, max_new_tokens=40, do_sample=False)[:, batch.input_ids.shape[1]:]
    theirs = tokenizer.batch_decode(rows, skip_special_tokens=True)
    for prompt, a, b in zip(prompts, ours, theirs):
        if a != b:
            print("another text:", repr(prompt), "\n ours  ", repr(a), "\n theirs", repr(b))
    print("the same text:", sum(a == b for a, b in zip(ours, theirs)), "of", len(prompts), flush=True)


def perplexity(name, text):
    ids = tokenizer(text[:200000], add_special_tokens=False).input_ids
    ours = theirs = worst = 0.0
    count = 0
    for i in range(20):
        window = [tokenizer.bos_token_id] + ids[i * 511:(i + 1) * 511]
        with torch.no_grad():
            scores = model(torch.tensor([window])).logits[0, :-1].log_softmax(-1)
        scores = scores.gather(1, torch.tensor(window[1:])[:, None])[:, 0]
        asked = {"model": name, "prompt": window, "max_tokens": 0, "echo": True, "logprobs": 1, "temperature": 0}
        own = torch.tensor(post(asked)["logprobs"]["token_logprobs"][1:])
        ours, theirs, count = ours - own.sum().item(), theirs - scores.sum().item(), count + len(own)
        worst = max(worst, (own - scores).abs().max().item())
    print(count, "tokens, perplexity", math.exp(ours / count), "and", math.exp(theirs / count))
    print("largest difference of a log-probability", worst)


with open(running, encoding="utf-8") as f:
    text = f.read()
name = json.load(urllib.request.urlopen(url + "/v1/models"))["data"][0]["id"]
weights()
texts(name, text)
perplexity(name, text)
