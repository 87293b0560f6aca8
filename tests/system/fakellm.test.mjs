// The simulated provider itself: the other system tests trust what it says and how it goes wrong.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { run, startFakellm, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

let fake;

before(async () => {
  fake = await startFakellm({ name: 'alpha', models: 'm1,m2' });
});
beforeEach(async () => {
  await fake.config({ fault: 'none', ttft_ms: 0, token_ms: 0, tokens: 24, require_key: '', strict_models: false, keep: 16 });
  await fake.reset();
});
after(stopAll);

// One request on its own connection: {status, headers, text, end}; end is "end", or the error's code when the body broke off.
function request(path, { method = 'POST', body, headers = {}, onData } = {}) {
  return new Promise((resolve, reject) => {
    const req = http.request(`${fake.url}${path}`, { method, agent: false, headers: { 'content-type': 'application/json', ...headers } });
    let answer;
    // A reset is told to the request, or to its response once that has begun: whichever sees it first.
    req.on('error', (error) => (answer ? (answer.end = error.code) : reject(error)));
    req.on('response', (res) => {
      answer = { status: res.statusCode, headers: res.headers, text: '', end: 'end' };
      res.setEncoding('utf8');
      res.on('data', (text) => {
        answer.text += text;
        onData?.(answer, req);
      });
      res.on('error', (error) => (answer.end = error.code));
      res.on('close', () => resolve(answer));
    });
    req.end(body === undefined ? undefined : typeof body === 'string' ? body : JSON.stringify(body));
  });
}

const chatBody = (text, more = {}) => ({ model: 'm1', messages: [{ role: 'user', content: text }], ...more });
const chat = (text, more, options) => request('/v1/chat/completions', { body: chatBody(text, more), ...options });
const stream = (text, more, options) => chat(text, { stream: true, ...more }, options);
const events = (answer) => [...answer.text.matchAll(/^data: (.*)$/gm)].map((match) => (match[1] === '[DONE]' ? match[1] : JSON.parse(match[1])));
const contentOf = (list) => list.map((event) => event.choices?.[0]?.delta?.content ?? '').join('');

