// The real openai SDK against the running system: what works with OpenAI works here, and what goes up is what the client wrote.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import OpenAI from 'openai';
import { contentOf, eventsOf, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';

let house, fake, other, client, key;

before(async () => {
  house = await startFairlead({
    fakes: [{ name: 'alpha', models: 'upstream-name' }, { name: 'beta', models: 'm' }],
    policy: ([alpha, beta]) => `
defaults: {probe: {how: none}}
providers:
  one: {preset: openai-compatible, base_url: "${alpha.baseUrl}"}
  two: {preset: openai-compatible, base_url: "${beta.baseUrl}"}
  strict: {preset: openai-compatible, base_url: "${alpha.baseUrl}", stream_usage: false}
models:
  one/m: {sends: upstream-name, price: {input: 1, output: 2}}
  two/m: {price: {input: 1, output: 2}}
  strict/m: {sends: upstream-name, price: {input: 1, output: 2}}
aliases: {gpt-4o: chat}
routes:
  chat: {tiers: [{models: [one/m]}]}
  pair: {tiers: [{models: [one/m]}, {models: [two/m]}]}
  unasked: {tiers: [{models: [strict/m]}]}
  hidden: {tiers: [{models: [two/m]}]}`,
    directory: 'teams:\n  t: {routes: [chat, pair, unasked], models: [one/*]}',
  });
  [fake, other] = house.fakes;
  key = (await house.createKey()).key;
  client = newClient();
});
beforeEach(async () => {
  for (const one of house.fakes) {
    await one.config({ fault: 'none', ttft_ms: 0, token_ms: 0, tokens: 24, cached: 0, reasoning: 0 });
    await one.reset();
  }
});
after(stopAll);

const newClient = (options = {}) => new OpenAI({ apiKey: key, baseURL: `${house.api}/v1`, maxRetries: 0, timeout: 20_000, ...options });
const ask = (text, more = {}) => ({ model: 'chat', messages: [{ role: 'user', content: text }], ...more });
const collect = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};
const lastUp = async (one = fake) => (await one.requests()).at(-1);
const upHeaders = (kept) => Object.fromEntries(kept.headers.map(([name, value]) => [name.toLowerCase(), value]));
const rejection = (promise) => promise.then(() => assert.fail('it should have been refused'), (error) => error);
const tools = [{ type: 'function', function: { name: 'look_up', parameters: { type: 'object', properties: { query: { type: 'string' } } } } }];

