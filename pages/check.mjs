// Looks at pages in Chromium. In: report.html files, the URL of a server; out: screenshots, a list of what is wrong,
// the exit code. Invariant: a page is judged as users get it; only axe-core, which must be put into it, sees it without
// its content policy.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import { axe, contrast, keyboard, open, overflow, squeezed } from "./inspect.mjs";
import { conversation, crowd } from "./serve.mjs";

const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const WIDTHS = [1280, 400];
// Where only the room is looked at: below each width at which something moves.
const BETWEEN = [1000, 880, 720, 560];
// What A4 leaves between the margins of the report.
const PAPER = 690;
const SCHEMES = ["light", "dark"];
// Chromium paints no higher picture.
const MOST_PIXELS = 16000;

function options(list) {
  const found = { reports: [], serve: null, out: null };
  for (let i = 0; i < list.length; i += 1) {
    if (list[i] === "--serve") found.serve = list[(i += 1)];
    else if (list[i] === "--out") found.out = list[(i += 1)];
    else found.reports.push(resolve(list[i]));
  }
  const missing = found.reports.filter((path) => !existsSync(path));
  if (missing.length) throw new Error(`there is no file ${missing.join(", ")}`);
  if (!found.out || (!found.reports.length && !found.serve)) {
    throw new Error("usage: node check.mjs REPORT.html.. [--serve URL] --out DIR");
  }
  return found;
}

const { reports, serve, out } = options(process.argv.slice(2));
mkdirSync(out, { recursive: true });
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const faults = [];

// Opens `url` in a window of its own, gives it to `look`, and notes what that and the browser find wrong.
async function window(name, url, settings, look) {
  const { width = 1280, scheme = "light", ...more } = settings;
  const viewport = { width, height: 900 };
  const context = await browser.newContext({ viewport, colorScheme: scheme, reducedMotion: "reduce", ...more });
  const page = await context.newPage();
  const home = new URL(url);
  const note = (text) => faults.push(`${name}: ${text}`);
  const expected = [];
  page.on("console", (message) => {
    if (!expected.some((part) => message.text().includes(part))) note(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => note(`error in the page: ${error.message}`));
  page.on("request", (request) => {
    const asked = new URL(request.url());
    const isHome = asked.protocol === "file:" ? asked.href.split("#")[0] === home.href : asked.host === home.host;
    if (asked.protocol !== "data:" && !isHome) note(`a request to ${request.url()}`);
  });
  try {
    await page.goto(url);
    for (const fault of (await look(page, expected)) ?? []) note(fault);
  } catch (error) {
    note(error.message);
    await shot(page, `${name} failed`).catch(() => {});
  }
  await context.close();
}

async function shot(page, name) {
  const height = await page.evaluate(() => document.documentElement.scrollHeight);
  const { width } = page.viewportSize();
  const path = join(out, `${name.replaceAll(/[^\w.-]+/g, "-")}.png`);
  await page.screenshot({ path, fullPage: true, clip: { x: 0, y: 0, width, height: Math.min(height, MOST_PIXELS) } });
}

// A page at each width and in each scheme; `prepare` brings it into the state that is looked at.
async function looks(name, url, prepare) {
  for (const width of WIDTHS) {
    for (const scheme of SCHEMES) {
      const settings = { width, scheme };
      const own = `${name} ${width} ${scheme}`;
      await window(own, url, settings, async (page) => {
        await prepare(page);
        const found = [];
        await shot(page, own);
        for (const state of ["closed", "open"]) {
          if (state === "open") await open(page);
          const all = [...(await overflow(page)), ...(await squeezed(page)), ...(await contrast(page))];
          // The outline is looked for in both schemes; every last element only once.
          if (scheme === "light" || state === "closed") all.push(...(await keyboard(page)));
          found.push(...all.map((fault) => `details ${state}: ${fault}`));
        }
        await shot(page, `${own} open`);
        return found;
      });
      await window(`${own} axe`, url, { ...settings, bypassCSP: true }, async (page) => {
        await prepare(page);
        const closed = await axe(page, AXE);
        await open(page);
        return [...new Set([...closed, ...(await axe(page, AXE))])];
      });
    }
  }
}

// The same page at the widths between.
async function between(name, url, prepare) {
  await window(name, url, {}, async (page) => {
    await prepare(page);
    await open(page);
    const found = [];
    for (const width of BETWEEN) {
      await page.setViewportSize({ width, height: 900 });
      const all = [...(await overflow(page)), ...(await squeezed(page))];
      found.push(...all.map((fault) => `${width} px: ${fault}`));
    }
    return found;
  });
}

// A script that somebody puts into the page must not run.
async function policy(name, url) {
  await window(`${name} policy`, url, {}, async (page, expected) => {
    expected.push("Content Security Policy");
    await page.addScriptTag({ content: "window.ran = true" }).catch(() => {});
    return (await page.evaluate(() => window.ran === true)) ? ["an inline script runs"] : [];
  });
}

// The report on paper.
async function paper(name, url) {
  await window(`${name} paper`, url, { width: PAPER }, async (page) => {
    await page.emulateMedia({ media: "print" });
    const room = [...(await overflow(page)), ...(await squeezed(page))];
    const path = join(out, `${name}.pdf`);
    await page.pdf({ path, format: "A4" });
    const pages = readFileSync(path, "latin1").match(/\/Type\s*\/Page\b/g)?.length ?? 0;
    if (pages === 0) return [...room, "the PDF has no page"];
    const title = await page.evaluate(() => [...document.querySelectorAll("h2")].at(-1).textContent);
    try {
      const text = execFileSync("pdftotext", [path, "-"], { encoding: "utf8" });
      return text.includes(title) ? room : [...room, `"${title}" is not in the PDF`];
    } catch (error) {
      if (error.code !== "ENOENT") throw error;
      console.log(`${name}: ${pages} pages on paper; pdftotext is not installed, so their text was not looked at`);
      return room;
    }
  });
}

for (const path of reports) {
  const name = basename(dirname(path));
  const url = pathToFileURL(path).href;
  console.log(`looking at ${path}`);
  await looks(name, url, async () => {});
  await between(`${name} between`, url, async () => {});
  await policy(name, url);
  await paper(name, url);
}
if (serve) {
  console.log(`looking at ${serve}`);
  await policy("serve", serve);
  const permissions = ["clipboard-read", "clipboard-write"];
  await window("serve conversation", serve, { permissions }, (page, expected) =>
    conversation(page, expected, () => shot(page, "serve conversation")),
  );
  await looks("serve", serve, (page) => page.waitForSelector("#models li"));
  for (const models of [1, 2, 6]) {
    const prepare = (page) => crowd(page, models);
    await looks(`serve ${models} models`, serve, prepare);
    await between(`serve ${models} models between`, serve, prepare);
  }
}
await browser.close();
for (const fault of faults) console.log(`FAULT ${fault}`);
console.log(faults.length ? `${faults.length} faults` : "no fault was found");
process.exitCode = faults.length ? 1 : 0;
