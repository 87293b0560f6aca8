// What stays of a node in bad moments: masters that cannot start, workers that come late, a stop in the middle of an upgrade.
import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { alive, holderOf, workersUp } from './support/control.mjs';
import { chatBody, eventsOf, request } from './support/fairlead.mjs';
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

async function startNode(home, { operations = '127.0.0.1:0', workers = 1 } = {}) {
  const master = await startProcess('fairlead-dataplane', ['--home', home, '--listen', '127.0.0.1:0', '--operations', operations, '--workers', workers], {
    readyPattern: /event=operations\.listening address=(\S+)[^]*event=node\.listening address=(\S+)/,
    readyFrom: 'stderr',
  });
  const node = { home, master, operations: master.ready[1], url: `http://${master.ready[2]}`, status: async () => (await fetch(`http://${master.ready[1]}/status`, { headers: { connection: 'close' } })).json() };
  await workersUp(node);
  return node;
}

// A stream of two seconds; {answer, begun}.
function stream(node, tokens = 40) {
  let begin;
  const begun = new Promise((resolve) => (begin = resolve));
  const answer = request(`${node.url}/v1/chat/completions`, { key, body: chatBody(`[[fake ttft_ms=1 token_ms=50 tokens=${tokens}]]`, { stream: true }), onData: begin });
  return { answer, begun };
}

function assertWhole(answer) {
  assert.deepEqual([answer.status, answer.end], [200, 'end']);
  assert.equal(eventsOf(answer.text).at(-1), '[DONE]', answer.text.slice(-400));
}

async function killMaster(node) {
  node.master.kill('SIGKILL');
  await waitFor(() => node.master.child.signalCode === 'SIGKILL');
}

test('a master that cannot start leaves the workers of the one before to the next', async () => {
  const home = await newHome();
  const node = await startNode(home);
  const [{ pid }] = (await node.status()).workers;
  await killMaster(node);
  const other = net.createServer();
  await new Promise((resolve) => other.listen(0, '127.0.0.1', resolve));
  const address = `127.0.0.1:${other.address().port}`;
  const failed = await run('fairlead-dataplane', ['--home', home, '--listen', node.url.slice(7), '--operations', address, '--workers', '1']);
  assert.equal(failed.code, 1, failed.stderr);
  assert.match(failed.stderr, /event=operations\.listen /);
  assert.ok(existsSync(path.join(home, 'run/node.sock')), 'what the next one goes by');
  assert.ok(alive(pid));
  await new Promise((resolve) => other.close(resolve));
  const next = await startNode(home, { operations: address });
  assert.deepEqual((await next.status()).workers.map((worker) => [worker.pid, worker.adopted]), [[pid, true]]);
  assert.equal(next.url, node.url);
  assert.equal((await next.master.stop()).code, 0);
  assert.ok(!existsSync(path.join(home, 'run/node.sock')), 'the last one tidies up');
});

test('a worker that comes late to the next master is not adopted, but finishes its streams', async () => {
  const home = await newHome();
  const node = await startNode(home);
  const [{ pid }] = (await node.status()).workers;
  const { answer, begun } = stream(node);
  await begun;
  process.kill(pid, 'SIGSTOP');
  await killMaster(node);
  const next = await startNode(home); // it has its own worker by now
  assert.notEqual((await next.status()).workers[0].pid, pid);
  process.kill(pid, 'SIGCONT');
  assertWhole(await answer);
  await waitFor(() => !alive(pid), { what: 'the end of the late one' });
  assert.equal((await next.master.stop()).code, 0);
});

test('SIGTERM while a new program is tried: the node stops, and is not begun anew', async () => {
  const home = await newHome();
  const node = await startNode(home);
  const { answer, begun } = stream(node);
  await begun;
  const directory = temporaryDirectory();
  const at = (name) => path.join(directory, name);
  // A program that takes its time to judge the configuration, and tells when it is executed as a master.
  writeFileSync(at('program'), `#!/bin/sh\n[ "$1" = --version ] && { echo fairlead-dataplane 9.9.9; exit 0; }\ncase "$*" in *--check-config*) : > ${at('judges')}; while [ ! -e ${at('go')} ]; do sleep 0.05; done; exit 0;; esac\n: > ${at('executed')}\n`);
  chmodSync(at('program'), 0o755);
  const upgrade = run('fairlead', ['upgrade', '--binary', at('program'), '--home', home]);
  await waitFor(() => existsSync(at('judges')), { what: 'the trial' });
  const stopped = node.master.stop({ graceMs: 60_000 });
  await node.master.waitForOutput(/event=node\.draining/, { from: 'stderr' });
  writeFileSync(at('go'), '');
  const { code, stderr } = await upgrade;
  assert.equal(code, 1, stderr);
  assert.match(stderr, /the node is stopping/);
  assertWhole(await answer);
  assert.deepEqual(await stopped, { code: 0, signal: null });
  assert.ok(!existsSync(at('executed')));
  assert.ok(!existsSync(path.join(home, 'run/node.sock')));
});

test('status shows the workers of this machine, those that drain, and how the last change went, without a control plane', async () => {
  const home = await newHome();
  const node = await startNode(home);
  const status = async () => (await run('fairlead', ['status', '--home', home])).stdout;
  const config = (text) => writeFileSync(path.join(home, 'node.yaml'), `schema: fairlead/1\nkind: node\n${text}\n`);
  assert.doesNotMatch(await status(), /last change/);
  const [{ pid: first }] = (await node.status()).workers;
  const { answer, begun } = stream(node, 400);
  await begun;
  config('limits: {drain: 60s}');
  assert.equal((await run('fairlead', ['reload', '--home', home])).code, 0);
  const [{ pid: second }] = (await node.status()).workers;
  const good = await status();
  assert.match(good, /last change reload done [\d.a-z]+ ago, in [\d.]+ s\n/);
  assert.match(good, new RegExp(`\\n *0 +up +${second} +1 `));
  assert.match(good, new RegExp(`\\n *0 +${first} +0 +\\S+ +1 +1 `), 'it drains, with its connection');
  config('limitz: {drain: 60s}');
  assert.equal((await run('fairlead', ['reload', '--home', home])).code, 1);
  assert.match(await status(), /last change reload failed [^]*FAILED: .*node\.yaml:3:1: unknown field 'limitz'/);
  // A master by another program tells of its own coming.
  config('');
  assert.equal((await run('fairlead', ['upgrade', '--home', home])).code, 0);
  assert.match(await status(), /last change upgrade done /);
  process.kill(first, 'SIGKILL'); // its stream has served its purpose
  await answer;
  assert.equal((await node.master.stop()).code, 0);
  assert.equal(await status(), '');
});
