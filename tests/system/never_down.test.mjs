// Reload and upgrade: a node changes its settings, its sockets and its program while it serves, and nobody is turned away.
// FAIRLEAD_RELOADS (20), FAIRLEAD_UPGRADES (5) and FAIRLEAD_STREAMS (300) make it larger.
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, readdirSync, readFileSync, readlinkSync, renameSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, test } from 'node:test';
import { alive, figures, holderOf, sumOf, workersUp } from './support/control.mjs';
import { chatBody, contentOf, eventsOf, startFairlead } from './support/fairlead.mjs';
import { bin, run, startProcess, stopAll, temporaryDirectory, toOptions, waitFor } from './support/process.mjs';

const reloads = Number(process.env.FAIRLEAD_RELOADS ?? 20);
const upgrades = Number(process.env.FAIRLEAD_UPGRADES ?? 5);
const streamCount = Number(process.env.FAIRLEAD_STREAMS ?? 300);

after(stopAll);

// A machine that is slow to send a first request loses none, either.
const patient = 'limits: {drain: 60s, drain_first: 60s}';

const policy = (fakes) => `providers:
  a: {base_url: "${fakes[0].baseUrl}", auth: none, probe: {how: none}}
models:
  a/one: {price: {input: 1, output: 2}, context: 8000}
routes:
  chat: {tiers: [{models: [a/one]}]}`;

const start = (options) => startFairlead({ policy, ...options });
const chat = (house, key, content, more) => house.request('/v1/chat/completions', { key, body: chatBody(content, more) });

// A change that must go well: its result.
async function change(house, ...args) {
  const { code, stdout, stderr } = await house.cli([...args, '--json', '--timeout', '120s']);
  assert.equal(code, 0, `fairlead ${args.join(' ')}: ${stderr}`);
  return JSON.parse(stdout);
}

// A new connection for each request, as many as the machine makes, until stop(): loadgen's summary.
async function connecting(house, connections = 8) {
  const load = await startProcess('loadgen', toOptions({ url: `${house.api}/v1/models/none`, method: 'GET', expectStatus: 401, connections, seconds: 3600, close: true }));
  return async () => {
    load.child.kill('SIGINT');
    await load.exited;
    const result = JSON.parse(load.stdout);
    return { ...result, rate: Math.round(result.ok / result.seconds) };
  };
}

const pids = async (house) => (await workersUp(house)).map(({ pid }) => pid);

function writeNode(house, body) {
  writeFileSync(path.join(house.home, 'node.yaml'), `schema: fairlead/1\nkind: node\n${body}\n`);
}

test(`${reloads} reloads under as many new connections as the machine makes: none is lost`, async (t) => {
  const house = await start({ node: patient });
  const stop = await connecting(house);
  const times = [];
  let before = await pids(house);
  for (let i = 0; i < reloads; i++) {
    const done = await change(house, 'reload');
    assert.equal(done.change, 'reload');
    assert.equal(done.workers, 2);
    times.push(done.ms);
    const now = await pids(house);
    assert.ok(now.every((pid) => !before.includes(pid)), 'every worker is another one');
    before = now;
  }
  const result = await stop();
  t.diagnostic(`${result.ok} connections, ${result.rate} each second; failed ${result.failed}; reloads took ms: ${JSON.stringify(figures(times))}`);
  assert.ok(result.ok > reloads, 'there was a load');
  assert.equal(result.failed, 0, JSON.stringify(result));
  assert.equal(sumOf(await house.metrics(), 'fairlead_worker_restarts_total'), 0);
  await waitFor(async () => (await house.status()).draining_workers.length === 0, { what: 'the end of the old workers' });
  await house.stop();
});

