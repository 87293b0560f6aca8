// Rollouts with real processes: what harms goes back by itself, what is good arrives, and nothing that was decided is lost.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { alive, bundleOf, createKey, startAsker, startParts } from './support/control.mjs';
import { chatBody } from './support/fairlead.mjs';
import { run, startFakellm, stopAll, waitFor } from './support/process.mjs';

after(stopAll);

const directory = 'teams:\n  t: {routes: ["*"], models: ["*/*"]}';
const heading = 'schema: fairlead/1\nkind: policy\n';
// a: what is live; b: what comes next. price: of b, in dollars per million tokens.
const policy = (fakes, route, price = 1, more = '') => `providers:
  a: {base_url: "${fakes.a.baseUrl}", auth: none, probe: {how: none}}
  b: {base_url: "${fakes.b.baseUrl}", auth: none, probe: {how: none}}
models:
  a/one: {price: {input: 1, output: 1}, context: 8000}
  b/one: {price: {input: ${price}, output: ${price}}, context: 8000}
routes:
  chat: {tiers: [{models: [${route}]}]${more}}`;

const push = (house, text, args = {}) => house.asker.must('policy.push', { bundle: bundleOf(`${heading}${text}\n`), ...args });
const rolloutOf = async (house) => (await house.asker.must('rollout.status')).rollout;
const historyOf = async (house) => (await house.asker.must('rollout.history', { limit: 1000 })).map(({ entry }) => entry);

// Requests on connections of their own until stop(): {answered, failures, byVersion}.
function load(house, key, count, more = {}) {
  const seen = { answered: 0, failures: [], versions: {}, harmed: 0 };
  let going = true;
  const running = Array.from({ length: count }, async () => {
    while (going) {
      const answer = await house.request('/v1/chat/completions', { key, body: chatBody('x', more) }).catch((error) => ({ status: 0, headers: {}, end: error.code }));
      const version = answer.headers['x-fairlead-policy'] ?? 'none';
      seen.answered++;
      seen.versions[version] = (seen.versions[version] ?? 0) + 1;
      if (answer.status !== 200 || answer.end !== 'end') seen.failures.push({ status: answer.status, end: answer.end, version });
    }
  });
  return { seen, stop: async () => ((going = false), await Promise.all(running), seen) };
}

async function startHouse(t, { a = {}, b = {}, controlArgs } = {}) {
  const fakes = { a: await startFakellm({ name: 'a', ...a }), b: await startFakellm({ name: 'b', ...b }) };
  const house = await startParts({ policy: policy(fakes, 'a/one'), directory, controlArgs });
  await house.start('node');
  const key = await createKey(house);
  await waitFor(async () => (await house.request('/v1/chat/completions', { key, body: chatBody('x') })).status === 200, { what: 'a first answer' });
  return { house, fakes, key };
}

// What rolls back, and by which guard.
const harmful = [
  { name: 'fails 3%', b: { fault: `500@${process.env.FAIRLEAD_CANARY_FAILS ?? 0.03}` }, steps: '50,100', guards: 'none,errors=1%', metric: 'errors' },
  { name: 'is slower', b: { 'ttft-ms': 300 }, guards: 'none,ttft=50%', metric: 'ttft' },
  { name: 'is dearer', price: 2, guards: 'none,cost=20%', metric: 'cost' },
  { name: 'fails always', b: { fault: '500' }, guards: 'none,errors=1%', metric: 'errors' },
];
for (const { name, b, price, steps = '20,100', guards, metric } of harmful) {
  test(`a new version that ${name} rolls itself back`, async (t) => {
    const { house, fakes, key } = await startHouse(t, { a: { 'ttft-ms': 20 }, b: { 'ttft-ms': 20, ...b } });
    const clients = load(house, key, 12);
    const from = performance.now();
    const { version } = await push(house, policy(fakes, 'b/one', price), { steps, hold: '1h', unit: 'request', guards });
    assert.equal(version, 2);
    const end = await waitFor(async () => {
      const rollout = await rolloutOf(house);
      return !['running', 'paused'].includes(rollout.phase) && rollout;
    }, { what: 'the end of the rollout', timeoutMs: 120_000, everyMs: 20 });
    const ms = Math.round(performance.now() - from);
    const { answered, failures, versions } = await clients.stop();
    t.diagnostic(`back after ${ms} ms and ${answered} requests; of v2: ${versions['2']}, failed: ${failures.length}: ${end.decisions.at(-1).reason}`);
    assert.equal(end.phase, 'rolled back');
    assert.match(end.decisions.at(-1).reason, new RegExp(`^${metric}`));
    assert.ok(failures.every((failure) => failure.version === '2'), `only requests of v2 fail: ${JSON.stringify(failures[0])}`);
    const { arms, assignments } = await house.asker.must('status');
    assert.deepEqual(arms.map((arm) => [arm.version, Number(arm.share)]), [[1, 1]]);
    assert.deepEqual(assignments, []);
    const line = (await historyOf(house)).at(-1);
    assert.equal(line.command, 'rollout.roll_back');
    assert.equal(line.user, 'fairlead');
    assert.match(line.message, /returned to v1, which holds 100% again; v2 is marked as rolled back: /);
    assert.equal(line.detail.guards.length, 1);
    assert.ok(line.detail.guards[0].requests_treatment > 0 || line.detail.tripwire, 'the decision carries its numbers');
    // Content that was rolled back needs to be meant.
    const again = await house.asker.ask('policy.push', { bundle: bundleOf(`${heading}${policy(fakes, 'b/one', price)}\n`) });
    assert.equal(again.status, 3, again.message);
    assert.match(again.message, /--again/);
    await house.asker.stop();
  });
}

