// fairlead changes: one timeline of what people did and of what was noticed.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { holderOf } from './support/control.mjs';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { startProcess, stopAll, waitFor } from './support/process.mjs';

after(stopAll);

const policy = (fakes) => `defaults: {probe: {every: 1s, how: models}}
providers:
  a: {base_url: "${fakes[0].baseUrl}", auth: none}
  b: {base_url: "${fakes[1].baseUrl}", auth: none}
models:
  a/one: {price: {input: 1, output: 1}}
  b/one: {price: {input: 1, output: 1}}
routes:
  chat: {tiers: [{models: [a/one, b/one]}]}
`;
let house, key;

before(async () => {
  house = await startFairlead({ fakes: [{}, {}], policy });
  key = await house.createKey();
});

const events = async (...more) => {
  const { code, stdout, stderr } = await house.cli(['changes', '--json', ...more]);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
};
const until = (predicate, what) => waitFor(async () => (await events()).find(predicate), { timeoutMs: 60_000, everyMs: 100, what });

test('what people do, with why and by whom', async () => {
  await house.admin('providers', 'drain', 'b', '--reason', 'rack moves', '--for', '1s', '--wait');
  const drained = await until((e) => e.where === 'providers.drain', 'the drain');
  assert.equal(drained.kind, 'change');
  assert.match(drained.what, /^b is drained/);
  assert.equal(drained.why, 'rack moves');
  assert.ok(drained.by.length > 0);
  const expired = await until((e) => e.kind === 'expiry' && e.where === 'b', 'its end');
  assert.match(expired.what, /drain expired/);
  assert.equal(expired.why, 'rack moves');
  const pushed = await until((e) => e.where === 'policy.push', 'the push');
  assert.ok(pushed.at_ms <= drained.at_ms && drained.at_ms <= expired.at_ms);
  assert.ok((await events()).some((e) => e.where === 'keys.create'));
  // An override that ended stays told when a later head no longer has it.
  await house.admin('providers', 'drain', 'a', '--wait');
  await house.admin('providers', 'undrain', 'a', '--wait');
  assert.equal((await events()).filter((e) => e.kind === 'expiry' && e.where === 'b').length, 1);
});

test('a breaker opens and closes', async () => {
  await house.fakes[1].config({ fault: '500' });
  const send = () => house.request('/v1/chat/completions', { key: key.key, body: chatBody('hi', { model: 'b/one' }) });
  for (let i = 0; i < 5; i++) await send();
  const opened = await until((e) => e.kind === 'breaker' && e.where === 'b/one', 'the breaker');
  assert.match(opened.what, /breaker opened/);
  assert.ok(opened.node.length > 0);
  await house.fakes[1].config({ fault: '' });
});

test('a model that goes down and comes back', async () => {
  const at = house.fakes[0].port;
  await house.fakes[0].stop();
  const down = await until((e) => e.kind === 'health' && e.where === 'a/one' && e.what === 'is down', 'a/one down');
  assert.match(down.why, /\S/);
  house.fakes[0].process = await startProcess('fakellm', ['--listen', `127.0.0.1:${at}`, '--name', 'a'], { readyPattern: /^listening/m });
  const up = await until((e) => e.kind === 'health' && e.where === 'a/one' && e.what === 'is up', 'a/one up');
  assert.ok(up.at_ms >= down.at_ms);
});

test('a worker that crashes', async () => {
  const [worker] = (await house.status()).workers;
  process.kill(worker.pid, 'SIGABRT');
  const crashed = await until((e) => e.kind === 'worker', 'the crash');
  assert.match(crashed.what, /had a worker crash/);
});

test('in order; for people; followed; over a restart of the control plane', async () => {
  const all = await events('--since', '1h');
  assert.deepEqual(all.map((e) => e.at_ms), all.map((e) => e.at_ms).sort((x, y) => x - y));
  assert.deepEqual(await events('--since', '1ms').then((list) => list.filter((e) => e.where === 'policy.push')), []);
  const { stdout } = await house.cli(['changes']);
  assert.match(stdout, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ {2}change {3}policy\.push: .*, by \S+$/m);
  assert.match(stdout, /^\S+ {2}breaker {2}b\/one is ejected: its breaker opened \(.*\), seen by \S+$/m);
  assert.equal((await house.cli(['changes', '--since', 'yesterday'])).code, 2);

  const follower = await startProcess('fairlead', ['changes', '--follow', '--json', '--home', house.home], { readyPattern: /policy\.push/ });
  await house.admin('providers', 'drain', 'b', '--reason', 'followed', '--wait');
  await waitFor(() => follower.stdout.includes('"followed"'), { timeoutMs: 30_000, what: 'the follower' });
  const lines = follower.stdout.trim().split('\n').map((line) => JSON.parse(line));
  assert.equal(lines.filter((e) => e.where === 'policy.push').length, 1, 'nothing is shown twice');
  await follower.stop({ signal: 'SIGKILL' });

  const before = holderOf(house.home, 'control');
  assert.ok(before > 1);
  process.kill(before, 'SIGKILL');
  await waitFor(() => holderOf(house.home, 'control') !== before, { timeoutMs: 60_000, what: 'another control plane' });
  await waitFor(async () => (await house.cli(['changes'])).code === 0, { timeoutMs: 60_000, what: 'its answer' });
  const restarted = await events('--since', '1h');
  assert.ok(restarted.some((e) => e.kind === 'breaker'), 'events outlive it');
  assert.equal(restarted.filter((e) => e.kind === 'control').length, 2);
});

