// What is not acceptable: the right status, an error in OpenAI's shape that says what to do, and not one byte to a provider.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, before, beforeEach, describe, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { chatBody, eventsOf, startFairlead } from './support/fairlead.mjs';
import { repository, stopAll, waitFor } from './support/process.mjs';
import { raw as rawAt, responsesOf } from './support/wire.mjs';

let house, fake, key;

before(async () => {
  house = await startFairlead({
    node: 'limits: {head_bytes: 8KiB, headers: 40, head_time: 400ms, body_time: 400ms, body_bytes: 16KiB}',
    policy: ([a]) => `
defaults: {probe: {how: none}}
providers:
  one: {preset: openai-compatible, base_url: "${a.baseUrl}"}
models:
  one/m: {price: {input: 1, output: 2}}
routes:
  chat: {tiers: [{models: [one/m]}]}
  other: {tiers: [{models: [one/m]}]}
  hidden: {tiers: [{models: [one/m]}]}`,
    directory: 'teams:\n  t: {routes: [chat, other]}',
  });
  [fake] = house.fakes;
  key = (await house.createKey()).key;
});
beforeEach(() => fake.reset());
after(stopAll);

const raw = (pieces, options) => rawAt(house.port, pieces, options);
const asked = async () => (await fake.stats()).requests;
const good = (more = {}) => JSON.stringify(chatBody('[[fake tokens=2]]', more));
// A request's bytes; head lines replace or, as null, remove those of the same name; lines are added as they are.
function bytes({ method = 'POST', target = '/v1/chat/completions', version = 'HTTP/1.1', head = {}, lines = [], body = good() } = {}) {
  const all = { host: 'gateway', authorization: `Bearer ${key}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), ...head };
  const text = Object.entries(all).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${target} ${version}\r\n${text.join('')}${lines.map((line) => `${line}\r\n`).join('')}\r\n${body}`;
}
const chunks = (text, ...extra) => `${text.length.toString(16)}${extra.join('')}\r\n${text}\r\n0\r\n\r\n`;

function assertError(response, status, { code, says, type = 'invalid_request_error' } = {}) {
  assert.equal(response?.status, status, response?.body);
  assert.equal(response.headers['content-type'], 'application/json');
  const { error, ...more } = JSON.parse(response.body);
  assert.deepEqual(more, {});
  assert.deepEqual(Object.keys(error).sort(), ['code', 'message', 'param', 'type']);
  assert.equal(error.type, type);
  assert.ok(error.message.length > 15, error.message);
  if (code) assert.equal(error.code, code);
  if (says) assert.match(error.message, says);
  return error;
}
// Refused, closed, and nothing went up.
async function assertRefused(pieces, status, expected) {
  const { responses, closed } = await raw(pieces);
  assert.ok(closed);
  assert.equal(responses.length, 1);
  assertError(responses[0], status, expected);
  assert.equal(responses[0].headers.connection, 'close');
  assert.equal(await asked(), 0);
  return responses[0];
}
// Refused, and the connection can go on: the same again and then a good request on it.
async function assertAnswered(options, status, expected) {
  const piece = bytes(options);
  const { responses, closed } = await raw([piece, (text) => responsesOf(text).length === 1, piece + bytes()], { until: (text) => responsesOf(text).length === 3 });
  assert.ok(!closed);
  for (const response of responses.slice(0, 2)) assertError(response, status, expected);
  assert.equal(responses[2].status, 200, responses[2].body);
  assert.equal(await asked(), 1);
  return responses[0];
}

test('what is good passes', async () => {
  const { responses } = await raw(bytes(), { until: (text) => responsesOf(text).length === 1 });
  assert.equal(responses[0].status, 200, responses[0].body);
  assert.equal(await asked(), 1);
});

describe('malformed HTTP: 400 and the end', () => {
  const body = good();
  const cases = {
    'bare LF at the end of lines': () => bytes().replaceAll('\r\n', '\n'),
    'one bare LF': () => bytes().replace('gateway\r\n', 'gateway\n'),
    'a bare CR': () => bytes({ lines: ['x: a\rb'] }),
    'a folded header': () => bytes({ lines: ['x: a', ' b: c'] }),
    'a folded Transfer-Encoding': () => bytes({ head: { 'content-length': null }, lines: ['transfer-encoding:', ' chunked'], body: chunks(body) }),
    'no Host': () => bytes({ head: { host: null } }),
    'two Hosts': () => bytes({ lines: ['Host: other'] }),
    'two Content-Lengths': () => bytes({ lines: ['content-length: 5'] }),
    'Content-Length and chunks': () => bytes({ lines: ['transfer-encoding: chunked'], body: chunks(body) }),
    'a negative length': () => bytes({ head: { 'content-length': '-1' } }),
    'a length of letters': () => bytes({ head: { 'content-length': 'many' } }),
    'chunks in HTTP/1.0': () => bytes({ version: 'HTTP/1.0', head: { 'content-length': null, 'transfer-encoding': 'chunked' }, body: chunks(body) }),
    'gzip as transfer coding': () => bytes({ head: { 'content-length': null, 'transfer-encoding': 'gzip, chunked' }, body: chunks(body) }),
    'HTTP/2.0': () => bytes({ version: 'HTTP/2.0' }),
    'HTTP/0.9': () => 'GET /v1/models\r\n',
    'no version': () => bytes().replace(' HTTP/1.1', ''),
    'two spaces': () => bytes().replace('POST ', 'POST  '),
    'a space before the colon': () => bytes({ lines: ['x : a'] }),
    'an empty name': () => bytes({ lines: [': a'] }),
    'a NUL in a value': () => bytes({ lines: ['x: a\0b'] }),
    'a name with a letter of no token': () => bytes({ lines: ['x(y): a'] }),
    'a malformed escape in the path': () => bytes({ method: 'GET', target: '/v1/models/%zz', head: { 'content-length': null }, body: '' }),
    'a proxy request for another host': () => bytes({ target: 'http://:80/v1/chat/completions' }),
    'TLS': () => '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
    'noise': () => '\xff\xfe\x00\x01 hello\r\n\r\n',
  };
  for (const [name, make] of Object.entries(cases)) {
    test(name, () => assertRefused(Buffer.from(make(), 'latin1'), 400, { code: 'malformed_request' }));
  }
  for (const [name, chunked] of Object.entries({
    'a chunk size that is none': `zz\r\n${body}\r\n0\r\n\r\n`,
    'a huge chunk size': `ffffffffffffffff1\r\n${body}`,
    'a chunk longer than it says': `5\r\n${body}\r\n0\r\n\r\n`,
    'bare LF in chunks': chunks(body).replaceAll('\r\n', '\n'),
  })) {
    test(name, () => assertRefused(bytes({ head: { 'content-length': null, 'transfer-encoding': 'chunked' }, body: chunked }), 400, { code: 'malformed_request' }));
  }

  // The same messages that the parser itself is held to, on the wire. They bring no key, so what is only wrong in the body meets 401 first.
  const directory = path.join(repository, 'tests/conformance/cases/http/request');
  test('every message that must be refused is', async () => {
    // HTTP/2's preface is no HTTP/1, but a listener takes it: http2.test.mjs.
    for (const name of readdirSync(directory).filter((one) => one.startsWith('n_') && one !== 'n_version_preface.txt')) {
      const { responses, closed } = await raw(readFileSync(path.join(directory, name)));
      assert.ok(closed, name);
      assert.ok(responses.length > 0 && responses.every((response) => response.status >= 400 && response.status < 500), `${name}: ${responses.map((response) => response.status)}`);
    }
    assert.equal(await asked(), 0);
  });
});

describe('bodies', () => {
  const messages = '"messages":[{"role":"user","content":"x"}]';
  const cases = [
    ['', 'invalid_json', /empty/],
    ['{', 'invalid_json', /line 1, column 2/],
    [`{"model":"chat",${messages},}`, 'invalid_json', /line 1, column \d+/],
    [`{"model":"chat",${messages}}x`, 'invalid_json', /line 1/],
    [`{'model':'chat'}`, 'invalid_json', /line 1/],
    ['[]', 'invalid_json', /object/],
    ['null', 'invalid_json', /object/],
    ['"chat"', 'invalid_json', /object/],
    [`\ufeff{"model":"chat",${messages}}`, 'invalid_json', /./],
    [`{"model":"chat","x":"\xff",${messages}}`, 'invalid_json', /./],
    [`{"model":"chat","x":${'['.repeat(5000)}${']'.repeat(5000)},${messages}}`, 'invalid_json', /deeper/],
    [`{"model":"chat","x":NaN,${messages}}`, 'invalid_json', /./],
    [`{"model":"chat","model":"other",${messages}}`, 'duplicate_field', /'model' stands twice/],
    [`{"model":"chat","mod\\u0065l":"other",${messages}}`, 'duplicate_field', /'model' stands twice/],
    [`{"model":"chat",${messages},${messages}}`, 'duplicate_field', /'messages'/],
    [`{"model":"chat","stream":false,${messages},"stream":true}`, 'duplicate_field', /'stream'/],
    [`{"model":"chat","stream":true,${messages},"stream_options":{"include_usage":true,"include_usage":false}}`, 'duplicate_field', /include_usage/],
    [`{"model":"chat","max_tokens":1,${messages},"max_tokens":100000}`, 'duplicate_field', /'max_tokens'/],
    [`{${messages}}`, 'missing_required_parameter', /'model' is missing.*\/v1\/models/],
    [`{"model":null,${messages}}`, null, /'model'/],
    [`{"model":7,${messages}}`, 'invalid_type', /'model' must be a string/],
    [`{"model":"",${messages}}`, null, /'model'/],
    ['{"model":"chat"}', 'missing_required_parameter', /'messages' is missing/],
    ['{"model":"chat","messages":[]}', 'invalid_value', /'messages' is empty/],
    ['{"model":"chat","messages":"hi"}', 'invalid_type', /'messages' must be/],
    [`{"model":"chat","stream":"yes",${messages}}`, 'invalid_type', /'stream' must be true or false/],
    [`{"model":"chat","max_tokens":-1,${messages}}`, 'invalid_type', /'max_tokens'/],
  ];
  for (const [body, code, says] of cases) {
    test(JSON.stringify(body.slice(0, 70)), async () => {
      const latin = body.includes('\xff');
      const sent = Buffer.from(body, latin ? 'latin1' : 'utf8');
      const { responses } = await raw([bytes({ head: { 'content-length': sent.length }, body: '' }), sent], { until: (text) => responsesOf(text).length === 1 });
      assertError(responses[0], 400, { code: code ?? undefined, says });
      assert.equal(await asked(), 0);
    });
  }

  test('the connection is good for the next request', () => assertAnswered({ body: '{"model":' }, 400, { code: 'invalid_json' }));

  test('other endpoints', async () => {
    await assertAnswered({ target: '/v1/embeddings', body: '{"model":"chat"}' }, 400, { says: /'input' is missing/ });
    await fake.reset();
    await assertAnswered({ target: '/v1/completions', body: '{"model":"chat"}' }, 400, { says: /'prompt' is missing/ });
  });

  test('compressed: 415', async () => {
    const packed = gzipSync(good());
    const { responses } = await raw([bytes({ head: { 'content-encoding': 'gzip', 'content-length': packed.length }, body: '' }), packed], { until: (text) => responsesOf(text).length === 1 });
    assertError(responses[0], 415, { says: /without Content-Encoding/ });
    assert.equal(await asked(), 0);
    const plain = await raw(bytes({ head: { 'content-encoding': 'identity' } }), { until: (text) => responsesOf(text).length === 1 });
    assert.equal(plain.responses[0].status, 200);
  });
});

describe('where and how', () => {
  test('a wrong method: 405, and which are right', async () => {
    for (const method of ['GET', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']) {
      await fake.reset();
      const response = await assertAnswered({ method, head: { 'content-length': method === 'GET' ? null : 0 }, body: '' }, 405, { code: 'method_not_allowed', says: /Allow/ });
      assert.equal(response.headers.allow, 'POST');
    }
    for (const target of ['/v1/models', '/v1/models/chat', '/models']) {
      await fake.reset();
      const response = await assertAnswered({ target }, 405, { code: 'method_not_allowed' });
      assert.equal(response.headers.allow, 'GET, HEAD');
    }
  });

  test('an unknown path: 404 that names those there are', async () => {
    for (const target of ['/', '/v1', '/v2/chat/completions', '/v1/chat', '/v1/chat/completions/', '/v1//chat/completions', '/v1/responses', '/v1/../v1/chat/completions', '/metrics']) {
      await fake.reset();
      await assertAnswered({ target }, 404, { code: 'unknown_url', says: /\/v1\/chat\/completions/ });
    }
  });

  test('an unknown model: 404 that names the routes of this key, and no others', async () => {
    for (const model of ['nothing', 'hidden', 'one/m', 'x'.repeat(5000)]) {
      await fake.reset();
      const response = await assertAnswered({ body: good({ model }) }, 404, { code: 'model_not_found', says: /\bchat, other\b/ });
      assert.doesNotMatch(JSON.parse(response.body).error.message.replace(`'${model}'`, ''), /hidden|one\/m/);
      assert.ok(response.body.length < 2000);
    }
    const narrow = (await house.createKey({ routes: 'other' })).key;
    const { responses } = await raw(bytes({ head: { authorization: `Bearer ${narrow}` } }), { until: (text) => responsesOf(text).length === 1 });
    const error = assertError(responses[0], 404, { code: 'model_not_found', says: /\bother\b/ });
    assert.doesNotMatch(error.message, /\bchat,|, chat\b/);
  });

  test('HEAD has a head only', async () => {
    for (const [target, status] of [['/v1/models', 200], ['/v1/models/chat', 200], ['/v1/models/nothing', 404], ['/v1/chat/completions', 405], ['/nothing', 404]]) {
      const { text } = await raw(bytes({ method: 'HEAD', target, head: { 'content-length': null, connection: 'close' }, body: '' }));
      assert.match(text, new RegExp(`^HTTP/1\\.1 ${status} `), target);
      assert.ok(text.endsWith('\r\n\r\n'), `${target}: ${text}`);
      assert.equal(text.indexOf('\r\n\r\n'), text.length - 4);
    }
    assert.equal(await asked(), 0);
  });
});

describe('limits', () => {
  test('a body over the limit: 413 before it is read', async () => {
    for (const extra of [{}, { expect: '100-continue' }]) {
      await assertRefused(bytes({ head: { 'content-length': 100 * 1024, ...extra }, body: '' }), 413, { code: 'request_too_large', says: /body_bytes/ });
    }
  });

  test('one that is little over it is read and forgotten: the connection goes on', () => assertAnswered({ body: good({ x: 'y'.repeat(17 * 1024) }) }, 413));

  test('chunks over the limit: 413', () =>
    assertRefused(bytes({ head: { 'content-length': null, 'transfer-encoding': 'chunked' }, body: chunks(good({ x: 'y'.repeat(17 * 1024) })) }), 413, { code: 'request_too_large' }));

  test('a body of just the limit passes', async () => {
    const body = good({ x: '' });
    const full = body.replace('"x":""', `"x":"${'y'.repeat(16 * 1024 - body.length)}"`);
    const { responses } = await raw(bytes({ body: full }), { until: (text) => responsesOf(text).length === 1 });
    assert.equal(responses[0].status, 200, responses[0].body);
    const [kept] = await fake.requests();
    assert.equal(kept.body.length, full.length - 'chat'.length + 'm'.length);
  });

  test('a head over the limit: 431', async () => {
    await assertRefused(bytes({ head: { x: 'y'.repeat(9000) } }), 431, { says: /fewer or shorter headers/ });
    await assertRefused(bytes({ head: { x: 'y'.repeat(70_000) } }), 431);
    await assertRefused(`GET /${'y'.repeat(40_000)}`, 431);
  });

  test('too many headers: 431', () => assertRefused(bytes({ lines: Array.from({ length: 50 }, (_, i) => `x-${i}: 1`) }), 431));

  test('a head that does not come: 408, also when it comes byte by byte', async () => {
    await assertRefused('POST /v1/chat/completions HT', 408, { says: /headers did not arrive/ });
    const began = performance.now();
    const socket = net.connect(house.port, '127.0.0.1');
    let text = '';
    socket.setEncoding('latin1').on('data', (more) => (text += more)).on('error', () => {});
    const head = bytes({ head: { x: 'y'.repeat(2000) } });
    let sent = 0;
    const drip = setInterval(() => socket.write(head[sent++]), 20);
    await new Promise((resolve) => socket.on('close', resolve));
    clearInterval(drip);
    assert.match(text, /^HTTP\/1\.1 408 /);
    assert.ok(performance.now() - began < 5000);
  });

  test('a body that does not come: 408', () => assertRefused(bytes({ head: { 'content-length': 500 }, body: '{"model":' }), 408, { says: /body did not arrive/ }));
});

describe('keys', () => {
  const refused = [
    ['none', { authorization: null }, 'missing_api_key', /Authorization: Bearer/],
    ['another scheme', { authorization: 'Basic dTpw' }, 'missing_api_key', /Authorization: Bearer/],
    ['empty', { authorization: 'Bearer ' }, null, /./],
    ['somebody else\'s', { authorization: 'Bearer sk-proj-abcdefghijklmnop' }, 'invalid_api_key', /fl-/],
    ['garbage', { authorization: `Bearer ${'\xff'.repeat(100)}` }, 'invalid_api_key', /./],
    ['long', { authorization: `Bearer fl-${'a'.repeat(4000)}` }, 'invalid_api_key', /./],
    ['unknown', { authorization: `Bearer fl-${'a'.repeat(44)}` }, 'invalid_api_key', /not known/],
  ];
  for (const [name, head, code, says] of refused) {
    test(`${name}: 401`, async () => {
      const { responses } = await raw(Buffer.from(bytes({ head }), 'latin1'), { until: (text) => responsesOf(text).length === 1 });
      assertError(responses[0], 401, { code: code ?? undefined, says });
      assert.equal(await asked(), 0);
    });
  }

  test('two different ones: 401', async () => {
    const { responses } = await raw(bytes({ lines: [`x-api-key: fl-${'b'.repeat(44)}`] }), { until: (text) => responsesOf(text).length === 1 });
    assertError(responses[0], 401, { says: /send one/ });
  });

  test('where SDKs put it', async () => {
    for (const name of ['x-api-key', 'api-key', 'x-goog-api-key', 'X-Api-Key']) {
      const { responses } = await raw(bytes({ head: { authorization: null, [name]: key } }), { until: (text) => responsesOf(text).length === 1 });
      assert.equal(responses[0].status, 200, responses[0].body);
    }
  });

  test('revoked: 401, everywhere, within a second', async () => {
    const made = await house.createKey();
    const ask = () => house.request('/v1/chat/completions', { key: made.key, body: good() });
    assert.equal((await ask()).status, 200);
    await house.admin('keys', 'revoke', made.id, '--wait');
    await fake.reset();
    for (let i = 0; i < 12; i++) {
      const answer = await ask();
      assert.equal(answer.status, 401);
      assert.match(JSON.parse(answer.text).error.message, /revoked/);
    }
    assert.equal(await asked(), 0);
  });

  test('strangers buffer nothing: the answer comes before the body, and ends the connection', async () => {
    const head = bytes({ head: { authorization: null, 'content-length': 15_000_000 }, body: '' });
    const { responses, closed } = await raw([head, (text) => responsesOf(text).length === 1, Buffer.alloc(1_000_000, 32)]);
    assert.ok(closed);
    assertError(responses[0], 401);
    assert.equal(responses[0].headers.connection, 'close');
  });

  test('100 Continue only for those who may', async () => {
    const expecting = (head) => bytes({ head: { expect: '100-continue', 'content-length': good().length, ...head }, body: '' });
    const { responses } = await raw([expecting({}), (text) => text.includes('100 Continue\r\n\r\n'), good()], { until: (text) => responsesOf(text).length === 2 });
    assert.deepEqual(responses.map((response) => response.status), [100, 200]);
    await fake.reset();
    await assertRefused(expecting({ authorization: null }), 401);
    await assertRefused(expecting({ authorization: `Bearer fl-${'a'.repeat(44)}` }), 401);
    // No other expectation can be met: RFC 9110 section 10.1.1.
    const other = await raw(expecting({}).replace('100-continue', 'something') + good(), { until: (text) => responsesOf(text).length === 1 });
    assertError(other.responses[0], 417);
    assert.equal(await asked(), 0);
  });
});

describe('framing that is unusual, and right', () => {
  test('pipelined requests are answered in order', async () => {
    const piece = (i) => bytes({ body: good({ messages: [{ role: 'user', content: `[[fake tokens=${i + 1} ttft_ms=${60 - 20 * i}]]` }] }) });
    const { responses } = await raw(piece(0) + piece(1) + bytes({ body: '{' }) + piece(2), { until: (text) => responsesOf(text).length === 4 });
    assert.deepEqual(responses.map((response) => response.status), [200, 200, 400, 200]);
    assert.deepEqual([0, 1, 3].map((i) => JSON.parse(responses[i].body).usage.completion_tokens), [1, 2, 3]);
  });

  test('what is malformed behind a good one: the good one is answered, then the end', async () => {
    const { responses, closed } = await raw(`${bytes()}GET / HTTP/1.1\n\n`);
    assert.ok(closed);
    assert.deepEqual(responses.map((response) => response.status), [200, 400]);
    assert.equal(await asked(), 1);
  });

  test('chunks, with extensions and trailers, in single bytes', async () => {
    const body = good();
    const head = bytes({ head: { 'content-length': null, 'transfer-encoding': 'chunked' }, body: '' });
    const chunked = `5;a=b\r\n${body.slice(0, 5)}\r\n${(body.length - 5).toString(16)}\r\n${body.slice(5)}\r\n0\r\nauthorization: Bearer x\r\n\r\n`;
    const { responses } = await raw([...(head + chunked)], { until: (text) => responsesOf(text).length === 1 });
    assert.equal(responses[0].status, 200, responses[0].body);
    const [kept] = await fake.requests();
    assert.equal(kept.body, body.replace('"chat"', '"m"'));
    assert.ok(kept.headers.some(([name, value]) => name.toLowerCase() === 'content-length' && Number(value) === kept.body.length));
  });

  test('HTTP/1.0: no chunks, and the end of a stream is the end of the connection', async () => {
    const { text, closed } = await raw(bytes({ version: 'HTTP/1.0', body: good({ stream: true }) }));
    assert.ok(closed);
    assert.doesNotMatch(text, /transfer-encoding/i);
    assert.equal(eventsOf(text).at(-1), '[DONE]');
  });

  test('an absolute target is the same request', async () => {
    const { responses } = await raw(bytes({ target: `http://gateway/v1/chat/completions` }), { until: (text) => responsesOf(text).length === 1 });
    assert.equal(responses[0].status, 200, responses[0].body);
  });
});

test('afterwards: nothing is held, and what was refused is counted', async () => {
  const metrics = await waitFor(async () => {
    const text = await house.metrics();
    return ['requests_open', 'streams_open', 'connections_open', 'buffered_bytes'].every((name) => new RegExp(`^fairlead_${name} 0$`, 'm').test(text)) && text;
  });
  assert.match(metrics, /^fairlead_\w*bad_requests\w* [1-9]/m);
  assert.match(metrics, /^fairlead_\w*unauthorized\w* [1-9]/m);
  for (const record of house.records()) assert.ok(record.key_id, 'strangers leave no record');
});
