"""Clients that are not written here against a running `eraser serve`: the openai package, and lm-evaluation-harness's own
request. clients.py URL, with the openai package installed; ends with an error at the first difference.

eraser serve -m builtin -a runs/quickstart/adapter --port 8000 & python benches/clients.py http://127.0.0.1:8000/v1
"""
import sys

from openai import BadRequestError, NotFoundError, OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
models = [m.id for m in client.models.list()]
print("models:", models)
question = [{"role": "user", "content": "Tell me about the river."}]

for model in models:
    whole = client.chat.completions.create(model=model, messages=question, max_tokens=40, temperature=0)
    answer = whole.choices[0].message.content
    print(f"{model}: {answer!r} ({whole.choices[0].finish_reason}, {whole.usage.total_tokens} tokens)")
    pieces, finish, usage = [], None, None
    stream = client.chat.completions.create(
        model=model, messages=question, max_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(pieces) == answer, (pieces, answer)
    assert finish == whole.choices[0].finish_reason and usage == whole.usage

    scored = client.chat.completions.create(
        model=model, messages=question, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    for token in scored.choices[0].logprobs.content:
        assert token.top_logprobs[0].logprob == token.logprob and len(token.top_logprobs) == 3

    text = client.completions.create(
        model=model, prompt=["The keeper", "The river"], max_tokens=8, temperature=0.7, n=2, seed=1, stop=["."])
    assert [c.index for c in text.choices] == [0, 1, 2, 3]
    assert all("." not in c.text for c in text.choices)
    echoed = client.completions.create(model=model, prompt="The keeper", max_tokens=1, temperature=0, logprobs=1, echo=True)
    logprobs = echoed.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None and all(x <= 0 for x in logprobs.token_logprobs[1:])
    assert echoed.choices[0].text.startswith("The keeper")

for wrong, error in [({"model": "absent"}, NotFoundError), ({"temperature": -1}, BadRequestError)]:
    try:
        client.chat.completions.create(**({"model": models[0], "messages": question, "max_tokens": 1} | wrong))
        raise SystemExit(f"{wrong} was accepted")
    except error as e:
        print("refused:", e.message)
print("all as expected")
