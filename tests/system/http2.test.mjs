// HTTP/2 with real clients (node's and curl's): many streams on one connection, each with its own upstream, backpressure
// and end; and what is done to those who abuse it. In plaintext by prior knowledge, with TLS by ALPN.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { sumOf, workersUp } from './support/control.mjs';
import { chatBody, contentOf, eventsOf, startFairlead } from './support/fairlead.mjs';
import { run, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const { constants } = http2;
const directory = temporaryDirectory('fl-http2-');
const [certificate, certificateKey] = ['cert.pem', 'key.pem'].map((name) => path.join(directory, name));
let house;
let key;
let secure; // the URL of the listener with TLS
const sessions = new Set();

before(async () => {
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost',
    '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', certificateKey, '-out', certificate], { stdio: 'ignore' });
  house = await startFairlead({
    policy: ([fake]) => `providers:
  a: {base_url: "${fake.baseUrl}", auth: none, probe: {how: none}}
models:
  a/one: {price: {input: 1, output: 2}, context: 1000000}
routes:
  chat: {tiers: [{models: [a/one]}]}`,
    listen: null,
    node: `listen: ["127.0.0.1:0", {address: "127.0.0.1:0", tls: {certificate: "${certificate}", key: "${certificateKey}"}}]
limits: {http2_streams: 50, write_stall: 60s, body_time: 60s}`,
    workers: 1, // one connection's streams and all others share its loop
  });
  secure = `https://${house.listeners[1]}`;
  ({ key } = await house.createKey());
});
after(async () => {
  for (const session of sessions) session.destroy();
  await stopAll();
});

// A connection: {session, goaways: what was said, errors, closed: a promise}.
async function connect(url = house.api) {
  const session = http2.connect(url, { ca: readFileSync(certificate) });
  sessions.add(session);
  const client = { session, goaways: [], errors: [] };
  session.on('goaway', (code, last) => client.goaways.push({ code, last }));
  session.on('error', (error) => client.errors.push(error));
  client.closed = new Promise((resolve) => session.on('close', resolve));
  await new Promise((resolve, reject) => {
    session.once('remoteSettings', resolve); // ours have come: its limits are known
    session.once('error', reject);
  });
  return client;
}

// One stream: {stream, status, headers, text, code, ended, done: a promise that gives itself}.
function ask(client, { method = 'POST', path = '/v1/chat/completions', body, headers = {}, withKey = key, onData } = {}) {
  const stream = client.session.request(
    { ':method': method, ':path': path, 'content-type': 'application/json', ...(withKey ? { authorization: `Bearer ${withKey}` } : {}), ...headers },
    { endStream: body === undefined },
  );
  const asked = { stream, text: '', ended: false };
  stream.setEncoding('utf8');
  stream.on('response', (head) => Object.assign(asked, { status: head[':status'], headers: head }));
  if (onData !== null)
    stream.on('data', (text) => {
      asked.text += text;
      onData?.(asked);
    });
  stream.on('end', () => (asked.ended = true));
  stream.on('error', (error) => (asked.error = error.code));
  asked.done = new Promise((resolve) =>
    stream.on('close', () => {
      asked.code = stream.rstCode;
      resolve(asked);
    }),
  );
  if (body !== undefined) stream.end(typeof body === 'string' ? body : JSON.stringify(body));
  return asked;
}
const answered = (asked) => asked.status === 200 && asked.ended && asked.code === 0;
const streaming = { stream: true };