describe('answers', () => {
  test('chat', async () => {
    const { data, response } = await client.chat.completions.create(ask('[[fake tokens=5]]')).withResponse();
    assert.equal(data.object, 'chat.completion');
    assert.match(data.choices[0].message.content, /^alpha: /);
    assert.equal(data.usage.completion_tokens, 5);
    assert.equal(response.headers.get('x-fairlead-model'), 'one/m');
    assert.match(data._request_id, /^req_[a-z0-9]{31}$/);
    assert.equal(upHeaders(await lastUp()).authorization, undefined);
  });

  test('by an alias, and a model directly', async () => {
    for (const model of ['gpt-4o', 'one/m']) assert.match((await client.chat.completions.create(ask('hi', { model }))).choices[0].message.content, /^alpha: /);
    assert.equal(JSON.parse((await lastUp()).body).model, 'upstream-name');
  });

  test('stream', async () => {
    const chunks = await collect(await client.chat.completions.create(ask('[[fake tokens=40]]', { stream: true })));
    assert.equal(contentOf(chunks).split(' ').length, 40);
    assert.equal(chunks.at(-1).choices[0].finish_reason, 'stop');
    assert.ok(chunks.every((chunk) => chunk.object === 'chat.completion.chunk' && chunk.choices.length === 1));
  });

  test('the SDK puts a stream together', async () => {
    const stream = client.chat.completions.stream(ask('[[fake tokens=9]]'));
    const whole = await client.chat.completions.create(ask('[[fake tokens=9]]'));
    assert.equal(await stream.finalContent(), whole.choices[0].message.content);
  });

  test('tools, whole and streamed', async () => {
    const whole = await client.chat.completions.create(ask('hi', { tools, tool_choice: 'required' }));
    const [call] = whole.choices[0].message.tool_calls;
    assert.equal(call.function.name, 'look_up');
    assert.deepEqual(JSON.parse(call.function.arguments), { query: 'fair winds' });
    assert.equal(whole.choices[0].finish_reason, 'tool_calls');
    const stream = client.chat.completions.stream(ask('hi', { tools, tool_choice: 'required' }));
    const message = await stream.finalMessage();
    assert.equal(message.tool_calls[0].function.name, 'look_up');
    assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { query: 'fair winds' });
    assert.deepEqual(JSON.parse((await lastUp()).body).tools, tools);
  });

  test('the answer of a tool goes back up', async () => {
    const messages = [
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: null, tool_calls: [{ id: 'call_1', type: 'function', function: { name: 'look_up', arguments: '{}' } }] },
      { role: 'tool', tool_call_id: 'call_1', content: 'found' },
    ];
    await client.chat.completions.create({ model: 'chat', messages, tools });
    assert.deepEqual(JSON.parse((await lastUp()).body).messages, messages);
  });

  test('JSON mode', async () => {
    const answer = await client.chat.completions.create(ask('hi', { response_format: { type: 'json_object' } }));
    assert.equal(typeof JSON.parse(answer.choices[0].message.content).answer, 'string');
  });

  test('images pass untouched', async () => {
    const url = `data:image/png;base64,${Buffer.alloc(300_000, 7).toString('base64')}`;
    const messages = [{ role: 'user', content: [{ type: 'text', text: 'what is it?' }, { type: 'image_url', image_url: { url, detail: 'low' } }] }];
    await client.chat.completions.create({ model: 'chat', messages });
    assert.deepEqual(JSON.parse((await lastUp()).body).messages, messages);
  });

  test('embeddings', async () => {
    const answer = await client.embeddings.create({ model: 'chat', input: ['one', 'two'], dimensions: 8 });
    assert.equal(answer.data.length, 2);
    assert.equal(answer.data[0].embedding.length, 8);
    assert.ok(answer.usage.prompt_tokens > 0);
    assert.equal((await lastUp()).path, '/v1/embeddings');
  });

  test('completions, whole and streamed', async () => {
    const whole = await client.completions.create({ model: 'chat', prompt: 'once', max_tokens: 3 });
    assert.equal(whole.choices[0].text, 'alpha: A fairlead');
    const chunks = await collect(await client.completions.create({ model: 'chat', prompt: 'once', max_tokens: 3, stream: true }));
    assert.equal(contentOf(chunks), 'alpha: A fairlead');
  });

  test('models: what this key may use', async () => {
    const ids = (await client.models.list()).data.map((model) => model.id).sort();
    assert.deepEqual(ids, ['chat', 'gpt-4o', 'one/m', 'pair', 'unasked']);
    assert.equal((await client.models.retrieve('chat')).id, 'chat');
    assert.equal((await client.models.retrieve('one/m')).object, 'model');
    const narrow = newClient({ apiKey: (await house.createKey({ routes: 'pair' })).key });
    assert.deepEqual((await narrow.models.list()).data.map((model) => model.id), ['pair']);
    assert.equal((await rejection(narrow.models.retrieve('chat'))).status, 404);
    assert.equal((await fake.stats()).requests, 0);
  });

  test('without /v1 in the address', async () => {
    const short = newClient({ baseURL: house.api });
    assert.match((await short.chat.completions.create(ask('hi'))).choices[0].message.content, /^alpha: /);
    assert.equal((await lastUp()).path, '/v1/chat/completions');
    assert.equal((await short.models.retrieve('pair')).id, 'pair');
    assert.equal((await short.embeddings.create({ model: 'chat', input: 'x', dimensions: 2 })).data[0].embedding.length, 2);
  });

  test('many at once', async () => {
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, i) =>
        i % 2
          ? client.chat.completions.create(ask(`[[fake tokens=${i + 1}]]`)).then((answer) => answer.choices[0].message.content)
          : client.chat.completions.create(ask(`[[fake tokens=${i + 1} token_ms=1]]`, { stream: true })).then(collect).then(contentOf),
      ),
    );
    answers.forEach((text, i) => assert.equal(text.split(' ').length, i + 1));
  });
});

