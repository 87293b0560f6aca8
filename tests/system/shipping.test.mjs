// Records on their way from nodes to the control plane: whatever is killed meanwhile, each line arrives once, in its node's order. And
// feedback. FAIRLEAD_SHIPPED (400 requests) makes it larger.
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { createKey, startParts } from './support/control.mjs';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { startFakellm, stopAll, waitFor } from './support/process.mjs';

const wanted = Number(process.env.FAIRLEAD_SHIPPED ?? 400);

after(stopAll);

const policy = (fake) => `providers:
  a: {base_url: "${fake.baseUrl}", auth: none, probe: {how: none}}
models:
  a/one: {price: {input: 1, output: 2}, context: 8000}
routes:
  chat: {tiers: [{models: [a/one]}]}`;
const directory = 'teams:\n  t: {routes: ["*"], models: ["*/*"]}\n  u: {routes: ["*"], models: ["*/*"]}';

function linesIn(dir) {
  const names = readdirSync(dir).filter((name) => name.endsWith('.jsonl'));
  return names.sort().flatMap((name) => readFileSync(path.join(dir, name), 'utf8').split('\n').slice(0, -1));
}
const ofNode = (home) => linesIn(path.join(home, 'records'));
const ofStore = (home) => linesIn(path.join(home, 'control/records')).filter((line) => !line.startsWith('{"kind":'));

// What the node wrote is what the control plane has, once the last of it has come. Both are looked at once, the node's first: what is
// written after that look is not missed by the other.
async function assertShipped(home, atLeast) {
  let ofBoth;
  await waitFor(() => {
    ofBoth = [ofNode(home), ofStore(home)];
    return ofBoth[0].length >= atLeast && ofBoth[0].length === ofBoth[1].length;
  }, { timeoutMs: 60_000, what: 'all records' });
  assert.deepEqual(ofBoth[1], ofBoth[0]);
}

test('kill -9 of the control plane and of the master during traffic: every record arrives once, in order', async (t) => {
  const fake = await startFakellm({ models: 'one' });
  const house = await startParts({ policy: policy(fake), directory, workers: 1 });
  await house.start('node');
  const key = await createKey(house);
  let answered = 0;
  let done = false;
  const ask = async () => {
    while (!done) {
      const { status } = await house.request('/v1/chat/completions', { key, body: chatBody('hello') });
      if (status === 200) answered++;
    }
  };
  await waitFor(async () => (await house.request('/v1/chat/completions', { key, body: chatBody('hello') })).status === 200, { timeoutMs: 60_000, what: 'the first answer' });
  answered = 1;
  const clients = [ask(), ask(), ask()];
  let kills = 0;
  for (const share of [0.2, 0.4, 0.6, 0.8, 1]) {
    await waitFor(() => answered >= wanted * share, { timeoutMs: 120_000, what: `${wanted * share} answers` });
    const shipped = ofStore(house.home).length;
    if (share < 1) {
      await house.kill('control');
      await house.start('control');
      kills++;
    }
    if (share === 0.4 || share === 0.8) {
      await house.kill('node');
      await house.start('node');
      kills++;
    }
    await waitFor(() => ofStore(house.home).length > shipped, { timeoutMs: 60_000, what: 'shipping to go on' });
  }
  done = true;
  await Promise.all(clients);
  await assertShipped(house.home, answered);
  const ids = ofStore(house.home).map((line) => JSON.parse(line).request_id);
  assert.equal(new Set(ids).size, ids.length);
  const file = path.join(house.home, 'control/records', readdirSync(path.join(house.home, 'control/records'))[0]);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  t.diagnostic(`${ids.length} records of ${answered} answers, ${kills} kills`);
});

