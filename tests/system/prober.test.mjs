// The prober against a real control plane and simulated providers: what it asks, what it never asks, what becomes of the answers.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { run, startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const home = temporaryDirectory('prober-');
const secret = 'sk-prober-test-0123456789';
const certificate = path.join(home, 'certificate.pem');
const certificateKey = path.join(home, 'key.pem');
let good, closed, bought, sealed;

const cli = async (...args) => {
  const { code, stdout, stderr } = await run('fairlead', [...args, '--home', home, '--json']);
  assert.equal(code, 0, `fairlead ${args.join(' ')}: ${stderr}${stdout}`);
  return JSON.parse(stdout);
};
const provider = async (name) => {
  const answer = await cli('providers', 'list');
  return (answer.providers ?? answer).find((p) => p.name === name);
};
const startProber = (args = []) =>
  startProcess('fairlead-prober', ['--home', home, ...args], { env: { PROBER_TEST_KEY: secret }, readyPattern: /prober\.started/, readyFrom: 'stderr' });
const asked = async (fake) => (await fake.requests()).map((r) => `${r.method} ${r.path ?? r.target}`);

before(async () => {
  good = await startFakellm({ requireKey: secret });
  closed = await startFakellm({ requireKey: 'another' });
  bought = await startFakellm();
  execFileSync('openssl', ['req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1',
    '-keyout', certificateKey, '-out', certificate], { stdio: 'ignore' });
  sealed = await startFakellm({ tlsCert: certificate, tlsKey: certificateKey });
  writeFileSync(
    path.join(home, 'policy.yaml'),
    `schema: fairlead/1
kind: policy
providers:
  good: {base_url: "${good.baseUrl}", credentials: [mine], probe: {every: 1s}}
  closed: {base_url: "${closed.baseUrl}", credentials: [elsewhere], probe: {every: 1s}}
  bought: {base_url: "${bought.baseUrl}", probe: {every: 30s, how: completion, model: fake-small}}
  gone: {base_url: "http://127.0.0.1:1/v1", probe: {every: 1s}}
  sealed: {base_url: "https://127.0.0.1:${sealed.port}/v1", probe: {every: 1s, how: connect}}
  touched: {base_url: "${good.baseUrl}", probe: {every: 1s, how: connect}}
models:
  good/m: {price: {input: 1, output: 1}}
  closed/m: {price: {input: 1, output: 1}}
  bought/m: {price: {input: 1, output: 1}}
  gone/m: {price: {input: 1, output: 1}}
  sealed/m: {price: {input: 1, output: 1}}
  touched/m: {price: {input: 1, output: 1}}
routes:
  chat: {tiers: [{models: [good/m, closed/m, bought/m, gone/m, sealed/m, touched/m], prefer: balanced}]}
`,
  );
  writeFileSync(
    path.join(home, 'node.yaml'),
    `schema: fairlead/1
kind: node
ca_file: ${certificate}
credentials:
  mine: {from: env:PROBER_TEST_KEY, hosts: [127.0.0.1]}
  elsewhere: {from: env:PROBER_TEST_KEY, hosts: [api.example.com]}
`,
  );
  await startProcess('fairlead-controlplane', ['--home', home], { readyPattern: /event=(ready|started|listening)/, readyFrom: 'stderr' });
  await cli('policy', 'push', path.join(home, 'policy.yaml'), '--yes');
});
after(stopAll);