describe('answers', () => {
  test('chat completion', async () => {
    const answer = await chat('four chars here!', { max_tokens: 5 });
    assert.equal(answer.status, 200);
    const body = JSON.parse(answer.text);
    assert.equal(body.object, 'chat.completion');
    assert.match(body.id, /^chatcmpl-/);
    assert.equal(body.model, 'm1');
    assert.equal(body.system_fingerprint, 'fp_alpha');
    assert.equal(body.choices[0].finish_reason, 'length');
    assert.equal(body.choices[0].message.role, 'assistant');
    assert.equal(body.choices[0].message.content.split(' ').length, 5);
    assert.match(body.choices[0].message.content, /^alpha: /);
    assert.deepEqual(
      [body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens],
      [7, 5, 12],
    );
  });

  test('stream: role, one event a token, finish, usage, [DONE]', async () => {
    const answer = await stream('hi', { max_completion_tokens: 3, stream_options: { include_usage: true } });
    assert.match(answer.headers['content-type'], /^text\/event-stream/);
    const list = events(answer);
    assert.equal(list.length, 1 + 3 + 1 + 1 + 1);
    assert.equal(list[0].object, 'chat.completion.chunk');
    assert.equal(list[0].choices[0].delta.role, 'assistant');
    assert.equal(list[0].usage, null);
    assert.equal(contentOf(list), 'alpha: A fairlead');
    assert.equal(list[4].choices[0].finish_reason, 'length');
    assert.deepEqual(list[5].choices, []);
    assert.equal(list[5].usage.completion_tokens, 3);
    assert.equal(list[6], '[DONE]');
    assert.equal(new Set(list.slice(0, 6).map((event) => event.id)).size, 1);
  });

  test('stream without include_usage says nothing of usage', async () => {
    assert.doesNotMatch((await stream('hi')).text, /usage/);
  });

  test('the same words whole and streamed, also beyond the passage', async () => {
    const whole = JSON.parse((await chat('[[fake tokens=3000]]')).text);
    const list = events(await stream('[[fake tokens=3000]]'));
    assert.equal(contentOf(list), whole.choices[0].message.content);
    assert.equal(whole.usage.completion_tokens, 3000);
    assert.equal(list.at(-2).choices[0].finish_reason, 'stop');
  });

  test('directives set usage, for everyone or by name', async () => {
    const usage = async (text) => JSON.parse((await chat(text)).text).usage;
    const own = await usage('[[fake:alpha prompt=1000 cached=100 reasoning=20 tokens=7]]');
    assert.deepEqual(
      [own.prompt_tokens, own.prompt_tokens_details.cached_tokens, own.completion_tokens, own.completion_tokens_details.reasoning_tokens],
      [1000, 100, 27, 20],
    );
    assert.equal((await usage('[[fake:beta tokens=7]]')).completion_tokens, 24);
    assert.equal((await usage('[[fake:m1 tokens=7]]')).completion_tokens, 7);
    const byUser = JSON.parse((await chat('hi', { user: 'u-1 [[fake tokens=2]]' })).text);
    assert.equal(byUser.usage.completion_tokens, 2);
    assert.equal((await chat('[[fake toekns=7]]')).status, 400);
  });

  test('an old directive in the conversation no longer counts', async () => {
    const messages = [{ role: 'user', content: '[[fake fault=500]]' }, { role: 'assistant', content: 'x' }, { role: 'user', content: 'again' }];
    assert.equal((await chat('', { messages })).status, 200);
  });

  test('tool calls, whole and streamed', async () => {
    const tools = [{ type: 'function', function: { name: 'look_up', parameters: {} } }];
    const whole = JSON.parse((await chat('please call the tool', { tools })).text).choices[0];
    assert.equal(whole.finish_reason, 'tool_calls');
    assert.equal(whole.message.content, null);
    assert.equal(whole.message.tool_calls[0].function.name, 'look_up');
    assert.deepEqual(JSON.parse(whole.message.tool_calls[0].function.arguments), { query: 'fair winds' });
    const list = events(await stream('hi', { tools, tool_choice: 'required' }));
    const calls = list.flatMap((event) => event.choices?.[0]?.delta?.tool_calls ?? []);
    assert.equal(calls[0].function.name, 'look_up');
    assert.deepEqual(JSON.parse(calls.map((call) => call.function.arguments).join('')), { query: 'fair winds' });
    assert.equal(list.at(-2).choices[0].finish_reason, 'tool_calls');
    assert.equal(JSON.parse((await chat('hi', { tools })).text).choices[0].finish_reason, 'stop');
  });

  test('JSON mode gives JSON', async () => {
    const more = { response_format: { type: 'json_object' } };
    const whole = JSON.parse((await chat('hi', more)).text);
    assert.equal(typeof JSON.parse(whole.choices[0].message.content).answer, 'string');
    assert.deepEqual(JSON.parse(contentOf(events(await stream('hi', more)))), JSON.parse(whole.choices[0].message.content));
  });

  test('reasoning content comes before the answer', async () => {
    const list = events(await stream('[[fake think=2 tokens=1]]'));
    assert.deepEqual(
      list.slice(1, 4).map((event) => Object.keys(event.choices[0].delta)[0]),
      ['reasoning_content', 'reasoning_content', 'content'],
    );
  });

  test('legacy completions, whole and streamed', async () => {
    const body = { model: 'm2', prompt: 'once', max_tokens: 2 };
    const whole = JSON.parse((await request('/completions', { body })).text);
    assert.equal(whole.object, 'text_completion');
    assert.equal(whole.choices[0].text, 'alpha: A');
    const list = events(await request('/v1/completions', { body: { ...body, stream: true } }));
    assert.equal(list.map((event) => event.choices?.[0]?.text ?? '').join(''), 'alpha: A');
  });

  test('embeddings in both encodings say the same', async () => {
    const body = { model: 'm1', input: ['one', 'two'], dimensions: 5 };
    const floats = JSON.parse((await request('/v1/embeddings', { body })).text);
    const packed = JSON.parse((await request('/v1/embeddings', { body: { ...body, encoding_format: 'base64' } })).text);
    assert.equal(floats.data.length, 2);
    assert.equal(floats.data[1].index, 1);
    for (const i of [0, 1]) {
      const bytes = Buffer.from(packed.data[i].embedding, 'base64');
      assert.deepEqual([0, 1, 2, 3, 4].map((at) => bytes.readFloatLE(at * 4)), floats.data[i].embedding);
    }
    assert.equal(floats.usage.total_tokens, floats.usage.prompt_tokens);
  });

  test('models, one model, an unknown one, Azure paths', async () => {
    const list = JSON.parse((await request('/v1/models', { method: 'GET' })).text);
    assert.deepEqual(list.data.map((model) => model.id), ['m1', 'm2']);
    assert.equal(JSON.parse((await request('/models/m2', { method: 'GET' })).text).id, 'm2');
    assert.equal((await request('/v1/models/m3', { method: 'GET' })).status, 404);
    const azure = await request('/openai/deployments/prod/chat/completions?api-version=2024-06-01', { body: chatBody('hi') });
    assert.equal(azure.status, 200);
    assert.equal((await request('/v1/nothing', { body: {} })).status, 404);
  });

  test('keys, bad bodies, strict models', async () => {
    await fake.config({ require_key: 'k1,k2' });
    assert.equal((await chat('hi')).status, 401);
    assert.equal((await chat('hi', {}, { headers: { authorization: 'Bearer k2' } })).status, 200);
    assert.equal((await chat('hi', {}, { headers: { 'api-key': 'k1' } })).status, 200);
    const refused = JSON.parse((await chat('hi', {}, { headers: { authorization: 'Bearer k3' } })).text);
    assert.equal(refused.error.code, 'invalid_api_key');
    assert.equal((await fake.stats()).auth_failures, 2);
    await fake.config({ require_key: '', strict_models: true });
    assert.equal((await chat('hi', { model: 'm9' })).status, 404);
    for (const body of ['{', '[]', '{"messages":[]}', '{"model":"m1"}']) {
      assert.equal((await request('/v1/chat/completions', { body })).status, 400, body);
    }
  });

  test('pace: first token after ttft, the others by token_ms', async () => {
    const started = performance.now();
    let first;
    await stream('[[fake ttft_ms=60 token_ms=20 tokens=6]]', {}, { onData: () => (first ??= performance.now() - started) });
    const total = performance.now() - started;
    assert.ok(first >= 58, `first after ${first}`);
    assert.ok(total >= 158, `end after ${total}`);
  });

  test('a pipelined request waits its turn', async () => {
    const body = JSON.stringify(chatBody('[[fake ttft_ms=30 tokens=1]]'));
    const one = `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`;
    const text = await new Promise((resolve) => {
      let got = '';
      const socket = net.connect(fake.port, '127.0.0.1', () => socket.write(one + one + 'GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n'));
      socket.on('data', (bytes) => (got += bytes)).on('close', () => resolve(got));
    });
    assert.equal(text.match(/HTTP\/1\.1 200/g).length, 3);
    assert.ok(text.lastIndexOf('chat.completion') < text.indexOf('"list"'));
  });

  // Sends bytes as they are, and returns all that comes back until the other side closes.
  const raw = (bytes) => new Promise((resolve) => {
    let got = '';
    const socket = net.connect(fake.port, '127.0.0.1', () => socket.write(bytes));
    socket.setEncoding('latin1').on('data', (text) => (got += text)).on('error', () => {}).on('close', () => resolve(got));
  });

  test('bytes that are no request: 400 and the end', async () => {
    for (const bytes of ['\x16\x03\x01\x00', 'GET\r\n\r\n', 'GET / HTTP/1.1\r\n\x00: x\r\n\r\n', `GET / HTTP/1.1\r\n${'a: b\r\n'.repeat(200)}\r\n`]) {
      assert.match(await raw(bytes), /^HTTP\/1\.1 400 /, JSON.stringify(bytes.slice(0, 30)));
    }
    assert.equal((await fake.stats()).bad_requests, 4);
  });

  test('HTTP/1.0: no chunks, and the end is the end of the connection', async () => {
    const body = JSON.stringify(chatBody('hi', { stream: true, max_tokens: 1 }));
    const text = await raw(`POST /v1/chat/completions HTTP/1.0\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    assert.doesNotMatch(text, /chunked/);
    assert.match(text, /\r\n\r\ndata: \{/);
    assert.ok(text.endsWith('data: [DONE]\n\n'));
  });

  test('Expect: 100-continue is answered before the body', async () => {
    const answer = await new Promise((resolve, reject) => {
      const req = http.request(`${fake.url}/v1/chat/completions`, { method: 'POST', agent: false, headers: { expect: '100-continue' } });
      req.on('continue', () => req.end(JSON.stringify(chatBody('hi'))));
      req.on('response', (res) => resolve(res.resume())).on('error', reject);
      req.flushHeaders();
    });
    assert.equal(answer.statusCode, 200);
  });
});

describe('faults', () => {
  const both = [
    ['whole', (fault) => chat(`[[fake fault=${fault}]]`)],
    ['stream', (fault) => stream(`[[fake fault=${fault}]]`)],
  ];

  for (const [how, ask] of both) {
    test(`statuses (${how})`, async () => {
      for (const status of [400, 401, 404, 429, 500, 503, 529]) {
        const answer = await ask(status);
        assert.equal(answer.status, status);
        assert.ok(JSON.parse(answer.text).error.message);
      }
      assert.equal((await ask('429:7')).headers['retry-after'], '7');
    });

    test(`refuse (${how})`, () => assert.rejects(ask('refuse'), { code: 'ECONNRESET' }));

    test(`cut and reset end the body early (${how})`, async () => {
      for (const fault of ['cut:2', 'reset:2']) {
        const answer = await ask(fault);
        assert.equal(answer.status, 200);
        assert.equal(answer.end, 'ECONNRESET', fault); // node's name for a body that broke off, too
        assert.doesNotMatch(answer.text, /\[DONE\]/);
        if (how === 'stream') assert.equal((answer.text.match(/"content":"[^"]/g) ?? []).length, 2);
      }
    });

    test(`redirect, cookies, big head (${how})`, async () => {
      const moved = await ask('redirect');
      assert.deepEqual([moved.status, moved.headers.location], [302, '/redirected']);
      const cookie = await ask('setcookie');
      assert.ok(cookie.headers['set-cookie']);
      assert.ok(cookie.headers['openai-organization']);
      assert.equal((await ask('bighead:9000')).headers['x-big'].length, 9000);
    });

    test(`hang and silence last until the client goes (${how})`, async () => {
      for (const fault of ['hang', 'silent:1']) {
        const before = await fake.stats();
        const text = `[[fake fault=${fault}]]`;
        const req = http.request(`${fake.url}/v1/chat/completions`, { method: 'POST', agent: false });
        req.on('error', () => {}).on('response', (res) => res.on('error', () => {}).resume());
        req.end(JSON.stringify(chatBody(text, { stream: how === 'stream' })));
        await waitFor(async () => (await fake.stats()).requests > before.requests, { what: 'the request to arrive' });
        req.destroy();
        const gone = how === 'stream' && fault !== 'hang' ? 'streams_cancelled' : 'requests_cancelled';
        await waitFor(async () => (await fake.stats())[gone] === before[gone] + 1, { what: gone });
      }
    });

    test(`an error inside a 200 (${how})`, async () => {
      const error = await ask('error200');
      assert.equal(error.status, 200);
      assert.equal(JSON.parse(error.text).error.type, 'overloaded_error');
      const overload = await ask('overload200');
      assert.equal(overload.status, 200);
      const object = how === 'stream' ? events(overload)[0] : JSON.parse(overload.text);
      assert.equal(object.error.type, 'overloaded_error');
      assert.doesNotMatch(overload.text, /\[DONE\]/);
    });

    test(`garbage and nothing (${how})`, async () => {
      const garbage = await ask('garbage');
      assert.equal(garbage.status, 200);
      assert.throws(() => JSON.parse(garbage.text));
      await assert.rejects(ask('garbage:1'));
      const empty = await ask('empty');
      assert.deepEqual([empty.status, empty.text, empty.end], [200, '', 'end']);
    });

    test(`no usage (${how})`, async () => {
      const answer = await chat('[[fake fault=nousage]]', how === 'stream' ? { stream: true, stream_options: { include_usage: true } } : {});
      assert.doesNotMatch(answer.text, /completion_tokens/);
    });

    test(`slow head (${how})`, async () => {
      const started = performance.now();
      const answer = await ask('slowhead:1');
      assert.equal(answer.status, 200);
      assert.ok(performance.now() - started > 100, 'some 140 bytes at a millisecond each');
      assert.match(answer.text, how === 'stream' ? /\[DONE\]/ : /"usage"/);
    });

    test(`a huge token (${how})`, async () => {
      const answer = await ask('hugeevent:3000000');
      assert.ok(answer.text.length > 3_000_000);
      assert.equal(answer.end, 'end');
    });
  }

  test('streams that end well-framed but early', async () => {
    const nodone = await stream('[[fake fault=nodone:2]]');
    assert.equal(nodone.end, 'end');
    assert.equal(events(nodone).length, 3);
    const error = await stream('[[fake fault=errorevent:2]]');
    assert.equal(error.end, 'end');
    assert.equal(events(error).at(-1).error.type, 'overloaded_error');
    const empty = await stream('[[fake fault=empty:1]]');
    assert.deepEqual(events(empty).map((event) => event.choices?.[0].delta.role ?? event), ['assistant', '[DONE]']);
  });

  test('counted faults stop by themselves and spare probes', async () => {
    await fake.config({ fault: '503x2' });
    assert.equal((await request('/v1/models', { method: 'GET' })).status, 200);
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push((await chat('hi')).status);
    assert.deepEqual(statuses, [503, 503, 200, 200]);
    assert.equal((await fake.stats()).faults.status, 2);
  });

  test('probable faults hit about their share, the same for the same seed', async () => {
    const hits = async () => {
      await fake.config({ fault: '500@0.25', seed: 7 });
      const found = [];
      for (let i = 0; i < 200; i++) if ((await chat('hi')).status === 500) found.push(i);
      return found;
    };
    const first = await hits();
    assert.ok(first.length > 25 && first.length < 75, `${first.length} of 200`);
    assert.deepEqual(await hits(), first);
  });

  test('a fault may come late', async () => {
    const started = performance.now();
    assert.equal((await chat('[[fake fault=500 fault_ms=50]]')).status, 500);
    assert.ok(performance.now() - started >= 48);
  });

  test('general faults hit models too, and never the control endpoint', async () => {
    await fake.config({ fault: 'refuse' });
    await assert.rejects(request('/v1/models', { method: 'GET' }), { code: 'ECONNRESET' });
    assert.equal((await fake.stats()).faults.refuse, 1);
  });

  test('die ends the process, at once or in mid-stream', async () => {
    const general = fake;
    for (const [fault, tokens] of [['die', 0], ['die:2', 2]]) {
      fake = await startFakellm({ name: 'mortal' });
      try {
        const answer = await stream(`[[fake fault=${fault}]]`).catch((error) => ({ text: '', end: error.code }));
        assert.equal((answer.text.match(/"content":"[^"]/g) ?? []).length, tokens);
        assert.deepEqual(await fake.process.exited, { code: 70, signal: null });
      } finally {
        fake = general;
      }
    }
  });
});

describe('what it tells the test', () => {
  test('requests are kept byte for byte', async () => {
    const body = '{ "model":"m1",\t"messages":[{"role":"user","content":"\\u00e4 ä \u{1f9ed}"}], "n":1.0e0 }';
    await request('/v1/chat/completions?a=b', { body, headers: { 'X-Mine': 'Yes' } });
    const [kept] = await fake.requests();
    assert.equal(kept.method, 'POST');
    assert.equal(kept.path, '/v1/chat/completions?a=b');
    assert.equal(kept.body, body);
    assert.equal(Buffer.from(kept.body_base64, 'base64').toString(), body);
    assert.ok(kept.headers.some(([name, value]) => name === 'X-Mine' && value === 'Yes'));
  });

  test('only the last ones are kept, oldest first', async () => {
    await fake.config({ keep: 3 });
    for (let i = 0; i < 5; i++) await chat(`n${i}`);
    assert.deepEqual((await fake.requests()).map((kept) => JSON.parse(kept.body).messages[0].content), ['n2', 'n3', 'n4']);
    await fake.reset();
    assert.deepEqual(await fake.requests(), []);
  });

  test('stats count paths, streams and cancelled streams', async () => {
    await chat('hi');
    await stream('hi');
    await request('/v1/models', { method: 'GET' });
    await stream('[[fake token_ms=20 tokens=1000]]', {}, { onData: (answer, req) => req.destroy() });
    const stats = await waitFor(async () => {
      const now = await fake.stats();
      return now.streams_cancelled === 1 && now;
    });
    assert.equal(stats.requests, 4);
    assert.deepEqual(stats.paths, { '/v1/chat/completions': 3, '/v1/models': 1 });
    assert.deepEqual([stats.streams, stats.streams_open], [2, 0]);
  });

  test('a bad setting changes nothing', async () => {
    await assert.rejects(fake.config({ tokens: 3, ttft_ms: 'soon' }), /ttft_ms/);
    assert.equal(JSON.parse((await chat('hi')).text).usage.completion_tokens, 24);
    await assert.rejects(fake.config({ fault: '200' }));
    await assert.rejects(fake.config({ fault: 'cut:x' }));
  });

  test('a reader that stops does not make it hoard', async () => {
    const body = JSON.stringify(chatBody('[[fake tokens=200000]]', { stream: true }));
    const socket = net.connect(fake.port, '127.0.0.1');
    socket.write(`POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ${body.length}\r\n\r\n${body}`);
    socket.pause();
    let sent = -1;
    await waitFor(async () => {
      const { bytes_out: now } = await fake.stats();
      const still = now - sent < 4096; // the stats themselves are bytes, too
      sent = now;
      return still;
    }, { everyMs: 100, what: 'the stream to stop at the full socket' });
    assert.equal((await fake.stats()).streams_open, 1);
    assert.ok(sent < 20_000_000, `${sent} of some 40 million bytes`);
    socket.resume();
    let text = '';
    for await (const bytes of socket.setEncoding('latin1')) {
      text = (text + bytes).slice(-100);
      if (text.endsWith('0\r\n\r\n')) break;
    }
    assert.match(text, /\[DONE\]/);
  });

  test('stops cleanly, and says what it does not understand', async () => {
    const mortal = await startFakellm();
    const idle = net.connect(mortal.port, '127.0.0.1');
    await new Promise((resolve) => idle.on('connect', resolve));
    assert.deepEqual(await mortal.stop(), { code: 0, signal: null });
    idle.destroy();
    for (const args of [['--fault', 'sulk'], ['--token-ms', '5-2'], ['--listen', 'nowhere'], ['--tls-cert', 'x'], ['extra'], ['--tokkens', '1']]) {
      const { code, stderr } = await run('fakellm', args);
      assert.ok(code === 1 || code === 2, `${args}: ${code}`);
      assert.match(stderr, /^fakellm: /);
    }
    assert.match((await run('fakellm', ['--help'])).stdout, /--ttft-ms/);
  });
});

test('TLS: whole answers, streams, large bodies, keep-alive', async () => {
  const directory = temporaryDirectory();
  const [cert, key] = ['cert.pem', 'key.pem'].map((name) => path.join(directory, name));
  const made = await run('/usr/bin/openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', cert]);
  assert.equal(made.code, 0, made.stderr);
  const secure = await startFakellm({ name: 'alpha', tlsCert: cert, tlsKey: key });
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ca: readFileSync(cert) });
  const ask = (body, method = 'POST', where = '/v1/chat/completions') => new Promise((resolve, reject) => {
    const req = https.request(`${secure.url}${where}`, { method, agent }, (res) => {
      let text = '';
      res.setEncoding('utf8').on('data', (part) => (text += part)).on('end', () => resolve({ status: res.statusCode, text }));
    });
    req.on('error', reject).end(body && JSON.stringify(body));
  });
  assert.equal(JSON.parse((await ask(chatBody('x'.repeat(500_000)))).text).usage.prompt_tokens, 125_003);
  const streamed = await ask(chatBody('[[fake tokens=5000]]', { stream: true }));
  assert.equal(events(streamed).length, 5000 + 3);
  const stats = JSON.parse((await ask(undefined, 'GET', '/__fake/stats')).text);
  assert.deepEqual([stats.requests, stats.connections], [2, 1]);
  agent.destroy();
  // A peer that does not speak TLS is dropped, and nobody else suffers.
  await new Promise((resolve) => net.connect(secure.port, '127.0.0.1').on('close', resolve).on('error', () => {}).resume().end('GET / HTTP/1.1\r\n\r\n'));
  assert.deepEqual(await secure.stop(), { code: 0, signal: null });
});