test('requests of all kinds over one connection', async () => {
  const client = await connect();
  assert.equal(client.session.remoteSettings.maxConcurrentStreams, 50);
  const models = await ask(client, { method: 'GET', path: '/v1/models' }).done;
  assert.equal(models.status, 200);
  assert.deepEqual(JSON.parse(models.text).data.map((model) => model.id), ['chat', 'a/one']);
  assert.equal(models.headers.connection, undefined);
  assert.equal(models.headers['transfer-encoding'], undefined);
  assert.ok(models.headers.date && models.headers['x-request-id']);
  const head = await ask(client, { method: 'HEAD', path: '/v1/models' }).done;
  assert.deepEqual([head.status, head.text, head.headers['content-length']], [200, '', String(models.text.length)]);
  const whole = await ask(client, { body: chatBody('hello') }).done;
  assert.ok(answered(whole), JSON.stringify(whole.headers));
  assert.equal(JSON.parse(whole.text).object, 'chat.completion');
  assert.equal(whole.headers['x-fairlead-model'], 'a/one');
  assert.equal(Number(whole.headers['content-length']), Buffer.byteLength(whole.text));
  const stranger = await ask(client, { body: chatBody('hello'), withKey: null }).done;
  assert.equal(stranger.status, 401);
  const lost = await ask(client, { path: '/nowhere', body: '{}' }).done;
  assert.equal(lost.status, 404);
  const bad = await ask(client, { body: '{"model":' }).done;
  assert.equal(bad.status, 400);
  const large = await ask(client, { body: chatBody('x'.repeat(3_000_000)) }).done; // larger than all windows
  assert.ok(answered(large), large.text);
  const expecting = ask(client, { headers: { expect: '100-continue' }, body: chatBody('hello') });
  const went = new Promise((resolve) => expecting.stream.on('continue', resolve));
  assert.ok(answered(await expecting.done));
  await went;
  assert.deepEqual(client.errors, []);
  client.session.close();
  await client.closed;
});

test('a stream comes token by token', async () => {
  const client = await connect();
  const pieces = [];
  const asked = ask(client, { body: chatBody('[[fake tokens=20 token_ms=15]]', streaming), onData: ({ text }) => pieces.push(text.length) });
  await asked.done;
  assert.ok(answered(asked));
  assert.match(asked.headers['content-type'], /^text\/event-stream/);
  const events = eventsOf(asked.text);
  assert.equal(events.at(-1), '[DONE]');
  assert.ok(contentOf(events).length > 0);
  assert.ok(pieces.length > 5, `${pieces.length} pieces`); // not gathered until the end
  client.session.close();
});

test('fifty streams at once, each whole and its own', async () => {
  const client = await connect();
  const all = Array.from({ length: 50 }, (_, i) => ask(client, { body: chatBody(`[[fake tokens=${i + 1} token_ms=2]]`, streaming) }));
  for (const [i, asked] of all.entries()) {
    await asked.done;
    assert.ok(answered(asked), `${i}: ${asked.status} ${asked.code}`);
    const events = eventsOf(asked.text);
    assert.equal(events.filter((event) => event.choices?.[0]?.delta?.content).length, i + 1);
    assert.equal(events.at(-1), '[DONE]');
  }
  client.session.close();
});

test('a cancelled stream cancels its own upstream only', async () => {
  const client = await connect();
  const [stays, goes] = [0, 1].map(() => ask(client, { body: chatBody('[[fake tokens=100000 token_ms=5]]', streaming) }));
  await waitFor(() => stays.text && goes.text, { what: 'both streams to begin' });
  await workersUp(house, (all) => all.reduce((sum, worker) => sum + worker.requests, 0) === 2);
  goes.stream.close(constants.NGHTTP2_CANCEL);
  await workersUp(house, (all) => all.reduce((sum, worker) => sum + worker.requests, 0) === 1);
  const before = stays.text.length;
  await waitFor(() => stays.text.length > before + 1000, { what: 'the other to go on' });
  assert.equal(stays.code, undefined);
  stays.stream.close(constants.NGHTTP2_CANCEL);
  await workersUp(house, (all) => all.reduce((sum, worker) => sum + worker.requests, 0) === 0);
  const cancelled = await waitFor(() => {
    const records = house.records().filter((record) => record.outcome === 'cancelled');
    return records.length >= 2 && records;
  });
  assert.ok(cancelled.every((record) => record.error === 'client_gone'));
  client.session.close();
});

test('a stalled reader holds up neither its siblings nor memory', async () => {
  const client = await connect();
  // Twenty answers of some 25 MB each, of which nothing is read beyond what their windows take.
  const stalled = Array.from({ length: 20 }, () => ask(client, { body: chatBody('[[fake tokens=100000]]', streaming), onData: null }));
  await Promise.all(stalled.map((asked) => new Promise((resolve) => asked.stream.on('response', resolve))));
  for (const asked of stalled) asked.stream.pause();
  // The connection's own window is the client's to give: node gives it as it receives, read or not.
  for (let i = 0; i < 10; i++) {
    const asked = await ask(client, { body: chatBody('[[fake tokens=50]]', streaming) }).done;
    assert.ok(answered(asked), `${asked.status} ${asked.code}`);
  }
  const other = await connect();
  assert.ok(answered(await ask(other, { body: chatBody('hello') }).done));
  const held = sumOf(await house.metrics(), 'fairlead_buffered_bytes');
  assert.ok(held > 20 * 65_536 && held < 20 * 400_000, `${held} bytes are held`); // each stream's limit, and a read or two
  for (const asked of stalled) asked.stream.close(constants.NGHTTP2_CANCEL);
  await workersUp(house, (all) => all.reduce((sum, worker) => sum + worker.requests, 0) === 0);
  other.session.close();
  client.session.close();
});

