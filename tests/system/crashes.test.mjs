// kill -9 of everything, at any moment: what dies costs only what it carried, and nothing that was acknowledged is lost.
import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { aSecond, alive, bundleOf, createKey, figures, holderOf, startAsker, startParts, sumOf, workersUp } from './support/control.mjs';
import { chatBody, request, startFairlead } from './support/fairlead.mjs';
import { startFakellm, stopAll, waitFor } from './support/process.mjs';

after(stopAll);

const directory = 'teams:\n  t: {routes: ["*"], models: ["*/*"]}';
const policy = (fakes, probe = '{how: none}') => `providers:
  a: {base_url: "${fakes[0].baseUrl}", auth: none, probe: ${probe}}
  b: {base_url: "${(fakes[1] ?? fakes[0]).baseUrl}", auth: none, probe: ${probe}}
models:
  a/one: {price: {input: 1, output: 2}, context: 8000}
  b/one: {like: a/one}
routes:
  chat: {tiers: [{models: [a/one]}, {models: [b/one]}]}`;

// A number from 0 to 1, the same ones again for the same seed.
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const chat = (house, key, content = 'x', more = {}) => house.request('/v1/chat/completions', { key, body: chatBody(content, more) }).catch((error) => ({ status: 0, end: error.code }));

// Unary requests on connections of their own, until stop(): {answered, failures}.
function steady(house, key, count) {
  const answered = [];
  const failures = [];
  let going = true;
  const running = Array.from({ length: count }, async () => {
    while (going) {
      const answer = await chat(house, key, '[[fake ttft_ms=5]]');
      (answer.status === 200 && answer.end === 'end' ? answered : failures).push(answer);
    }
  });
  return { answered, failures, stop: async () => ((going = false), await Promise.all(running)) };
}

test('kill -9 of a worker: its own streams break, its queue waits, the store does not grow', async (t) => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory, workers: 4 });
  const asker = await startAsker(house.home);
  const { key } = await house.createKey();
  const store = path.join(house.home, 'db/node/data.mdb');
  const times = [];
  const gaps = [];
  let stored;
  await workersUp(house);
  for (let i = 0; i < 20; i++) {
    const slot = i % 4;
    const streams = Array.from({ length: 8 }, () => chat(house, key, '[[fake tokens=40 token_ms=20]]', { stream: true }));
    const workers = await workersUp(house, (all) => all.reduce((sum, worker) => sum + worker.requests, 0) === 8);
    const others = workers.filter((worker) => worker.slot !== slot).reduce((sum, worker) => sum + worker.requests, 0);
    const { pid } = workers[slot];
    const from = performance.now();
    process.kill(pid, 'SIGKILL');
    // New connections while the slot has no process: some wait in the dead worker's queue, none is refused or reset.
    const gap = Promise.all(Array.from({ length: 24 }, () => chat(house, key).then((answer) => ({ ...answer, ms: performance.now() - from }))));
    await workersUp(house, (all) => all[slot].pid !== pid, { everyMs: 5 });
    times.push(performance.now() - from);
    for (const answer of await gap) {
      assert.equal(answer.status, 200, `in the gap: ${JSON.stringify(answer)}`);
      gaps.push(answer.ms);
    }
    const whole = (await Promise.all(streams)).filter((answer) => answer.end === 'end' && answer.text?.trimEnd().endsWith('[DONE]'));
    assert.equal(whole.length, others, 'every stream of the other workers ended well, none of the dead one');
    // Commits after the death: a dead reader would keep each one's pages.
    for (let k = 0; k < 20; k++) await asker.must(k % 2 ? 'providers.undrain' : 'providers.drain', { name: 'b' });
    if (i === 3) stored = statSync(store).blocks * 512;
  }
  const grown = statSync(store).blocks * 512 - stored;
  t.diagnostic(`replaced after ms: ${JSON.stringify(figures(times))}; requests in the gap ms: ${JSON.stringify(figures(gaps))}; store ${stored} bytes, grown by ${grown}`);
  assert.ok(Math.max(...times) < aSecond(), `${Math.max(...times)} ms`);
  assert.ok(grown < 512 * 1024, `the store grew by ${grown} bytes from ${stored} over 16 deaths and 320 commits`);
  assert.equal(sumOf(await house.metrics(), 'fairlead_worker_restarts_total'), 20);
  assert.equal(sumOf(await house.metrics(), 'fairlead_table_reverts_total'), 0, 'who is killed from outside accuses no table');
  await asker.stop();
  await house.stop();
});