// A provider whose streams end when the test says so: {url, open, finish, close}.
async function startHeldProvider() {
  const open = new Set();
  const event = (delta, finish = null) => `data: ${JSON.stringify({ id: 'x', object: 'chat.completion.chunk', created: 1, model: 'one', choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;
  const server = http.createServer((req, res) => {
    req.resume();
    req.on('end', () => {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.write(event({ role: 'assistant', content: 'begun ' }));
      open.add(res);
      res.on('close', () => open.delete(res));
    });
  });
  const beat = setInterval(() => open.forEach((res) => res.write(event({ content: '.' }))), 5000);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    baseUrl: `http://127.0.0.1:${server.address().port}/v1`,
    open,
    finish: () => [...open].forEach((res) => res.end(`${event({ content: 'ended' })}${event({}, 'stop')}data: [DONE]\n\n`)),
    close: () => (clearInterval(beat), server.closeAllConnections(), server.close()),
  };
}

const whole = (answer) => answer.status === 200 && answer.end === 'end' && answer.text.trimEnd().endsWith('[DONE]') && /^begun \.*ended$/.test(contentOf(eventsOf(answer.text)));

test(`${streamCount} open streams across ${upgrades} upgrades: none is cut, all end whole`, async (t) => {
  const provider = await startHeldProvider();
  const house = await startFairlead({ fakes: [], policy: policy([provider]), node: 'limits: {drain: 600s, drain_first: 60s, connections: 5000, upstream_connections: 5000}' });
  const { key } = await house.createKey();
  const master = holderOf(house.home, 'node');
  const streams = [];
  const stop = await connecting(house, 2);
  for (let i = 0; i < upgrades; i++) {
    // Some before each, so that workers of several generations carry some.
    for (let k = 0; k < Math.ceil(streamCount / upgrades) && streams.length < streamCount; k++) streams.push(chat(house, key, 'x', { stream: true }).catch((error) => ({ end: error.code })));
    await waitFor(() => provider.open.size === streams.length, { timeoutMs: 60_000, what: 'open streams' });
    const done = await change(house, 'upgrade');
    assert.deepEqual([done.change, done.workers], ['upgrade', 2]);
    assert.equal(holderOf(house.home, 'node'), master, 'the same process');
    assert.ok(alive(master));
  }
  const load = await stop();
  const draining = (await house.status()).draining_workers.filter((worker) => worker.requests > 0);
  assert.equal(draining.reduce((sum, worker) => sum + worker.requests, 0), streams.length, 'old workers carry all of them');
  assert.ok(new Set(draining.map((worker) => worker.roll)).size === upgrades, 'of every generation');
  provider.finish();
  const answers = await Promise.all(streams);
  assert.deepEqual(answers.filter((answer) => !whole(answer)).slice(0, 3), []);
  await waitFor(async () => (await house.status()).draining_workers.length === 0, { what: 'the end of the old workers' });
  // All that ended were waited for: the children are the workers.
  const children = readFileSync(`/proc/${master}/task/${master}/children`, 'utf8').trim().split(' ').map(Number).sort();
  assert.deepEqual(children, (await pids(house)).sort());
  assert.equal(sumOf(await house.metrics(), 'fairlead_worker_restarts_total'), 0);
  t.diagnostic(`${streams.length} streams, ${draining.length} old workers at once; ${load.ok} connections meanwhile, ${load.rate} each second, failed ${load.failed}`);
  assert.equal(load.failed, 0, JSON.stringify(load));
  // After it a crash, a reload and a table go on as before.
  const [victim] = await pids(house);
  process.kill(victim, 'SIGKILL');
  await workersUp(house, (workers) => workers.every(({ pid }) => pid !== victim));
  await change(house, 'reload');
  const other = await house.createKey();
  const late = chat(house, other.key, 'x', { stream: true });
  await waitFor(() => provider.open.size === 1, { what: 'a stream' });
  provider.finish();
  assert.ok(whole(await late));
  await house.stop();
  provider.close();
});

