// Teams and keys: live, quick, and touched by no rollback; backups, epochs, pins.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { aSecond, bundleOf, createKey, figures, holderOf, startParts, workersUp } from './support/control.mjs';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { run, startFakellm, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

after(stopAll);

const policy = (fakes, n = 0) => `providers:
  fake: {base_url: "${fakes[0].baseUrl}", auth: none, probe: {how: none}}
models:
  fake/one: {sends: m-${n}, price: {input: 1, output: 2}, context: 8000}
routes:
  chat: {tiers: [{models: [fake/one]}]}
  other: {tiers: [{models: [fake/one]}]}`;
const directory = 'teams:\n  t: {routes: [chat], models: []}';

const chat = (house, key, model = 'chat') => house.request('/v1/chat/completions', { key, body: chatBody('x', { model }) });

// Milliseconds until 24 connections at once (so all of three workers) say one status, and nothing else any more.
async function everywhere(house, key, status, { model = 'chat', from = performance.now(), timeoutMs = 10_000 } = {}) {
  await waitFor(
    async () => {
      const answers = await Promise.all(Array.from({ length: 24 }, () => chat(house, key, model)));
      return answers.every((answer) => answer.status === status);
    },
    { everyMs: 5, timeoutMs, what: `${status} of every worker` },
  );
  return performance.now() - from;
}

test('a key made, rotated, expired or revoked is so on every worker within a second', async (t) => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory, workers: 3 });
  const times = { create: [], revoke: [] };
  for (let i = 0; i < 10; i++) {
    const made = await house.admin('keys', 'create', '--team', 't');
    let from = performance.now();
    times.create.push(await everywhere(house, made.key, 200, { from }));
    await house.admin('keys', 'revoke', made.id);
    from = performance.now();
    times.revoke.push(await everywhere(house, made.key, 401, { from }));
  }
  for (const [what, list] of Object.entries(times)) {
    t.diagnostic(`${what}: everywhere after ms ${JSON.stringify(figures(list))}`);
    assert.ok(Math.max(...list) < aSecond(), `${what}: ${Math.max(...list)} ms`);
  }
  const old = await house.createKey();
  let from = performance.now();
  const next = await house.admin('keys', 'rotate', old.id, '--overlap', '3s');
  assert.notEqual(next.key, old.key);
  await everywhere(house, next.key, 200);
  assert.equal((await chat(house, old.key)).status, 200, 'both work while they overlap');
  const gone = await everywhere(house, old.key, 401, { from });
  t.diagnostic(`rotated with 3 s of overlap: the old key ended everywhere after ${Math.round(gone)} ms`);
  assert.ok(gone > 2500 && gone < 4200, `${gone} ms`);
  await everywhere(house, next.key, 200);
  from = performance.now();
  const brief = await house.admin('keys', 'create', '--team', 't', '--expires', '2s', '--wait');
  assert.equal((await chat(house, brief.key)).status, 200);
  const expired = await everywhere(house, brief.key, 401, { from });
  assert.ok(expired > 1500 && expired < 3200, `${expired} ms`);
  const list = JSON.parse((await house.cli(['keys', 'list', '--all', '--json'])).stdout);
  assert.equal(list.find((key) => key.id === brief.id).state, 'expired');
  assert.equal(list.filter((key) => key.state === 'revoked').length, 10);
  await house.stop();
});

test('teams apply changes what a key may use; a key may be narrower than its team', async (t) => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory, workers: 3 });
  const { key } = await house.createKey();
  const file = path.join(house.home, 'teams.yaml');
  const apply = (teams) => {
    writeFileSync(file, `schema: fairlead/1\nkind: directory\nteams:\n${teams}\n`);
    return house.admin('teams', 'apply', file);
  };
  await everywhere(house, key, 200);
  assert.equal((await chat(house, key, 'other')).status, 404);
  const times = [];
  for (let i = 0; i < 4; i++) {
    await apply('  t: {routes: [other], models: []}');
    let from = performance.now();
    times.push(await everywhere(house, key, 404, { from }));
    const refused = JSON.parse((await chat(house, key)).text);
    assert.match(refused.error.message, /other/, 'it names the routes that this key may use');
    await everywhere(house, key, 200, { model: 'other' });
    await apply('  t: {routes: [chat, other], models: ["fake/*"]}');
    from = performance.now();
    times.push(await everywhere(house, key, 200, { from }));
  }
  t.diagnostic(`teams apply: everywhere after ms ${JSON.stringify(figures(times))}`);
  assert.ok(Math.max(...times) < aSecond());
  assert.equal((await chat(house, key, 'fake/one')).status, 200, 'a model by its name');
  const narrow = await house.createKey({ routes: 'chat' });
  assert.equal((await chat(house, narrow.key)).status, 200);
  assert.equal((await chat(house, narrow.key, 'other')).status, 404);
  await house.stop();
});

