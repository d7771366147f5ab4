// The words of a text that another text does not have. In: two texts; out: the second one in pieces, marked or not.
// Invariant: the pieces, put together, are the second text, and what is not marked is a common subsequence of both.

// Cells of the table; two answers of 2000 words each are still compared.
const MOST_CELLS = 4_000_000;

// Words, single signs, and the space between them.
const pieces = (text) => text.match(/\s+|[\p{L}\p{M}\p{N}_'’-]+|[^\s]/gu) ?? [];
const isSpace = (piece) => /^\s/u.test(piece);

// Which of `after` are in a longest common subsequence of both lists; null where the table would be too large.
function common(before, after) {
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) start += 1;
  let [n, m] = [before.length, after.length];
  while (n > start && m > start && before[n - 1] === after[m - 1]) [n, m] = [n - 1, m - 1];
  const kept = after.map((_, j) => j < start || j >= m);
  const [rows, columns] = [n - start + 1, m - start + 1];
  if (rows * columns > MOST_CELLS) return null;
  // table[i * columns + j]: length for what is left after i words of `before` and j of `after`.
  const table = new Uint16Array(rows * columns);
  for (let i = rows - 2; i >= 0; i -= 1) {
    for (let j = columns - 2; j >= 0; j -= 1) {
      const at = i * columns + j;
      table[at] =
        before[start + i] === after[start + j]
          ? table[at + columns + 1] + 1
          : Math.max(table[at + columns], table[at + 1]);
    }
  }
  for (let i = 0, j = 0; i < rows - 1 && j < columns - 1; ) {
    const at = i * columns + j;
    if (before[start + i] === after[start + j]) {
      kept[start + j] = true;
      i += 1;
      j += 1;
    } else if (table[at + columns] >= table[at + 1]) i += 1;
    else j += 1;
  }
  return kept;
}

// `after` as `[{ text, marked }]`, neighbours of one kind together; null where the texts are too long to compare.
export function differences(before, after) {
  const all = pieces(after);
  const words = (list) => list.filter((piece) => !isSpace(piece));
  const kept = common(words(pieces(before)), words(all));
  if (!kept) return null;
  const found = [];
  let word = 0;
  for (const [index, text] of all.entries()) {
    // A space is marked between two marked words, so that a passage is marked as one.
    const marked = isSpace(text)
      ? word > 0 && index + 1 < all.length && !kept[word - 1] && !kept[word]
      : !kept[word++];
    const last = found.at(-1);
    if (last && last.marked === marked) last.text += text;
    else found.push({ text, marked });
  }
  return found;
}