test('a reload takes what the file says: limits, listeners added and removed', async () => {
  const house = await startFairlead({ policy, node: 'limits: {drain: 10s}\nworkers: 1', args: {} });
  const { key } = await house.createKey();
  const other = path.join(house.home, 'api.sock');
  const second = () => new Promise((resolve) => {
    const req = http.request({ socketPath: other, path: '/v1/models/none' }, (res) => (res.resume(), resolve(res.statusCode)));
    req.on('error', (error) => resolve(error.code));
    req.end();
  });
  // The command line's listener outranks the file's: a node of its own shows the file's.
  assert.equal((await chat(house, key, 'x')).status, 200);
  writeNode(house, `limits: {drain: 10s, body_bytes: 2KiB}\nlisten: "unix:${other}"`);
  const { code, stderr } = await house.cli(['reload']);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /note: `listen` of the file has no effect, as this node was started with --listen/);
  assert.equal((await chat(house, key, 'x'.repeat(4000))).status, 413);
  assert.equal(await second(), 'ENOENT');
  await house.stop();

  const home = temporaryDirectory('fl-');
  const own = { home };
  const listen = (lines) => writeNode(own, `operations: 127.0.0.1:0\nworkers: 2\nlimits: {drain: 5s}\nlisten:\n${lines}`);
  listen('  - 127.0.0.1:0');
  // What is freed is overwritten at once, so that a worker cannot be started by words that are gone.
  const env = { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:max_free_fill_size=4096` };
  const node = await startProcess('fairlead-dataplane', ['--home', home], { readyPattern: /event=node\.listening address=(\S+)/, readyFrom: 'stderr', env });
  const first = Number(node.ready[1].split(':').at(-1));
  const reload = () => change({ cli: (args) => run('fairlead', [...args, '--home', home]) }, 'reload');
  listen(`  - 127.0.0.1:0\n  - "unix:${path.join(home, 'api.sock')}"`);
  await reload();
  const ask = (options) => new Promise((resolve) => {
    const req = http.request({ path: '/v1/models/none', agent: false, ...options }, (res) => (res.resume(), resolve(res.statusCode)));
    req.on('error', (error) => resolve(error.code));
    req.end();
  });
  assert.equal(await ask({ port: first, host: '127.0.0.1' }), 401);
  assert.equal(await ask({ socketPath: path.join(home, 'api.sock') }), 401);
  const status = async () => (await fetch(`http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}/status`, { headers: { connection: 'close' } })).json();
  for (const pid of await pids({ status })) {
    const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
    assert.equal(words[words.indexOf('--config') + 1], path.join(home, 'node.yaml'));
  }
  listen(`  - "unix:${path.join(home, 'api.sock')}"`);
  await reload();
  assert.equal(await ask({ socketPath: path.join(home, 'api.sock') }), 401);
  await waitFor(async () => (await ask({ port: first, host: '127.0.0.1' })) === 'ECONNREFUSED', { what: 'the end of the first listener' });
  await node.stop();
});

test('a broken file changes nothing, and says where it is wrong', async () => {
  const house = await start({ node: 'limits: {drain: 10s}' });
  const { key } = await house.createKey();
  const before = await pids(house);
  writeNode(house, 'limits: {drain: 10s}\nlistenn: 127.0.0.1:1');
  const { code, stderr } = await house.cli(['reload']);
  assert.equal(code, 1);
  assert.match(stderr, /node\.yaml:4:1: unknown field 'listenn'; did you mean 'listen'\?/);
  assert.deepEqual(await pids(house), before);
  const status = JSON.parse((await house.cli(['status', '--json'])).stdout);
  assert.equal(status.nodes.length, 1);
  assert.deepEqual([status.local_node.last_change.change, status.local_node.last_change.outcome], ['reload', 'failed']);
  assert.match(status.local_node.last_change.why, /unknown field 'listenn'/);
  assert.deepEqual(status.local_node.workers.map(({ pid }) => pid), before);
  // Nor does it reach a worker that is started for one that crashed.
  process.kill(before[0], 'SIGKILL');
  await workersUp(house, (workers) => workers.every(({ pid }) => pid !== before[0]));
  assert.equal((await chat(house, key, 'x')).status, 200);
  // SIGHUP reads it, too; and again when it is whole.
  process.kill(holderOf(house.home, 'node'), 'SIGHUP');
  await house.up.waitForOutput(/event=reload\.failed why=".*node\.yaml:4:1/, { from: 'stderr' });
  writeNode(house, 'limits: {drain: 10s, body_bytes: 2KiB}');
  process.kill(holderOf(house.home, 'node'), 'SIGHUP');
  await waitFor(async () => (await chat(house, key, 'x'.repeat(4000))).status === 413, { what: 'the new limit' });
  await house.stop();
});

test('what only shows in a worker, such as a certificate that is none: the old workers go on', async () => {
  const home = temporaryDirectory('fl-');
  const node = (listen) => writeNode({ home }, `operations: 127.0.0.1:0\nworkers: 2\nlisten:\n  - 127.0.0.1:0\n${listen}`);
  node('');
  const process = await startProcess('fairlead-dataplane', ['--home', home], { readyPattern: /event=node\.listening address=(\S+)/, readyFrom: 'stderr' });
  const status = async () => (await fetch(`http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}/status`, { headers: { connection: 'close' } })).json();
  const before = await pids({ status });
  const pem = path.join(home, 'c.pem');
  writeFileSync(pem, 'no certificate\n');
  node(`  - {address: "127.0.0.1:0", tls: {certificate: ${pem}, key: ${pem}}}`);
  const { code, stderr } = await run('fairlead', ['reload', '--home', home]);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /reload failed: /);
  assert.deepEqual(await pids({ status }), before);
  assert.equal((await fetch(`http://${process.ready[1]}/v1/models/none`, { headers: { connection: 'close' } })).status, 401);
  // And what no master can judge: the reason is the worker's own.
  node('');
  const master = holderOf(home, 'node');
  const board = readdirSync(`/proc/${master}/fd`).map((fd) => readlinkSync(`/proc/${master}/fd/${fd}`)).find((file) => file.startsWith('/dev/shm/fairlead') || file.endsWith('/board'));
  renameSync(board, `${board}.away`);
  const blind = await run('fairlead', ['reload', '--home', home]);
  renameSync(`${board}.away`, board);
  assert.equal(blind.code, 1, blind.stderr);
  assert.match(blind.stderr, /a new worker ended with status 1 before all of them served: event=core\.open error=not_found board=/);
  assert.deepEqual(await pids({ status }), before);
  // What the worker was refused for is not in force: one that crashes is followed by one that works.
  globalThis.process.kill(before[0], 'SIGKILL');
  await workersUp({ status }, (workers) => workers.every(({ pid }) => pid !== before[0]));
  await process.stop();
});

