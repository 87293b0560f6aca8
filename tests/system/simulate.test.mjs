// Simulation against truth: record with policy A, simulate B, then really run B. Providers have fixed prices and latencies.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { repository, run, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const REQUESTS = Number(process.env.FAIRLEAD_SIMULATED ?? 480);
const KEYS = 12; // units
const REFUSED = 20; // requests for a route that B has no more
const PARALLEL = 32;

// Small answers a after 60 ms, large and dear ones b after 300 ms; b fails one time in twenty.
const fakes = [
  { ttftMs: 60, tokens: 10 },
  { ttftMs: 300, tokens: 40, fault: '500@0.05' },
];
const policyOf = (shares, routes = '') => (given) => `
defaults: {attempts: 1, probe: {how: none}}
providers:
  one: {preset: openai-compatible, base_url: "${given[0].baseUrl}", auth: none}
  two: {preset: openai-compatible, base_url: "${given[1].baseUrl}", auth: none}
models:
  one/a: {sends: m, price: {input: 1, output: 2}}
  two/b: {sends: m, price: {input: 3, output: 12}}
routes:
  chat: {tiers: [{models: {one/a: ${shares[0]}, two/b: ${shares[1]}}}]}
${routes}`;
const A = policyOf([70, 30], '  other: {tiers: [{models: [one/a]}]}');
const B = policyOf([20, 80]);

let house, keys;

before(async () => {
  house = await startFairlead({ fakes, policy: A, workers: 2 });
  keys = [];
  for (let i = 0; i < KEYS; i++) keys.push((await house.createKey()).key);
});
after(() => stopAll());

