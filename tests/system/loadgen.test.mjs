// The load generator: a measurement is only worth what its failures and times are.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import net from 'node:net';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { run, runLoadgen, startFakellm, startProcess, stopAll, temporaryDirectory, toOptions, waitFor } from './support/process.mjs';

let fake;
let url;

before(async () => {
  fake = await startFakellm({ name: 'alpha' });
  url = `${fake.baseUrl}/chat/completions`;
});
beforeEach(async () => {
  await fake.config({ fault: 'none', ttft_ms: 0, token_ms: 0, require_key: '' });
  await fake.reset();
});
after(stopAll);

test('closed loop: as many requests as asked, over as many connections', async () => {
  const result = await runLoadgen({ url, connections: 4, requests: 500 });
  assert.equal(result.exitCode, 0);
  assert.deepEqual([result.requests, result.ok, result.failed, result.connections], [500, 500, 0, 4]);
  assert.deepEqual(result.statuses, { 200: 500 });
  assert.equal(result.latency_us.count, 500);
  const { p50, p90, p99, p999, max, mean } = result.latency_us;
  assert.ok(p50 > 0 && p50 <= p90 && p90 <= p99 && p99 <= p999 && p999 <= max && mean <= max);
  assert.equal((await fake.stats()).requests, 500);
});

test('streams: events, first content, a different user each', async () => {
  await fake.config({ keep: 20, tokens: 3 });
  const result = await runLoadgen({ url, connections: 2, requests: 20, stream: true, includeUsage: true, uniqueUser: true });
  assert.equal(result.ok, 20);
  assert.equal(result.events, 20 * (1 + 3 + 1 + 1 + 1));
  assert.equal(result.ttft_us.count, 20);
  assert.ok(result.ttft_us.max <= result.latency_us.max);
  const users = (await fake.requests()).map((kept) => JSON.parse(kept.body).user);
  assert.equal(new Set(users).size, 20);
  assert.match(users[0], /^u-\d{10}$/);
});

test('first content is told from the role', async () => {
  const result = await runLoadgen({ url, stream: true, prompt: '[[fake ttft_ms=40 token_ms=40 tokens=2]]' });
  assert.ok(result.ttft_us.p50 >= 39_000 && result.ttft_us.p50 < result.latency_us.p50 - 35_000, JSON.stringify(result.ttft_us));
});

test('open loop: latency counts from when a request was due', async () => {
  // 20 requests a second apart by 10 ms, one connection, 50 ms each: the last one is due at 190 ms, and has its answer at 1000 ms.
  const result = await runLoadgen({ url, rate: 100, requests: 20, prompt: '[[fake ttft_ms=50 tokens=1]]' });
  assert.equal(result.ok, 20);
  assert.ok(result.latency_us.max > 700_000, `max ${result.latency_us.max}`);
  assert.ok(result.waited >= 18, `waited ${result.waited}`);
  const wide = await runLoadgen({ url, rate: 100, requests: 20, connections: 20, prompt: '[[fake ttft_ms=50 tokens=1]]' });
  assert.ok(wide.latency_us.p50 < 100_000, `p50 ${wide.latency_us.p50}`);
  assert.equal(wide.waited, 0);
  assert.ok(wide.seconds >= 0.19 && wide.seconds < 1, `took ${wide.seconds}`);
});

test('every kind of failure has its name', async () => {
  const cases = [
    ['500', {}, 'status'],
    ['refuse', {}, 'reset'],
    ['cut:1', {}, 'cut'],
    ['cut:1', { stream: true }, 'cut'],
    ['nodone:1', { stream: true }, 'no_done'],
    ['empty', { stream: true }, 'no_done'],
    ['errorevent:1', { stream: true }, 'error_event'],
    ['overload200', { stream: true }, 'error_event'],
    ['garbage:1', {}, 'malformed'],
    ['hang', { timeout: '50ms' }, 'timeout'],
    ['hang', { seconds: 0.05, drain: '50ms' }, 'unfinished'],
  ];
  for (const [fault, more, kind] of cases) {
    const result = await runLoadgen({ url, requests: 3, prompt: `[[fake fault=${fault}]]`, ...more });
    const expected = kind === 'unfinished' ? 1 : 3;
    assert.deepEqual([result.failures, result.ok, result.exitCode], [{ [kind]: expected }, 0, 1], `${fault} ${JSON.stringify(more)}`);
    assert.match(result.first_failure, new RegExp(`^${kind} after`));
    assert.equal(result.latency_us.count, 0);
  }
});

test('nobody there; somebody who hangs up', async () => {
  const silent = net.createServer((socket) => socket.on('data', () => socket.end()));
  await new Promise((resolve) => silent.listen(0, '127.0.0.1', resolve));
  const { port } = silent.address();
  assert.deepEqual((await runLoadgen({ url: `http://127.0.0.1:${port}/`, requests: 3 })).failures, { no_response: 3 });
  await new Promise((resolve) => silent.close(resolve));
  assert.deepEqual((await runLoadgen({ url: `http://127.0.0.1:${port}/`, requests: 3 })).failures, { connect: 3 });
});

