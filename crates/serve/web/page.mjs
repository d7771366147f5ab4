// The page: asks every served model the same and shows the answers as they come. Talks to this server only.
// Invariant: each model's conversation holds its own answers, and only those that it gave.

import { answer, json } from "./server.mjs";
import { differences } from "./words.mjs";

const at = (id) => document.getElementById(id);
// Colours of the look, the base's first.
const COLOURS = 6;
const state = { models: [], setup: { placeholder: "", templates: [], examples: [] }, turns: [], running: null };

const key = () => at("key").value.trim();
const make = (name, className, textContent = "") =>
  Object.assign(document.createElement(name), { className, textContent });

// Says something to those who do not see the page.
function say(text) {
  at("status").append(make("p", "", text));
  while (at("status").childElementCount > 8) at("status").firstElementChild.remove();
}

function problem(error) {
  at("problem").textContent = error ? error.message : "";
  at("problem").hidden = !error;
  if (error?.status === 401) {
    at("key-field").hidden = false;
    at("key").focus();
  }
}

async function load() {
  const [list, setup] = [await json("/v1/models", key()), await json("/page/setup.json", key())];
  state.setup = setup;
  // Where a key was asked for in the middle of a conversation, that goes on.
  const earlier = new Map(state.models.map(({ id, history }) => [id, history]));
  state.models = list.data.map(({ id, parent }, index) => ({
    id,
    isBase: !parent,
    colour: `c${(index % COLOURS) + 1}`,
    history: earlier.get(id) ?? [],
  }));
  at("models").replaceChildren(...state.models.map((model) => entry(model)));
  const options = setup.templates.map(({ name }) => new Option(name, name));
  at("template").replaceChildren(new Option("none: asked plainly", ""), ...options);
  at("examples").querySelector("ul").replaceChildren(...setup.examples.map(example));
  at("examples").hidden = setup.examples.length === 0;
  at("compare").hidden = state.models.length < 2;
  problem(null);
}

// A model's colour, name and kind.
function named(element, model) {
  const swatch = make("span", `swatch ${model.colour}`);
  swatch.setAttribute("aria-hidden", "true");
  const kind = model.isBase ? "base model" : "with adapter";
  element.replaceChildren(swatch, make("span", "name", model.id), " ", make("span", "chip", kind));
  return element;
}
const entry = (model) => named(make("li", ""), model);

function example({ question, about }) {
  const item = make("li", "");
  const button = make("button", "", question);
  button.type = "button";
  button.addEventListener("click", () => {
    at("question").value = question;
    preview();
    at("question").focus();
  });
  item.append(button, make("span", "note", about));
  return item;
}

// What is sent for the question: itself, or the template filled with it.
function prompt(question) {
  const { templates, placeholder } = state.setup;
  const template = templates.find(({ name }) => name === at("template").value);
  return { template: template?.name, text: template ? template.text.split(placeholder).join(question) : question };
}

function preview() {
  const question = at("question").value.trim();
  at("prompt").textContent = question ? prompt(question).text : "(no question yet)";
}

// A new turn on the page, with a card for each model.
function begin(question, { template, text }) {
  const part = at("turn").content.cloneNode(true).firstElementChild;
  const number = state.turns.length + 1;
  part.querySelector("h2").textContent = `Question ${number}${template ? `, under the template ${template}` : ""}`;
  part.querySelector("h2").id = `turn-${number}`;
  part.setAttribute("aria-labelledby", `turn-${number}`);
  part.querySelector(".question").textContent = question;
  if (template) {
    part.querySelector(".sent").hidden = false;
    part.querySelector(".sent summary").textContent = "The prompt as it was sent";
    part.querySelector(".sent .text").textContent = text;
  }
  const cards = state.models.map((model) => card(model, part.querySelector(".answers"), number));
  state.turns.push({ cards });
  at("conversation").append(part);
  at("tools").hidden = false;
  part.scrollIntoView({ block: "start" });
  return cards;
}

function card(model, parent, number) {
  const part = at("answer").content.cloneNode(true).firstElementChild;
  part.classList.add(model.colour);
  const id = `answer-${number}-${state.models.indexOf(model) + 1}`;
  named(part.querySelector("h3"), model).id = id;
  part.setAttribute("aria-labelledby", id);
  const [text, tags, foot, copy] = [".text", ".tags", ".state", "button"].map((name) => part.querySelector(name));
  copy.querySelector(".hidden").textContent = ` the answer of ${model.id}`;
  copy.addEventListener("click", () => copied(made, copy));
  parent.append(part);
  const made = { model, text, tags, foot, copy, said: "", isDone: false };
  return made;
}

async function copied({ said, model }, button) {
  const done = (await toClipboard(said)) ? "Copied" : "Not copied";
  button.querySelector(".word").textContent = done;
  say(`${done}: the answer of ${model.id}`);
  setTimeout(() => (button.querySelector(".word").textContent = "Copy"), 2000);
}

