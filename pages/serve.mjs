// The server's page in use. In: a page of Playwright on a running server; out: a list of what is wrong. Invariant:
// `conversation` talks to the real server, `crowd` answers in its place.

// Waits until every model has answered.
const answered = (page) => page.waitForFunction(() => document.getElementById("stop").hidden, null, { timeout: 60000 });

async function ask(page, question) {
  await page.fill("#question", question);
  await page.press("#question", "Control+Enter");
}

// The first template, where the server has any.
async function chooseTemplate(page) {
  if ((await page.locator("#template option").count()) > 1) await page.selectOption("#template", { index: 1 });
}

// The cards of the last question.
const cards = (page) =>
  page.evaluate(() =>
    [...document.querySelectorAll(".turn:last-child .answer")].map((card) => ({
      name: card.querySelector(".name").textContent,
      kind: card.querySelector("h3 .chip").textContent,
      text: card.querySelector(".text").textContent,
      tags: [...card.querySelectorAll(".tags .chip")].map((tag) => tag.textContent),
      state: card.querySelector(".state").textContent,
      marks: card.querySelectorAll("mark").length,
    })),
  );

// Goes through all that the page can do; `shot` takes its picture when there is most to see.
export async function conversation(page, expected, shot) {
  const wrong = [];
  const must = (holds, text) => holds || wrong.push(text);
  const bodies = [];
  page.on("request", (request) => {
    if (request.url().endsWith("/v1/chat/completions")) bodies.push(request.postDataJSON());
  });
  await page.waitForSelector("#models li");
  const models = await page.locator("#models li").count();
  const kinds = await page.locator("#models .chip").allTextContents();
  must(kinds[0] === "base model", "the first model is not shown as the base");
  must(kinds.slice(1).every((kind) => kind === "with adapter"), "an adapter is not shown as one");

  // An example fills the question, plainly asked.
  await page.locator("#examples button").first().click();
  must((await page.inputValue("#question")) !== "", "an example does not fill the question");
  must(await page.evaluate(() => document.activeElement.id === "question"), "the focus is not in the question");
  await page.press("#question", "Control+Enter");
  await answered(page);
  const plain = await cards(page);
  must(plain.length === models, `${plain.length} cards for ${models} models`);
  must(plain.every(({ state }) => /^(cut off at the limit, )?\d+ tokens? in/.test(state)), "an answer has no figures");
  const phrases = ["Sorry", "cannot", "apolog", "I do not"];
  const refusals = plain.filter(({ text }) => phrases.some((phrase) => text.includes(phrase)));
  must(refusals.every(({ tags }) => tags.includes("refused")), "a refusal has no tag");
  const status = await page.locator("#status").innerText();
  for (const { name, tags } of plain) {
    const said = [`answer of ${name} finished`, ...tags].join(", ");
    must(status.includes(said), `the status does not say "${said}"`);
  }

  // The next question goes on with each model's own answers.
  await chooseTemplate(page);
  bodies.length = 0;
  await ask(page, (await page.locator(".question").first().textContent()) ?? "And then?");
  await answered(page);
  must(bodies.length === models, "not every model was asked");
  for (const { model, messages } of bodies) {
    const own = plain.find(({ name }) => name === model).text;
    must(messages.length === 3 && messages[1].content === own, `${model} does not see its own answer`);
  }
  must((await page.locator(".turn").count()) === 2, "the earlier question is gone");

  // Differences.
  const told = await cards(page);
  await page.check("#differences");
  const marked = await cards(page);
  must(marked.every(({ text }, i) => text === told[i].text), "marks change an answer");
  must(marked[0].marks === 0, "the base is marked against itself");
  const differ = marked.slice(1).filter(({ text }) => text.trim() !== marked[0].text.trim() && text.trim() !== "");
  must(differ.every(({ marks }) => marks > 0), "a difference is not marked");
  await shot();
  await page.uncheck("#differences");
  must((await page.locator("mark").count()) === 0, "marks stay");

  // Copy, by the clipboard and without it.
  const copy = page.locator(".turn").first().locator(".foot button").first();
  await copy.click();
  await page.waitForFunction(() => document.querySelector(".foot .word").textContent === "Copied");
  must((await page.evaluate(() => navigator.clipboard.readText())) === plain[0].text, "the copy is not the answer");
  await page.evaluate(() => navigator.clipboard.writeText("none"));
  await page.evaluate(() => (navigator.clipboard.writeText = () => Promise.reject(new Error("not allowed"))));
  await copy.click();
  const text = () => page.evaluate(() => navigator.clipboard.readText());
  for (let i = 0; i < 40 && (await text()) === "none"; i += 1) await page.waitForTimeout(50);
  must((await text()) === plain[0].text, "the copy without the clipboard's interface is not the answer");

  // Escape stops; the focus stays where one can go on.
  const [stalled, failing] = ["hold", "fail"];
  let mode = stalled;
  await page.route("**/v1/chat/completions", (route) => (mode === failing ? route.abort() : undefined));
  await ask(page, "A question that nobody answers");
  await page.waitForSelector("#stop:not([hidden])");
  await page.keyboard.press("Escape");
  await answered(page);
  must((await cards(page)).every(({ state }) => state.startsWith("stopped")), "Escape does not stop");
  must(await page.evaluate(() => document.activeElement.id === "question"), "the focus is lost when it stops");
  await page.fill("#question", "Another one");
  await page.focus("#run");
  await page.keyboard.press("Enter");
  await page.waitForSelector("#stop:not([hidden])");
  must(await page.evaluate(() => document.activeElement.id === "stop"), "the focus does not go to Stop");
  await page.keyboard.press("Enter");
  await answered(page);
  must(await page.evaluate(() => document.activeElement.id === "question"), "the focus does not come back");

  // A server that is away leaves the question in its field.
  mode = failing;
  expected.push("net::ERR_FAILED");
  await ask(page, "Lost?");
  await answered(page);
  await page.waitForFunction(() => document.getElementById("question").value === "Lost?");
  must((await cards(page)).every(({ state }) => state.startsWith("failed")), "a failure is not shown");
  await page.unroute("**/v1/chat/completions");

  // A new conversation begins with nothing.
  await page.click("#renew");
  must((await page.locator(".turn").count()) === 0, "the old conversation stays");
  must(await page.evaluate(() => document.activeElement.id === "question"), "the focus is not in the question");
  bodies.length = 0;
  await ask(page, "Hello there");
  await answered(page);
  must(bodies.every(({ messages }) => messages.length === 1), "the old conversation is still sent");
  return wrong;
}

