// What is measured within a page. In: a page of Playwright; out: a list of what is wrong. Invariant: nothing here
// changes what the page shows, but for `open`, which opens its details.

// Least contrast of text; WCAG AA asks for 4.5.
const LEAST_CONTRAST = 6;

// Opens every element of details.
export const open = (page) =>
  page.evaluate(() => document.querySelectorAll("details").forEach((one) => (one.open = true)));

// Whether the page is wider than its window, and by what.
export async function overflow(page) {
  return page.evaluate(() => {
    const wide = document.documentElement.scrollWidth;
    if (wide <= innerWidth) return [];
    const scrolls = (one) => one.closest(".scroll, pre") !== null;
    const beyond = [...document.querySelectorAll("body *")].filter(
      (one) => one.getBoundingClientRect().right > innerWidth + 0.5 && !scrolls(one),
    );
    const names = beyond.slice(-3).map((one) => `<${one.localName} class="${one.getAttribute("class") ?? ""}">`);
    return [`the page is ${wide} px wide in a window of ${innerWidth}: ${names.join(", ")}`];
  });
}

// Drawings that have no room left.
export async function squeezed(page) {
  return page.evaluate(() => {
    const drawings = [...document.querySelectorAll("svg")].filter((one) => one.checkVisibility());
    const found = drawings.map((one) => [one, one.getBoundingClientRect().width]).filter(([, wide]) => wide < 40);
    const name = ([one, wide]) => `<svg class="${one.getAttribute("class") ?? ""}"> is ${wide.toFixed(0)} px wide`;
    return found.length ? [`${found.length} drawings have no room: ${name(found[0])}`] : [];
  });
}

// Texts whose contrast is too low.
export async function contrast(page) {
  return page.evaluate((least) => {
    const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const context = pixel.getContext("2d", { willReadFrequently: true });
    const known = new Map();
    // Any colour of CSS as [r, g, b, alpha], 0 to 1.
    const colour = (text) => {
      if (!known.has(text)) {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = text;
        context.fillRect(0, 0, 1, 1);
        known.set(text, [...context.getImageData(0, 0, 1, 1).data].map((x) => x / 255));
      }
      return known.get(text);
    };
    const over = (top, below) => {
      const alpha = top[3];
      return [0, 1, 2].map((i) => top[i] * alpha + below[i] * (1 - alpha)).concat(1);
    };
    const ground = (element) => {
      const layers = [];
      for (let one = element; one; one = one.parentElement) {
        const layer = colour(getComputedStyle(one).backgroundColor);
        if (layer[3] > 0) layers.push(layer);
        if (layer[3] === 1) break;
      }
      return layers.reverse().reduce((below, top) => over(top, below), colour("Canvas"));
    };
    const light = (c) => {
      const [r, g, b] = c.map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ratio = (a, b) => {
      const [high, low] = [light(a), light(b)].sort((x, y) => y - x);
      return (high + 0.05) / (low + 0.05);
    };
    const opacity = (element) => {
      let all = 1;
      for (let one = element; one; one = one.parentElement) all *= Number(getComputedStyle(one).opacity);
      return all;
    };
    const isShown = (element) => {
      if (!element.checkVisibility({ visibilityProperty: true, opacityProperty: true })) return false;
      for (let one = element; one; one = one.parentElement) {
        if (getComputedStyle(one).clipPath !== "none") return false;
      }
      const box = element.getBoundingClientRect();
      return box.width > 0 && box.height > 0;
    };
    const found = new Map();
    let count = 0;
    const check = (element, style, text) => {
      if (!text.trim() || !isShown(element)) return;
      count += 1;
      const below = ground(element);
      const own = [...colour(element.namespaceURI.endsWith("svg") ? style.fill : style.color)];
      own[3] *= opacity(element);
      const value = ratio(over(own, below), below);
      if (value >= least) return;
      const place = `<${element.localName} class="${element.getAttribute("class") ?? ""}">`;
      const shown = text.trim().replace(/\s+/g, " ").slice(0, 40);
      if (!found.has(place)) found.set(place, `contrast ${value.toFixed(2)}:1 of ${place} "${shown}"`);
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const element = texts.currentNode.parentElement;
      if (!element.closest("script, style, template, noscript, title")) {
        check(element, getComputedStyle(element), texts.currentNode.data);
      }
    }
    for (const element of document.body.querySelectorAll("*")) {
      if (element.matches("input:not([type=radio], [type=checkbox]), select, textarea")) {
        check(element, getComputedStyle(element), element.value || "x");
      }
      for (const pseudo of ["::before", "::after"]) {
        const style = getComputedStyle(element, pseudo);
        if (!["none", "normal", '""'].includes(style.content)) check(element, style, style.content);
      }
    }
    if (count === 0) found.set("", "no text was found to compare");
    return [...found.values()];
  }, LEAST_CONTRAST);
}

// Goes through the page by Tab: what is never reached, has no outline, or holds the focus.
export async function keyboard(page) {
  const wanted = await page.evaluate(() => {
    const kinds = "a[href], button, input, select, textarea, summary, [tabindex]";
    const all = [...document.querySelectorAll(kinds)].filter(
      (one) => one.tabIndex >= 0 && !one.disabled && one.checkVisibility({ visibilityProperty: true }),
    );
    // Of a group of radio buttons, Tab reaches the one that is chosen.
    const reached = all.filter((one) => one.type !== "radio" || one.checked);
    reached.forEach((one, index) => (one.dataset.tab = index));
    // Without the focus on the body, Tab would go on from what was used last.
    document.body.tabIndex = -1;
    document.body.focus();
    document.body.removeAttribute("tabindex");
    window.scrollTo(0, 0);
    return reached.length;
  });
  const [seen, wrong] = [new Set(), new Set()];
  for (let presses = 0; presses < wanted + 5; presses += 1) {
    await page.keyboard.press("Tab");
    const now = await page.evaluate(() => {
      const one = document.activeElement;
      if (!one || one === document.body) return null;
      const style = getComputedStyle(one);
      const box = one.getBoundingClientRect();
      return {
        index: one.dataset.tab,
        name: `<${one.localName} id="${one.id}" class="${one.getAttribute("class") ?? ""}">`,
        isOutlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
        isInView: box.bottom > 0 && box.top < innerHeight,
      };
    });
    // The focus has left the page, or begins again.
    if (now === null || seen.has(now.index ?? now.name)) break;
    seen.add(now.index ?? now.name);
    if (!now.isOutlined) wrong.add(`no outline around ${now.name} when it has the focus`);
    if (!now.isInView) wrong.add(`${now.name} is out of sight when it has the focus`);
  }
  const reached = [...seen].filter((index) => /^\d+$/.test(index)).length;
  if (reached < wanted) wrong.add(`Tab reaches ${reached} of ${wanted} elements`);
  if (wanted === 0) wrong.add("nothing can be focused");
  await page.evaluate(() => document.activeElement?.blur());
  return [...wrong];
}

// The violations that axe-core finds; the page must have been opened with `bypassCSP`.
export async function axe(page, path) {
  await page.addScriptTag({ path });
  const found = await page.evaluate(async () => {
    const values = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"];
    const { violations } = await window.axe.run(document, { runOnly: { type: "tag", values } });
    return violations.map(({ id, help, nodes }) => ({ id, help, count: nodes.length, first: nodes[0].html }));
  });
  return found.map(({ id, help, count, first }) => `axe ${id} (${count}): ${help}: ${first.slice(0, 160)}`);
}
