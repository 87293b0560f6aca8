// Arms: who obeys which of the live policy versions, that they stay there, who may choose, what answers, records and metrics say
// of it; and shadows, which nobody sees.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { chatBody, eventsOf, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';

let house;
let key; // its team may choose an arm
let stranger; // its team may not

// Version n sends `chat` to the model m-n; `bulk` goes to b, whatever the version.
const policy = (fakes, n) => `defaults: {probe: {how: none}}
providers:
  fake: {base_url: "${fakes[0].baseUrl}", auth: none}
models:
  fake/m-${n}: {price: {input: 1, output: 2}, context: 8000}
  fake/b: {price: {input: 1, output: 2}, context: 8000}
aliases: {gpt: chat}
routes:
  chat: {tiers: [{models: [fake/m-${n}]}]}
  bulk: {tiers: [{models: [fake/b]}]}
  ${n === 2 ? 'fresh: {tiers: [{models: [fake/b]}]}' : ''}`;

before(async () => {
  house = await startFairlead({
    fakes: [{ keep: 1000 }],
    policy: (fakes) => policy(fakes, 1),
    directory: 'teams:\n  t: {routes: ["*"], models: ["*/*"], may: [choose_arm]}\n  u: {routes: ["*"]}',
  });
  ({ key } = await house.createKey());
  stranger = (await house.createKey({ team: 'u' })).key;
  writeFileSync(path.join(house.home, 'next.yaml'), `schema: fairlead/1\nkind: policy\n${policy(house.fakes, 2)}\n`);
});
after(stopAll);

const admin = (...args) => house.admin(...args, '--wait');
async function ask(body = {}, { as = key, headers } = {}) {
  const answer = await house.request('/v1/chat/completions', { key: as, body: chatBody('x', body), headers });
  answer.arm = answer.headers['x-fairlead-arm'];
  return answer;
}
const inTurn = async (items, what) => {
  const answers = [];
  for (let i = 0; i < items.length; i += 8) answers.push(...(await Promise.all(items.slice(i, i + 8).map(what))));
  return answers;
};
const users = Array.from({ length: 300 }, (_, i) => `user-${i}`);
// A counter of /metrics by arm, over outcomes.
async function counted(name, labels) {
  const lines = (await house.metrics()).split('\n').filter((line) => line.startsWith(`fairlead_${name}{`) && Object.entries(labels).every(([k, v]) => line.includes(`${k}="${v}"`)));
  return lines.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' '))), 0);
}
// The records of these answers, in their order; and of the shadows of any of them, once there are so many.
const recordsOf = (answers) =>
  waitFor(() => {
    const byId = new Map(house.records().map((record) => [record.request_id, record]));
    const found = answers.map((answer) => byId.get(answer.headers['x-request-id']));
    return found.every(Boolean) && found;
  }, { what: 'the records' });
const shadowsOf = (answers, count) =>
  waitFor(() => {
    const ids = new Set(answers.map((answer) => answer.headers['x-request-id']));
    const found = house.records().filter((record) => record.kind === 'shadow' && ids.has(record.of));
    return found.length >= count && found;
  }, { what: `${count} shadows` });

test('users are shared out by the step, stay where they are, and only move on', async () => {
  await admin('policy', 'push', path.join(house.home, 'next.yaml'), '--steps', '20,60,100', '--hold', '10h', '--unit', 'user', '--guard', 'none', '--routes', 'chat');
  const status = JSON.parse((await house.cli(['status', '--json'])).stdout);
  assert.deepEqual(status.arms.map(({ version, share }) => [version, share]), [[1, 1]]);
  const [assignment] = status.assignments;
  assert.deepEqual([assignment.unit, assignment.routes, assignment.arms.map(({ share }) => share)], ['user', ['chat'], [0.8, 0.2]]);
  assert.match((await house.cli(['status'])).stdout, new RegExp(`${assignment.id}, by user: v1 80% \\+ v2 20% of 1 route`));

  const armOf = async (user, i = 0) => {
    // Named as OpenAI's clients do it, or Anthropic's.
    const answer = await ask(i % 2 ? { user } : { metadata: { user_id: user } });
    assert.equal(answer.status, 200, answer.text);
    const version = answer.arm === 'stable' ? 1 : 2;
    assert.equal(answer.headers['x-fairlead-policy'], String(version));
    assert.equal(JSON.parse(answer.text).model, `m-${version}`);
    return answer.arm;
  };
  const first = await inTurn(users, armOf);
  const canaries = first.filter((arm) => arm === 'canary').length;
  // Five standard deviations: sqrt(300 x 0.2 x 0.8) = 7.
  assert.ok(Math.abs(canaries - 60) <= 35, `${canaries} of 300`);
  assert.deepEqual(await inTurn(users, (user, i) => armOf(user, i + 1)), first);

  await admin('rollout', 'promote');
  const second = await inTurn(users, armOf);
  const more = second.filter((arm) => arm === 'canary').length;
  // sqrt(300 x 0.6 x 0.4) = 8.5
  assert.ok(Math.abs(more - 180) <= 43, `${more} of 300`);
  users.forEach((user, i) => assert.ok(first[i] !== 'canary' || second[i] === 'canary', `${user} moved back`));
});