test('over TLS: HTTP/2 by ALPN, or HTTP/1.1 for who asks for that', async () => {
  const client = await connect(secure);
  assert.equal(client.session.alpnProtocol, 'h2');
  const all = Array.from({ length: 50 }, (_, i) => ask(client, { body: chatBody(`[[fake tokens=${i + 1} token_ms=2]]`, streaming) }));
  for (const [i, asked] of all.entries()) {
    await asked.done;
    assert.ok(answered(asked), `${i}: ${asked.status} ${asked.code}`);
    assert.equal(eventsOf(asked.text).filter((event) => event.choices?.[0]?.delta?.content).length, i + 1);
  }
  const large = await ask(client, { body: chatBody('x'.repeat(3_000_000)) }).done;
  assert.ok(answered(large), large.text);
  // A reader that stalls holds up only itself here, too.
  const stalled = ask(client, { body: chatBody('[[fake tokens=100000]]', streaming), onData: null });
  await new Promise((resolve) => stalled.stream.on('response', resolve));
  stalled.stream.pause();
  assert.ok(answered(await ask(client, { body: chatBody('hello', streaming) }).done));
  stalled.stream.close(constants.NGHTTP2_CANCEL);
  client.session.close();
  await client.closed;
  assert.deepEqual(client.errors, []);

  const status = await new Promise((resolve, reject) => {
    const options = { method: 'GET', ca: readFileSync(certificate), agent: false, headers: { authorization: `Bearer ${key}` } };
    https.request(`${secure}/v1/models`, options, (res) => (res.resume(), resolve([res.httpVersion, res.statusCode]))).on('error', reject).end();
  });
  assert.deepEqual(status, ['1.1', 200]);
  const curl = await run('/usr/bin/curl', ['--silent', '--show-error', '--http2', '--cacert', certificate, '--header', `Authorization: Bearer ${key}`,
    '--output', '/dev/null', '--write-out', '%{http_version} %{http_code}', `${secure}/v1/models`]);
  assert.equal(curl.stdout, '2 200', curl.stderr);
});

test('curl, by prior knowledge', async () => {
  const { code, stdout, stderr } = await run('/usr/bin/curl', [
    '--silent', '--show-error', '--http2-prior-knowledge', '--no-buffer', '--header', `Authorization: Bearer ${key}`,
    '--header', 'Content-Type: application/json', '--data', JSON.stringify(chatBody('hello', streaming)),
    '--write-out', '\n%{http_version} %{http_code}', `${house.api}/v1/chat/completions`,
  ]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /data: \[DONE\]/);
  assert.match(stdout, /\n2 200$/);
});

test('HTTP/1 on the same port, whatever its first letters are', async () => {
  assert.equal((await house.request('/v1/models', { method: 'GET', key })).status, 200);
  assert.equal((await house.request('/v1/models', { method: 'PUT', key })).status, 405);
  const answer = await new Promise((resolve, reject) => {
    let text = '';
    const socket = net.connect(house.port, '127.0.0.1', () => socket.write('PRI * HTTP/2.1\r\n\r\n'));
    socket.on('data', (bytes) => (text += bytes));
    socket.on('close', () => resolve(text));
    socket.on('error', reject);
  });
  assert.match(answer, /^HTTP\/1\.1 400 /);
});

// ---- abuse ----