test('a program that cannot take over does not: the old one goes on', async () => {
  const house = await start({ node: 'limits: {drain: 10s}' });
  const { key } = await house.createKey();
  const before = await pids(house);
  const directory = temporaryDirectory();
  const script = (name, text) => (writeFileSync(path.join(directory, name), text), chmodSync(path.join(directory, name), 0o755), path.join(directory, name));
  const programs = [
    [script('other', '#!/bin/sh\necho something else\n'), /is no program of ours: with --version it said: something else/],
    [script('refuses', '#!/bin/sh\n[ "$1" = --version ] && { echo fairlead-dataplane 9.9.9; exit 0; }\necho no such format >&2; exit 2\n'), /ended with status 2, saying: no such format/],
    [script('text', 'not a program'), /is no program of ours|cannot be run/],
    [path.join(directory, 'none'), /No such file/],
  ];
  for (const [program, says] of programs) {
    const { code, stderr } = await house.cli(['upgrade', '--binary', program]);
    assert.equal(code, 1, stderr);
    assert.match(stderr, says);
  }
  // One that is good when it is tried and gone when it is to be executed.
  const vanishes = script('vanishes', '#!/bin/sh\n[ "$1" = --version ] && { echo fairlead-dataplane 9.9.9; exit 0; }\nrm -f "$0"; exit 0\n');
  const { code, stderr } = await house.cli(['upgrade', '--binary', vanishes]);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /cannot be executed: No such file or directory; the old one goes on/);
  assert.deepEqual(await pids(house), before);
  assert.equal((await chat(house, key, 'x')).status, 200);
  // A good one, from another place.
  const copy = path.join(directory, 'fairlead-dataplane');
  copyFileSync(bin('fairlead-dataplane'), copy);
  await change(house, 'upgrade', '--binary', copy);
  assert.equal(readlinkSync(`/proc/${holderOf(house.home, 'node')}/exe`), copy);
  assert.equal((await chat(house, key, 'x')).status, 200);
  await house.stop();
});