describe('errors, as the SDK knows them', () => {
  test('401: no such key', async () => {
    for (const apiKey of ['sk-of-somebody-else', `fl-${'a'.repeat(44)}`]) {
      const error = await rejection(newClient({ apiKey }).chat.completions.create(ask('hi')));
      assert.ok(error instanceof OpenAI.AuthenticationError, String(error));
      assert.equal(error.code, 'invalid_api_key');
    }
    assert.equal((await fake.stats()).requests, 0);
  });

  test('404: unknown model; the message lists what this key may use', async () => {
    for (const model of ['no-such-model', 'hidden', 'two/m']) {
      const error = await rejection(client.chat.completions.create(ask('hi', { model })));
      assert.ok(error instanceof OpenAI.NotFoundError, String(error));
      assert.equal(error.code, 'model_not_found');
      assert.equal(error.param, 'model');
      for (const route of ['chat', 'pair', 'unasked']) assert.match(error.message, new RegExp(`\\b${route}\\b`));
    }
    assert.match((await rejection(client.chat.completions.create(ask('hi', { model: 'chta' })))).message, /Did you mean 'chat'\?/);
    assert.equal((await fake.stats()).requests, 0);
  });

  test('429: when all are over their limits, with the time after which to try again', async () => {
    for (const stream of [false, true]) {
      for (const one of house.fakes) await one.reset();
      const error = await rejection(client.chat.completions.create(ask('[[fake:alpha fault=429:7]][[fake:beta fault=429:3]]', { model: 'pair', stream })));
      assert.ok(error instanceof OpenAI.RateLimitError, String(error));
      assert.equal(error.type, 'rate_limit_error');
      assert.match(error.message, /one\/m \(status 429\), two\/m \(status 429\)/);
      assert.equal(error.headers.get('retry-after'), '3', 'the sooner of the two');
      assert.deepEqual([(await fake.stats()).requests, (await other.stats()).requests], [1, 1]);
      await waitFor(async () => (await house.request('/v1/chat/completions', { key, body: ask('hi', { model: 'pair' }) })).headers['x-fairlead-model']);
    }
  });

  test("400: the provider's own words, once", async () => {
    for (const stream of [false, true]) {
      await fake.reset();
      const error = await rejection(newClient({ maxRetries: 2 }).chat.completions.create(ask('[[fake fault=400]]', { model: 'pair', stream })));
      assert.ok(error instanceof OpenAI.BadRequestError, String(error));
      assert.equal(error.error.message, error.message.replace(/^400 /, ''));
      assert.deepEqual([(await fake.stats()).requests, (await other.stats()).requests], [1, 0]);
    }
  });

  test('500 and worse: every model that was tried is named', async () => {
    const error = await rejection(client.chat.completions.create(ask('[[fake fault=500]]', { model: 'pair' })));
    assert.ok(error instanceof OpenAI.InternalServerError, String(error));
    assert.equal(error.status, 502);
    assert.match(error.message, /one\/m \(status 500\), two\/m \(status 500\)/);
  });

  test('an error in mid-stream is an error, not an end', async () => {
    const seen = [];
    const error = await rejection((async () => {
      for await (const chunk of await client.chat.completions.create(ask('[[fake fault=cut:3]]', { stream: true }))) seen.push(chunk);
    })());
    assert.ok(error instanceof OpenAI.APIError, String(error));
    assert.equal(error.code, 'upstream_truncated');
    assert.equal(contentOf(seen).trim().split(' ').length, 3);
  });
});

describe('abort', () => {
  test('in mid-stream: upstream is cancelled at once', async () => {
    const stream = await client.chat.completions.create(ask('[[fake token_ms=5 tokens=100000]]', { stream: true }));
    let count = 0;
    for await (const _ of stream) {
      if (++count === 10) break;
    }
    stream.controller.abort();
    await waitFor(async () => (await fake.stats()).streams_cancelled === 1, { what: 'the cancellation to arrive', timeoutMs: 2000 });
    assert.equal((await fake.stats()).streams_open, 0);
    const record = await waitFor(() => house.records().find((one) => one.outcome === 'cancelled'), { what: 'its record' });
    assert.ok(record.estimated && record.usage.output > 0, JSON.stringify(record));
    assert.ok(record.cost_nano_usd > 0, JSON.stringify(record));
  });

  test('before the answer', async () => {
    const controller = new AbortController();
    const asked = client.chat.completions.create(ask('[[fake ttft_ms=60000]]'), { signal: controller.signal });
    await waitFor(async () => (await fake.stats()).requests === 1, { what: 'the request to arrive' });
    controller.abort();
    assert.ok((await rejection(asked)) instanceof OpenAI.APIUserAbortError);
    await waitFor(async () => (await fake.stats()).requests_cancelled === 1, { what: 'the cancellation to arrive', timeoutMs: 2000 });
  });
});