test('a server that closes idle connections costs connections, not requests', async () => {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.on('data', () => {
      socket.write('HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n');
      setTimeout(() => socket.end(), 5);
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const result = await runLoadgen({ url: `http://127.0.0.1:${server.address().port}/`, requests: 10, rate: 20 });
  server.close();
  assert.deepEqual([result.ok, result.failed, result.connections], [10, 0, 10]);
});

test('expected statuses, keys and further headers', async () => {
  await fake.config({ require_key: 'k1', keep: 1 });
  assert.deepEqual((await runLoadgen({ url })).statuses, { 401: 1 });
  const result = await runLoadgen(['--url', url, '--key', 'k1', '--header', 'x-a: 1', '--header', 'x-b: 2', '--prompt', '[[fake fault=429]]', '--expect-status', '200,429']);
  assert.deepEqual([result.ok, result.statuses], [1, { 429: 1 }]);
  const [kept] = await fake.requests();
  assert.ok(kept.headers.some(([name, value]) => name === 'x-b' && value === '2'));
});

test('header values are counted', async () => {
  const result = await runLoadgen({ url, requests: 5, countHeader: 'Content-Type' });
  assert.deepEqual(result.headers, { 'Content-Type': { 'application/json': 5 } });
  assert.deepEqual((await runLoadgen({ url, requests: 5, countHeader: 'x-none' })).headers, { 'x-none': { '(absent)': 5 } });
});

test('aborts in mid-stream', async () => {
  const result = await runLoadgen({ url, stream: true, connections: 3, requests: 12, abortAfterEvents: 2, prompt: '[[fake token_ms=5 tokens=500]]' });
  assert.deepEqual([result.aborted, result.ok, result.failed, result.exitCode], [12, 0, 0, 0]);
  assert.equal(result.connections, 12);
  await waitFor(async () => (await fake.stats()).streams_cancelled === 12, { what: 'twelve cancelled streams' });
});

test('holds streams without reading', async () => {
  const args = toOptions({ url, stream: true, connections: 5, hold: true, prompt: '[[fake tokens=400000]]' });
  const holder = await startProcess('loadgen', args, { readyPattern: /holding 5/, readyFrom: 'stderr' });
  assert.equal((await fake.stats()).streams_open, 5);
  assert.deepEqual(await holder.stop({ signal: 'SIGINT' }), { code: 0, signal: null });
  const result = JSON.parse(holder.stdout);
  assert.deepEqual([result.held, result.failed, result.aborted], [5, 0, 5]);
});

test('reads slowly', async () => {
  const result = await runLoadgen({ url, stream: true, readRate: 100_000, prompt: '[[fake tokens=100]]' });
  assert.equal(result.ok, 1);
  assert.ok(result.latency_us.max > (result.bytes_in / 100_000) * 1e6 * 0.8, `${result.bytes_in} bytes in ${result.latency_us.max} us`);
});

test('a body from a file, byte for byte, longer than the socket takes at once', async () => {
  const file = path.join(temporaryDirectory(), 'body.json');
  const body = `{"model":"m","messages":[{"role":"user","content":"${'ä'.repeat(3_000_000)}"}]}`;
  writeFileSync(file, body);
  await fake.config({ keep: 1 });
  const result = await runLoadgen({ url, body: file, requests: 2, connections: 2 });
  assert.equal(result.ok, 2);
  assert.equal((await fake.requests())[0].body, body);
});

test('a connection for each request; a time instead of a number', async () => {
  assert.equal((await runLoadgen({ url, requests: 7, close: true })).connections, 7);
  const result = await runLoadgen({ url, seconds: 0.3, connections: 2 });
  assert.ok(result.ok > 10 && result.failed === 0 && result.seconds >= 0.29);
});

test('over TLS, whoever does not have the name is not spoken to', async () => {
  const directory = temporaryDirectory();
  const [cert, key] = ['cert.pem', 'key.pem'].map((name) => path.join(directory, name));
  const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost'];
  execFileSync('openssl', ['req', ...kind, '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', cert], { stdio: 'ignore' });
  const secret = await startFakellm({ tlsCert: cert, tlsKey: key });
  const to = { url: `${secret.baseUrl}/chat/completions`, ca: cert };
  const result = await runLoadgen({ ...to, connections: 3, requests: 30, promptBytes: 300_000 });
  assert.deepEqual([result.ok, result.connections, result.exitCode], [30, 3, 0], JSON.stringify(result));
  assert.equal((await runLoadgen({ ...to, requests: 6, stream: true, close: true })).connections, 6);
  const refused = await runLoadgen({ ...to, tlsName: 'elsewhere' });
  assert.deepEqual([refused.ok, refused.failures], [0, { reset: 1 }]);
  assert.equal((await run('loadgen', ['--url', to.url])).code, 2);
});

test('models and keys that vary', async () => {
  await fake.config({ keep: 300 });
  const result = await runLoadgen({ url, requests: 300, model: 'm', varyModels: 7, key: 'k', varyKeys: 20 });
  assert.equal(result.ok, 300);
  const kept = await fake.requests();
  const models = new Set(kept.map(({ body }) => JSON.parse(body).model));
  const keys = new Set(kept.map(({ headers }) => headers.find(([name]) => name === 'authorization')[1]));
  assert.deepEqual([...models].sort(), Array.from({ length: 7 }, (_, i) => `m-000000000${i}`));
  assert.equal(keys.size, 20);
  assert.ok(keys.has('Bearer kaaaaaaaaaa') && keys.has('Bearer kaaaaaaaabj'), [...keys].join());
});

test('says what it does not understand', async () => {
  for (const args of [[], ['--url', 'ftp://x'], ['--url', url, '--rate', 'fast'], ['--url', url, 'extra'], ['--url', url, '--connections', '0']]) {
    const { code, stderr } = await run('loadgen', args);
    assert.equal(code, 2, args.join(' '));
    assert.match(stderr, /^loadgen: /);
  }
  assert.match((await run('loadgen', ['--help'])).stdout, /--abort-after-events/);
  assert.match((await run('loadgen', ['--url', url, '--human'])).stdout, /^1 ok, 0 failed/);
});
