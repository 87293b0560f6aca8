// What a service manager sees: readiness, reloads, the end, the watchdog, and the sockets that it passes. The manager is
// fakemanager (tests/support), since a test has no systemd.
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, test } from 'node:test';
import { bin, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

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

// The status of a request without a key: 401 or, without a policy, 503. Over a socket's path or host:port.
const knock = (where) =>
  new Promise((resolve, reject) => {
    const [host, port] = where.split(':');
    const to = where.startsWith('/') ? { socketPath: where } : { host, port };
    http.get({ ...to, path: '/v1/models', agent: false }, (response) => response.resume().on('end', () => resolve(response.statusCode))).on('error', reject);
  });

test('it listens on sockets that were passed to it, and on a Unix socket of its own', async () => {
  const home = newHome();
  const passed = path.join(home, 'passed.sock');
  const own = path.join(home, 'own.sock');
  const config = path.join(home, 'node.yaml');
  const listen = (...more) =>
    writeFileSync(config, `schema: fairlead/1\nkind: node\nlisten: ["systemd:api", "systemd:local", {address: "unix:${own}", mode: 0640}${more.map((one) => `, "${one}"`).join('')}]\n`);
  listen();
  const manager = await manage(['--socket', 'api=127.0.0.1:0', '--socket', `local=unix:${passed}`], 'fairlead-dataplane', ...nodeArgs(home));
  const pid = (await manager.waitForOutput(/^pid (\d+)$/m))[1];
  const api = (await manager.waitForOutput(/^socket (\S+)$/m))[1];
  await manager.waitForOutput(/^notify READY=1/m);
  const lines = () => readFileSync(path.join(home, 'run/listen'), 'utf8');
  assert.equal(lines(), `${api}\nunix:${passed} systemd:local\nunix:${own}\n`);
  for (const where of [api, passed, own]) assert.ok([401, 503].includes(await knock(where)), where);
  assert.equal(statSync(own).mode & 0o777, 0o640);
  const children = () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean);
  for (const worker of children()) assert.equal(/LISTEN_/.exec(readFileSync(`/proc/${worker}/environ`, 'latin1')), null);

  // A worker's death and a reload that adds a listener leave all of them where they are.
  const [victim] = children();
  process.kill(Number(victim), 'SIGKILL');
  await waitFor(() => children().length === 2 && !children().includes(victim), { what: 'another worker' });
  for (const where of [api, passed, own]) assert.ok([401, 503].includes(await knock(where)), where);
  const extra = path.join(home, 'extra.sock');
  listen(`unix:${extra}`);
  manager.child.kill('SIGHUP');
  await waitFor(() => lines().endsWith(`unix:${extra}\n`), { what: 'the fourth listener', timeoutMs: 30_000 });
  for (const where of [api, passed, own, extra]) assert.ok([401, 503].includes(await knock(where)), where);
  listen();
  manager.child.kill('SIGHUP');
  await waitFor(() => !lines().includes(extra) && !existsSync(extra), { what: 'three listeners again', timeoutMs: 30_000 });
  for (const where of [api, passed, own]) assert.ok([401, 503].includes(await knock(where)), where);

  manager.child.kill('SIGTERM');
  assert.equal((await manager.exited).code, 0);
  assert.equal(existsSync(own), false);
  assert.equal(existsSync(passed), true); // it is the manager's
});

test('a socket that nobody passed is told with what to do about it', async () => {
  const home = newHome();
  const manager = await manage(['--socket', 'api=udp:127.0.0.1:0'], 'fairlead-dataplane', ...nodeArgs(home), '--listen', 'systemd:web');
  assert.equal((await manager.exited).code, 1);
  assert.match(manager.stderr, /event=node\.listen address=systemd:web error=not_found hint="systemd passed no such socket: look at FileDescriptorName=/);
  const other = await manage(['--socket', 'api=udp:127.0.0.1:0'], 'fairlead-dataplane', ...nodeArgs(home), '--listen', 'systemd:api');
  assert.equal((await other.exited).code, 1);
  assert.match(other.stderr, /event=node\.listen address=systemd:api error=invalid hint="what systemd passed is no listening stream/);
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
