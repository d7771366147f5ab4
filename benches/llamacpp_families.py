"""A tiny random checkpoint of each model family, exported as GGUF, in llama.cpp and in `eraser serve`: the same greedy text?

    pip install torch transformers==5.23.0
    mkdir tools && npm install --prefix tools node-llama-cpp
    llamacpp_families.py --eraser target/release/eraser --modules tools --tokenizer DIR --work DIR [--only NAME,..]

`--tokenizer` is a Hugging Face directory whose tokenizer all of them get (SmolLM2's has 49152 tokens). The families and
their settings are those of tests/fixtures/layers.py, wider: blocks of GGUF files have 32 numbers.
"""
import argparse
import ast
import json
import math
import pathlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

sys.path.pop(0)  # this folder has a file named as a package that transformers looks for
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, CONFIG_MAPPING  # noqa: E402

here = pathlib.Path(__file__).resolve().parent
p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--eraser", required=True)
p.add_argument("--modules", required=True)
p.add_argument("--tokenizer", type=pathlib.Path, required=True)
p.add_argument("--work", type=pathlib.Path, required=True)
p.add_argument("--only", default="")
p.add_argument("--port", type=int, default=18931)
a = p.parse_args()

# The definitions of the fixtures' script, without what it does.
names = {"VOCABULARY", "common", "yarn", "llama3", "granite4", "mixed", "gemma3", "families"}
tree = ast.parse((here.parent / "tests/fixtures/layers.py").read_text())
tree.body = [node for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id in names]
found = {}
exec(compile(tree, "layers.py", "exec"), found)
families = {"llama": ("llama", dict(found["common"])), **found["families"]}
# llama.cpp has windows and rotation in the rhythm of the published models only.
every = ["sliding_attention"] * 3 + ["full_attention"]
published = {
    "gemma3": dict(num_hidden_layers=6, layer_types=["sliding_attention"] * 5 + ["full_attention"]),
    "phi3": dict(sliding_window=None),  # llama.cpp has no window there
    "mixtral": dict(sliding_window=None),
    # The attention factor of Olmo 3 is the one that YaRN has without it, 1 + 0.1 ln(factor).
    "olmo3": dict(num_hidden_layers=4, layer_types=every,
                  rope_parameters={"full_attention": dict(found["yarn"], attention_factor=1 + 0.1 * math.log(4)),
                                   "sliding_attention": {"rope_type": "default", "rope_theta": 5e3}}),
    "smollm3": dict(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0]),
    "exaone4": dict(sliding_window=None, layer_types=None),
    "cwm": dict(layer_types=["full_attention"] * 4),  # llama.cpp has it without windows only
    "llama-biases": dict(rope_parameters=None),
    "qwen3-windows": dict(use_sliding_window=False, sliding_window=None, attention_bias=None),
}
size = json.loads((a.tokenizer / "config.json").read_text())["vocab_size"]


def wider(name, settings):
    """Widths that are multiples of 32 for each head, and the tokenizer's vocabulary."""
    settings = dict(settings, **published.get(name, {}))
    settings = {key: value for key, value in settings.items() if value is not None}
    settings = dict(settings, vocab_size=size, hidden_size=128, intermediate_size=192, initializer_range=0.15)
    settings.update(num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0)
    if "head_dim" in settings:
        settings["head_dim"] = 32
    if "query_pre_attn_scalar" in settings:
        settings["query_pre_attn_scalar"] = 32
    rope = settings.get("rope_parameters", {})
    if rope.get("rope_type") == "longrope":
        # 12 pairs of a head of 32 turn, of which three quarters are rotated.
        settings["rope_parameters"] = dict(rope, short_factor=[1.0 + 0.1 * i for i in range(12)],
                                           long_factor=[2.0 + 0.5 * i for i in range(12)],
                                           original_max_position_embeddings=512)
        settings["original_max_position_embeddings"] = 512
    return settings


def compare(name, kind, settings):
    home = a.work / f"family-{list(families).index(name)}"  # llama.cpp treats tokens by the name of the model
    shutil.rmtree(home, ignore_errors=True)
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**wider(name, settings))).float()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(home)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(a.tokenizer / file, home / file)
    gguf = home.with_suffix(".gguf")
    subprocess.run([a.eraser, "export", "-m", home, "-o", gguf, "--format", "gguf", "--dtype", "f32"],
                   check=True, capture_output=True, text=True)
    server = subprocess.Popen([a.eraser, "serve", "-m", home, "--port", str(a.port), "--threads", "1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with socket.socket() as s:
                if s.connect_ex(("127.0.0.1", a.port)) == 0:
                    break
            time.sleep(0.1)
        url = f"http://127.0.0.1:{a.port}/v1"
        with urllib.request.urlopen(f"{url}/models") as reply:
            model_name = json.load(reply)["data"][0]["id"]
        done = subprocess.run(["node", here / "llamacpp.mjs", "--modules", a.modules, "--url", url, "--model", model_name,
                               "--gguf", gguf], capture_output=True, text=True, timeout=300)
        if a.only:
            print(done.stdout)
        return (done.stdout.strip().splitlines() or [line for line in done.stderr.splitlines() if "rror" in line][:1] or ["nothing"])[-1]
    finally:
        server.terminate()
        server.wait()
        gguf.unlink(missing_ok=True)
        shutil.rmtree(home, ignore_errors=True)


for name, (kind, settings) in families.items():
    if kind and (not a.only or name in a.only.split(",")):
        try:
            line = compare(name, kind, settings)
        except subprocess.CalledProcessError as e:
            line = "export: " + e.stderr.strip().splitlines()[0]
        print(f"{name}: {line}", flush=True)