const frame = (type, flags, id, payload = Buffer.alloc(0)) => {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(id, 5);
  return Buffer.concat([head, payload]);
};
const block = Buffer.from([0x83, 0x86, 0x84, 0x41, 1, 0x68]); // POST / of host "h"
const greeting = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(4, 0, 0), frame(4, 1, 0)]);
const floods = {
  ping: () => frame(6, 0, 0, Buffer.alloc(8)),
  settings: () => frame(4, 0, 0),
  'rapid reset': (i) => Buffer.concat([frame(1, 5, 2 * i + 1, block), frame(3, 0, 2 * i + 1, Buffer.from([0, 0, 0, 8]))]),
  'empty data': (i) => (i === 0 ? frame(1, 4, 1, block) : frame(0, 0, 1)),
  continuation: (i) => (i === 0 ? frame(1, 0, 1, block) : frame(9, 0, 1)),
  'window update': () => frame(8, 0, 0, Buffer.from([0, 0, 0, 1])),
};

// Sends what make(i) gives, again and again, until the connection ends; the code of the GOAWAY that came.
function flood(make) {
  return new Promise((resolve, reject) => {
    const got = [];
    let i = 0;
    const socket = net.connect(house.port, '127.0.0.1', () => {
      socket.write(greeting);
      const more = () => {
        const pieces = [];
        for (let n = 0; n < 500; n++) pieces.push(make(i++));
        if (!socket.destroyed) socket.write(Buffer.concat(pieces), (error) => !error && setImmediate(more));
      };
      more();
    });
    socket.setTimeout(30_000, () => reject(new Error('still open')));
    socket.on('data', (bytes) => got.push(bytes));
    socket.on('end', () => socket.destroy());
    socket.on('error', () => {}); // reset while it sends: told by 'close'
    socket.on('close', () => {
      const bytes = Buffer.concat(got);
      for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) {
        if (bytes[at + 3] === 7 && at + 17 <= bytes.length) {
          resolve(bytes.readUInt32BE(at + 13));
          return;
        }
      }
      resolve(undefined);
    });
  });
}

test('floods end with GOAWAY, while others are served', async () => {
  const client = await connect();
  const steady = ask(client, { body: chatBody('[[fake tokens=100000 token_ms=5]]', streaming) });
  await waitFor(() => steady.text, { what: 'a stream to begin' });
  for (const [name, make] of Object.entries(floods)) {
    const [code, served] = await Promise.all([flood(make), ask(client, { body: chatBody('hello') }).done]);
    assert.equal(code, constants.NGHTTP2_ENHANCE_YOUR_CALM, name);
    assert.ok(answered(served), name);
  }
  const before = steady.text.length;
  await waitFor(() => steady.text.length > before + 1000, { what: 'the stream to go on' });
  assert.deepEqual([client.goaways, client.errors], [[], []]);
  steady.stream.close(constants.NGHTTP2_CANCEL);
  client.session.close();
  await client.closed;
});

test('a client that keeps to the limit waits for a place', async () => {
  const client = await connect();
  const slow = Array.from({ length: 50 }, () => ask(client, { body: chatBody('[[fake tokens=100000 token_ms=50]]', streaming) }));
  await waitFor(() => slow.every((asked) => asked.text), { what: 'fifty streams' });
  // node keeps to the limit by itself: the next request waits for a place.
  const next = ask(client, { body: chatBody('hello') });
  const before = slow.reduce((sum, asked) => sum + asked.text.length, 0);
  await waitFor(() => slow.reduce((sum, asked) => sum + asked.text.length, 0) > before + 10_000);
  assert.equal(next.status, undefined);
  slow[0].stream.close(constants.NGHTTP2_CANCEL);
  assert.ok(answered(await next.done));
  for (const asked of slow) asked.stream.close(constants.NGHTTP2_CANCEL);
  client.session.close();
});

// The last: it stops the house.
test('draining: streams under way end, the connection after them', async () => {
  const client = await connect();
  const idle = await connect();
  const asked = ask(client, { body: chatBody('[[fake tokens=100 token_ms=10]]', streaming) });
  await waitFor(() => asked.text, { what: 'the stream to begin' });
  const stopped = house.stop();
  await waitFor(() => client.goaways.length > 0, { what: 'a GOAWAY' });
  await asked.done;
  assert.ok(answered(asked), `${asked.status} ${asked.code}`);
  assert.equal(eventsOf(asked.text).at(-1), '[DONE]');
  await Promise.all([client.closed, idle.closed]);
  assert.ok(client.goaways.every(({ code }) => code === constants.NGHTTP2_NO_ERROR));
  assert.deepEqual([client.errors, idle.errors], [[], []]);
  assert.equal((await stopped).code, 0);
});