test('a good version reaches 100%, and shares are what they should be', async (t) => {
  const { house, fakes, key } = await startHouse(t);
  const clients = load(house, key, 12);
  const from = performance.now();
  const text = policy(fakes, 'a/one', 1, ', attempts: 2') + '\nrollout: {unit: request, steps: [20, 50, 100], hold: 1s, guards: {errors: 5%, ttft: off, speed: off, refusals: 5%, cancels: 5%, fallbacks: off}}';
  await push(house, text);
  const steps = new Set();
  const end = await waitFor(async () => {
    const rollout = await rolloutOf(house);
    steps.add(rollout.share);
    return rollout.phase !== 'running' && rollout;
  }, { what: 'the end of the rollout', timeoutMs: 120_000, everyMs: 20 });
  const ms = Math.round(performance.now() - from);
  const { answered, failures, versions } = await clients.stop();
  t.diagnostic(`at 100% after ${ms} ms and ${answered} requests: ${JSON.stringify(versions)}`);
  assert.equal(end.phase, 'done', JSON.stringify(end.decisions));
  assert.deepEqual(failures, []);
  assert.deepEqual(end.decisions.map(({ what }) => what), ['20% -> 50%', '50% -> 100%']);
  assert.ok(steps.has(0.2) || steps.has('0.2'), [...steps].join());
  const { arms } = await house.asker.must('status');
  assert.deepEqual(arms.map((arm) => arm.version), [2]);
  const list = await house.asker.must('policy.list');
  assert.deepEqual(list.map(({ version, state, share }) => [version, state, share]), [[2, 'live', '100%'], [1, 'retired', '']]);
  // Back by hand: to what held 100% before.
  const back = await house.asker.ask('rollback');
  assert.match(back.message, /returned to v1, which last held 100%/);
  await house.asker.stop();
});

test('kill -9 of the control plane at each step loses no decision and makes none twice', async (t) => {
  const { house, fakes } = await startHouse(t);
  const steps = [10, 20, 30, 40, 50, 60, 100];
  await push(house, policy(fakes, 'b/one'), { steps: steps.join(), hold: '300ms', unit: 'request', guards: 'none' });
  await house.asker.stop();
  const decisions = async () => {
    house.asker = await startAsker(house.home);
    const rollout = await rolloutOf(house);
    return rollout;
  };
  let kills = 0;
  for (;;) {
    const rollout = await decisions();
    if (rollout.phase !== 'running') break;
    // Until it decides the next time, and then at once: before, in, or after the write that the decision is.
    await waitFor(async () => {
      const now = await rolloutOf(house).catch(() => null);
      return !now || now.hold_left_ms === undefined || now.hold_left_ms < 40 || now.step !== rollout.step;
    }, { everyMs: 1, what: 'a step', timeoutMs: 60_000 });
    await house.asker.stop();
    await house.kill('control');
    kills++;
    await house.start('control');
  }
  t.diagnostic(`${kills} kills`);
  assert.ok(kills >= steps.length - 1);
  const done = (await historyOf(house)).filter(({ user }) => user === 'fairlead').map(({ detail }) => detail.rollout.decisions.at(-1).what);
  assert.deepEqual(done, steps.slice(1).map((share, i) => `${steps[i]}% -> ${share}%`));
  const { arms } = await house.asker.must('status');
  assert.deepEqual(arms.map((arm) => arm.version), [2]);
  assert.ok(alive(house.parts.node.child.pid));
  await house.asker.stop();
});

test('rollbacks under load fail no request', async (t) => {
  const count = Number(process.env.FAIRLEAD_ROLLBACKS ?? 40);
  const { house, fakes, key } = await startHouse(t);
  const clients = load(house, key, 8);
  const text = policy(fakes, 'b/one');
  for (let i = 0; i < count; i++) {
    await push(house, text, { steps: '50,100', unit: 'request', guards: 'none', hold: '1h', again: true });
    const before = clients.seen.versions['2'] ?? 0;
    await waitFor(() => (clients.seen.versions['2'] ?? 0) > before, { everyMs: 2, what: 'a request of v2' });
    if (i % 2) await house.asker.must('rollout.promote', { full: true });
    const { message } = await house.asker.ask('rollback');
    assert.match(message, i % 2 ? /returned to v1, which last held 100%; v2 is marked/ : /ended rollout-\d+, which had v2 at 50%: returned to v1/);
  }
  const { answered, failures, versions } = await clients.stop();
  t.diagnostic(`${count} rollbacks, ${answered} requests: ${JSON.stringify(versions)}`);
  assert.deepEqual(failures, []);
  await house.asker.stop();
});

