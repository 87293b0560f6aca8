// Limits under attack: one over each of them, crowds that misbehave, memory, and the service for others meanwhile.
// FAIRLEAD_FULL=1: crowds of full size, with figures.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { chatBody, contentOf, eventsOf, request, startFairlead } from './support/fairlead.mjs';
import { bystander, kernelMemory, memoryOf, startHorde } from './support/horde.mjs';
import { bin, run, stopAll, waitFor } from './support/process.mjs';
import { raw, responsesOf } from './support/wire.mjs';

const full = process.env.FAIRLEAD_FULL === '1';
const mebi = 1024 * 1024;
const mb = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
// What a sanitizer adds to the memory that is really asked for.
const sanitizers = /__[at]san_init/.test(readFileSync(bin('fairlead-dataplane'), 'latin1'));
const env = sanitizers ? { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:quarantine_size_mb=1:malloc_context_size=1` } : undefined;
const memoryFactor = sanitizers ? 3 : 1.25;

let house, fake, key, pids;

async function open(limits, { fakes = [{}], policy } = {}) {
  house = await startFairlead({
    workers: 1,
    fakes,
    env,
    node: `limits: {${limits}}`,
    policy:
      policy ??
      (([a]) => `
defaults: {probe: {how: none}, timeouts: {connect: 3s, first_token: 120s, idle: 120s}}
providers:
  one: {preset: openai-compatible, base_url: "${a.baseUrl}"}
models:
  one/m: {price: {input: 1, output: 2}}
routes:
  chat: {tiers: [{models: [one/m]}]}`),
  });
  [fake] = house.fakes;
  key = (await house.createKey()).key;
  pids = (await house.status()).workers.map(({ pid }) => pid);
}
const target = () => `127.0.0.1:${house.port}`;
const figure = async (name) => Number((await house.metrics()).match(new RegExp(`^fairlead_${name} (\\d+)$`, 'm'))[1]);
const ask = (content = '[[fake tokens=2]]', more) => house.request('/v1/chat/completions', { key, body: chatBody(content, more) });
const head = (length, more = '') => `POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer ${key}\r\ncontent-length: ${length}\r\n${more}\r\n`;
const whole = (content, more) => {
  const body = JSON.stringify(chatBody(content, more));
  return head(body.length) + body;
};
const nothingHeld = () =>
  waitFor(
    async () => {
      const text = await house.metrics();
      if (['requests_open', 'streams_open', 'connections_open', 'buffered_bytes'].every((name) => new RegExp(`^fairlead_${name} 0$`, 'm').test(text))) return true;
      throw new Error(text.match(/^fairlead_(requests_open|streams_open|connections_open|buffered_bytes) .*$/gm).join());
    },
    { timeoutMs: 60_000, what: 'all to be given back' },
  );
// The greatest value of a figure while something goes on.
function watchMost(name) {
  let most = 0;
  const watching = bystander(async () => (most = Math.max(most, await figure(name))));
  return async () => (await watching.stop(), most);
}
function assertBusy({ status, headers, text, body = text }) {
  assert.equal(status, 503, body);
  assert.match(headers['retry-after'], /^\d+$/);
  assert.match(headers['x-request-id'], /^req_\w{31}$/);
  assert.match(headers.date, / GMT$/);
  assert.equal(headers['content-type'], 'application/json');
  const { error } = JSON.parse(body);
  assert.equal(error.type, 'server_error');
  assert.match(error.message, /again/);
  return error;
}

after(stopAll);

describe('clients that send one byte a second', () => {
  const count = full ? 10_000 : 1500;
  before(() => open(`head_time: ${full ? '10s' : '2s'}, body_time: 1s, idle: 1s, connections: ${count + 1000}`));
  after(stopAll);
  afterEach(nothingHeld);

  test(`${count} heads: 408 for each when the head time is over, and service for others meanwhile`, async (t) => {
    const others = bystander(() => ask());
    const before = memoryOf(pids);
    const horde = await startHorde({ target: target(), count, request: head(10, `x: ${'a'.repeat(5000)}\r\n`), atOnce: 1, dripMs: 1000 });
    const during = memoryOf(pids);
    const end = await waitFor(async () => ((await horde.report()).open === 0 ? horde.leave() : false), { everyMs: 200, timeoutMs: 60_000, what: 'all to be closed' });
    assert.deepEqual(end.statuses, { 408: count });
    assert.equal(end.failed + end.reset, 0);
    const answers = await others.stop();
    assert.ok(answers.length > 0 && answers.every(({ status }) => status === 200));
    t.diagnostic(`memory ${mb(before)}, with ${count} clients ${mb(during)}; the last was closed after ${end.last_end_ms} ms; others: ${answers.length} answers, all 200`);
  });

  test('bodies that trickle: 408, though every read brings something', async () => {
    const horde = await startHorde({ target: target(), count: 100, request: head(5000) + 'x'.repeat(5000), atOnce: head(5000).length, dripMs: 100 });
    const end = await waitFor(async () => ((await horde.report()).open === 0 ? horde.leave() : false), { everyMs: 100, timeoutMs: 60_000 });
    assert.deepEqual(end.statuses, { 408: 100 });
  });

  test('nothing at all: closed after the idle time without a word', async () => {
    const horde = await startHorde({ target: target(), count: 300 });
    const end = await waitFor(async () => ((await horde.report()).open === 0 ? horde.leave() : false), { everyMs: 100, timeoutMs: 60_000 });
    assert.deepEqual([end.silent, end.closed, end.reset], [300, 300, 0]);
  });
});

describe('stream readers that stall before a fast upstream', () => {
  const count = full ? 1000 : 100;
  const tokens = full ? 20_000 : 3500;
  before(() => open('write_stall: 10m'));
  after(stopAll);
  afterEach(nothingHeld);

  test(`${count} of them: memory flat, others served; then they read, and all is there`, async (t) => {
    const kernelBefore = kernelMemory();
    const before = memoryOf(pids);
    const horde = await startHorde({ target: target(), count, request: whole(`[[fake tokens=${tokens}]]`, { stream: true }), deaf: true, receiveBuffer: 4096 });
    await waitFor(async () => (await figure('streams_open')) === count, { timeoutMs: 120_000, what: 'all streams' });
    const settled = await waitFor(
      async () => {
        const was = await figure('buffered_bytes');
        for (let i = 0; i < 5; i++) await ask();
        return was === (await figure('buffered_bytes')) && was;
      },
      { everyMs: 200, timeoutMs: 120_000, what: 'the streams to stall' },
    );
    const stalled = memoryOf(pids);
    // A queue's limit and one read beyond it, twice at most while buffers grow; and what waits of the upstream's last read.
    assert.ok(settled / count <= 64 * 1024 + 3 * 65536, `${settled / count} bytes for each`);
    const others = [];
    for (let i = 0; i < 50; i++) others.push(await ask('[[fake tokens=50]]', { stream: i % 2 === 0 }));
    assert.ok(others.every(({ status, text }) => status === 200 && text.length > 100));
    const later = memoryOf(pids);
    assert.equal(await figure('streams_open'), count);
    assert.ok(later <= stalled * 1.1 + mebi, `${mb(stalled)}, then ${mb(later)}`);
    t.diagnostic(`memory ${mb(before)}, ${count} stalled ${mb(stalled)}, later ${mb(later)}; charged ${mb(settled)}; in sockets ${mb(kernelMemory() - kernelBefore)}`);
    horde.read();
    await waitFor(async () => (await horde.report()).done === count, { everyMs: 200, timeoutMs: 300_000, what: 'all streams to end' });
    const end = await horde.leave();
    assert.deepEqual([end.failed, end.reset], [0, 0]); // those that ended first may have been closed as idle by now
    t.diagnostic(`all read: ${mb(end.received)}; memory ${mb(memoryOf(pids))}`);
  });
});

describe('clients that take nothing', () => {
  before(() => open('write_stall: 500ms'));
  after(stopAll);

  test('are cut after the stall time, and their upstreams with them', async () => {
    const horde = await startHorde({ target: target(), count: 20, request: whole('[[fake tokens=50000]]', { stream: true }), deaf: true, receiveBuffer: 4096 });
    await waitFor(async () => (await fake.stats()).streams_cancelled === 20, { timeoutMs: 60_000 });
    await nothingHeld();
    await horde.leave();
    assert.ok(house.records().filter(({ outcome }) => outcome === 'cancelled').length <= 20);
  });
});

describe('the cap of buffered bytes', () => {
  const cap = 4 * mebi;
  before(() => open('buffered_bytes: 4MiB, body_bytes: 2MiB, body_time: 10m, write_stall: 10m'));
  after(stopAll);
  afterEach(async () => {
    await nothingHeld();
    assert.equal((await ask()).status, 200);
  });
  // Runs a crowd; checks the cap, what newcomers are told, and that a stream that ran before goes on to its end.
  async function crowd(t, options, { room }) {
    const before = memoryOf(pids);
    const ours = ask('[[fake tokens=40 token_ms=50]]', { stream: true });
    await waitFor(async () => (await figure('streams_open')) === 1);
    const most = watchMost('buffered_bytes');
    const horde = await startHorde({ target: target(), ...options });
    let memory, end, peak;
    try {
      await waitFor(async () => (await figure('buffered_bytes')) > cap * 0.8, { timeoutMs: 30_000, what: 'the cap to be near' });
      memory = memoryOf(pids);
      const { status, text } = await ours;
      assert.equal(status, 200);
      assert.equal(eventsOf(text).at(-1), '[DONE]');
    } finally {
      peak = await most();
      end = await horde.leave();
    }
    assert.ok(peak <= cap + room, `${peak} bytes were held`);
    assert.ok(memory - before <= cap * memoryFactor + 4 * mebi, `memory grew from ${mb(before)} to ${mb(memory)}`);
    t.diagnostic(`memory ${mb(before)}, under attack ${mb(memory)}; charged at most ${mb(peak)} of ${mb(cap)}; ${JSON.stringify(end.statuses)}`);
    return end;
  }
  const text = 'x'.repeat(90_000);

  test('bodies that are announced: what does not fit is refused at its head', async (t) => {
    const end = await crowd(t, { count: 120, request: head(99_000) + text, dripMs: 3_600_000 }, { room: 100_000 });
    assert.ok(end.statuses[503] > 50 && end.statuses[503] < 110, JSON.stringify(end));
  });

  test('bodies in chunks: what does not fit is refused while it comes', async (t) => {
    const chunked = head(0).replace('content-length: 0', 'transfer-encoding: chunked');
    const end = await crowd(t, { count: 120, request: `${chunked}20000\r\n${text}`, dripMs: 3_600_000 }, { room: 2 * 131_072 });
    assert.ok(end.statuses[503] > 50 && end.statuses[503] < 110, JSON.stringify(end));
  });

  test('bodies whose index is many times their size', async (t) => {
    const body = JSON.stringify(chatBody('[[fake fault=hang]]', { x: '' })).replace('"x":""', `"x":[${'0,'.repeat(40_000)}0]`);
    const end = await crowd(t, { count: 80, request: head(body.length) + body }, { room: 200_000 });
    assert.ok(end.statuses[503] > 20, JSON.stringify(end));
  });

  test('heads that do not end', async (t) => {
    const end = await crowd(t, { count: 300, request: `GET / HTTP/1.1\r\nx: ${'y'.repeat(30_000)}`, dripMs: 3_600_000 }, { room: 65_536 });
    assert.ok(end.statuses[503] > 50, JSON.stringify(end));
  });

  test('answers that nobody reads', async (t) => {
    const end = await crowd(t, { count: 60, request: whole('[[fake tokens=60000]]'), deaf: true, receiveBuffer: 4096 }, { room: 2 * mebi });
    assert.ok(end.open > 0, JSON.stringify(end));
  });

  test('the newcomer is told so, and when to come again', async () => {
    const horde = await startHorde({ target: target(), count: 60, request: head(99_000) + text, dripMs: 3_600_000 });
    await waitFor(async () => (await horde.report()).statuses[503] > 0);
    const { responses } = await raw(house.port, whole('x'.repeat(300_000)));
    assertBusy(responses[0]);
    await horde.leave();
  });
});

describe('the cap of connections', () => {
  before(() => open('connections: 50'));
  after(stopAll);

  test('one over: 503 and why; those who are in go on; a flood is refused clearly, and then all is as before', async (t) => {
    const horde = await startHorde({ target: target(), count: 49 });
    await waitFor(async () => (await figure('connections_open')) === 49);
    const inside = net.connect(house.port, '127.0.0.1');
    let got = '';
    inside.setEncoding('latin1').on('error', () => {}).on('data', (more) => (got += more));
    await waitFor(async () => (await figure('connections_open')) === 50);
    const { responses, closed } = await raw(house.port, whole('[[fake tokens=2]]'));
    assert.ok(closed);
    assert.equal(responses.length, 1);
    assert.match(assertBusy(responses[0]).message, /connections/);
    assert.equal(responses[0].headers.connection, 'close');
    assert.equal(responses[0].headers['content-length'], String(responses[0].body.length));

    const size = full ? 10_000 : 500;
    const flood = await startHorde({ target: target(), count: size, request: whole('[[fake tokens=2]]') });
    const end = await waitFor(async () => ((await flood.report()).open === 0 ? flood.leave() : false), { everyMs: 50, timeoutMs: 60_000 });
    // Of more than a thousand at one moment the rest are closed without a word.
    assert.deepEqual([end.failed, end.statuses[200]], [0, undefined]);
    assert.ok(full ? end.statuses[503] > size * 0.9 : end.statuses[503] === size, JSON.stringify(end));
    t.diagnostic(`${size} over the cap: ${JSON.stringify(end)}`);
    inside.write(whole('[[fake tokens=2]]'));
    await waitFor(() => responsesOf(got).length === 1);
    assert.equal(responsesOf(got)[0].status, 200);
    inside.destroy();
    await horde.leave();
    assert.equal((await ask()).status, 200);
    assert.ok((await figure('connections_refused_total')) >= size + 1);
    await nothingHeld();
  });
});

describe('providers\' connections', () => {
  const policy = ([a]) => `
defaults: {probe: {how: none}, timeouts: {connect: 3s, first_token: 120s, idle: 120s}}
providers:
  one: {preset: openai-compatible, lane: direct, base_url: "${a.baseUrl}"}
  two: {preset: openai-compatible, lane: curl, base_url: "${a.baseUrl}"}
models:
  one/m: {price: {input: 1, output: 2}}
  two/m: {price: {input: 1, output: 2}}
routes:
  chat: {tiers: [{models: [one/m]}]}
  other: {tiers: [{models: [two/m]}]}
  both: {attempts: 2, tiers: [{models: [one/m]}, {models: [two/m]}]}`;
  before(() => open('upstream_connections: 6, upstream_idle: 4', { policy }));
  after(stopAll);

  test('one over the cap: 503, saying so, in both lanes; afterwards as before', async () => {
    const held = [];
    for (let i = 0; i < 6; i++) held.push(ask('[[fake tokens=3 ttft_ms=1500]]', { model: i % 2 ? 'chat' : 'other' }));
    await waitFor(async () => (await fake.stats()).requests === 6);
    for (const model of ['chat', 'other', 'both']) {
      const answer = await ask('[[fake tokens=2]]', { model });
      assert.match(assertBusy(answer).message, /no_capacity/);
    }
    for (const answer of await Promise.all(held)) assert.equal(answer.status, 200);
    assert.equal((await ask()).status, 200);
  });

  test('no more than the limit are kept idle, in both lanes together', async () => {
    const asks = Array.from({ length: 6 }, (_, i) => ask('[[fake tokens=2 ttft_ms=300]]', { model: i % 2 ? 'chat' : 'other' }));
    for (const answer of await Promise.all(asks)) assert.equal(answer.status, 200);
    await waitFor(async () => (await fake.stats()).connections_open <= 4 + 1, { what: 'the rest to be closed' }); // and that of this question
    assert.ok((await fake.stats()).connections_open >= 2 + 1, 'some are kept');
  });
});

// Every limit of --help-config, and the test that goes one over it.
describe('no limit without a proof', () => {
  const proofs = {
    head_bytes: ['bad_input.test.mjs', 'a head over the limit: 431'],
    headers: ['bad_input.test.mjs', 'too many headers: 431'],
    head_time: ['bad_input.test.mjs', 'a head that does not come: 408, also when it comes byte by byte'],
    body_bytes: ['bad_input.test.mjs', 'a body over the limit: 413 before it is read'],
    body_time: ['bounds.test.mjs', 'bodies that trickle: 408, though every read brings something'],
    idle: ['bounds.test.mjs', 'nothing at all: closed after the idle time without a word'],
    connections: ['bounds.test.mjs', 'one over: 503 and why; those who are in go on; a flood is refused clearly, and then all is as before'],
    buffered_bytes: ['bounds.test.mjs', 'bodies that are announced: what does not fit is refused at its head'],
    write_queue_bytes: ['../unit/dataplane/worker/exchange_test.c', 'slow_client_pauses_upstream'],
    write_stall: ['bounds.test.mjs', 'are cut after the stall time, and their upstreams with them'],
    upstream_connections: ['bounds.test.mjs', 'one over the cap: 503, saying so, in both lanes; afterwards as before'],
    upstream_idle: ['bounds.test.mjs', 'no more than the limit are kept idle, in both lanes together'],
    drain: ['../unit/dataplane/worker/exchange_test.c', 'drain_deadline_is_said'],
    drain_first: ['../unit/dataplane/worker/exchange_test.c', 'drain_deadline_is_said'],
    drain_idle: ['../unit/dataplane/worker/conn_test.c', 'a_slow_reader_gets_all'],
    record_segment_bytes: ['../unit/dataplane/node/records_test.c', 'rotates_and_removes_the_oldest'],
    record_segments: ['../unit/dataplane/node/records_test.c', 'rotates_and_removes_the_oldest'],
  };
  const elsewhere = new Set(['http2_streams', 'watchdog']); // tested with what they limit
  test('the table names all of them, and the tests are there', async () => {
    const { stdout } = await run('fairlead-dataplane', ['--help-config']);
    const limits = [...stdout.matchAll(/^limits\.(\w+)$/gm)].map((match) => match[1]);
    assert.deepEqual(limits.filter((name) => !elsewhere.has(name)).sort(), Object.keys(proofs).sort());
    for (const [file, name] of Object.values(proofs)) {
      assert.ok(readFileSync(new URL(file, import.meta.url), 'utf8').includes(name), `${file}: ${name}`);
    }
  });
});
