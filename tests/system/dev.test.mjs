// dev: one's own Fairlead in the foreground: a key, a push at each save, a line for each request, and nothing left over.
import assert from 'node:assert/strict';
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { chatBody, request } from './support/fairlead.mjs';
import { run, startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

after(stopAll);

const policy = (fake, more = '') =>
  `schema: fairlead/1\nkind: policy\ndefaults: {probe: {how: none}}\nproviders:\n  a: {preset: openai-compatible, base_url: "${fake.baseUrl}"}\nmodels:\n  a/m: {price: {input: 1, output: 1}}\nroutes:\n  chat: {tiers: [{models: [a/m]}]}\n${more}`;

const startDev = (dir, file) => startProcess('fairlead', ['dev', file, '--listen', '127.0.0.1:0', '--operations', '127.0.0.1:0', '--workers', '1'], { cwd: dir, readyPattern: /^watch +\S+; Ctrl-C ends it$/m, timeoutMs: 60_000 });

test('a policy is served, pushed when it is saved, kept when it is bad', async () => {
  const fake = await startFakellm({ models: 'm' });
  const dir = temporaryDirectory('fl-');
  const file = path.join(dir, 'p.yaml');
  writeFileSync(file, policy(fake));
  const dev = await startDev(dir, 'p.yaml');
  const said = (pattern) => waitFor(() => pattern.exec(dev.stdout + dev.stderr), { what: () => `${pattern} in ${dev.stdout}${dev.stderr}`, timeoutMs: 30_000 });
  await said(/^policy +v1 is live/m);
  const [, api] = await said(/^API +(http:\/\/\S+)\/v1$/m);
  const [, key, kept] = await said(/^key +(fl-\S+) \(kept in (\S+); shown this once\)$/m);
  assert.equal(kept, path.join(dir, '.fairlead/dev.key'));
  assert.equal(statSync(kept).mode & 0o777, 0o600);
  assert.match(readFileSync(kept, 'utf8'), new RegExp(key));

  // A worker may not know the key yet.
  const ask = () => request(`${api}/v1/chat/completions`, { key, body: chatBody('hello') });
  await waitFor(async () => (await ask()).status === 200, { what: 'an answer', timeoutMs: 30_000 });
  await said(/^\d\d:\d\d:\d\d +200 +chat -> a\/m +ok +all \S+ +\d+\+\d+ tokens +\$0\.0\S+ +req_\S+$/m);

  // As editors do: written beside, then renamed over it.
  writeFileSync(path.join(dir, '.p.yaml.tmp'), policy(fake, '  code: {tiers: [{models: [a/m]}]}\n'));
  renameSync(path.join(dir, '.p.yaml.tmp'), file);
  await said(/^policy +v2 is live/m);
  writeFileSync(file, policy(fake, '  code: {tiers: [{models: [a/n]}]}\n'));
  await said(/p\.yaml:\d+:\d+: error: .*a\/n/);
  await said(/^policy +not taken; what was live stays live$/m);
  assert.equal((await ask()).status, 200);
  writeFileSync(file, policy(fake, '  core: {tiers: [{models: [a/m]}]}\n'));
  await said(/^policy +v3 is live/m);

  const second = await run('fairlead', ['dev', 'p.yaml'], { cwd: dir });
  assert.equal(second.code, 4);
  assert.match(second.stderr, /another one \(pid \d+\) runs/);
  const { code } = await dev.stop({ signal: 'SIGINT', graceMs: 60_000 });
  assert.equal(code, 0);

  // The next day: the same key, and a bad file from the start does not keep it down.
  writeFileSync(file, 'schema: fairlead/1\nkind: policy\nroutes: [\n');
  const again = await startDev(dir, 'p.yaml');
  assert.match(again.stdout, /^policy +not taken/m);
  assert.doesNotMatch(again.stdout, new RegExp(key));
  assert.match(again.stdout, /^key +key_\S+, in \S+dev\.key$/m);
  const port = /^API +(http:\/\/\S+)\/v1$/m.exec(again.stdout)[1];
  await waitFor(async () => (await request(`${port}/v1/chat/completions`, { key, body: chatBody('hello') })).status === 200, { what: 'an answer after a restart', timeoutMs: 30_000 });
  assert.equal((await again.stop({ signal: 'SIGTERM', graceMs: 60_000 })).code, 0);
});

test('without a policy one is offered, and nothing is written unasked', async () => {
  const dir = temporaryDirectory('fl-');
  const { code, stderr } = await run('fairlead', ['dev'], { cwd: dir });
  assert.equal(code, 3);
  assert.match(stderr, /There is no \S+policy\.yaml\. Write one from what is found/);
  assert.match(stderr, /say --yes/);
  const elsewhere = await run('fairlead', ['dev', 'none/p.yaml'], { cwd: dir });
  assert.equal(elsewhere.code, 3);
});
