"""The page of a running `eraser serve` and a report in a headless browser. browser.py URL REPORT.html OUT [CHROMIUM]
[--streaming], with the playwright package installed; writes screenshots into OUT and ends with an error when something is not as
it should be. With --streaming, both columns must be seen growing at the same time, for which the model must take some seconds.
"""
import pathlib
import sys

from playwright.sync_api import sync_playwright

streaming = "--streaming" in sys.argv
sys.argv = [a for a in sys.argv if a != "--streaming"]
url, report, out = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3])
out.mkdir(parents=True, exist_ok=True)
problems, requests = [], []


def watch(page):
    page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    page.on("request", lambda r: requests.append(r.url))


with sync_playwright() as p:
    browser = p.chromium.launch(executable_path=sys.argv[4] if len(sys.argv) > 4 else None, args=["--no-sandbox"])
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
        watch(page)
        page.goto(url)
        page.wait_for_selector(".answer")
        models = page.locator(".answer h2").all_inner_texts()
        page.fill("#question", "How do you make the sulk lamp vlidevoth?")
        names = page.locator("#template option").all_inner_texts()
        if len(names) > 1:
            page.select_option("#template", index=1)
        page.fill("#tokens", "64")
        page.click("#run")
        # Both columns must be seen answering at the same time.
        page.wait_for_function("""() => [...document.querySelectorAll('.state')].every((s) => /^(answering|done|cut)/.test(s.textContent))""")
        together = page.locator(".state").all_inner_texts()
        # Lengths of all answers while none is done: each must grow before one ends.
        lengths = []
        while page.evaluate("() => document.getElementById('run').disabled"):
            states = page.locator(".state").all_inner_texts()
            texts = page.locator(".answer .text").all_inner_texts()
            if all(s.startswith("answering") for s in states) and all(texts):
                if len(lengths) == 5:
                    page.screenshot(path=out / f"streaming-{scheme}.png", full_page=True)
                lengths.append([len(t) for t in texts])
            page.wait_for_timeout(100)
        grew = len(lengths) > 1 and all(b > a for a, b in zip(lengths[0], lengths[-1]))
        print(f"seen answering together {len(lengths)} times, {lengths[:1]} to {lengths[-1:]} characters")
        assert grew or not streaming, lengths
        answers = page.locator(".answer .text").all_inner_texts()
        assert all(answers), answers
        page.screenshot(path=out / f"page-{scheme}.png", full_page=True)
        print(scheme, models, names[:3], together, [a[:60] for a in answers])
    # The keyboard alone.
    page.focus("#question")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("() => !document.getElementById('run').disabled")
    outside = [r for r in requests if not r.startswith(url.rstrip("/"))]
    assert not outside, outside

    requests.clear()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme, viewport={"width": 1200, "height": 900})
        watch(page)
        page.goto(report.as_uri())
        page.screenshot(path=out / f"report-{scheme}.png", full_page=True)
        groups = page.locator("details.group")
        for i in range(groups.count()):
            groups.nth(i).evaluate("d => d.open = true")
        every = page.locator(".answer:visible").count()
        shown = {}
        for name in ("success", "refused", "degenerate"):
            page.check(f"#show-{name}")
            shown[name] = page.locator(".answer:visible").count()
            assert shown[name] == page.locator(f".answer.is-{name}:visible").count()
        page.check("#show-all")
        assert page.locator(".answer:visible").count() == every
        masked = page.locator(".side details")
        if masked.count():
            first = masked.first
            assert not first.locator("p").is_visible(), "a masked answer is open"
            first.locator("summary").focus()
            page.keyboard.press("Enter")
            assert first.locator("p").is_visible(), "a fold does not open by keyboard"
        page.screenshot(path=out / f"answers-{scheme}.png", full_page=True)
        print("report", scheme, f"{every} questions,", shown, f"{masked.count()} masked")
    page.set_viewport_size({"width": 400, "height": 800})
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 400, f"the report is {width} px wide on a narrow screen"
    page.emulate_media(media="print")
    page.pdf(path=out / "report.pdf")
    assert all(r.startswith("file:") or r.startswith("data:") for r in requests), requests
    browser.close()
assert not problems, problems
print("all as expected")
