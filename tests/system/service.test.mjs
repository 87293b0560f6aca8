// What a service manager sees: readiness, reloads, the end, the watchdog, and the sockets that it passes. The manager is
// fakemanager (tests/support), since a test has no systemd.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { bin, startProcess, stopAll, temporaryDirectory } from './support/process.mjs';

after(stopAll);

const newHome = () => temporaryDirectory('fl-');
const manage = (options, program, ...args) => startProcess('fakemanager', [...options, '--', bin(program), ...args]);
const nodeArgs = (home) => ['--home', home, '--operations', '127.0.0.1:0', '--workers', '2'];

test('the data plane says when it is ready, reloads and stops', async () => {
  const home = newHome();
  writeFileSync(path.join(home, 'node.yaml'), 'schema: fairlead/1\nkind: node\n');
  const manager = await manage(['--watchdog-ms', '400'], 'fairlead-dataplane', ...nodeArgs(home), '--listen', '127.0.0.1:0');
  const pid = (await manager.waitForOutput(/^pid (\d+)$/m))[1];
  await manager.waitForOutput(/^notify READY=1;STATUS=2 of 2 workers serve generation 0 at 127\.0\.0\.1:\d+$/m);
  // Workers do not speak for their master, nor take its sockets for theirs.
  const workers = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ');
  assert.equal(workers.length, 2);
  for (const worker of workers) {
    assert.equal(/NOTIFY_SOCKET|WATCHDOG_|LISTEN_/.exec(readFileSync(`/proc/${worker}/environ`, 'latin1')), null);
  }
  await manager.waitForOutput(/notify WATCHDOG=1\n(.*\n)*notify WATCHDOG=1\n/);
  manager.child.kill('SIGHUP');
  await manager.waitForOutput(/^notify RELOADING=1;MONOTONIC_USEC=\d+\n(.*\n)*notify READY=1/m);
  manager.child.kill('SIGTERM');
  await manager.waitForOutput(/^notify STOPPING=1;STATUS=draining$/m);
  assert.equal((await manager.exited).code, 0);
});

test('so do the control plane, the prober and the price feed', async () => {
  const home = newHome();
  mkdirSync(path.join(home, 'run'));
  for (const [program, alive] of [['fairlead-controlplane', true], ['fairlead-prober', true], ['fairlead-pricefeed', false]]) {
    const manager = await manage(['--abstract', '--watchdog-ms', '400'], program, '--home', home);
    await manager.waitForOutput(/^notify READY=1;STATUS=\S+/m);
    if (alive) await manager.waitForOutput(/notify WATCHDOG=1\n(.*\n)*notify WATCHDOG=1\n/);
    manager.child.kill('SIGTERM');
    await manager.waitForOutput(/^notify STOPPING=1$/m);
    assert.equal((await manager.exited).code, 0);
  }
});