// Streams, as their time to first token is the model's; each key in turn. What it cost and took is in the records.
async function ask(count, model = 'chat') {
  let next = 0;
  const one = async () => {
    while (next < count) {
      const i = next++;
      await house.request('/v1/chat/completions', { key: keys[i % KEYS], body: chatBody('word '.repeat(50), { model, stream: true }) });
    }
  };
  await Promise.all(Array.from({ length: PARALLEL }, one));
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => Math.sqrt(values.reduce((sum, value) => sum + (value - mean(values)) ** 2, 0) / (values.length - 1));

const chats = (records) => records.filter((record) => record.asked === 'chat');
// Mean and standard error of what happened.
function outcome(records) {
  const figures = {
    cost_usd: records.map((record) => record.cost_nano_usd / 1e9),
    ttft_ms: records.filter((record) => record.ttft_us > 0).map((record) => record.ttft_us / 1000),
    failures: records.map((record) => Number(record.outcome === 'error')),
  };
  return Object.fromEntries(Object.entries(figures).map(([name, values]) => [name, { value: mean(values), error: deviation(values) / Math.sqrt(values.length) }]));
}
const ttftOf = (records, model) => mean(records.filter((record) => record.attempts[0].model === model && record.ttft_us > 0).map((record) => record.ttft_us / 1000));

async function simulate(what, ...more) {
  const { code, stdout, stderr } = await house.cli(['simulate', what, '--json', ...more]);
  if (code === 3) return { result: { requests: 0 } }; // nothing was shipped yet
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}

describe('simulate', () => {
  const file = () => path.join(house.home, 'b.yaml');
  let recorded, simulated;

  test('what policy A records is shipped and decided again under B', async () => {
    writeFileSync(file(), `schema: fairlead/1\nkind: policy\n${B(house.fakes)}`);
    await ask(REQUESTS);
    await ask(REFUSED, 'other');
    simulated = await waitFor(async () => {
      const given = await simulate(file());
      return given.result.requests === REQUESTS + REFUSED && given;
    }, { timeoutMs: 60_000 });
    recorded = house.records();
    const { result } = simulated;
    assert.equal(simulated.lines_unreadable, 0);
    assert.equal(result.quality.clusters, KEYS);
    assert.equal(result.refused.new, REFUSED);
    assert.deepEqual(result.refused.groups.map(({ team, asked, reason, requests }) => ({ team, asked, reason, requests })), [{ team: 't', asked: 'other', reason: 'unknown_model', requests: REFUSED }]);
    assert.ok(Math.abs(result.moved - (REQUESTS * 0.5 + REFUSED)) < 1e-3, `moved ${result.moved}`);
    const moves = Object.fromEntries(result.matrix.map(({ from, to, requests }) => [`${from} ${to}`, requests]));
    assert.ok(Math.abs(moves['one/a two/b'] - REQUESTS * 0.5) < 1e-3 && Math.abs(moves['one/a null'] - REFUSED) < 1e-3, JSON.stringify(moves));
  });

  test('the report names what people must know', async () => {
    const { code, stdout } = await house.cli(['simulate', file()]);
    assert.equal(code, 0);
    for (const part of [/would go elsewhere/, /cost per request +\$/, /time to first token/, /one\/a +two\/b/, /20 requests would newly be refused/, /team t, asking for other/]) assert.match(stdout, part);
  });

  test('then B really runs, after a push that prints the difference', async () => {
    const pushed = await house.cli(['policy', 'push', file(), '--yes', '--wait']);
    assert.equal(pushed.code, 0, pushed.stderr);
    assert.match(pushed.stdout, /simulated: of \d+ requests of the last hour [\d.]+% would go elsewhere under v2 than under v1, and 20 would newly be refused/);
    const before = house.records().length;
    await ask(REQUESTS);
    const records = await waitFor(() => {
      const now = house.records().slice(before);
      return now.length === REQUESTS && now;
    });
    // Of the simulation's requests those for "other" cost nothing and are answered by nobody under B.
    const happened = outcome(records), share = REQUESTS / (REQUESTS + REFUSED);
    // A machine that is busier now is not the policy's doing.
    const drift = Math.max(...['one/a', 'two/b'].map((model) => Math.abs(ttftOf(records, model) - ttftOf(chats(recorded), model))));
    const before_ = outcome(chats(recorded));
    for (const [name, figure] of Object.entries(simulated.result.metrics)) {
      const scale = name === 'ttft_ms' ? 1 : share;
      const { value, low, high } = figure.candidate, real = happened[name].value * scale;
      // 95% intervals, of which this test must not fail every twentieth run: four and a half standard errors of both.
      const tolerance = 4.5 * Math.hypot((high - low) / 2 / 2.2, happened[name].error) + (name === 'ttft_ms' ? drift : 0);
      console.log(`${name}: recorded ${before_[name].value}, simulated ${value} (${low} to ${high}), happened ${real}`);
      assert.ok(Math.abs(value - real) <= tolerance, `${name}: simulated ${value}, happened ${real}, tolerance ${tolerance}`);
      if (name !== 'failures') assert.ok(Math.abs(before_[name].value - real) > tolerance || drift > 50, `${name}: the two policies differ too little to prove anything`);
    }
  });

  test('a version against the live one, and nothing left behind', async () => {
    const { result } = await simulate('1', '--limit', '100');
    assert.equal(result.requests, 100);
    assert.equal((await house.cli(['simulate', '99'])).code, 3);
    assert.equal((await house.cli(['simulate', '1', '--since', 'soon'])).code, 2);
    await waitFor(() => readdirSync(path.join(house.home, 'run/simulations')).length === 0);
  });

  test('replay sends what was recorded, at its pace', async () => {
    const before = house.records().length;
    const replay = (...args) => house.cli(['replay', '--to', house.api, '--key', keys[0], '--json', ...args]);
    const recordedAgain = await replay('--since', '1h', '--limit', '40', '--speed', '4x');
    assert.equal(recordedAgain.code, 0, recordedAgain.stderr);
    const summary = JSON.parse(recordedAgain.stdout);
    assert.equal(summary.sent, 40);
    assert.equal(summary.answered, 40);
    const trace = path.join(house.home, 'trace.csv');
    writeFileSync(trace, 'TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.0000000,374,44\n2023-11-16 18:17:03.5000000,396,109\n');
    const csv = await replay(trace);
    assert.equal(csv.code, 0, csv.stderr);
    assert.equal(JSON.parse(csv.stdout).good + JSON.parse(csv.stdout).server_errors, 2);
    assert.ok(JSON.parse(csv.stdout).elapsed_ms >= 500, 'the second request has its time');
    const records = await waitFor(() => {
      const now = house.records().slice(before);
      return now.length === 42 && now;
    });
    assert.equal(records.at(-1).features.max_output, 109);
    assert.equal(records.at(-1).features.input_tokens, 396);
    assert.equal((await house.cli(['replay', trace])).code, 2); // no --to
    const keyless = await house.cli(['replay', trace, '--to', house.api, '--limit', '1']);
    assert.equal(keyless.code, 7);
    assert.match(keyless.stderr, /^fairlead: no key \(--key KEY or \$FAIRLEAD_KEY\)/);
  });

  test('a limit of nothing is refused', async () => {
    const { code, stderr } = await house.cli(['simulate', '1', '--limit', '0']);
    assert.equal(code, 2);
    assert.match(stderr, /--limit: '0' is no number of requests/);
  });

  test('Ctrl-C ends a replay with its summary', async () => {
    const trace = path.join(house.home, 'slow.csv');
    writeFileSync(trace, '2023-11-16 18:17:03.0000000,10,5\n2023-11-16 23:17:03.0000000,10,5\n');
    const before = house.records().length;
    const child = await startProcess('fairlead', ['replay', trace, '--to', house.api, '--home', house.home], { env: { FAIRLEAD_KEY: keys[0] } });
    await waitFor(() => house.records().length > before); // the first was answered, the next is due in five hours
    child.child.kill('SIGINT');
    await child.exited;
    assert.match(child.stdout, /^1 requests in [\d.]+ s/m);
  });
});

describe('policy test', () => {
  const example = path.join(repository, 'deploy/examples/tests.yaml');
  const check = (file, ...more) => run('fairlead', ['policy', 'test', file, ...more]);

  test('the example beside the example policy passes, offline', async () => {
    const { code, stdout, stderr } = await check(example);
    assert.equal(code, 0, stdout + stderr);
    assert.match(stdout, /^ok {3}hr stays in the EU$/m);
    assert.match(stdout, /^4 passed, 0 failed$/m);
  });

  test('what fails is told with its place, and the exit code is 1', async () => {
    const file = path.join(temporaryDirectory('fl-tests-'), 'wrong.yaml');
    const examples = path.dirname(example);
    writeFileSync(
      file,
      `schema: fairlead/1\nkind: tests\npolicy: ${examples}/policy.yaml\ndirectory: ${examples}/directory.yaml\ntests:\n` +
        '  - name: shares\n    request: {team: product, model: chat}\n    expect:\n      first: {azure-we/gpt-4o: 60%}\n' +
        '  - name: EU\n    request: {team: product, model: chat}\n    expect: {region: eu}\n' +
        '  - name: fine\n    request: {team: nobody, model: chat}\n    expect: {status: unknown_team}\n',
    );
    const { code, stdout } = await check(file);
    assert.equal(code, 1);
    assert.ok(stdout.includes(`FAIL shares\n  ${file}:9:32: azure-we/gpt-4o: it is the first choice for 70.00%\n`), stdout);
    assert.match(stdout, /^FAIL EU\n.*wrong\.yaml:12:22: region: openai\/\S+ may serve it, in region us$/m);
    assert.match(stdout, /^ok {3}fine\n1 passed, 2 failed$/m);
    const json = JSON.parse((await check(file, '--json')).stdout);
    assert.deepEqual([json.passed, json.failed, json.tests[0].failures[0].line], [1, 2, 9]);
  });

  test('a policy that does not compile fails with its own message', async () => {
    const dir = temporaryDirectory('fl-tests-');
    writeFileSync(path.join(dir, 'policy.yaml'), 'schema: fairlead/1\nkind: policy\nproviders:\n  a: {preset: nonsense}\n');
    writeFileSync(path.join(dir, 't.yaml'), 'schema: fairlead/1\nkind: tests\ntests:\n  - {name: n, request: {team: t, model: m}, expect: {status: ok}}\n');
    const { code, stderr } = await check(path.join(dir, 't.yaml'));
    assert.equal(code, 1);
    assert.match(stderr, /policy\.yaml:4:.*nonsense/);
    assert.equal((await check(path.join(dir, 'none.yaml'))).code, 3);
  });
});
