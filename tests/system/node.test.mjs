// A node alone: master, workers, a table that was put into its store, a simulated provider. What happens when processes die.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { startFairlead } from './support/fairlead.mjs';
import { run, startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const key = `fl-${'abcdefgh'.repeat(5)}`;
let fake;

before(async () => {
  fake = await startFakellm({ name: 'alpha' });
});
after(stopAll);

async function newHome() {
  const home = temporaryDirectory('fl-');
  mkdirSync(path.join(home, 'db'), { mode: 0o700 });
  const put = await run('putable', ['--home', home, '--port', fake.port, '--key', key]);
  assert.equal(put.code, 0, put.stderr);
  return home;
}

async function startNode(home, { workers = 2, args = [], env } = {}) {
  const master = await startProcess(
    'fairlead-dataplane',
    ['--home', home, '--listen', '127.0.0.1:0', '--operations', '127.0.0.1:0', '--workers', workers, ...args],
    { env, readyPattern: /event=node\.listening address=(\S+)/, readyFrom: 'stderr' },
  );
  const operations = () => `http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}`;
  const page = (name) => fetch(`${operations()}/${name}`, { headers: { connection: 'close' } });
  const node = {
    home,
    master,
    url: `http://${master.ready[1]}`,
    page,
    status: async () => (await page('status')).json(),
    metrics: async () => (await page('metrics')).text(),
    pids: async () => (await node.status()).workers.map((worker) => worker.pid),
  };
  await waitFor(async () => (await page('readyz')).status === 200, { what: 'the node to be ready' });
  await waitFor(async () => (await node.status()).workers.every((worker) => worker.state === 'up'), { what: 'all workers' });
  return node;
}

const chat = (node, body = {}) =>
  fetch(`${node.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify({ model: 'chat', messages: [{ role: 'user', content: 'hello' }], ...body }),
  });

async function ask(node, body) {
  const response = await chat(node, body);
  const text = await response.text();
  assert.equal(response.status, 200, text);
  return text;
}

const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const sum = (metrics, name) =>
  metrics
    .split('\n')
    .filter((line) => line.startsWith(name) && /[{ ]/.test(line[name.length]))
    .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);

function records(home) {
  const directory = path.join(home, 'records');
  return readdirSync(directory)
    .sort()
    .flatMap((name) => readFileSync(path.join(directory, name), 'utf8').split('\n').slice(0, -1))
    .map((line) => JSON.parse(line));
}

test('serves what is in its store, without a control plane, and counts it', async () => {
  const node = await startNode(await newHome());
  for (let i = 0; i < 20; i++) await ask(node);
  await ask(node, { stream: true });
  const metrics = await waitFor(async () => {
    const text = await node.metrics();
    return sum(text, 'fairlead_requests_settled_total') === 21 && text;
  });
  assert.equal(sum(metrics, 'fairlead_requests_total'), 21);
  assert.equal(sum(metrics, 'fairlead_attempts_total'), 21);
  assert.equal(sum(metrics, 'fairlead_duration_seconds_count'), 21);
  assert.equal(sum(metrics, 'fairlead_streams_total'), 1);
  assert.match(metrics, /fairlead_requests_total\{team="research",route="chat",provider="fake",model="fake\/small",outcome="ok"\} 21\n/);
  assert.match(metrics, /fairlead_generation\{of="committed"\} 1\nfairlead_generation\{of="serving"\} 1\n/);
  // The format: each family announced once, before its samples, which stand together.
  const announced = [...metrics.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map((match) => match[1]);
  assert.equal(new Set(announced).size, announced.length);
  for (const line of metrics.trim().split('\n')) assert.match(line, /^(# (HELP|TYPE) \S+ .+|[a-z_]+(\{[^\n]*\})? -?[0-9.e+]+)$/);
  const buckets = [...metrics.matchAll(/^fairlead_duration_seconds_bucket\{.*le="([^"]+)"\} (\d+)$/gm)].map((match) => Number(match[2]));
  assert.equal(buckets.length, 15);
  for (let i = 1; i < buckets.length; i++) assert.ok(buckets[i] >= buckets[i - 1]);
  const kept = await waitFor(() => records(node.home).length === 21 && records(node.home), { what: 'a record for each request' });
  assert.ok(kept.every((record) => record.team === 'research' && record.model === 'fake/small' && record.status === 200));
  assert.equal(new Set(kept.map((record) => record.request_id)).size, 21);
  const segment = path.join(node.home, 'records', readdirSync(path.join(node.home, 'records'))[0]);
  assert.equal(statSync(segment).mode & 0o777, 0o600);
  assert.equal((await node.page('livez')).status, 200);
  assert.equal((await node.page('nothing')).status, 404);
  assert.equal((await node.master.stop()).code, 0);
  assert.ok(!existsSync(path.join(node.home, 'run/node.sock')));
});

test('a killed worker is replaced within a second and harms no other', async () => {
  const node = await startNode(await newHome());
  for (let i = 0; i < 10; i++) await ask(node);
  const [first, second] = await node.pids();
  // Streams that take a second, spread over both workers; those of the one that dies are cut, the others end well.
  const streams = Array.from({ length: 12 }, () =>
    chat(node, { stream: true, messages: [{ role: 'user', content: '[[fake ttft_ms=50 token_ms=100 tokens=10]]' }] })
      .then((response) => response.text())
      .catch(() => 'cut'),
  );
  await waitFor(async () => sum(await node.metrics(), 'fairlead_streams_open') === 12, { what: 'all streams' });
  const load = (await node.status()).workers.map((worker) => worker.requests);
  const killed = Date.now();
  process.kill(first, 'SIGKILL');
  await waitFor(async () => (await node.status()).workers.every((worker) => worker.state === 'up' && worker.pid !== first));
  assert.ok(Date.now() - killed < 1000, `${Date.now() - killed} ms`);
  const [, still] = await node.pids();
  assert.equal(still, second);
  const ended = (await Promise.all(streams)).filter((text) => text.trimEnd().endsWith('[DONE]'));
  assert.equal(ended.length, load[1], 'every stream of the other worker');
  for (let i = 0; i < 20; i++) await ask(node);
  const metrics = await waitFor(async () => {
    const text = await node.metrics();
    return sum(text, 'fairlead_requests_settled_total') === 30 + load[1] && text;
  }, { what: 'totals that did not fall with the worker' });
  assert.equal(sum(metrics, 'fairlead_worker_restarts_total'), 1);
  assert.equal(sum(metrics, 'fairlead_streams_open'), 0);
  assert.equal((await node.master.stop()).code, 0);
});

test('a killed master: its workers go on, and the next one takes them over', async () => {
  const home = await newHome();
  const node = await startNode(home);
  await ask(node);
  const pids = await node.pids();
  node.master.kill('SIGKILL');
  await waitFor(() => node.master.child.signalCode === 'SIGKILL'); // its output stays open: the workers write there, too
  for (let i = 0; i < 10; i++) await ask(node);
  assert.ok(pids.every(alive));
  const next = await startNode(home);
  assert.equal(next.url, node.url);
  assert.deepEqual(await next.pids(), pids);
  assert.ok((await next.status()).workers.every((worker) => worker.adopted));
  for (let i = 0; i < 10; i++) await ask(next);
  await waitFor(() => records(home).length === 21, { what: 'the records of the time without a master, too' });
  process.kill(pids[0], 'SIGKILL'); // the new one watches them as its own
  await waitFor(async () => (await next.status()).workers.every((worker) => worker.state === 'up' && worker.pid !== pids[0]));
  for (let i = 0; i < 10; i++) await ask(next);
  assert.equal((await next.master.stop()).code, 0);
  await waitFor(() => !pids.some(alive));
});

// As dataplane/node/config places it for a home that is not on a tmpfs.
const boards = (home) =>
  readdirSync('/dev/shm')
    .filter((name) => name.includes(createHash('sha256').update(home).digest('hex').slice(0, 16)))
    .concat(readdirSync(path.join(home, 'run')).filter((name) => name.startsWith('board')));

test('counters outlive workers and a killed master; shared memory does not outlive the node', async () => {
  const home = await newHome();
  const node = await startNode(home);
  const settled = async (of, count) =>
    waitFor(async () => sum(await of.metrics(), 'fairlead_requests_settled_total') === count, { what: `${count} requests counted` });
  for (let i = 0; i < 20; i++) await ask(node);
  await settled(node, 20);
  for (const pid of await node.pids()) {
    process.kill(pid, 'SIGKILL'); // their regions are folded and cleared
    await waitFor(async () => (await node.status()).workers.every((worker) => worker.state === 'up' && worker.pid !== pid));
  }
  await settled(node, 20);
  node.master.kill('SIGKILL');
  await waitFor(() => node.master.child.signalCode === 'SIGKILL');
  assert.equal(boards(home).length, 1, 'for the next master');
  const next = await startNode(home);
  await settled(next, 20);
  for (let i = 0; i < 5; i++) await ask(next);
  await settled(next, 25);
  assert.equal((await next.master.stop()).code, 0);
  assert.deepEqual(boards(home), []);
});

test('a node that cannot start leaves no shared memory', async () => {
  const node = await startNode(await newHome(), { workers: 1 });
  const home = await newHome();
  const other = await run('fairlead-dataplane', ['--home', home, '--listen', node.url.slice(7), '--operations', '127.0.0.1:0']);
  assert.equal(other.code, 1);
  assert.deepEqual(boards(home), []);
  assert.equal((await node.master.stop()).code, 0);
});

test('SIGTERM lets streams finish', async () => {
  const node = await startNode(await newHome());
  const stream = chat(node, { stream: true, messages: [{ role: 'user', content: '[[fake ttft_ms=10 token_ms=100 tokens=8]]' }] }).then((response) => response.text());
  await waitFor(async () => sum(await node.metrics(), 'fairlead_streams_open') === 1);
  const stopped = node.master.stop();
  assert.ok((await stream).trimEnd().endsWith('[DONE]'));
  assert.deepEqual(await stopped, { code: 0, signal: null });
  await assert.rejects(chat(node));
  assert.equal(records(node.home).length, 1);
});

test('one home, one master', async () => {
  const node = await startNode(await newHome(), { workers: 1 });
  const second = await run('fairlead-dataplane', ['--home', node.home, '--listen', '127.0.0.1:0', '--operations', '127.0.0.1:0']);
  assert.equal(second.code, 2);
  assert.match(second.stderr, new RegExp(`event=home.locked .*pid=${node.master.pid}`));
  const other = await run('fairlead-dataplane', ['--home', await newHome(), '--listen', node.url.slice(7), '--operations', '127.0.0.1:0']);
  assert.equal(other.code, 1);
  assert.match(other.stderr, /event=node\.listen .*error=exists .*another program listens there/);
  assert.equal((await node.master.stop()).code, 0);
});

test('a worker that crashes again and again is started later and later; its sibling answers who waits', async () => {
  const home = await newHome();
  const node = await startNode(home, { workers: 2 });
  const [, second] = await node.pids();
  for (let i = 0; i < 10; i++) {
    const { pid } = await waitFor(async () => (await node.status()).workers.find((worker) => worker.slot === 0 && worker.state === 'up'));
    process.kill(pid, 'SIGKILL');
    await waitFor(() => !alive(pid));
  }
  await node.master.waitForOutput(/event=worker\.backoff slot=0 ms=1600/, { from: 'stderr' });
  // Half of these connections reach the socket of the slot that has no worker.
  const from = performance.now();
  for (let i = 0; i < 24; i++) await ask(node);
  assert.equal((await node.status()).workers[0].state, 'backing_off', 'it must have been down all the while');
  assert.ok(performance.now() - from < 1600);
  assert.match(node.master.stderr, /event=listener\.lent slot=0 to=1/);
  await waitFor(async () => (await node.status()).workers.every((worker) => worker.state === 'up'));
  assert.equal((await node.pids())[1], second);
  for (let i = 0; i < 10; i++) await ask(node);
  await waitFor(async () => sum(await node.metrics(), 'fairlead_requests_settled_total') === 34);
  assert.equal((await node.master.stop()).code, 0);
});

test('a lent socket is lent again when its holder dies', async () => {
  const node = await startNode(await newHome(), { workers: 3 });
  for (let i = 0; i < 10; i++) {
    const { pid } = await waitFor(async () => (await node.status()).workers.find((worker) => worker.slot === 0 && worker.state === 'up'));
    process.kill(pid, 'SIGKILL');
    await waitFor(() => !alive(pid));
  }
  await node.master.waitForOutput(/event=worker\.backoff slot=0 ms=1600/, { from: 'stderr' });
  const lent = () => [...node.master.stderr.matchAll(/event=listener\.lent slot=0 to=(\d)/g)].map((match) => Number(match[1]));
  const times = lent().length;
  const holder = (await node.status()).workers[lent().at(-1)];
  process.kill(holder.pid, 'SIGKILL');
  await waitFor(() => lent().length > times, { what: 'another holder' });
  assert.ok(![0, holder.slot].includes(lent().at(-1)));
  for (let i = 0; i < 12; i++) await ask(node);
  assert.equal((await node.status()).workers[0].state, 'backing_off', 'it must have been down all the while');
  assert.equal((await node.master.stop()).code, 0);
});

test('its configuration is checked, and said where it is wrong', async () => {
  const help = await run('fairlead-dataplane', ['--help-config']);
  assert.match(help.stdout, /limits\.head_bytes\n    default 32KiB; 1KiB to 32KiB\n/);
  const good = await run('fairlead-dataplane', ['--home', temporaryDirectory('fl-'), '--check-config']);
  assert.equal(good.code, 0);
  const flag = await run('fairlead-dataplane', ['--home', temporaryDirectory('fl-'), '--check-config', '--workers', '900']);
  assert.equal(flag.code, 2);
  assert.match(flag.stderr, /workers: between 1 and 64/);
});

test('a table that crashes its workers is taken back, and refused from then on', async () => {
  const policy = (context) => (fakes) => `providers:
  a: {base_url: "${fakes[0].baseUrl}", auth: none, probe: {how: none}}
models:
  a/one: {price: {input: 1, output: 2}, context: ${context}}
routes:
  chat: {tiers: [{models: [a/one]}]}`;
  // Each worker process aborts at the second table that it takes.
  const env = { FAIRLEAD_FAULT: 'crash_table:1', FAIRLEAD_FAULT_ENABLE: '1' };
  const house = await startFairlead({ policy: policy(8000), env });
  const { key: clientKey } = await house.createKey();
  const before = (await house.status()).committed.generation;
  writeFileSync(path.join(house.home, 'policy.yaml'), `schema: fairlead/1\nkind: policy\n${policy(9000)(house.fakes)}\n`);
  await house.cli(['policy', 'push', path.join(house.home, 'policy.yaml'), '-m', 'bad']);
  const status = await waitFor(async () => {
    const now = await house.status();
    return now.nacks.length > 0 && now.workers.every((worker) => worker.state === 'up' && worker.generation === before) && now;
  }, { what: 'the table before' });
  assert.equal(status.committed.generation, before);
  assert.deepEqual(status.nacks.map((nack) => [nack.reason, nack.seq]), [['crashed', before + 1]]);
  assert.match(await house.metrics(), /^fairlead_table_reverts_total 1$/m);
  const answer = await house.request('/v1/chat/completions', { key: clientKey, body: { model: 'chat', messages: [{ role: 'user', content: 'x' }] } });
  assert.equal(answer.status, 200, answer.text);
  // The control plane is told why.
  const nodes = await waitFor(async () => {
    const text = (await house.cli(['nodes', '--json'])).stdout;
    return /"refusing"/.test(text) && /"crashed"/.test(text) && text;
  }, { what: 'the refusal to be known' });
  assert.match(nodes, new RegExp(`"seq": ?${before + 1}\\b`));
  await house.cli(['down']);
  assert.deepEqual(boards(house.home), []);
  await house.stop();
});