// Browsers give no clipboard to pages without TLS that are not of this machine; there the old way is left.
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const [area, before] = [make("textarea", "hidden"), document.activeElement];
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus({ preventScroll: true });
    return done;
  }
}

// Asks one model and shows its answer in its card; true when it answered.
async function fill(made, question, text, signal) {
  const { model } = made;
  const { history } = model;
  const start = performance.now();
  let tokens = 0;
  const note = (words) => {
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const figures = `${tokens} ${tokens === 1 ? "token" : "tokens"} in ${seconds} s`;
    made.foot.textContent = words ? `${words}, ${figures}` : figures;
  };
  const messages = [...history, { role: "user", content: text }];
  const keep = () => history.push(messages.at(-1), { role: "assistant", content: made.said });
  made.foot.textContent = "waiting";
  try {
    let finish = null;
    const chat = {
      model: model.id,
      messages,
      max_tokens: Number(at("tokens").value),
      temperature: Number(at("temperature").value),
      seed: 0,
    };
    for await (const piece of answer(chat, key(), signal)) {
      tokens = piece.tokens;
      finish = piece.finish ?? finish;
      made.said += piece.text;
      made.text.append(piece.text);
      note("answering");
    }
    note(finish === "length" ? "cut off at the limit" : "");
    keep();
    await finished(made, question);
    return true;
  } catch (error) {
    if (error.name === "AbortError") {
      note("stopped");
      say(`answer of ${model.id} stopped`);
      // What was said until then is part of the conversation.
      if (made.said) keep();
      made.copy.hidden = !made.said;
      return true;
    }
    made.foot.textContent = `failed: ${error.message}`;
    made.foot.classList.add("failed");
    say(`${model.id} failed: ${error.message}`);
    if (error.status === 401) problem(error);
    return false;
  }
}

async function finished(made, question) {
  const { model, said } = made;
  made.copy.hidden = said === "";
  // An answer without its tags is still an answer.
  const { tags } = await json("/page/tags.json", key(), { question, answer: said }).catch(() => ({ tags: [] }));
  const shown = tags.flatMap(({ text, tone, why }) => [make("span", `chip ${tone}`, text), make("span", "note", why)]);
  made.tags.replaceChildren(...shown);
  if (said === "") made.text.replaceChildren(make("em", "", "(empty)"));
  made.isDone = true;
  say([`answer of ${model.id} finished`, ...tags.map(({ text }) => text)].join(", "));
  state.turns.filter(({ cards }) => cards.includes(made)).forEach(mark);
}

// Marks what the base's answer does not have, or takes the marks away.
function mark({ cards }) {
  const base = cards.find(({ model }) => model.isBase);
  const isAsked = at("differences").checked;
  for (const made of cards.filter((one) => one !== base && one.isDone && one.said)) {
    // What is not marked stays untouched: somebody may have selected a part of it.
    if (!isAsked && made.text.childElementCount === 0) continue;
    const found = isAsked && base?.isDone ? differences(base.said, made.said) : [];
    const parts = found?.map(({ text, marked }) => (marked ? make("mark", "", text) : text));
    made.text.replaceChildren(...(parts?.length ? parts : [made.said]));
    if (!found) made.text.append(make("em", "", "\n(too long to compare)"));
  }
}

async function ask(event) {
  event.preventDefault();
  if (state.running) return;
  try {
    if (state.models.length === 0) await load();
  } catch (error) {
    problem(error);
    return;
  }
  const question = at("question").value.trim();
  if (!question) return;
  const sent = prompt(question);
  const cards = begin(question, sent);
  const running = new AbortController();
  state.running = running;
  swap(at("run"), at("stop"));
  at("question").value = "";
  preview();
  const answered = await Promise.all(cards.map((made) => fill(made, question, sent.text, running.signal)));
  if (state.running !== running) return;
  state.running = null;
  swap(at("stop"), at("run"));
  // Nobody writes a question twice because a server was away.
  if (!answered.includes(true) && !at("question").value) at("question").value = question;
  preview();
}

// Shows one button in the place of another. The keyboard stays in the form: on the button, or in the question.
function swap(from, to) {
  const held = document.activeElement === from;
  from.hidden = true;
  to.hidden = false;
  if (held) (to === at("stop") ? to : at("question")).focus({ preventScroll: true });
}

function renew() {
  state.running?.abort();
  if (state.running) swap(at("stop"), at("run"));
  state.running = null;
  state.turns = [];
  for (const model of state.models) model.history = [];
  at("conversation").replaceChildren();
  at("tools").hidden = true;
  at("question").focus();
  say("new conversation");
}

at("ask").addEventListener("submit", ask);
at("stop").addEventListener("click", () => state.running?.abort());
at("renew").addEventListener("click", renew);
at("differences").addEventListener("change", () => state.turns.forEach(mark));
at("key").addEventListener("change", () => load().catch(problem));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") state.running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.closest?.("form")) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("question").addEventListener("input", preview);
at("template").addEventListener("input", preview);
load().catch(problem);