test('kill -9 of the master in the middle of a reload: the next one keeps one worker for each slot, and all requests', async () => {
  const house = await start({ node: patient });
  const stop = await connecting(house, 4);
  for (let i = 0; i < 4; i++) {
    const master = holderOf(house.home, 'node');
    const reload = house.cli(['reload']);
    // At whatever point it is: waits for the first words of the reload in the log, then a little more each time.
    await house.up.waitForOutput(new RegExp(`pid=${master} event=roll\\.begin`), { from: 'stderr' });
    await new Promise((resolve) => setTimeout(resolve, 15 * i));
    process.kill(master, 'SIGKILL');
    await reload;
    await waitFor(() => ![0, master].includes(holderOf(house.home, 'node')) && alive(holderOf(house.home, 'node')), { what: 'the next master' });
    const operations = () => readFileSync(path.join(house.home, 'run/operations'), 'utf8').trim();
    house.status = async () => (await fetch(`http://${operations()}/status`, { headers: { connection: 'close' } })).json();
    await workersUp(house);
    await waitFor(async () => (await house.status()).draining_workers.length === 0, { what: 'the end of the others' });
  }
  const result = await stop();
  assert.equal(result.failed, 0, JSON.stringify(result));
  await change(house, 'reload');
  await house.stop();
});

test('SIGTERM to a worker: another is in its place before it stops accepting', async () => {
  const house = await start({ node: patient });
  const stop = await connecting(house);
  for (let i = 0; i < 6; i++) {
    const [victim] = await pids(house);
    process.kill(victim, 'SIGTERM');
    await waitFor(() => !alive(victim), { what: 'the end of the worker' });
    assert.ok((await pids(house)).every((pid) => pid !== victim));
  }
  const result = await stop();
  assert.equal(result.failed, 0, JSON.stringify(result));
  assert.equal(sumOf(await house.metrics(), 'fairlead_worker_restarts_total'), 0);
  await house.stop();
});

test('a worker that does not hear that it is to drain is told again when it is back', async () => {
  const house = await start({ node: 'limits: {drain: 120s}', env: { FAIRLEAD_FAULT_ENABLE: '1', FAIRLEAD_FAULT: 'drain:0:3' } });
  const before = await pids(house);
  await change(house, 'reload');
  await waitFor(() => before.every((pid) => !alive(pid)), { what: 'the end of the workers before', timeoutMs: 60_000 });
  const unheard = before.map((pid) => house.up.stderr.match(new RegExp(`pid=${pid} event=link\\.unheard`, 'g'))?.length);
  assert.deepEqual(unheard, before.map(() => 3));
  assert.doesNotMatch(house.up.stderr, /event=worker\.killed/);
  assert.equal(sumOf(await house.metrics(), 'fairlead_worker_restarts_total'), 0);
  await house.stop(); // theirs are not told in vain either
});
