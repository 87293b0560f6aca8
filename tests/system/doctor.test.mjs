// The doctor at a healthy house and at a sick one: what it finds, that it says what to do, and how it ends.
import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { startFairlead } from './support/fairlead.mjs';
import { run, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

after(stopAll);

const policy = (fakes) =>
  `defaults: {probe: {how: none}}\nproviders:\n  a: {preset: openai-compatible, base_url: "${fakes[0].baseUrl}", credentials: [there, missing]}\nmodels:\n  a/m: {price: {input: 1, output: 1}}\nroutes:\n  chat: {tiers: [{models: [a/m]}]}`;

test('doctor', async () => {
  const house = await startFairlead({ policy, node: 'credentials:\n  there: {from: env:THERE, hosts: ["127.0.0.1"]}\n  missing: {from: env:MISSING, hosts: ["127.0.0.1"]}', env: { THERE: 'x', MISSING: 'y' }, workers: 1 });
  const ask = async () => {
    const { code, stdout, stderr } = await house.cli(['doctor', '--json']);
    const { errors, findings } = JSON.parse(stdout);
    assert.equal(code, errors ? 1 : 0, stderr);
    return { errors, findings, has: (level, area, what) => findings.some((one) => one.level === level && one.area === area && what.test(one.finding) && (level === 'ok' || one.advice)) };
  };
  chmodSync(house.home, 0o700);
  chmodSync(path.join(house.home, 'node.yaml'), 0o600);
  const well = await ask();
  assert.equal(well.errors, 0, JSON.stringify(well.findings));
  for (const area of ['programs', 'configuration', 'node', 'control plane', 'nodes', 'versions', 'clocks', 'prices', 'disk', 'policy', 'retirement', 'files'])
    assert.ok(well.has('ok', area, /./), `${area}: ${JSON.stringify(well.findings)}`);

  chmodSync(house.home, 0o722);
  writeFileSync(path.join(house.home, 'node.yaml'), 'schema: fairlead/1\nkind: node\nlimts: {}\n');
  await house.admin('block', 'a', '--reason', 'tried', '--for', '20m');
  const ill = await ask();
  assert.ok(ill.has('error', 'files', /mode 0722/));
  assert.ok(ill.has('error', 'configuration', /node\.yaml.*limts/));
  assert.ok(ill.has('warning', 'overrides', /the block of a .* ends in (19|20) min/));
  chmodSync(house.home, 0o700);

  // Without the control plane it still tells what can be seen from here.
  const told = await house.cli(['doctor', '--address', 'ipc:///nowhere/admin.ipc', '--timeout', '2s']);
  assert.equal(told.code, 1);
  assert.match(told.stdout, /^error +control plane +no answer at ipc:\/\/\/nowhere/m);
  assert.match(told.stdout, /^ok +node +\S+ serves/m);
  assert.equal((await house.stop()).code, 0);
});

test('a credential that a node lacks is found', async () => {
  const house = await startFairlead({ policy, node: 'credentials:\n  there: {from: env:THERE, hosts: ["127.0.0.1"]}', env: { THERE: 'x' }, workers: 1 });
  const findings = await waitFor(async () => {
    const { stdout } = await house.cli(['doctor', '--json']);
    const found = JSON.parse(stdout).findings.filter(({ area }) => area === 'credentials');
    return found.length && found;
  }, { what: 'the finding', timeoutMs: 30_000 });
  assert.match(findings[0].finding, /cannot resolve the credential "missing"/);
  assert.match(findings[0].advice, /fairlead reload/);
  assert.equal((await house.stop()).code, 0);
});

test('where there is no home it says so', async () => {
  const { code, stdout } = await run('fairlead', ['doctor', '--home', path.join(temporaryDirectory('fl-'), 'none')]);
  assert.equal(code, 1);
  assert.match(stdout, /no home on this machine/);
});
