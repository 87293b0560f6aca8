// Roles on the admin link by local user: who may look, change, or do nothing, as the socket's peer and not as he says.
// Another user takes root to play; without it only the owner's own part is tested.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, copyFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { bin, run, startProcess, stopAll, temporaryDirectory } from './support/process.mjs';

const code = { good: 0, notFound: 3, denied: 5 };
const isRoot = process.getuid() === 0;
const nobody = 65534;
const policy = 'schema: fairlead/1\nkind: policy\nproviders:\n  a: {preset: openai-compatible, base_url: "http://127.0.0.1:1/v1", probe: {how: none}}\nmodels:\n  a/m: {price: {input: 1, output: 1}}\nroutes:\n  chat: {tiers: [{models: [a/m]}]}\n';

after(stopAll);

describe('roles by local user', { skip: !isRoot && 'another user can only be played by root' }, () => {
  const home = temporaryDirectory('fl-');
  const tools = temporaryDirectory('fl-');
  const roles = (text) => {
    writeFileSync(path.join(home, 'roles.yaml'), `schema: fairlead/1\nkind: roles\n${text}\n`, { mode: 0o600 });
  };
  // As nobody, and as whom he says he is.
  const asNobody = (...args) =>
    new Promise((resolve) => {
      const words = ['--reuid', nobody, '--regid', nobody, '--clear-groups', path.join(tools, 'fairlead'), ...args, '--home', home];
      execFile('setpriv', words.map(String), { env: { PATH: process.env.PATH, HOME: '/', USER: 'root', LOGNAME: 'root' } }, (error, stdout, stderr) => resolve({ code: error ? error.code : 0, said: stdout + stderr }));
    });
  const expect = async (promise, expected, pattern) => {
    const { code: got, said } = await promise;
    assert.equal(got, expected, said);
    assert.match(said, pattern);
  };

  before(async () => {
    chmodSync(tools, 0o755);
    copyFileSync(bin('fairlead'), path.join(tools, 'fairlead'));
    chmodSync(path.join(tools, 'fairlead'), 0o755);
    await startProcess('fairlead-controlplane', ['--home', home, '--admin-group', 'nogroup'], { readyPattern: /event=started/, readyFrom: 'stderr' });
    const file = path.join(tools, 'policy.yaml');
    writeFileSync(file, policy);
    const pushed = await run('fairlead', ['policy', 'push', file, '--home', home]);
    assert.equal(pushed.code, 0, pushed.stderr);
  });

  test('the group may pass to the socket and nowhere else', () => {
    const mode = (name) => statSync(path.join(home, name)).mode & 0o777;
    assert.equal(mode('run/admin.ipc'), 0o660);
    assert.equal(mode('run') & 0o077, 0o010);
    assert.equal(mode('.') & 0o077, 0o010);
    assert.equal(mode('run/fetch.ipc') & 0o077, 0);
    assert.equal(mode('run/evidence.ipc') & 0o077, 0);
    assert.equal(mode('db/control') & 0o077, 0);
  });

  test('without a role nothing, with one what it allows; taken back at once', async () => {
    await expect(asNobody('status'), code.denied, /nobody \(uid 65534\) has no role.*viewer.*roles\.yaml/s);
    roles('groups: {nogroup: viewer}');
    await expect(asNobody('status'), code.good, /v1 100%/);
    await expect(asNobody('block', 'a', '--reason', 'x', '--yes'), code.denied, /block needs the role operator, you have viewer; .*roles\.yaml/);
    await expect(asNobody('nodes', 'adopt', '--all', '--yes'), code.denied, /needs the role admin/);
    roles('users: {nobody: operator}\ngroups: {nogroup: viewer}');
    await expect(asNobody('block', 'a', '--reason', 'it leaks', '--yes'), code.good, /a is blocked/);
    await expect(asNobody('nodes', 'adopt', '--all', '--yes'), code.denied, /needs the role admin, you have operator/);
    await expect(asNobody('unblock', 'b', '--yes'), code.notFound, /not blocked/);
    roles('users: {nobody: emperor}');
    await expect(asNobody('status'), code.denied, /no role/);
    rmSync(path.join(home, 'roles.yaml'));
    await expect(asNobody('status'), code.denied, /no role/);
  });

  test('the audit log has the peer, whatever was claimed', async () => {
    const { stdout } = await run('fairlead', ['audit', '--command', 'block', '--json', '--home', home]);
    const [{ entry }] = JSON.parse(stdout);
    assert.equal(entry.user, 'nobody');
    assert.equal(entry.uid, nobody);
    assert.equal(entry.role, 'operator');
    const status = await run('fairlead', ['status', '--home', home]);
    assert.match(status.stdout, /^block +a by nobody: it leaks$/m);
  });

  test('a socket that is closed to somebody says so', async () => {
    chmodSync(path.join(home, 'run/admin.ipc'), 0o600);
    await expect(asNobody('status'), code.denied, /not open to you.*--admin-group/s);
  });
});

test('an unknown group keeps the control plane from starting half open', async () => {
  const { code: got, stderr } = await run('fairlead-controlplane', ['--home', temporaryDirectory('fl-'), '--admin-group', 'no-such-group-here']);
  assert.equal(got, 1);
  assert.match(stderr, /no such group/);
});
