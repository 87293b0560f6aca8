// HTTP as RFC 9110 and RFC 9112 say, on the wire: framing, order, persistence, early answers. What is malformed stands in bad_input.
import assert from 'node:assert/strict';
import net from 'node:net';
import { after, before, beforeEach, describe, test } from 'node:test';
import { chatBody, eventsOf, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';
import { raw as rawAt, responsesOf } from './support/wire.mjs';

let house, fake, key;

before(async () => {
  house = await startFairlead({
    workers: 1,
    node: 'limits: {head_time: 2s, idle: 2s, body_bytes: 64KiB}',
    policy: ([a]) => `
defaults: {probe: {how: none}}
providers:
  one: {preset: openai-compatible, base_url: "${a.baseUrl}"}
models:
  one/m: {price: {input: 1, output: 2}}
routes:
  chat: {tiers: [{models: [one/m]}]}`,
  });
  [fake] = house.fakes;
  key = (await house.createKey()).key;
});
beforeEach(() => fake.reset());
after(stopAll);

const raw = (pieces, options) => rawAt(house.port, pieces, options);
const good = (more = {}) => JSON.stringify(chatBody('[[fake tokens=2]]', more));
// A request's bytes; head lines replace or, as null, remove those of the same name.
function bytes({ method = 'POST', target = '/v1/chat/completions', version = 'HTTP/1.1', head = {}, body = good() } = {}) {
  const all = { host: 'gateway', authorization: `Bearer ${key}`, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body), ...head };
  const lines = Object.entries(all).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${target} ${version}\r\n${lines.join('')}\r\n${body}`;
}
const get = (target = '/v1/models', more = {}) => bytes({ method: 'GET', target, body: '', ...more, head: { 'content-length': null, 'content-type': null, ...more.head } });
const upTo = (count) => ({ until: (text) => responsesOf(text).length >= count });
const has = (count) => (text) => responsesOf(text).length === count;
const statuses = ({ responses }) => responses.map(({ status }) => status);
const chunk = (text, extra = '') => `${Buffer.byteLength(text).toString(16)}${extra}\r\n${text}\r\n`;

describe('one request, spelt in many ways: 200', () => {
  const body = () => good();
  const chunked = { 'content-length': null, 'transfer-encoding': 'chunked' };
  const spellings = {
    plain: () => bytes(),
    'names in capitals, values with white space around': () => bytes().replace('content-length: ', 'CONTENT-LENGTH:\t ').replace('host: gateway', 'HoSt:gateway  '),
    'an empty line before the first': () => `\r\n${bytes()}`,
    'one chunk': () => bytes({ head: chunked, body: `${chunk(body())}0\r\n\r\n` }),
    'chunks of one byte': () => bytes({ head: chunked, body: `${[...body()].map((byte) => chunk(byte)).join('')}0\r\n\r\n` }),
    'chunk sizes with zeros before and in capitals': () => bytes({ head: chunked, body: `000${body().length.toString(16).toUpperCase()}\r\n${body()}\r\n000\r\n\r\n` }),
    'chunk extensions': () => bytes({ head: chunked, body: `${chunk(body(), ';name=value;quoted="a b"')}0;last\r\n\r\n` }),
    trailers: () => bytes({ head: chunked, body: `${chunk(body())}0\r\nx-checksum: 1\r\nauthorization: Bearer other\r\n\r\n` }),
    'Transfer-Encoding: Chunked': () => bytes({ head: { 'content-length': null, 'Transfer-Encoding': 'Chunked' }, body: `${chunk(body())}0\r\n\r\n` }),
    'an absolute target': () => bytes({ target: 'http://gateway/v1/chat/completions' }),
    'an absolute target of another name than Host': () => bytes({ target: 'http://elsewhere:81/v1/chat/completions', head: { host: 'gateway' } }),
    'an empty Host': () => bytes({ head: { host: '' } }),
    'a query': () => bytes({ target: '/v1/chat/completions?api-version=2024-10-21' }),
    'an offer of another protocol': () => bytes({ head: { connection: 'Upgrade, HTTP2-Settings', upgrade: 'h2c', 'http2-settings': 'AAMAAABkAARAAAAAAAIAAAAA' } }),
    'HTTP/1.0 that expects what nobody knows': () => bytes({ version: 'HTTP/1.0', head: { expect: 'miracles', connection: 'keep-alive' } }),
    'HTTP/1.0 without Host': () => bytes({ version: 'HTTP/1.0', head: { host: null, connection: 'keep-alive' } }),
    'HTTP/1.0 that expects a 100, which it cannot know': () => bytes({ version: 'HTTP/1.0', head: { expect: '100-continue', connection: 'keep-alive' } }),
  };
  for (const [name, make] of Object.entries(spellings)) {
    test(name, async () => {
      // Twice: the end of the first must have been found at the right byte.
      const { responses } = await raw(make() + make(), upTo(2));
      assert.deepEqual(responses.map(({ status }) => status), [200, 200], responses[0]?.body);
      for (const kept of await fake.requests()) {
        assert.deepEqual(JSON.parse(kept.body), { ...JSON.parse(body()), model: 'm' });
        assert.deepEqual(kept.headers.filter(([line]) => /^(transfer-encoding|x-checksum|upgrade|http2-settings|expect|trailer)$/i.test(line)), []);
      }
    });
  }
});

describe('what every answer says', () => {
  const cases = [
    ['a list', () => get(), 200],
    ['an answer', () => bytes(), 200],
    ['a stream', () => bytes({ body: good({ stream: true }) }), 200],
    ['no key', () => get('/v1/models', { head: { authorization: null } }), 401],
    ['a bad key', () => get('/v1/models', { head: { authorization: 'Bearer fl-nobody' } }), 401],
    ['no such path', () => get('/nothing'), 404],
    ['a wrong method', () => get('/v1/chat/completions'), 405],
    ['a bad body', () => bytes({ body: '{' }), 400],
    ['too large', () => bytes({ head: { 'content-length': 100_000 }, body: '' }), 413],
    ['an encoding', () => bytes({ head: { 'content-encoding': 'br' } }), 415],
    ['an expectation that nobody knows', () => bytes({ head: { expect: 'miracles' } }), 417],
    ['not HTTP', () => 'what?\r\n\r\n', 400],
    ['too many headers', () => get('/v1/models', { head: Object.fromEntries(Array.from({ length: 120 }, (_, i) => [`x-${i}`, '1'])) }), 431],
  ];
  for (const [name, make, status] of cases) {
    test(`${name}: ${status}, a date, an id, a length or chunks`, async () => {
      const { responses } = await raw(make(), upTo(1));
      const [{ headers, body }] = responses;
      assert.equal(responses[0].status, status, body);
      assert.match(headers.date, /^(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/);
      assert.ok(Math.abs(Date.parse(headers.date) - Date.now()) < 60_000, headers.date);
      assert.match(headers['x-request-id'], /^req_\w{31}$/);
      assert.ok((headers['transfer-encoding'] === 'chunked') !== (headers['content-length'] !== undefined));
      assert.ok(headers['content-type']);
      if (status === 401) assert.match(headers['www-authenticate'], /^Bearer realm="fairlead"/);
      if (status === 405) assert.equal(headers.allow, 'POST');
    });
  }

  test('HEAD says what GET says, and sends nothing of it', async () => {
    const told = ({ date, 'x-request-id': id, 'x-fairlead-overhead-us': us, ...headers }) => headers;
    for (const target of ['/v1/models', '/v1/models/chat', '/v1/models/none', '/none']) {
      const { responses: [whole] } = await raw(get(target), upTo(1));
      const head = get(target, { head: { connection: 'close' } }).replace('GET', 'HEAD');
      const { text, responses: [bare] } = await raw(head);
      assert.equal(text.indexOf('\r\n\r\n'), text.length - 4, text);
      assert.equal(bare.status, whole.status);
      assert.deepEqual(told(bare.headers), { ...told(whole.headers), connection: 'close' });
      assert.ok(Number(bare.headers['content-length']) > 10);
    }
    // Behind a HEAD comes the next answer at once.
    const { text } = await raw(get().replace('GET', 'HEAD') + get('/none', { head: { connection: 'close' } }));
    assert.match(text, /^HTTP\/1\.1 200 [^]*?\r\n\r\nHTTP\/1\.1 404 /);
  });

  test('OPTIONS *: what the server takes, told to anybody, and nothing else', async () => {
    const { responses, text } = await raw('OPTIONS * HTTP/1.1\r\nhost: gateway\r\n\r\n' + get('/none', { head: { connection: 'close' } }));
    assert.match(text, /^HTTP\/1\.1 204 No Content\r\n(?:(?!content-length|x-).*\r\n)*allow: GET, HEAD, POST, OPTIONS\r\n\r\nHTTP\/1\.1 404 /, text);
    assert.equal(responses.length, 2, text);
  });

  test('what nobody answers: CONNECT, TRACE', async () => {
    for (const [line, status] of [['TRACE /v1/models', 405], ['CONNECT gateway:443', 404]]) {
      const { responses, text } = await raw(`${line} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer ${key}\r\nconnection: close\r\n\r\n`);
      assert.equal(responses.length, 1, text);
      assert.equal(responses[0].status, status, line);
    }
  });
});

describe('persistence', () => {
  const cases = [
    // [request, whether the connection stays, what the answer's Connection says]
    ['HTTP/1.1', () => get(), true, undefined],
    ['HTTP/1.1 and close', () => get('/v1/models', { head: { connection: 'close' } }), false, 'close'],
    ['HTTP/1.1 and a list with Close', () => get('/v1/models', { head: { connection: 'x, Close' } }), false, 'close'],
    ['HTTP/1.0', () => get('/v1/models', { version: 'HTTP/1.0' }), false, 'close'],
    ['HTTP/1.0 and keep-alive', () => get('/v1/models', { version: 'HTTP/1.0', head: { connection: 'Keep-Alive' } }), true, 'keep-alive'],
    ['an answer from a provider, and close', () => bytes({ head: { connection: 'close' } }), false, 'close'],
    ['a stream, and close', () => bytes({ head: { connection: 'close' }, body: good({ stream: true }) }), false, 'close'],
    ['a stream', () => bytes({ body: good({ stream: true }) }), true, undefined],
    ['an error', () => get('/nothing'), true, undefined],
    ['an error, and close', () => get('/nothing', { head: { connection: 'close' } }), false, 'close'],
    ['a GET with a body', () => get('/v1/models', { head: { 'content-length': 3 }, body: 'abc' }), true, undefined],
    ['a GET with a body in chunks', () => get('/v1/models', { head: { 'transfer-encoding': 'chunked' }, body: '3\r\nabc\r\n0\r\n\r\n' }), true, undefined],
    ['Content-Length: 0', () => bytes({ body: '' }), true, undefined],
    ['no length at all, so no body', () => bytes({ head: { 'content-length': null }, body: '' }), true, undefined],
    ['an error before a short body', () => bytes({ target: '/nothing' }), true, undefined],
  ];
  for (const [name, make, stays, says] of cases) {
    test(`${name}: ${stays ? 'goes on' : 'ends'}`, async () => {
      const { responses, closed } = await raw([make(), (text) => responsesOf(text).length === 1, make()], stays ? upTo(2) : {});
      assert.equal(closed, !stays);
      assert.equal(responses.length, stays ? 2 : 1);
      assert.equal(responses[0].headers.connection, says);
    });
  }

  test('HTTP/1.0: whole answers by length, streams by the end of the connection', async () => {
    const whole = await raw(bytes({ version: 'HTTP/1.0' }));
    assert.equal(whole.responses[0].headers['content-length'], String(whole.responses[0].body.length));
    const stream = await raw(bytes({ version: 'HTTP/1.0', head: { connection: 'keep-alive' }, body: good({ stream: true }) }));
    assert.doesNotMatch(stream.text, /transfer-encoding|content-length/i);
    assert.match(stream.text, /^connection: close\r$/m);
    assert.equal(eventsOf(stream.text).at(-1), '[DONE]');
  });

  test('nobody speaks: closed after the idle time, without a word', async () => {
    const fresh = await raw('');
    const used = await raw(get());
    assert.equal(fresh.text, '');
    assert.deepEqual(statuses(used), [200]);
    assert.ok(fresh.closed && used.closed);
  });
});

describe('100 Continue', () => {
  const expecting = (more) => bytes({ head: { expect: '100-Continue', 'content-length': Buffer.byteLength(good()), ...more }, body: '' });

  test('first it, then the body, then the answer; and once more on the same connection', async () => {
    const { responses } = await raw([expecting(), has(1), good(), has(2), expecting(), has(3), good()], upTo(4));
    assert.deepEqual(responses.map(({ status }) => status), [100, 200, 100, 200]);
  });

  const refusals = [
    ['a stranger', { authorization: null }, 401],
    ['too much', { 'content-length': 1_000_000 }, 413],
    ['an encoding', { 'content-encoding': 'gzip' }, 415],
  ];
  for (const [name, head, status] of refusals) {
    test(`${name}: ${status} at once, no 100, and the end`, async () => {
      const { responses, closed } = await raw(expecting(head));
      assert.ok(closed);
      assert.deepEqual(responses.map((response) => [response.status, response.headers.connection]), [[status, 'close']]);
    });
  }

  test('a path or method that takes nothing: no 100 either', async () => {
    for (const [target, status] of [['/nothing', 404], ['/v1/models', 405]]) {
      const { responses } = await raw(expecting().replace('/v1/chat/completions', target));
      assert.deepEqual(responses.map((response) => response.status), [status]);
    }
  });
});

describe('pipelines', () => {
  const slow = (tokens, ms) => bytes({ body: good({ messages: [{ role: 'user', content: `[[fake tokens=${tokens} ttft_ms=${ms}]]` }] }) });

  test('answers in order, whoever is ready first; errors in the middle end nothing', async () => {
    const pieces = [slow(1, 150), get('/nothing'), bytes({ body: '{' }), bytes({ body: good({ stream: true }) }), get(), get('/v1/models', { head: { authorization: null } }), slow(3, 0)];
    const { responses } = await raw(pieces.join(''), upTo(pieces.length));
    assert.deepEqual(responses.map(({ status }) => status), [200, 404, 400, 200, 200, 401, 200]);
    assert.equal(JSON.parse(responses[0].body).usage.completion_tokens, 1);
    assert.equal(eventsOf(responses[3].body).at(-1), '[DONE]');
    assert.equal(JSON.parse(responses[6].body).usage.completion_tokens, 3);
    assert.equal(new Set(responses.map(({ headers }) => headers['x-request-id'])).size, pieces.length);
  });

  test('close in the middle: what stands behind it is not answered', async () => {
    const { responses, closed } = await raw(get() + get('/v1/models', { head: { connection: 'close' } }) + slow(1, 0));
    assert.ok(closed);
    assert.deepEqual(responses.map(({ status }) => status), [200, 200]);
    assert.equal((await fake.stats()).requests, 0);
  });

  test('thousands of requests whose answers nobody reads wait in the sockets, not in memory; then all are answered, in order', async () => {
    const count = 30_000;
    const figure = async (name) => Number((await house.metrics()).match(new RegExp(`^fairlead_${name} (\\d+)$`, 'm'))[1]);
    const before = await figure('unauthorized_total');
    const socket = net.connect(house.port, '127.0.0.1');
    let answered = 0;
    let rest = '';
    let failure;
    socket.setEncoding('latin1').on('error', (error) => (failure = error)).on('close', () => (failure ??= new Error('closed')));
    socket.on('data', (more) => {
      const texts = (rest + more).split('HTTP/1.1 ');
      rest = texts.pop();
      answered += texts.filter((text) => text.startsWith('401 ')).length;
    });
    socket.pause();
    socket.write(get('/v1/models', { head: { authorization: null } }).repeat(count));
    let last = -1;
    await waitFor(async () => {
      const now = (await figure('unauthorized_total')) - before;
      const still = now === last;
      last = now;
      return still && now > 0;
    }, { everyMs: 500, timeoutMs: 30_000, what: 'a stall' });
    assert.ok(last < count, `${last} were answered though nobody read`);
    assert.ok((await figure('buffered_bytes')) < 1_000_000);
    assert.equal((await raw(bytes(), upTo(1))).responses[0].status, 200); // others do not wait
    socket.resume();
    await waitFor(() => failure || answered === count - 1, { timeoutMs: 60_000, what: 'all answers' }); // the last one stands in rest
    assert.equal(failure, undefined);
    assert.match(rest, /^401 [^]*missing_api_key/);
    socket.destroy();
  });
});

describe('early answers', () => {
  test('a body that is refused at its head is not needed to read the answer, however long it is', async () => {
    const big = Buffer.alloc(3_000_000, 32);
    for (const [head, status] of [[{ authorization: null }, 401], [{}, 413], [{ 'content-encoding': 'gzip' }, 415]]) {
      const { responses, closed } = await raw([bytes({ head: { 'content-length': big.length, ...head }, body: '' }), big]);
      assert.ok(closed);
      assert.deepEqual(responses.map((response) => [response.status, response.headers.connection]), [[status, 'close']]);
      assert.ok(responses[0].body.endsWith('}'), 'the answer is whole');
    }
  });

  test('chunks beyond the limit: 413 in the middle of sending, whole', async () => {
    const { responses, closed } = await raw([bytes({ head: { 'content-length': null, 'transfer-encoding': 'chunked' }, body: '' }), ...Array.from({ length: 40 }, () => chunk('x'.repeat(50_000)))]);
    assert.ok(closed);
    assert.deepEqual(responses.map(({ status }) => status), [413]);
    assert.equal(responses[0].body.length, Number(responses[0].headers['content-length']));
  });

  test('a sender that shuts its side after a request that is answered at once still gets the answer', async () => {
    const text = await new Promise((resolve) => {
      let got = '';
      const socket = net.connect({ port: house.port, host: '127.0.0.1', allowHalfOpen: true });
      socket.setEncoding('latin1').on('data', (more) => (got += more)).on('error', () => {}).on('end', () => {
        socket.destroy();
        resolve(got);
      });
      socket.end(get());
    });
    assert.match(text, /^HTTP\/1\.1 200 [^]*"object": ?"list"/);
  });

  test('one that shuts it while a provider works is taken to have left: the provider is told', async () => {
    const socket = net.connect({ port: house.port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => {});
    const ended = new Promise((resolve) => socket.on('close', resolve));
    socket.resume();
    socket.write(bytes({ body: good({ stream: true, messages: [{ role: 'user', content: '[[fake fault=hang]]' }] }) }));
    await waitFor(async () => (await fake.stats()).requests === 1);
    socket.end();
    await ended;
    await waitFor(async () => (await fake.stats()).requests_cancelled === 1);
  });
});

test('afterwards nothing is held', async () => {
  await waitFor(async () => {
    const text = await house.metrics();
    return ['requests_open', 'streams_open', 'connections_open', 'buffered_bytes'].every((name) => new RegExp(`^fairlead_${name} 0$`, 'm').test(text));
  });
});