test('kill -9 of the master: workers serve on, the next one adopts them and goes on counting', async (t) => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory, workers: 2 });
  const { key } = await house.createKey();
  const load = steady(house, key, 4);
  const times = [];
  for (let i = 0; i < 3; i++) {
    await waitFor(() => load.answered.length > (i + 1) * 100, { what: 'requests' });
    const workers = await workersUp(house);
    const before = sumOf(await house.metrics(), 'fairlead_requests_settled_total');
    const pid = holderOf(house.home, 'node');
    const from = performance.now();
    const at = load.answered.length;
    process.kill(pid, 'SIGKILL');
    await waitFor(() => !alive(pid));
    const next = await waitFor(() => {
      const now = holderOf(house.home, 'node');
      return now !== pid && alive(now) && now;
    }, { what: 'the next master' });
    const adopted = await waitFor(
      async () => {
        const operations = readFileSync(path.join(house.home, 'run/operations'), 'utf8').trim();
        const status = JSON.parse((await request(`http://${operations}/status`, { method: 'GET' })).text);
        return status.workers.every((worker) => worker.state === 'up' && worker.adopted) && { status, operations };
      },
      { what: 'adopted workers' },
    );
    times.push(performance.now() - from);
    assert.ok(next !== pid);
    assert.deepEqual(adopted.status.workers.map((worker) => worker.pid), workers.map((worker) => worker.pid));
    assert.ok(load.answered.length > at, 'requests were answered meanwhile');
    const metrics = (await request(`http://${adopted.operations}/metrics`, { method: 'GET' })).text;
    assert.ok(sumOf(metrics, 'fairlead_requests_settled_total') >= before, 'counters do not fall');
    house.status = async () => JSON.parse((await request(`http://${adopted.operations}/status`, { method: 'GET' })).text);
    house.metrics = async () => (await request(`http://${adopted.operations}/metrics`, { method: 'GET' })).text;
  }
  await load.stop();
  assert.deepEqual(load.failures, []);
  const total = load.answered.length;
  await waitFor(async () => sumOf(await house.metrics(), 'fairlead_requests_settled_total') === total, { what: `${total} requests counted, each once` });
  // Their records, too, but for what a full ring dropped (counted) and what a killed master had in its hands.
  const recorded = await waitFor(
    async () => {
      const count = new Set(house.records().map((record) => record.request_id)).size;
      return count + sumOf(await house.metrics(), 'fairlead_records_dropped_total') >= total - 30 && count;
    },
    { what: `${total} requests recorded or counted as dropped` },
  );
  // A directory change still reaches them.
  const other = await house.createKey();
  assert.equal((await chat(house, other.key)).status, 200);
  t.diagnostic(`adopted after ms: ${JSON.stringify(figures(times))}; ${total} requests meanwhile, none failed, ${recorded} recorded`);
  await house.stop();
});

test('`up` starts again whatever is killed', async (t) => {
  const house = await startFairlead({ policy: (fakes) => policy(fakes), directory, workers: 1 });
  const { key } = await house.createKey();
  for (const part of ['control', 'node', 'prober', 'pricefeed']) {
    const pid = holderOf(house.home, part);
    assert.ok(pid && alive(pid), part);
    const from = performance.now();
    process.kill(pid, 'SIGKILL');
    await waitFor(() => ![0, pid].includes(holderOf(house.home, part)) && alive(holderOf(house.home, part)), { what: `another ${part}` });
    t.diagnostic(`${part} started again after ${Math.round(performance.now() - from)} ms`);
    assert.equal((await chat(house, key)).status, 200);
  }
  await waitFor(async () => JSON.parse((await house.cli(['status', '--json'])).stdout).nodes?.[0]?.state === 'current', { what: 'a node that is heard again' });
  await house.stop();
});

test('kill -9 of the control plane: the node serves on, also after restarts, and what was marked down comes back', async (t) => {
  const fakes = [await startFakellm({ name: 'a' }), await startFakellm({ name: 'b' })];
  const house = await startParts({ policy: policy(fakes, '{how: models, every: 1s}'), directory, controlArgs: ['--evidence-lifetime', '3s', '--decide-every', '200ms'] });
  const key = await createKey(house);
  await house.start('node');
  await house.start('prober');
  await waitFor(async () => (await chat(house, key)).headers?.['x-fairlead-model'] === 'a/one', { what: 'an answer of a' });
  await fakes[0].stop();
  await waitFor(
    async () => {
      const { providers } = await house.asker.must('providers.list');
      return providers.find((provider) => provider.name === 'a').models[0].health === 'down';
    },
    { what: 'a/one to be marked down', everyMs: 50 },
  );
  await waitFor(async () => {
    const answer = await chat(house, key);
    return answer.headers?.['x-fairlead-model'] === 'b/one' && answer.headers['x-fairlead-attempts'] === '1';
  }, { what: 'requests that do not try it first' });
  await house.kill('control');
  await house.kill('prober');
  const died = performance.now();
  await startFakellm({ name: 'a', listen: `127.0.0.1:${fakes[0].port}` });
  let served = 0;
  for (let i = 0; i < 2; i++) {
    const listen = readFileSync(path.join(house.home, 'run/listen'), 'utf8').split('\n', 1)[0];
    if (i === 0) {
      assert.equal((await house.parts.node.stop()).code, 0);
    } else {
      const { workers } = await house.status();
      await house.kill('node');
      for (const { pid } of workers) process.kill(pid, 'SIGKILL');
      await waitFor(() => workers.every(({ pid }) => !alive(pid)));
    }
    await house.start('node', listen);
    await workersUp(house);
    for (let k = 0; k < 20; k++, served++) assert.equal((await chat(house, key)).status, 200);
  }
  await waitFor(async () => (await chat(house, key)).headers?.['x-fairlead-model'] === 'a/one', { what: 'a/one to come back by itself', timeoutMs: 20_000 });
  t.diagnostic(`a/one came back ${Math.round(performance.now() - died)} ms after the control plane died (evidence lived 3 s); ${served} requests over two restarts of the node`);
  // And the control plane comes back to a node that follows it again.
  await house.start('control');
  const { generation } = await house.asker.must('providers.drain', { name: 'a' });
  await workersUp(house, (workers) => workers.every((worker) => worker.generation >= generation));
  assert.equal((await chat(house, key)).headers['x-fairlead-model'], 'b/one');
  await house.asker.stop();
  assert.equal((await house.parts.node.stop()).code, 0);
  assert.equal((await house.parts.control.stop()).code, 0);
});

