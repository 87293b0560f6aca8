// Nothing is left behind: memory, descriptors, the node's store and upstream connections after many requests, streams, cancels and failures.
//
// As many with sanitizers as without: their quarantine of freed memory is made small, so that what stays resident is nearly what is
// held; and what nobody points to any more they report themselves when the programs end. FAIRLEAD_LEAK_REQUESTS says how many.
import assert from 'node:assert/strict';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { startFairlead } from './support/fairlead.mjs';
import { bin, runLoadgen, startProcess, stopAll, toOptions, waitFor } from './support/process.mjs';

const total = Number(process.env.FAIRLEAD_LEAK_REQUESTS ?? 100_000);
const rounds = 10; // the first two fill caches and pools
const sanitized = readFileSync(bin('fairlead-dataplane')).includes('__asan_init');
// Over all rounds after those: 13 bytes a request. With sanitizers memory creeps up by what they keep for themselves.
const slackKib = sanitized ? 3072 : 1024;
let house, key;

before(async () => {
  house = await startFairlead({
    fakes: [{ name: 'alpha', models: 'm', keep: 0, tokens: 12 }, { name: 'beta', models: 'm', keep: 0, tokens: 12 }],
    env: { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:quarantine_size_mb=1:thread_local_quarantine_size_kb=64` },
    policy: ([a, b]) => `
defaults: {probe: {how: none}}
providers:
  one: {preset: openai-compatible, base_url: "${a.baseUrl}"}
  two: {preset: openai-compatible, base_url: "${b.baseUrl}"}
models:
  one/m: {price: {input: 1, output: 2}}
  two/m: {price: {input: 1, output: 2}}
routes:
  chat: {tiers: [{models: [one/m]}, {models: [two/m]}]}`,
  });
  key = (await house.createKey()).key;
});
after(stopAll);

const field = (pid, file, name) => Number(readFileSync(`/proc/${pid}/${file}`, 'utf8').match(new RegExp(`^${name}:\\s+(\\d+)`, 'm'))[1]);
async function measure() {
  const { workers } = await house.status();
  const pids = [Number(readFileSync(path.join(house.home, 'run/node.lock'), 'utf8').trim()), ...workers.map((worker) => worker.pid)];
  const store = path.join(house.home, 'db/node');
  return {
    pids: pids.slice(1).join(' '),
    residentKib: pids.map((pid) => field(pid, 'status', 'RssAnon')),
    descriptors: pids.map((pid) => readdirSync(`/proc/${pid}/fd`).length),
    storeBytes: readdirSync(store).reduce((sum, name) => sum + statSync(path.join(store, name)).blocks * 512, 0),
  };
}
const gauges = async () => Object.fromEntries([...(await house.metrics()).matchAll(/^fairlead_(requests_open|streams_open|connections_open|buffered_bytes) (\d+)$/gm)].map(([, name, value]) => [name, Number(value)]));

// A fifth each: whole answers; streams; streams that are left after three events; new connections to providers that fail; refusals.
async function play(requests) {
  const each = requests / 5;
  const load = (more) => runLoadgen({ url: `${house.api}/v1/chat/completions`, key, model: 'chat', connections: 8, requests: each, ...more });
  const whole = await load({});
  const streams = await load({ stream: true, includeUsage: true });
  const left = await load({ stream: true, abortAfterEvents: 3, prompt: '[[fake token_ms=1 tokens=100000]]' });
  const faulty = await load({ stream: true, close: true, prompt: '[[fake:alpha fault=429@0.5]][[fake:beta fault=cut:2@0.1]]', expectStatus: '200,429' });
  const refused = await load({ model: 'no-such', expectStatus: '404' });
  assert.equal(whole.ok, each, whole.first_failure);
  assert.equal(streams.ok, each, streams.first_failure);
  assert.equal(left.aborted, each, left.first_failure);
  assert.equal(refused.ok, each, refused.first_failure);
  // Cut after content: an honest error event, and nothing else went wrong.
  assert.equal(faulty.ok + (faulty.failures.error_event ?? 0), each, faulty.first_failure);
  assert.ok(faulty.failures.error_event > 0 && faulty.ok > each / 2);
  return each;
}

test(`${total} requests leave nothing behind`, async (t) => {
  const seen = [];
  let left = 0;
  for (let round = 0; round < rounds; round++) {
    left += await play(total / rounds);
    await waitFor(async () => Object.values(await gauges()).every((value) => value === 0), { what: 'all to be at rest', timeoutMs: 20_000 });
    seen.push(await measure());
  }
  t.diagnostic(`anonymous memory of master and workers, KiB: ${seen.map((one) => one.residentKib.join('/')).join(' ')}`);
  t.diagnostic(`descriptors: ${seen.map((one) => one.descriptors.join('/')).join(' ')}`);
  const [, , settled] = seen;
  const last = seen.at(-1);
  assert.equal(last.pids, settled.pids, 'the same workers all the time');
  last.residentKib.forEach((kib, i) => assert.ok(kib - settled.residentKib[i] < slackKib, `${kib - settled.residentKib[i]} KiB more in process ${i}`));
  last.descriptors.forEach((count, i) => assert.ok(count <= settled.descriptors[i] + 8, `${count} descriptors after ${settled.descriptors[i]}`));
  assert.ok(last.storeBytes <= settled.storeBytes + 65_536, `${last.storeBytes} bytes of store after ${settled.storeBytes}`);

  const stats = await waitFor(async () => {
    const all = await Promise.all(house.fakes.map((fake) => fake.stats()));
    return all.every((one) => one.streams_open === 0) && all;
  }, { what: 'upstream streams to end' });
  // A stream that was left had more to come: each was cancelled up there, too.
  assert.equal(stats[0].streams_cancelled, left);
  const metrics = await house.metrics();
  const sum = (name) => [...metrics.matchAll(new RegExp(`^${name}\\{.*\\} (\\d+)$`, 'gm'))].reduce((all, match) => all + Number(match[1]), 0);
  assert.equal(sum('fairlead_requests_total'), total);
});

test('clients that do not read hold their providers back, not our memory', async (t) => {
  const clients = 12;
  const sent = async () => (await Promise.all(house.fakes.map((fake) => fake.stats()))).reduce((sum, one) => sum + one.bytes_out, 0);
  for (const fake of house.fakes) await fake.reset();
  const before = await measure();
  // Each answer is some 200 MB. What the kernel's buffers take is theirs; then nothing more comes.
  const load = await startProcess('loadgen', toOptions({ url: `${house.api}/v1/chat/completions`, key, model: 'chat', connections: clients, requests: clients, seconds: 90, drain: '1s', stream: true, hold: true, prompt: '[[fake tokens=1000000]]' }));
  await waitFor(async () => (await gauges()).streams_open === clients, { what: 'all streams', timeoutMs: 40_000 });
  let last = -Infinity;
  const stopped = await waitFor(async () => {
    const now = await sent();
    const still = now - last < 65_536 && now; // the answer to our own question is counted, too
    last = now;
    return still;
  }, { what: 'the providers to be held back', everyMs: 300, timeoutMs: 30_000 });
  const { buffered_bytes: buffered } = await gauges();
  const during = await measure();
  t.diagnostic(`${stopped} bytes from providers, ${buffered} buffered, memory ${before.residentKib.join('/')} -> ${during.residentKib.join('/')} KiB`);
  assert.ok(stopped < clients * 40e6, `${stopped} bytes from providers`);
  assert.ok(buffered < clients * 512 * 1024, `${buffered} bytes buffered`);
  during.residentKib.forEach((kib, i) => assert.ok(kib - before.residentKib[i] < clients * 512 + 4096, `${kib - before.residentKib[i]} KiB more in process ${i}`));
  await load.stop();
  await waitFor(async () => Object.values(await gauges()).every((value) => value === 0), { what: 'all to be at rest' });
  await waitFor(async () => (await Promise.all(house.fakes.map((fake) => fake.stats()))).every((one) => one.streams_open === 0), { what: 'the providers to be cancelled' });
});