test('--wait names the nodes that were not reached', async () => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory });
  const name = (await house.status()).node;
  const pid = holderOf(house.home, 'node');
  process.kill(pid, 'SIGSTOP');
  const made = await house.cli(['keys', 'create', '--team', 't', '--json', '--yes', '--wait', '--timeout', '2s']).finally(() => process.kill(pid, 'SIGCONT'));
  assert.equal(made.code, 8, made.stderr);
  assert.match(made.stderr, new RegExp(`stored, but 1 node does not serve it yet: "${name}"`));
  // It was stored: the node has it once it can.
  await everywhere(house, JSON.parse(made.stdout).key, 200);
  await house.stop();
});

test('a pinned node keeps its policy, and follows again when unpinned', async () => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory });
  const { key } = await house.createKey();
  const pin = await house.cli(['nodes', 'pin', '--local']);
  assert.equal(pin.code, 0, pin.stderr);
  await waitFor(async () => (await house.status()).pinned, { what: 'the pin to be seen' });
  const file = path.join(house.home, 'next.yaml');
  writeFileSync(file, `schema: fairlead/1\nkind: policy\n${policy(house.fakes, 1)}\n`);
  const pushed = await house.admin('policy', 'push', file);
  await waitFor(async () => JSON.parse((await house.cli(['nodes', '--json'])).stdout)[0].state === 'pinned', { what: 'the control plane to know' });
  assert.equal(JSON.parse((await chat(house, key)).text).model, 'm-0');
  // The directory is no part of what is pinned: keys must stay revocable.
  const other = await house.admin('keys', 'create', '--team', 't');
  await everywhere(house, other.key, 200);
  await house.admin('keys', 'revoke', other.id);
  await everywhere(house, other.key, 401);
  assert.equal((await house.status()).committed.generation, pushed.generation - 1);
  assert.equal((await house.cli(['nodes', 'unpin', '--local'])).code, 0);
  await workersUp(house, (workers) => workers.every((worker) => worker.generation === pushed.generation));
  assert.equal(JSON.parse((await chat(house, key)).text).model, 'm-1');
  await house.stop();
});

test('a restored control plane is followed only once that is allowed', async () => {
  const fakes = [await startFakellm({ name: 'a' })];
  const house = await startParts({ policy: policy(fakes, 0), directory });
  const key = await createKey(house);
  await house.start('node');
  const model = async () => {
    const answer = await chat(house, key);
    return answer.status === 200 ? JSON.parse(answer.text).model : answer.status;
  };
  const push = (n) => house.asker.must('policy.push', { bundle: bundleOf(`schema: fairlead/1\nkind: policy\n${policy(fakes, n)}\n`) });
  await waitFor(async () => (await model()) === 'm-0', { what: 'the first version' });
  const to = path.join(temporaryDirectory('fl-backup-'), 'backup');
  const backup = await run('fairlead', ['backup', to, '--home', house.home]);
  assert.equal(backup.code, 0, backup.stderr);
  await push(1);
  await push(2);
  await waitFor(async () => (await model()) === 'm-2', { what: 'the newest version' });
  const early = await run('fairlead', ['restore', to, '--home', house.home, '--yes']);
  assert.notEqual(early.code, 0, 'not under a running control plane');
  assert.equal((await house.parts.control.stop()).code, 0);
  const restore = await run('fairlead', ['restore', to, '--home', house.home, '--yes']);
  assert.equal(restore.code, 0, restore.stderr);
  await house.start('control');
  const node = async () => {
    const answer = await house.asker.ask('nodes.list');
    return answer.err === 'ok' && answer.result[0];
  };
  await waitFor(async () => (await node())?.state === 'other epoch', { what: 'the node to be asked about', timeoutMs: 20_000 });
  assert.equal(await model(), 'm-2', 'its last good table serves');
  const adopt = await run('fairlead', ['nodes', 'adopt', '--all', '--yes', '--wait', '--home', house.home]);
  assert.equal(adopt.code, 0, adopt.stderr);
  await waitFor(async () => (await node())?.state === 'current', { what: 'the node to follow' });
  assert.equal(await model(), 'm-0');
  const { generation } = await push(3);
  await workersUp(house, (workers) => workers.every((worker) => worker.generation === generation));
  assert.equal(await model(), 'm-3');
  await house.asker.stop();
  assert.equal((await house.parts.node.stop()).code, 0);
  assert.equal((await house.parts.control.stop()).code, 0);
});
