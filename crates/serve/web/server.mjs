// What the page asks of its server. In: paths, bodies, a key; out: JSON, or the pieces of an answer as they come.
// Invariant: an error has the server's message, and `status` where the server answered at all.

async function ask(path, key, body, signal) {
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers,
    signal,
    body: body && JSON.stringify(body),
  });
  if (response.ok) return response;
  let message = `the server answered with status ${response.status}`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not an answer of this server: a proxy between may send its own.
  }
  throw Object.assign(new Error(message), { status: response.status });
}

// The JSON at `path`; with `body`, that of a POST.
export const json = async (path, key, body) => (await ask(path, key, body)).json();

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

// The answer to a chat, piece by piece: `{ text, tokens, finish }`, with the tokens until then.
export async function* answer(chat, key, signal) {
  const body = { ...chat, stream: true, stream_options: { include_usage: true } };
  const response = await ask("/v1/chat/completions", key, body, signal);
  let tokens = 0;
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    const [choice] = event.choices;
    const text = choice?.delta.content ?? "";
    tokens = event.usage?.completion_tokens ?? tokens + (text ? 1 : 0);
    yield { text, tokens, finish: choice?.finish_reason };
  }
}
