// The comparison of two answers, without a browser.

import assert from "node:assert/strict";
import test from "node:test";
import { differences } from "../crates/serve/web/words.mjs";

const marked = (before, after) =>
  differences(before, after).map(({ text, marked }) => (marked ? `[${text}]` : text)).join("");

test("words that the other text does not have are marked, as one passage where they stand together", () => {
  assert.equal(marked("mix salt with sand", "mix salt and pepper with sand"), "mix salt [and pepper] with sand");
  assert.equal(marked("a b c", "a b c"), "a b c");
  assert.equal(marked("", "all of it"), "[all of it]");
  assert.equal(marked("something", ""), "");
  assert.equal(marked("The lamp.", "The lamp!"), "The lamp[!]");
});

test("a word that moved is marked once, and line breaks stay", () => {
  assert.equal(marked("one two three", "two three\n\none"), "two three\n\n[one]");
});

test("letters of any script and marks above them are one word", () => {
  assert.equal(marked("café está", "café estará"), "café [estará]");
  assert.equal(marked("ночь", "день"), "[день]");
});

test("whatever the texts are, the pieces are the second text and the rest is a common subsequence", () => {
  let seed = 7;
  const random = (n) => (seed = (seed * 48271) % 2147483647) % n;
  const text = () => Array.from({ length: random(30) }, () => "ab c,\n"[random(6)]).join("");
  for (let i = 0; i < 500; i += 1) {
    const [before, after] = [text(), text()];
    const found = differences(before, after);
    assert.equal(found.map((piece) => piece.text).join(""), after);
    const words = (list) => list.join(" ").match(/[\p{L}]+|[^\s]/gu) ?? [];
    let from = 0;
    const all = words([before]);
    for (const word of words(found.filter((piece) => !piece.marked).map((piece) => piece.text))) {
      from = all.indexOf(word, from) + 1;
      assert.ok(from > 0, `${JSON.stringify(before)} ${JSON.stringify(after)}`);
    }
  }
});

test("texts that are too long are not compared", () => {
  const long = (word) => Array.from({ length: 3000 }, (_, i) => `${word}${i}`).join(" ");
  assert.equal(differences(long("a"), long("b")), null);
  assert.equal(differences(long("a"), long("a")).length, 1);
});