test('an experiment tells a dearer version from a cheaper one, and a shadow how answers differ', async (t) => {
  const { house, fakes, key } = await startHouse(t);
  const cli = (...args) => run('fairlead', [...args, '--home', house.home]);
  await push(house, policy(fakes, 'b/one', 3), { store: true });
  const clients = load(house, key, 8);
  const started = await cli('experiment', 'start', '--arms', '1=50,2=50', '--metric', 'cost=10%,errors', '--unit', 'request', '--yes');
  assert.equal(started.code, 0, started.stderr);
  assert.match(started.stdout, /experiment-1 runs: v1 50%, v2 50% of requests, compared with v1; it decides nothing by itself/);
  await waitFor(async () => {
    const { results } = await house.asker.must('experiment.report');
    return results[0].p_value < 0.001 && results[0].low > 1;
  }, { what: 'an answer', timeoutMs: 60_000 });
  const report = await cli('experiment', 'report');
  t.diagnostic(report.stdout);
  assert.equal(report.code, 0, report.stderr);
  assert.match(report.stdout, /^experiment-1, running, for /m);
  assert.match(report.stdout, /^cost, v2: \$0\.0\d+ against \$0\.0\d+: \+200\.0%, surely /m);
  assert.match(report.stdout, /^ +\| +.*[\[<o].*/m);
  assert.match((await cli('status')).stdout, /experiment-1, by request: v1 50% \+ v2 50%/);
  assert.match((await cli('experiment', 'stop', '--yes')).stdout, /experiment-1 is stopped: everybody is on v1/);

  const shadow = await cli('shadow', 'start', '2', '--share', '50%', '--budget', '5', '--yes');
  assert.equal(shadow.code, 0, shadow.stderr);
  const seen = await waitFor(async () => {
    const status = await house.asker.must('shadow.status');
    return status.compared.requests >= 30 && status;
  }, { what: 'requests and their copies', timeoutMs: 60_000 });
  assert.ok(seen.spent_nano > 0 && seen.spent_nano < seen.budget_nano);
  assert.match((await cli('shadow', 'stop', '--yes')).stdout, /shadow-2 is stopped; its figures stay/);
  const { failures } = await clients.stop();
  assert.deepEqual(failures, []);
  const figures = await cli('shadow', 'status');
  t.diagnostic(figures.stdout);
  assert.match(figures.stdout, /^shadow-2 of v2, stopped, /m);
  assert.match(figures.stdout, /^status +the same in 100\.0%/m);
  assert.match(figures.stdout, /^cost +\$0\.0000\d+ real, \$0\.0000\d+ shadow/m);
  await house.asker.stop();
});

test('the rollout as the CLI shows it, and a lock', async (t) => {
  const { house, fakes } = await startHouse(t);
  const cli = (...args) => run('fairlead', [...args, '--home', house.home]);
  await push(house, policy(fakes, 'b/one'), { steps: '5,100', hold: '10m', unit: 'user', guards: 'errors=2%' });
  const status = await cli('rollout', 'status');
  assert.match(status.stdout, /^rollout-1 +v1 -> v2, running: 5% of users, step 1 of 2, begun /m);
  assert.match(status.stdout, /^now +held for .*, .* to go$/m);
  assert.match(status.stdout, /^next +100% when the hold time is over and no guard can show harm/m);
  assert.match(status.stdout, /^errors .*\+2\.00 points +too little/m);
  assert.match((await cli('status')).stdout, /^policy +v1 95% \+ v2 5% · generation \d+/m);
  assert.match((await cli('policy', 'list')).stdout, /^ +2 +rolling out +5% /m);
  assert.equal((await cli('lock', '--yes')).code, 1);
  assert.match((await cli('lock', '--reason', 'end of quarter', '--yes')).stdout, /^locked: no push, no promotion/);
  const refused = await cli('rollout', 'promote', '--yes');
  assert.equal(refused.code, 4);
  assert.match(refused.stderr, /locked by \S+: end of quarter/);
  assert.match((await cli('rollout', 'status')).stdout, /^LOCKED +by /m);
  const back = await cli('rollback', '--yes');
  assert.match(back.stdout, /ended rollout-1, which had v2 at 5%: returned to v1, which holds 100%; v2 is marked as rolled back/);
  assert.equal((await cli('rollout', 'status', '--watch')).code, 4);
  assert.match((await cli('rollout', 'history')).stdout, /rollback +ended rollout-1/);
  assert.equal((await cli('unlock', '--yes')).code, 0);
  assert.doesNotMatch((await cli('rollout', 'status')).stdout, /^since then/m);
  await push(house, policy(fakes, 'b/one'), { again: true, now: true });
  assert.match((await cli('rollout', 'status')).stdout, /^since then +v2 became live: it holds 100% now, not v1$/m);
  await house.asker.stop();
});