const LONG = `One${"long".repeat(30)}word, then words. `;

// Serves answers for `count` models, asks two questions and shows differences.
export async function crowd(page, count) {
  const names = Array.from({ length: count }, (_, i) => (i ? `a-longer-name-of-an-adapter-${i}` : "the/base-model"));
  const data = names.map((id, i) => ({ id, object: "model", parent: i ? names[0] : null }));
  await page.route("**/v1/models", (route) => route.fulfill({ json: { object: "list", data } }));
  await page.route("**/v1/chat/completions", (route) => {
    const index = names.indexOf(route.request().postDataJSON().model);
    const texts = [
      `${LONG.repeat(4)}It ends here.`,
      "I cannot help with that.",
      "",
      "again ".repeat(60),
      `${LONG}It ends there, and goes on.`,
      "Short.",
    ];
    const usage = { completion_tokens: 7 };
    const events = [{ choices: [{ delta: { content: texts[index] } }] }, { choices: [], usage }];
    const body = events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("");
    route.fulfill({ contentType: "text/event-stream", body: `${body}data: [DONE]\n\n` });
  });
  await page.reload();
  await page.waitForSelector("#models li");
  await ask(page, "A question that is asked in a few words?");
  await answered(page);
  await chooseTemplate(page);
  await ask(page, `A second one, whose text is longer: ${LONG.repeat(2)}`);
  await answered(page);
  await page.waitForTimeout(200);
  if (count > 1) await page.check("#differences");
}