test('the arm follows the name that is meant, and only covered routes', async () => {
  const canaryUser = (await inTurn(users.slice(0, 40), async (user) => [user, (await ask({ user })).arm])).find(([, arm]) => arm === 'canary')[0];
  for (const model of ['gpt', 'chat:floor', 'gpt:nitro']) assert.equal((await ask({ user: canaryUser, model })).arm, 'canary', model);
  assert.equal((await ask({ user: canaryUser, model: 'bulk' })).arm, 'stable');
  assert.equal((await ask({ user: canaryUser, model: 'fresh' })).status, 404, 'a route of the canary that no assignment covers');
  const stream = await ask({ user: canaryUser, stream: true });
  assert.equal(stream.arm, 'canary');
  assert.equal(eventsOf(stream.text).at(-1), '[DONE]');
});

test('an arm is forced by who may, refused to others, and said to be forced', async () => {
  for (const arm of ['stable', 'canary']) {
    const answer = await ask({}, { headers: { 'x-fairlead-arm': arm } });
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.arm, arm);
  }
  assert.equal((await ask({ model: 'fresh' }, { headers: { 'x-fairlead-arm': 'canary' } })).status, 200);
  const unknown = await ask({}, { headers: { 'x-fairlead-arm': 'blue' } });
  assert.equal(unknown.status, 400);
  assert.equal(JSON.parse(unknown.text).error.code, 'unknown_arm');
  for (const arm of ['canary', 'blue']) {
    const refused = await ask({}, { as: stranger, headers: { 'x-fairlead-arm': arm } });
    assert.equal(refused.status, 403);
    assert.equal(JSON.parse(refused.text).error.code, 'arm_not_allowed');
  }
  const list = await house.request('/v1/models', { method: 'GET', key, headers: { 'x-fairlead-arm': 'canary' } });
  assert.ok(JSON.parse(list.text).data.some(({ id }) => id === 'fresh'));
  const plain = await house.request('/v1/models', { method: 'GET', key });
  assert.equal(plain.headers['x-fairlead-arm'], 'stable');
  assert.ok(!JSON.parse(plain.text).data.some(({ id }) => id === 'fresh'));
});

test('records and metrics tell the arms apart', async () => {
  const before = { stable: await counted('arm_requests_total', { arm: 'stable', outcome: 'ok' }), canary: await counted('arm_requests_total', { arm: 'canary', outcome: 'ok' }) };
  const answers = await inTurn(users.slice(0, 40), (user) => ask({ user }));
  const count = (arm) => answers.filter((answer) => answer.arm === arm).length;
  const records = await recordsOf(answers);
  for (const [i, answer] of answers.entries()) {
    const record = records[i];
    assert.deepEqual([record.arm, record.policy_version, record.unit_kind], [answer.arm, answer.arm === 'stable' ? 1 : 2, 'user']);
    assert.equal(record.arm_why, answer.arm === 'stable' ? 'remainder' : 'bucket');
    assert.match(record.assignment, /^rollout-\d+$/);
    assert.match(record.unit, /^[0-9a-f]{16}$/);
    assert.equal(record.forced, undefined);
  }
  assert.equal(new Set(records.map(({ unit }) => unit)).size, 40);
  for (const [arm, policyVersion] of [['stable', 1], ['canary', 2]]) {
    await waitFor(async () => (await counted('arm_requests_total', { arm, policy: policyVersion, traffic: 'clients', outcome: 'ok' })) === before[arm] + count(arm), { what: `the ${arm}'s requests` });
    assert.ok((await counted('arm_tokens_total', { arm, kind: 'output' })) > 0);
    assert.ok((await counted('arm_cost_usd_total', { arm })) > 0);
  }
  await ask({ user: users[0], stream: true });
  assert.ok((await counted('arm_ttft_seconds_count', {})) > 0);
});