test('probes make health, and cost nothing unless the policy says so', async () => {
  const prober = await startProber();
  const down = await waitFor(async () => {
    const p = await provider('gone');
    return p?.models[0].health === 'down' && p;
  }, { timeoutMs: 20_000, what: 'the dead provider to be down' });
  assert.match(down.why, /connect|refused/i);
  assert.equal(down.health, 'down');
  assert.equal((await provider('good')).models[0].health, 'up');
  assert.match((await provider('good')).why, /^200/);
  assert.equal((await provider('touched')).health, 'up');
  assert.equal((await provider('touched')).why, 'connected');
  // a key that may not go to this host is not sent; 401 all the same shows that somebody is there
  const shut = await provider('closed');
  assert.equal(shut.health, 'up');
  assert.match(shut.why, /^401/);
  const requests = await closed.requests();
  assert.ok(requests.length > 0);
  assert.ok(!JSON.stringify(requests).includes(secret));
  assert.deepEqual([...new Set(await asked(good))], ['GET /v1/models']);
  assert.deepEqual(await asked(bought), ['POST /v1/chat/completions']);
  const [completion] = await bought.requests();
  assert.match(JSON.stringify(completion), /max_tokens\\*":\s*1\b/);
  assert.ok(!prober.stderr.includes(secret) && !prober.stdout.includes(secret));
  assert.deepEqual(await prober.stop({ graceMs: 3000 }), { code: 0, signal: null });
});

test('a provider that answers 500 goes down, and comes back', async () => {
  const prober = await startProber();
  await good.config({ fault: '500' });
  await waitFor(async () => (await provider('good')).models[0].health === 'down', { timeoutMs: 20_000, what: 'down' });
  assert.match((await provider('good')).why, /^500/);
  await good.config({ fault: 'none' });
  await waitFor(async () => (await provider('good')).models[0].health === 'up', { timeoutMs: 20_000, what: 'up' });
  await prober.stop();
});

test('certificates are verified, and their expiry is known', async () => {
  const prober = await startProber();
  const shown = await waitFor(async () => {
    const p = await provider('sealed');
    return p.probe.ok_streak > 0 && p;
  }, { what: 'a good TLS handshake' });
  const days = (shown.probe.certificate_expires_at_ms - Date.now()) / 86_400_000;
  assert.ok(days > 29 && days <= 30, `${days} days`);
  await prober.stop();
  const distrusting = path.join(temporaryDirectory('prober-ca-'), 'node.yaml');
  writeFileSync(distrusting, 'kind: node\n');
  const once = await run('fairlead-prober', ['--home', home, '--config', distrusting, '--once'], { timeoutMs: 20_000 });
  assert.match(once.stderr, /probe\.failed provider=sealed .*certificate/i);
});

test('one at a time, once, and without a control plane', async () => {
  const prober = await startProber();
  const second = await run('fairlead-prober', ['--home', home]);
  assert.equal(second.code, 1);
  assert.match(second.stderr, new RegExp(`prober.running.*pid=${prober.pid}`));
  await prober.stop();
  const once = await run('fairlead-prober', ['--home', home, '--once'], { env: { PROBER_TEST_KEY: secret }, timeoutMs: 20_000 });
  assert.equal(once.code, 0, once.stderr);
  assert.match(once.stderr, /probe\.good.*provider=good/);
  const lost = await startProcess('fairlead-prober', ['--home', temporaryDirectory('prober-lost-')], { readyPattern: /prober\.started/, readyFrom: 'stderr' });
  assert.deepEqual(await lost.stop({ graceMs: 3000 }), { code: 0, signal: null });
});

test('says what is wrong with its configuration', async () => {
  const file = path.join(temporaryDirectory('prober-bad-'), 'node.yaml');
  writeFileSync(file, 'credentials:\n  a: {from: sk-123, hosts: [h]}\n');
  const bad = await run('fairlead-prober', ['--home', home, '--config', file, '--check-config']);
  assert.equal(bad.code, 2);
  assert.match(bad.stderr, /node\.yaml:2:\d+: 'from' must be env:NAME or file:PATH/);
  const fine = await run('fairlead-prober', ['--home', home, '--check-config'], { env: { PROBER_TEST_KEY: secret } });
  assert.equal(fine.code, 0);
  assert.match(fine.stdout, /credential mine: there/);
  assert.ok(!fine.stdout.includes(secret));
  assert.equal((await run('fairlead-prober', ['--nonsense'])).code, 2);
  assert.match((await run('fairlead-prober', ['--help'])).stdout, /--evidence ADDRESS/);
});