test('a control plane that was away is told all of it, and adds it up', async () => {
  const fake = await startFakellm({ models: 'one' });
  const house = await startParts({ policy: policy(fake), directory, workers: 1 });
  await house.start('node');
  const key = await createKey(house);
  const chat = () => house.request('/v1/chat/completions', { key, body: chatBody('hello') });
  await waitFor(async () => (await chat()).status === 200, { timeoutMs: 60_000, what: 'the first answer' });
  await house.kill('control');
  let id;
  for (let i = 0; i < 20; i++) {
    const answer = await chat();
    assert.equal(answer.status, 200, answer.text);
    id = answer.headers['x-request-id'];
  }
  await house.start('control');
  await assertShipped(house.home, 21);
  const costs = await house.asker.must('costs', { by: 'team,model' });
  const records = ofNode(house.home).map((line) => JSON.parse(line));
  const charged = records.reduce((sum, record) => sum + record.cost_nano_usd, 0);
  assert.ok(charged > 0);
  assert.equal(costs.rows.reduce((sum, row) => sum + row.charged_nano_usd, 0), charged);
  assert.equal(costs.rows.reduce((sum, row) => sum + row.requests, 0), records.length);
  const found = await house.asker.must('records.find', { id });
  assert.deepEqual(found.records, records.filter((record) => record.request_id === id));
});

test('feedback: a team speaks of its own requests, nobody of others', async () => {
  const house = await startFairlead({
    fakes: [{ models: 'one' }],
    policy: ([fake]) => policy(fake),
    directory,
    workers: 1,
  });
  const { key } = await house.createKey({ team: 't' });
  const { key: other } = await house.createKey({ team: 'u' });
  const vote = (by, body) => house.request('/v1/feedback', { key: by, body });
  const answer = await house.request('/v1/chat/completions', { key, body: chatBody('hello', { stream: true }) });
  const request_id = answer.headers['x-request-id'];
  const refused = await vote(other, { request_id, score: 1 });
  assert.equal(refused.status, 403, refused.text);
  assert.equal(JSON.parse(refused.text).error.code, 'not_your_request');
  const last = request_id.at(-1);
  assert.equal((await vote(key, { request_id: request_id.slice(0, -1) + (last === 'a' ? 'b' : 'a'), score: 1 })).status, 403);
  assert.equal((await vote(key, { request_id: 'chatcmpl-1', score: 1 })).status, 400);
  assert.equal((await vote('fl-nobody', { request_id, score: 1 })).status, 401);
  assert.equal((await house.request('/v1/feedback', { key, method: 'GET' })).status, 405);
  const taken = await vote(key, { request_id, score: true, metric: 'thumbs' });
  assert.equal(taken.status, 202, taken.text);
  assert.deepEqual(JSON.parse(taken.text), { accepted: true });
  // It survives a reload, as the secret is in the home.
  assert.equal(statSync(path.join(house.home, 'feedback.secret')).mode & 0o777, 0o600);
  const before = (await house.status()).roll;
  assert.equal((await house.cli(['reload'])).code, 0);
  await waitFor(async () => (await house.status()).roll > before, { timeoutMs: 60_000, what: 'the reload' });
  assert.equal((await vote(key, { request_id, score: -0.5 })).status, 202);
  await assertShipped(house.home, 6); // one answer, three refusals, two votes
  const votes = ofStore(house.home).map((line) => JSON.parse(line)).filter((record) => record.kind === 'feedback');
  assert.deepEqual(
    votes.map(({ request_id: id, team, metric, score }) => ({ id, team, metric, score })),
    [
      { id: request_id, team: 't', metric: 'thumbs', score: 1 },
      { id: request_id, team: 't', metric: 'feedback', score: -0.5 },
    ],
  );
  assert.match(await house.metrics(), /^fairlead_records_shipped_total [1-9]/m);
});

test('records: {ship: 0%} keeps them at home', async () => {
  const house = await startFairlead({ fakes: [{ models: 'one' }], policy: ([fake]) => policy(fake), directory, workers: 1, node: 'records: {ship: 0%}' });
  const { key } = await house.createKey();
  assert.equal((await house.request('/v1/chat/completions', { key, body: chatBody('hello') })).status, 200);
  await waitFor(() => ofNode(house.home).length > 0, { what: 'a record' });
  const { code, stderr } = await house.stop();
  assert.equal(code, 0, stderr);
  assert.deepEqual(readdirSync(path.join(house.home, 'control/records')), []);
});
