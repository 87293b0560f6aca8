// Workers that hang: noticed, described, replaced. And workers of a busy machine, which are none.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { sumOf, workersUp } from './support/control.mjs';
import { run, startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const key = `fl-${'abcdefgh'.repeat(5)}`;
let node;

before(async () => {
  const fake = await startFakellm({ name: 'alpha' });
  const home = temporaryDirectory('fl-');
  mkdirSync(path.join(home, 'db'), { mode: 0o700 });
  writeFileSync(path.join(home, 'node.yaml'), 'schema: fairlead/1\nkind: node\nlimits: {watchdog: 1s}\n');
  const put = await run('putable', ['--home', home, '--port', fake.port, '--key', key]);
  assert.equal(put.code, 0, put.stderr);
  const master = await startProcess(
    'fairlead-dataplane',
    ['--home', home, '--listen', '127.0.0.1:0', '--operations', '127.0.0.1:0', '--workers', '2'],
    { readyPattern: /event=operations\.listening address=(\S+)[^]*event=node\.listening address=(\S+)/, readyFrom: 'stderr' },
  );
  const page = (name) => fetch(`http://${master.ready[1]}/${name}`, { headers: { connection: 'close' } });
  node = {
    master,
    url: `http://${master.ready[2]}`,
    status: async () => (await page('status')).json(),
    metric: async (name) => sumOf(await (await page('metrics')).text(), `fairlead_${name}`),
  };
  await workersUp(node);
});
after(stopAll);

async function ask() {
  const response = await fetch(`${node.url}/v1/chat/completions`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify({ model: 'chat', messages: [{ role: 'user', content: 'hello' }] }),
  });
  assert.equal(response.status, 200, await response.text());
}

// The victim is replaced, its sibling is not, and both slots serve.
async function replaced(victim, sibling) {
  const workers = await workersUp(node, (list) => list.every(({ pid }) => pid !== victim), { timeoutMs: 30_000 });
  assert.equal(workers.some(({ pid }) => pid === sibling), true);
  for (let i = 0; i < 8; i++) await ask();
}

test('a stopped worker is replaced', async () => {
  const [victim, sibling] = (await node.status()).workers.map(({ pid }) => pid);
  process.kill(victim, 'SIGSTOP');
  await node.master.waitForOutput(new RegExp(`event=worker\\.stuck slot=0 pid=${victim} how=stopped`), { from: 'stderr', timeoutMs: 30_000 });
  await replaced(victim, sibling);
  assert.equal(await node.metric('worker_stuck_total'), 1);
});

test('a spinning worker says where it is, and is replaced', async (t) => {
  const [sibling, victim] = (await node.status()).workers.map(({ pid }) => pid);
  const stalled = await run('stall', [victim]);
  if (stalled.code === 77) return t.skip(`a process may not be traced here: ${stalled.stderr}`);
  assert.equal(stalled.code, 0, stalled.stderr);
  await node.master.waitForOutput(new RegExp(`event=worker\\.stuck slot=1 pid=${victim} how=spins`), { from: 'stderr', timeoutMs: 60_000 });
  // Down to the loop that it did not come back to.
  await node.master.waitForOutput(/worker\.backtrace begin\n([^\n]*\n)*[^\n]*uv_run[^\n]*\n([^\n]*\n)*worker\.backtrace end/, { from: 'stderr' });
  await replaced(victim, sibling);
  assert.equal(await node.metric('worker_stuck_total'), 2);
});

test('a busy machine costs nobody its worker', async () => {
  const before = (await node.status()).workers.map(({ pid }) => pid);
  const stuck = await node.metric('worker_stuck_total');
  const hogs = Array.from({ length: 2 * availableParallelism() }, () => spawn(process.execPath, ['-e', 'for (;;);'], { stdio: 'ignore' }));
  try {
    // Three watchdog times of the workers' own turning, counted by their loops.
    const turns = await node.metric('loop_turns_total');
    await waitFor(async () => (await node.metric('loop_turns_total')) > turns + 2 * 30, { timeoutMs: 60_000, what: 'turns' });
    for (let i = 0; i < 20; i++) await ask();
  } finally {
    for (const hog of hogs) hog.kill('SIGKILL');
  }
  assert.deepEqual((await node.status()).workers.map(({ pid }) => pid), before);
  assert.equal(await node.metric('worker_stuck_total'), stuck);
});