test('a header and the key are units, too', async () => {
  await admin('rollback');
  await admin('policy', 'push', path.join(house.home, 'next.yaml'), '--again', '--steps', '50,100', '--hold', '10h', '--unit', 'header:X-Tenant', '--guard', 'none');
  const tenants = users.slice(0, 30);
  const arms = (as) => inTurn(tenants, async (tenant) => (await ask({}, { as, headers: { 'x-tenant': tenant } })).arm);
  const first = await arms(key);
  assert.ok(new Set(first).size === 2, `${first}`);
  assert.match((await house.cli(['status'])).stdout, /v1 50% \+ v2 50%/);
  assert.deepEqual((await house.status()).arms, [{ arm: 'stable', version: 1, share: 0.5 }, { arm: 'canary', version: 2, share: 0.5 }]);
  assert.deepEqual(await arms(stranger), first, 'whichever key they come with');
  const none = await inTurn(tenants, async () => (await ask()).arm);
  assert.equal(new Set(none).size, 1, 'without the header it is the key');
  await admin('rollback');
  assert.deepEqual([...new Set(await arms(key))], ['stable']);
});

const seenBy = async (model) => (await house.fakes[0].requests()).filter((kept) => JSON.parse(kept.body).model === model).length;

test('a shadow sends requests once more, and nobody sees it', async () => {
  await house.fakes[0].reset();
  await admin('shadow', 'start', '2', '--share', '100%', '--budget', '1', '--routes', 'chat');
  const booked = await counted('attempts_total', { model: 'fake/m-2' });
  const answers = await inTurn(users.slice(0, 20), (user, i) => ask({ user, stream: i % 2 === 0 }));
  for (const answer of answers) {
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.arm, 'stable');
    assert.ok(!answer.text.includes('m-2'));
  }
  const bulk = await ask({ model: 'bulk' }); // not covered
  const tools = await ask({ tools: [{ type: 'function', function: { name: 'f', parameters: {} } }] });
  const real = await recordsOf([...answers, bulk, tools]);
  const shadows = await shadowsOf([...answers, bulk, tools], 20);
  assert.equal(shadows.length, 20);
  for (const shadow of shadows) {
    const of = real.find(({ request_id: id }) => id === shadow.of);
    assert.equal(of.kind, undefined);
    assert.deepEqual([shadow.policy_version, shadow.model, shadow.outcome, shadow.stream], [2, 'fake/m-2', 'ok', of.stream]);
    assert.ok(shadow.cost_nano_usd > 0 && shadow.request_id !== of.request_id);
  }
  assert.equal(await seenBy('m-2'), 20);
  assert.equal(await seenBy('m-1'), 21);
  assert.equal(await counted('arm_requests_total', { traffic: 'shadow', outcome: 'ok' }), 20);
  assert.equal(await counted('attempts_total', { model: 'fake/m-2' }), booked, "the team's books know what it asked for");
});

test('a shadow that hangs or fails is of no consequence', async () => {
  const failed = await counted('arm_requests_total', { traffic: 'shadow', outcome: 'error' });
  for (const fault of ['500', 'reset', 'cut']) {
    const answer = await ask({ messages: [{ role: 'user', content: `[[fake:m-2 fault=${fault}]] x` }] });
    assert.equal(answer.status, 200, answer.text);
  }
  await waitFor(async () => (await counted('arm_requests_total', { traffic: 'shadow', outcome: 'error' })) === failed + 3, { what: 'three shadows to fail' });
  const answer = await ask({ messages: [{ role: 'user', content: '[[fake:m-2 fault=hang]] x' }] });
  assert.equal(answer.status, 200, answer.text);
  await waitFor(async () => /^fairlead_shadows_open 1$/m.test(await house.metrics()), { what: 'the shadow to hang' });
  await admin('shadow', 'stop');
  // What hangs is cut with its workers, which do not wait for it.
  const reloaded = await house.cli(['reload']);
  assert.equal(reloaded.code, 0, reloaded.stderr);
  const [cut] = await shadowsOf([answer], 1);
  assert.deepEqual([cut.kind, cut.outcome, cut.error], ['shadow', 'cancelled', 'shutting_down']);
});

test('its budget ends it', async () => {
  const started = await admin('shadow', 'start', '2', '--share', '100%', '--budget', '0.001', '--routes', 'chat');
  await house.fakes[0].reset();
  const answers = await inTurn(users.slice(0, 40), () => ask({ max_tokens: 50 }));
  assert.deepEqual(answers.map(({ status }) => status), Array(40).fill(200));
  await waitFor(async () => /^fairlead_shadows_open 0$/m.test(await house.metrics()), { what: 'the last shadow' });
  const sent = await seenBy('m-2');
  assert.ok(sent > 0 && sent < 40, `${sent} of 40 (${JSON.stringify(started)})`);
  const spent = (await shadowsOf(answers, sent)).reduce((sum, record) => sum + record.cost_nano_usd, 0);
  assert.ok(spent <= 1_000_000, `${spent} nano-dollars`);
});
