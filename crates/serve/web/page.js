"use strict";
// Asks every served model the same and shows the answers as they come. Talks to this server only.

const at = (id) => document.getElementById(id);
const models = [];
let templates = { placeholder: "", templates: [] };
let running = null;

function headers() {
  const key = at("key").value.trim();
  const all = { "content-type": "application/json" };
  if (key) all.authorization = `Bearer ${key}`;
  return all;
}

function problem(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

async function get(path) {
  const response = await fetch(path, { headers: headers() });
  if (response.status === 401) at("key-label").hidden = false;
  if (!response.ok) throw new Error((await response.json()).error.message);
  return response.json();
}

async function load() {
  const list = await get("/v1/models");
  templates = await get("/page/templates.json");
  models.length = 0;
  at("answers").replaceChildren();
  for (const { id } of list.data) {
    const card = at("answer").content.cloneNode(true);
    card.querySelector("h2").textContent = id;
    card.querySelector(".text").setAttribute("aria-label", `Answer of ${id}`);
    models.push({ id, state: card.querySelector(".state"), text: card.querySelector(".text") });
    at("answers").append(card);
  }
  const options = templates.templates.map(({ name }) => new Option(name, name));
  at("template").replaceChildren(new Option("none: asked plainly", ""), ...options);
  problem("");
}

function prompt() {
  const question = at("question").value.trim();
  const template = templates.templates.find(({ name }) => name === at("template").value);
  return template ? template.text.split(templates.placeholder).join(question) : question;
}

// The JSON of each `data:` line of a stream.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

async function answer(model, content, signal) {
  model.text.textContent = "";
  model.state.textContent = "waiting";
  const start = performance.now();
  let tokens = 0;
  let finish = "stopped";
  const state = (word) => {
    const seconds = (performance.now() - start) / 1000;
    model.state.textContent = `${word}: ${tokens} tokens, ${seconds.toFixed(1)} s`;
  };
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal,
      body: JSON.stringify({
        model: model.id,
        messages: [{ role: "user", content }],
        max_tokens: Number(at("tokens").value),
        temperature: Number(at("temperature").value),
        seed: 0,
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (response.status === 401) at("key-label").hidden = false;
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      const [choice] = event.choices;
      if (event.usage) tokens = event.usage.completion_tokens;
      if (!choice) continue;
      if (choice.delta.content) {
        tokens += 1;
        model.text.append(choice.delta.content);
      }
      finish = choice.finish_reason ?? finish;
      state("answering");
    }
    state({ stop: "done", length: "cut off at the limit" }[finish] ?? finish);
  } catch (error) {
    if (error.name === "AbortError") state("stopped");
    else model.state.textContent = `failed: ${error.message}`;
  }
}

async function ask(event) {
  event.preventDefault();
  if (running) return;
  try {
    if (models.length === 0) await load();
  } catch (error) {
    problem(error.message);
    return;
  }
  const content = prompt();
  at("prompt").textContent = content;
  running = new AbortController();
  at("run").disabled = true;
  at("stop").disabled = false;
  await Promise.all(models.map((model) => answer(model, content, running.signal)));
  running = null;
  at("run").disabled = false;
  at("stop").disabled = true;
}

at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => running?.abort());
at("key").addEventListener("change", () => load().catch((error) => problem(error.message)));
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
for (const id of ["question", "template"]) {
  at(id).addEventListener("input", () => (at("prompt").textContent = prompt()));
}
load().catch((error) => problem(error.message));
