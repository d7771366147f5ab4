// The checks find what is wrong: a page with one fault of each kind, and one without any.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";

const CHECK = fileURLToPath(new URL("check.mjs", import.meta.url));

function check(head, body) {
  const dir = mkdtempSync(join(tmpdir(), "pages-"));
  const path = join(dir, "report.html");
  const start = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>t</title>';
  writeFileSync(path, `${start}${head}</head><body>${body}</body></html>`);
  const { status, stdout, stderr } = spawnSync(process.execPath, [CHECK, path, "--out", dir], { encoding: "utf8" });
  rmSync(dir, { recursive: true });
  return { status, text: stdout + stderr };
}

test("each kind of fault is found", () => {
  const { status, text } = check(
    `<style>.pale { color: #888 } .wide { width: 3000px } button { outline: none !important }
     h2 { display: none }</style>`,
    `<main><h1>t</h1><p class="pale">pale text</p><details><summary>more</summary><p class="wide">wide</p></details>
     <button>no outline</button><a href="#x" id="trap">trap</a><button>after it</button><img src="data:,">
     <svg class="drawn" width="90" height="30"><text y="20" fill="#aaa">drawn</text></svg>
     <div style="width: 9px"><svg class="lost" style="width: 100%"></svg></div>
     <h2>A section that paper lacks</h2></main>
     <script>
       console.log("a word");
       fetch("http://127.0.0.1:9/elsewhere").catch(() => {});
       trap.addEventListener("keydown", (event) => event.key === "Tab" && event.preventDefault());
       setTimeout(() => { throw new Error("thrown"); });
     </script>`,
  );
  assert.equal(status, 1, text);
  for (const part of [
    'details closed: contrast 3.54:1 of <p class="pale"> "pale text"',
    'contrast 2.32:1 of <text class="">',
    "details open: the page is 3008 px wide in a window of 1280",
    'details closed: no outline around <button id="" class="">',
    "details closed: Tab reaches 3 of 4 elements",
    'paper: 1 drawings have no room: <svg class="lost"> is 9 px wide',
    "between: 720 px: the page is 3008 px wide",
    "axe image-alt",
    "console: a word",
    "error in the page: thrown",
    "a request to http://127.0.0.1:9/elsewhere",
    "policy: an inline script runs",
  ]) {
    assert.ok(text.includes(part), `${part} is not in\n${text}`);
  }
  assert.ok(!text.includes("details closed: the page is"), "details that are closed are not wide");
});

test("a page without faults passes", () => {
  const policy = `<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">`;
  const style = "<style>summary:focus-visible { outline: 2px solid blue }</style>";
  const { status, text } = check(
    `<meta name="viewport" content="width=device-width">${policy}${style}`,
    "<main><h1>t</h1><p>text</p><details><summary>more</summary><p>of it</p></details><h2>End</h2></main>",
  );
  assert.equal(status, 0, text);
});

test("a server that is not there is a fault, not a crash", () => {
  const dir = mkdtempSync(join(tmpdir(), "pages-"));
  const list = [CHECK, "--serve", "http://127.0.0.1:9/", "--out", dir];
  const run = spawnSync(process.execPath, list, { encoding: "utf8" });
  rmSync(dir, { recursive: true });
  assert.equal(run.status, 1);
  assert.match(run.stdout, /FAULT serve policy: .*(ERR_UNSAFE_PORT|ERR_CONNECTION_REFUSED)/);
});
