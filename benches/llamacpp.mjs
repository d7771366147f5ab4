// llama.cpp (through node-llama-cpp) beside a running `eraser serve`: greedy answers to the same prompts, token by token.
// In: a GGUF file that `eraser export --format gguf` wrote, perhaps a GGUF adapter, and the server's model; out: a line
// for each prompt, and an error at the end if an answer differs where the choice was not close.
//
//   mkdir tools && npm install --prefix tools node-llama-cpp
//   eraser export -m MODEL -a ADAPTER -o hardened.gguf --format gguf
//   eraser serve -m MODEL -a ADAPTER --port 8000 &
//   node benches/llamacpp.mjs --modules tools --url http://127.0.0.1:8000/v1 --model hardened --gguf hardened.gguf
//
// With `--lora FILE.gguf` the file is the base, and the adapter is applied to it by llama.cpp. `--close N` is the margin
// in nats between the two likeliest tokens below which another choice is rounding [0.02],
// `--threads N` how many llama.cpp uses [1].

import { createRequire } from "node:module";
import path from "node:path";
import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";

const { values: args } = parseArgs({
  options: {
    modules: { type: "string", default: "." },
    url: { type: "string" },
    model: { type: "string" },
    gguf: { type: "string" },
    lora: { type: "string" },
    tokens: { type: "string", default: "40" },
    close: { type: "string", default: "0.02" },
    threads: { type: "string", default: "1" },
  },
});
const require = createRequire(path.resolve(args.modules, "package.json"));
const { getLlama, LlamaLogLevel } = await import(pathToFileURL(require.resolve("node-llama-cpp")));

const PROMPTS = [
  "The harbour keeps its lamps lit until",
  "In 2024 there were 1500 lamps; by 2026",
  "def light(lamp, on=True):\n    if on:\n",
  "Q: What is the capital of France?\nA:",
  "Once upon a time, a keeper of a lighthouse",
  "Die Lampe brennt über Nacht, weil",
  "1. Wash the leaves.\n2. Boil the water.\n3.",
  "It's what they'll say: we've seen it, I'm sure you'd",
  "<|im_start|>user\nHow do plants drink?<|im_end|>\n<|im_start|>assistant\n",
  "灯台は海を照らす。",
];

const count = Number(args.tokens);
const threads = Number(args.threads);
const llama = await getLlama({ gpu: false, build: "never", maxThreads: threads, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: path.resolve(args.gguf) });
const lora = args.lora && { adapters: [{ filePath: path.resolve(args.lora), scale: 1 }] };
const context = await model.createContext({ contextSize: 512, sequences: 1, threads, lora });
const sequence = context.getSequence();

async function theirs(prompt) {
  await sequence.clearHistory();
  const ids = model.tokenize(prompt, true);
  const out = [];
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: false })) {
    out.push(token);
    if (out.length === count) break;
  }
  return { prompt: ids, out };
}

async function ours(prompt) {
  const body = { model: args.model, prompt, max_tokens: count, temperature: 0, logprobs: 2 };
  const headers = { "content-type": "application/json" };
  const reply = await fetch(`${args.url}/completions`, { method: "POST", headers, body: JSON.stringify(body) });
  const value = await reply.json();
  if (!reply.ok) throw new Error(JSON.stringify(value));
  return { usage: value.usage, ...value.choices[0] };
}

// Texts of tokens that are parts of a character come as U+FFFD on one side, so whole texts are compared.
let same = 0;
let far = 0;
for (const prompt of PROMPTS) {
  const [a, b] = [await theirs(prompt), await ours(prompt)];
  const text = model.detokenize(a.out, false, a.prompt);
  const start = JSON.stringify(prompt.slice(0, 30));
  if (a.prompt.length !== b.usage.prompt_tokens) {
    far += 1;
    console.log(`${start}: other tokens: ${a.prompt.length} there, ${b.usage.prompt_tokens} here`);
  } else if (text === b.text) {
    same += 1;
    console.log(`${start}: the same ${a.out.length} tokens`);
  } else {
    const at = [...text].findIndex((c, i) => c !== [...b.text][i]);
    const place = b.logprobs.text_offset.findLastIndex((offset) => offset <= b.logprobs.text_offset[0] + Math.max(at, 0));
    const [first, second] = Object.values(b.logprobs.top_logprobs[place]).sort((x, y) => y - x);
    const margin = first - second;
    far += margin < Number(args.close) ? 0 : 1;
    console.log(`${start}: differs at token ${place}, margin ${margin.toFixed(4)} nats`);
    console.log(`  there: ${JSON.stringify(text)}\n  here:  ${JSON.stringify(b.text)}`);
  }
}
console.log(`${same} of ${PROMPTS.length} the same, ${far} differ where the choice was not close`);
process.exit(far === 0 ? 0 : 1);
