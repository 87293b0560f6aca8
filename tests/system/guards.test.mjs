// What surrounds a comparison, with real processes: votes that end it, weights that keep still for it, and money that runs out.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { bundleOf, createKey, startParts } from './support/control.mjs';
import { chatBody } from './support/fairlead.mjs';
import { run, startFakellm, stopAll, waitFor } from './support/process.mjs';

after(stopAll);

const directory = 'teams:\n  t: {routes: ["*"], models: ["*/*"]}';
const policy = (fakes, tier, more = '') => `providers:
  a: {base_url: "${fakes.a.baseUrl}", auth: none, probe: {how: none}}
  b: {base_url: "${fakes.b.baseUrl}", auth: none, probe: {how: none}}
models:
  a/one: {price: {input: 1, output: 1}, context: 8000}
  b/one: {price: {input: 1, output: 1}, context: 8000}
routes:
  chat: {tiers: [${tier}]${more}}`;
const only = (model) => `{models: [${model}]}`;

async function startHouse(tier) {
  const fakes = { a: await startFakellm({ name: 'a' }), b: await startFakellm({ name: 'b' }) };
  const house = await startParts({ policy: policy(fakes, tier), directory });
  await house.start('node');
  const key = await createKey(house);
  const ask = (options) => house.request('/v1/chat/completions', { key, body: chatBody('x', { max_tokens: 20, ...options }) });
  await waitFor(async () => (await ask()).status === 200, { what: 'a first answer' });
  const push = (text, args = {}) => house.asker.must('policy.push', { bundle: bundleOf(`schema: fairlead/1\nkind: policy\n${text}\n`), ...args });
  return { house, fakes, key, ask, push };
}

// `each` again and again on `count` connections, until stop().
function keepOn(count, each) {
  let going = true;
  const running = Array.from({ length: count }, async () => {
    while (going) await each();
  });
  const all = Promise.all(running);
  all.catch(() => {}); // stop() says it
  return async () => {
    going = false;
    await all;
  };
}

test('votes against a new version roll it back', async (t) => {
  const { house, fakes, key, ask, push } = await startHouse(only('a/one'));
  const votes = { 1: 0, 2: 0 };
  await push(policy(fakes, only('b/one')), { steps: '50,100', hold: '1h', unit: 'request', guards: 'none,feedback:thumbs=10%' });
  // Of the old version's answers most are liked, of the new one's few.
  const stop = keepOn(8, async () => {
    const { status, headers } = await ask();
    assert.equal(status, 200);
    const version = headers['x-fairlead-policy'];
    const score = votes[version]++ % 10 < (version === '2' ? 2 : 9);
    const vote = await house.request('/v1/feedback', { key, body: { request_id: headers['x-request-id'], score, metric: 'thumbs' } });
    assert.equal(vote.status, 202, vote.text);
  });
  const end = await waitFor(
    async () => {
      const { rollout } = await house.asker.must('rollout.status');
      return rollout.phase !== 'running' && rollout;
    },
    { what: 'the end of the rollout', timeoutMs: 120_000 },
  );
  await stop();
  t.diagnostic(`${JSON.stringify(votes)} votes: ${end.decisions.at(-1).reason}`);
  assert.equal(end.phase, 'rolled back');
  assert.match(end.decisions.at(-1).reason, /^feedback thumbs: v2 /);
  const { arms } = await house.asker.must('status');
  assert.deepEqual(arms.map(({ version }) => version), [1]);
  await house.asker.stop();
});

test('weights of scored tiers keep still while versions are compared, and move again afterwards', async () => {
  const scored = '{models: [a/one, b/one], prefer: fastest}';
  const { house, fakes, ask, push } = await startHouse(scored);
  const tiers = () => house.asker.must('weights.show');
  const weightsOf = (tier) => tier.members.map((member) => member.weight_ppm);
  // Both are as fast as each other, and so they stay at one half each.
  await push(policy(fakes, scored, ', attempts: 2'), { steps: '50,100', hold: '1h', unit: 'request', guards: 'none' });
  const held = await waitFor(
    async () => {
      const list = await tiers();
      return list.length === 2 && list.every(({ frozen }) => frozen) && list;
    },
    { what: 'held weights of both versions' },
  );
  const before = weightsOf(held[0]);
  assert.deepEqual(weightsOf(held[1]), before, 'the same in both');
  await fakes.a.config({ ttft_ms: 500 });
  const stop = keepOn(8, () => ask({ stream: true }));
  // The scores know it: without a comparison the weights would be on their way.
  const known = await waitFor(
    async () => {
      const list = await tiers();
      return list.every(({ members }) => members[0].terms.ttft > 0.5) && list;
    },
    { what: 'evidence that a is slow', timeoutMs: 60_000 },
  );
  for (const tier of known) {
    assert.equal(tier.frozen, true);
    assert.deepEqual(weightsOf(tier), before);
  }
  await house.asker.must('rollout.promote', { full: true });
  const moved = await waitFor(
    async () => {
      const [live, ...others] = (await tiers()).filter(({ policy_version: version }) => version === 2);
      return others.length === 0 && !live.frozen && weightsOf(live)[0] < before[0] - 100_000 && live;
    },
    { what: 'weights that move', timeoutMs: 60_000 },
  );
  assert.ok(weightsOf(moved)[1] > before[1]);
  await stop();
  await house.asker.stop();
});

test('a shadow ends when what is left of its budget is too little for one more', async (t) => {
  const { house, fakes, ask, push } = await startHouse(only('a/one'));
  const cli = (...args) => run('fairlead', [...args, '--home', house.home]);
  await push(policy(fakes, only('b/one')), { store: true });
  // Estimates are of 2,000 tokens of output, answers are of two dozen: a good part of the budget is never spent.
  const started = await cli('shadow', 'start', '2', '--share', '100%', '--budget', '0.004', '--yes');
  assert.equal(started.code, 0, started.stderr);
  const stop = keepOn(4, () => ask({ max_tokens: 2000 }));
  const end = await waitFor(
    async () => {
      const status = await house.asker.must('shadow.status');
      return status.phase !== 'running' && status;
    },
    { what: 'the end of the shadow', timeoutMs: 60_000 },
  );
  await stop();
  t.diagnostic(`${end.copies} copies, $${end.spent_nano / 1e9} of $${end.budget_nano / 1e9}: ${end.ended_why}`);
  assert.match(end.ended_why, /^what is left of the shadow's budget is less than any of the last 20 copies needed$/);
  assert.ok(end.copies > 0 && end.spent_nano > 0 && end.spent_nano < end.budget_nano);
  const shown = await cli('shadow', 'status');
  assert.match(shown.stdout, /^shadow-\d+ of v2, stopped, /m);
  assert.match(shown.stdout, /^ended +what is left of the shadow's budget /m);
  assert.match(shown.stdout, /^budget +no room for the last \d+ copies: /m);
  // What was never sent is in no sum.
  const { shadow } = await house.asker.must('costs', { by: 'model' });
  assert.equal(Number(shadow.requests), end.copies);
  await house.asker.stop();
});
