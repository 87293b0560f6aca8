// Providers that are compatible in their own way: a scripted server says exactly these bytes, and the client gets an answer it understands.
import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { chatBody, contentOf, eventsOf, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';

let house, key, script, server;
let asked = 0;

before(async () => {
  server = net.createServer((socket) => {
    let text = '';
    socket.on('error', () => {});
    socket.on('data', async (bytes) => {
      text += bytes.toString('latin1');
      const end = text.indexOf('\r\n\r\n');
      if (end < 0 || text.length < end + 4 + Number(text.match(/content-length: (\d+)/i)?.[1] ?? 0)) return;
      text = '';
      asked++;
      for (const piece of script) {
        if (socket.destroyed) return;
        if (piece === null) socket.end();
        else await new Promise((written) => socket.write(piece, written));
      }
    });
  });
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const names = Array.from({ length: 60 }, (_, i) => `m${i}`); // each test asks another model: failures of one eject no other
  house = await startFairlead({
    workers: 1,
    fakes: [{ name: 'beta', models: 'm' }],
    policy: ([b]) => `
defaults: {probe: {how: none}, timeouts: {first_token: 10s, idle: 5s}}
providers:
  odd: {preset: openai-compatible, base_url: "http://127.0.0.1:${server.address().port}/v1"}
  two: {preset: openai-compatible, base_url: "${b.baseUrl}"}
models:
${names.map((name) => `  odd/${name}: {price: {input: 1, output: 2, cache_read: 0.5}}`).join('\n')}
  two/m: {price: {input: 1, output: 2}}
routes:
${names.map((name) => `  ${name}: {tiers: [{models: [odd/${name}]}, {models: [two/m]}]}`).join('\n')}`,
  });
  key = (await house.createKey()).key;
});
after(async () => {
  server.close();
  await stopAll();
});

let next = 0;
async function play(pieces, more = {}) {
  script = pieces;
  asked = 0;
  const model = `m${next++}`;
  const answer = await house.request('/v1/chat/completions', { key, body: chatBody('hi', { model, ...more }) });
  const record = await waitFor(() => house.records().find((one) => one.request_id === answer.headers['x-request-id']));
  return { answer, record, served: record.model, events: eventsOf(answer.text) };
}
const stream = (pieces, more) => play(pieces, { stream: true, ...more });

const delta = (content, more = '') => `{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":${JSON.stringify(content)}},"finish_reason":null}]${more}}`;
const finish = '{"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}';
const usage = '{"id":"x","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":100,"completion_tokens":7,"total_tokens":107}}';
const closing = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n';
const chunked = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n';
const chunk = (text) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`;
const whole = (body, head = '') => `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n${head}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
const object = '{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"odd"},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}';

function assertOdd({ answer, served, events }, content, { done = true } = {}) {
  assert.equal(answer.status, 200, answer.text);
  assert.match(served, /^odd\//, answer.text);
  assert.equal(answer.end, 'end');
  assert.equal(contentOf(events), content, answer.text);
  assert.equal(events.includes('[DONE]'), done);
  assert.equal(asked, 1);
}

describe('streams that are fine', () => {
  const usual = [delta('a'), delta('b'), finish, usage, '[DONE]'];
  const framings = {
    'LF': usual.map((data) => `data: ${data}\n\n`).join(''),
    'CRLF': usual.map((data) => `data: ${data}\r\n\r\n`).join(''),
    'CR': usual.map((data) => `data: ${data}\r\r`).join(''),
    'no space after the colon': usual.map((data) => `data:${data}\n\n`).join(''),
    'comments and pings before and between': `: PROCESSING\n\n: PROCESSING\n\nevent: ping\ndata: {"type":"ping"}\n\n${usual.map((data) => `data: ${data}\n\n: still here\n\n`).join('')}`,
    'ids and retry': usual.map((data, i) => `id: ${i}\nretry: 1000\ndata: ${data}\n\n`).join(''),
    'a byte order mark': `\ufeff${usual.map((data) => `data: ${data}\n\n`).join('')}`,
    'blank lines in plenty': `\n\n\n${usual.map((data) => `data: ${data}\n\n\n\n`).join('')}`,
  };
  for (const [name, text] of Object.entries(framings)) {
    test(`${name}; at once, and in single bytes`, async () => {
      assertOdd(await stream([closing + text, null]), 'ab');
      const bytes = Buffer.from(closing + text);
      const { answer, record, served, events } = await stream([...bytes].map((byte) => Buffer.from([byte])).concat(null));
      assertOdd({ answer, served, events }, 'ab');
      assert.deepEqual([record.usage.input, record.usage.output, record.estimated], [100, 7, false]);
      assert.doesNotMatch(answer.text, /"choices":\[\]/, 'the usage that we asked for');
    });
  }

  test('an interim answer, chunks with extensions, trailers', async () => {
    const text = usual.map((data) => chunk(`data: ${data}\n\n`)).join('').replace('\r\n', ';ext=1\r\n');
    assertOdd(await stream([`HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n${chunked}${text}0\r\nx-trailer: 1\r\n\r\n`]), 'ab');
  });

  test('content in the very first event, with the role', async () => {
    assertOdd(await stream([`${closing}data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"first"}}]}\n\ndata: ${finish}\n\ndata: [DONE]\n\n`, null]), 'first');
  });

  test('the end without [DONE], after a finish_reason', async () => {
    const result = await stream([`${closing}data: ${delta('a')}\n\ndata: ${finish}\n\n`, null]);
    assertOdd(result, 'a', { done: false });
    assert.equal(result.record.outcome, 'ok');
    assert.match(result.answer.text, /^: fairlead model=/m);
  });

  test('usage with each event, growing: the last counts', async () => {
    const grown = (n) => `,"usage":{"prompt_tokens":100,"completion_tokens":${n},"total_tokens":${100 + n},"prompt_tokens_details":{"cached_tokens":40}}`;
    const result = await stream([`${closing}data: ${delta('a', grown(1))}\n\ndata: ${delta('b', grown(2))}\n\ndata: ${finish.slice(0, -1)}${grown(5)}}\n\ndata: [DONE]\n\n`, null]);
    assertOdd(result, 'ab');
    // 60 x 1 + 40 x 0.5 + 5 x 2 = 90 millionths of a dollar
    assert.deepEqual([result.record.usage.cached, result.record.usage.output, result.record.cost_nano_usd], [40, 5, 90_000]);
  });

  test('reasoning and tool calls are content; text of every script survives', async () => {
    const thought = '{"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}';
    const call = '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":"{}"}}]}}]}';
    assertOdd(await stream([`${closing}data: ${thought}\n\ndata: ${finish}\n\ndata: [DONE]\n\n`, null]), '');
    assertOdd(await stream([`${closing}data: ${call}\n\ndata: ${finish}\n\ndata: [DONE]\n\n`, null]), '');
    assertOdd(await stream([`${closing}data: ${delta('žluťoučký 馬 \u{1f9ed} \u2028')}\n\ndata: ${finish}\n\ndata: [DONE]\n\n`, null]), 'žluťoučký 馬 \u{1f9ed} \u2028');
  });

  test('an end by Content-Length', async () => {
    const text = usual.map((data) => `data: ${data}\n\n`).join('');
    assertOdd(await stream([closing.replace('Connection: close', `Content-Length: ${text.length}`) + text]), 'ab');
  });
});

describe('streams that are not, before content', () => {
  const cases = {
    'an error event by name': [`event: error\ndata: {"error":{"message":"Internal","type":"server_error"}}\n\n`, 'error_in_200'],
    'an error as text': ['data: {"error":"model is loading"}\n\n', 'error_in_200'],
    'no JSON': ['data: hello\n\n', 'garbage'],
    'HTML': ['<html><body>Bad Gateway</body></html>\n\n', 'empty'],
    'a finish without content': [`data: ${finish}\n\ndata: [DONE]\n\n`, 'empty'],
    'only [DONE]': ['data: [DONE]\n\n', 'empty'],
    'only comments': [': nothing\n\n: at all\n\n', 'empty'],
  };
  for (const [name, [text, error]] of Object.entries(cases)) {
    test(name, async () => {
      const { answer, record, served, events } = await stream([closing + text, null]);
      assert.equal(served, 'two/m', answer.text);
      assert.match(contentOf(events), /^beta:/);
      assert.equal(record.attempts[0].error, error);
      assert.doesNotMatch(answer.text, /hello|html|Internal|loading/);
    });
  }

  test('a JSON answer where a stream was asked for', async () => {
    const { served, events } = await stream([whole(object)]);
    assert.equal(served, 'two/m');
    assert.equal(events.at(-1), '[DONE]');
  });
});

describe('whole answers', () => {
  test('as they came, to the byte', async () => {
    const odd = ` {\n"unknown" : [1.0e0, {"z":1,"a":2}],${object.slice(1)}\n`;
    const { answer, served } = await play([whole(odd)]);
    assert.match(served, /^odd\//);
    assert.equal(answer.text, odd);
    assert.equal(answer.headers['content-length'], String(Buffer.byteLength(odd)));
  });

  test('201, and ended by the connection', async () => {
    const { answer } = await play([`HTTP/1.1 201 Created\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n${object}`, null]);
    assert.equal(answer.status, 201);
    assert.equal(answer.text, object);
  });

  for (const [name, pieces, error] of [
    ['compressed against our wish', () => { const body = gzipSync(object); return [`HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: ${body.length}\r\n\r\n`, body]; }, 'garbage'],
    ['204', () => ['HTTP/1.1 204 No Content\r\n\r\n'], 'empty'],
    ['no choices', () => [whole('{"object":"chat.completion","choices":[]}')], 'garbage'],
    ['an array', () => [whole('[1]')], 'garbage'],
    ['an error as text', () => [whole('{"error":"overloaded"}')], 'error_in_200'],
    ['two lengths', () => [whole(object, 'content-length: 5\r\n')], 'protocol'],
    ['a header without a colon', () => [whole(object, 'broken\r\n')], 'protocol'],
    ['HTTP/0.9', () => [object, null], 'protocol'],
    ['an upgrade', () => ['HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n'], 'protocol'],
  ]) {
    test(`${name}: the next model`, async () => {
      const { answer, served, record } = await play(pieces());
      assert.equal(served, 'two/m', answer.text);
      assert.match(JSON.parse(answer.text).choices[0].message.content, /^beta:/);
      assert.equal(record.attempts[0].error, error);
    });
  }
});