describe('what goes up', () => {
  const send = (body, where = '/v1/chat/completions') => house.request(where, { key, body });

  test('bytes as they came, only the model is another', async () => {
    const odd = (model) =>
      `{ "messages":[ {"role" : "user","content":"\\u00e4 ä \u{1f9ed} \\ud83e\\udded [[fake tokens=1]]"} ],\t"n":1.0e0,"model" :\r\n"${model}" ,"unknown":{"b":1,"a":[1E400,-0.0,null]},"seed":123456789012345678901234567890,"x":"\\/"}\n`;
    const answer = await send(odd('ch\\u0061t'));
    assert.equal(answer.status, 200, answer.text);
    assert.equal(Buffer.from((await lastUp()).body_base64, 'base64').toString(), odd('upstream-name'));
  });

  test('a stream: include_usage is added once, the rest stays', async () => {
    const messages = '"messages":[{"role":"user","content":"[[fake tokens=1]]"}]';
    const cases = [
      [`{"model":"chat",${messages},"stream":true}`, /^\{"model":"upstream-name",("stream_options":\{"include_usage":true\},)?"messages":\[.*\],"stream":true(,"stream_options":\{"include_usage":true\})?\}$/],
      [`{"model":"chat",${messages},"stream":true,"stream_options":{"include_usage":true,"x":1}}`, /"stream":true,"stream_options":\{"include_usage":true,"x":1\}\}$/],
      [`{"model":"chat",${messages},"stream":true,"stream_options":{"x":1}}`, null],
      [`{"model":"chat",${messages},"stream":true,"stream_options":{"include_usage":false}}`, null],
      [`{"model":"chat",${messages},"stream":true,"stream_options":null}`, null],
    ];
    for (const [body, pattern] of cases) {
      const answer = await send(body);
      assert.equal(answer.status, 200, answer.text);
      const up = (await lastUp()).body;
      const parsed = JSON.parse(up);
      assert.equal(parsed.stream_options.include_usage, true, up);
      assert.equal(up.split('include_usage').length, 2, up);
      if (body.includes('"x":1')) assert.equal(parsed.stream_options.x, 1, up);
      if (pattern) assert.match(up, pattern);
      const own = JSON.parse(body).stream_options?.include_usage === true;
      const events = eventsOf(answer.text);
      assert.equal(events.filter((event) => event.choices?.length === 0).length, own ? 1 : 0, answer.text);
      assert.equal(events.at(-1), '[DONE]');
      assert.equal(contentOf(events), 'alpha:');
      assert.match(answer.text, /^: fairlead model=one\/m attempts=1 input_tokens=\d+ output_tokens=1 estimated=0 cost_usd=\S+$/m);
    }
  });

  test('a provider that does not take stream_options is not sent any; the usage is estimated', async () => {
    const answer = await send(ask('hello', { model: 'unasked', stream: true }));
    assert.equal(JSON.parse((await lastUp()).body).stream_options, undefined);
    assert.match(answer.text, /estimated=1/);
  });

  test('the SDK sees its own usage event, and only its own', async () => {
    const own = await collect(await client.chat.completions.create(ask('[[fake tokens=4 cached=2]]', { stream: true, stream_options: { include_usage: true } })));
    assert.equal(own.at(-1).usage.completion_tokens, 4);
    assert.equal(own.at(-1).usage.prompt_tokens_details.cached_tokens, 2);
    const none = await collect(await client.chat.completions.create(ask('[[fake tokens=4]]', { stream: true })));
    assert.ok(none.every((chunk) => !chunk.usage));
  });

  test("the client's own headers stay here, but for those that are allowed", async () => {
    await client.chat.completions.create(ask('hi'), {
      headers: { traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01', cookie: 'a=b', 'x-forwarded-for': '1.2.3.4', 'openai-organization': 'org-x', 'x-mine': '1' },
    });
    const headers = upHeaders(await lastUp());
    assert.equal(headers.traceparent, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01');
    assert.equal(headers['accept-encoding'], 'identity');
    assert.deepEqual(
      Object.keys(headers).filter((name) => !['host', 'accept', 'accept-encoding', 'accept-language', 'content-type', 'content-length', 'traceparent'].includes(name)),
      [],
    );
  });
});