test('kill -9 at random moments of 200 publishes: nothing acknowledged is lost, nothing is half there, nothing is done twice', async (t) => {
  const seed = Number(process.env.FAIRLEAD_SEED ?? Date.now() % 2 ** 31);
  t.diagnostic(`FAIRLEAD_SEED=${seed}`);
  const next = random(seed);
  const fakes = [{ baseUrl: 'http://127.0.0.1:9/v1' }];
  const house = await startParts({ directory });
  await house.start('node');
  const text = (i) => `schema: fairlead/1\nkind: policy\n${policy(fakes).replaceAll('chat:', `chat-${i}:`)}\n`;
  const acknowledged = [];
  let kills = 0;
  let unanswered = 0;
  let typical = 10; // milliseconds that a push takes: kills fall into them
  for (let i = 0; i < 200; i++) {
    const id = `publish-${seed}-${i}`;
    const ask = () => house.asker.ask('policy.push', { bundle: bundleOf(text(i)), message: `number ${i}` }, { id, timeoutMs: 3000 });
    let answer;
    if (next() < 0.3) {
      const from = performance.now();
      const asked = ask();
      const wait = next() * typical * 1.5;
      while (performance.now() - from < wait) await new Promise(setImmediate);
      await house.kill('control');
      kills++;
      answer = await asked;
      await house.start('control');
      if (answer.err !== 'ok') unanswered++;
      // Acknowledged or not, the same id again has one outcome.
      const again = await waitFor(async () => {
        const one = await ask();
        return one.err !== 'closed' && one; // the link has not noticed yet that it was cut
      });
      assert.equal(again.err, 'ok', JSON.stringify(again));
      if (answer.err === 'ok') assert.deepEqual(again, answer, 'the same id, the same answer');
      answer = again;
      // Older ones are remembered over the restart too.
      const old = acknowledged[Math.floor(next() * acknowledged.length)];
      if (old) assert.deepEqual(await house.asker.ask('policy.push', { bundle: bundleOf(text(old.i)), message: `number ${old.i}` }, { id: old.id }), old.answer);
    } else {
      const from = performance.now();
      answer = await ask();
      typical = typical * 0.8 + (performance.now() - from) * 0.2;
    }
    assert.equal(answer.err, 'ok', JSON.stringify(answer));
    assert.equal(answer.status, 0, answer.message);
    assert.equal(answer.result.version, i + 1, 'one version for each publish');
    assert.equal(answer.result.generation, i + 1, 'and one head');
    acknowledged.push({ i, id, answer });
  }
  t.diagnostic(`${kills} kills, ${unanswered} publishes without an answer; a push takes ${typical.toFixed(1)} ms`);
  await house.kill('control');
  await house.start('control');
  const list = await house.asker.must('policy.list');
  assert.equal(list.length, 200);
  for (const { i, answer } of acknowledged) {
    const version = list.find((entry) => entry.version === i + 1);
    assert.equal(version.policy_hash, answer.result.policy_hash);
    assert.equal(version.message, `number ${i}`);
    assert.equal(version.state, i === 199 ? 'live' : 'retired');
  }
  for (let i = 0; i < 200; i += 13) {
    const { bundle } = await house.asker.must('policy.show', { version: i + 1 });
    assert.equal(bundle.files[0].text, text(i));
  }
  // Each one is whole: it can be made live, and the node takes it.
  for (let i = 3; i < 200; i += 40) {
    const { generation } = await house.asker.must('rollback', { version: i + 1 });
    await waitFor(async () => (await house.status()).committed.generation === generation, { what: `generation ${generation} on the node` });
  }
  assert.ok(kills > 30 && unanswered > 5, 'the kills fell into publishes');
  const { entries: audit } = await house.asker.must('audit.list', { limit: 2000 });
  assert.equal(audit.filter(({ entry }) => entry.command === 'policy.push').length, 200);
  await house.asker.stop();
  assert.equal((await house.parts.node.stop()).code, 0);
  assert.equal((await house.parts.control.stop()).code, 0);
});
