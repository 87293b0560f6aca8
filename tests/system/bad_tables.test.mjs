// A control plane gone wrong, and strangers on every link: refused with a reason, counted, and the last good table serves.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, test } from 'node:test';
import { holderOf, startAsker, sumOf, workersUp } from './support/control.mjs';
import { chatBody, request, startFairlead } from './support/fairlead.mjs';
import { startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

after(stopAll);

const key = `fl-${'abcdefgh'.repeat(5)}`;

// A node whose control plane is fakecontrol: say(case, generation) is its next answer, heard the last fetch it got.
async function startNode({ workers = 2, env, fakeControl = true } = {}) {
  const home = temporaryDirectory('fl-');
  mkdirSync(path.join(home, 'run'), { mode: 0o700 });
  const fake = await startFakellm({ name: 'a' });
  const address = `ipc://${home}/run/fetch.ipc`;
  const node = { home, fake, fetches: [] };
  if (fakeControl) {
    node.control = await startProcess('fakecontrol', ['--address', address, '--port', fake.port, '--key', key], { readyPattern: /^listening$/m });
    const read = () => (node.fetches = node.control.stdout.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line)));
    node.heard = () => read().at(-1);
    node.say = (what, generation) => node.control.child.stdin.write(`${what} ${generation}\n`);
  }
  node.master = await startProcess(
    'fairlead-dataplane',
    ['--home', home, '--listen', '127.0.0.1:0', '--operations', '127.0.0.1:0', '--workers', workers],
    { env, readyPattern: /event=node\.listening address=(\S+)/, readyFrom: 'stderr' },
  );
  const page = async (name) => (await request(`http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}/${name}`, { method: 'GET' })).text;
  node.status = async () => JSON.parse(await page('status'));
  node.metrics = () => page('metrics');
  node.chat = () => request(`http://${node.master.ready[1]}/v1/chat/completions`, { key, body: chatBody('x') });
  await workersUp(node);
  return node;
}

// The answer's model says which table served it.
async function serves(node, generation) {
  const answers = await Promise.all(Array.from({ length: 6 }, () => node.chat()));
  for (const answer of answers) {
    assert.equal(answer.status, 200, answer.text);
    assert.equal(JSON.parse(answer.text).model, `m-${generation}`);
  }
}

const goTo = async (node, generation) => {
  node.say('good', generation);
  await waitFor(() => node.heard()?.serving.generation === generation, { what: `generation ${generation} to be served` });
};

const refused = [
  // case, kind of the NACK, reason
  ['head-corrupt', 'head', /^corrupt/],
  ['head-truncated', 'head', /./],
  ['head-oversized', 'head', /^too_large/],
  ['head-empty', 'head', /./],
  ['head-hash', 'head', /^corrupt/],
  ['head-schema', 'head', /^unsupported/],
  ['head-number', 'head', /number/],
  ['feature', 'head', /^unsupported/],
  ['epoch', 'head', /nodes adopt/],
  ['share', 'head', /./],
  ['missing-artifact', 'head', /artifact/],
  ['artifact-corrupt', null, /./],
  ['artifact-truncated', null, /./],
  ['artifact-oversized', 'artifact', /^too_large/],
  ['artifact-empty', null, /./],
  ['artifact-hash', 'artifact', /^corrupt/],
  ['artifact-schema', 'artifact', /unsupported/],
  ['artifact-feature', null, /unsupported/],
  ['weights', null, /./],
  ['index', null, /./],
];

test('every broken table is refused with a reason, and the last good one serves', async (t) => {
  const node = await startNode();
  await goTo(node, 5);
  await serves(node, 5);
  let generation = 10;
  let good = 5;
  for (const [i, [kase, kind, reason]] of refused.entries()) {
    const before = sumOf(await node.metrics(), 'fairlead_nacks_total');
    node.say(kase, ++generation);
    const seqs = kase === 'head-number' ? [generation, generation + 1] : [generation];
    const nack = await waitFor(() => node.heard().nacks.find((one) => (kind === 'artifact' ? one.kind === kind : seqs.includes(one.seq))), { what: `a NACK of ${kase}` });
    t.diagnostic(`${kase}: ${nack.kind} refused: ${nack.reason}`);
    if (kind) assert.equal(nack.kind, kind, kase);
    assert.match(nack.reason, reason, kase);
    assert.ok(sumOf(await node.metrics(), 'fairlead_nacks_total') > before, `${kase} is counted`);
    assert.equal(node.heard().committed.generation, good);
    await serves(node, good);
    generation++; // head-number took the next one
    if (kind !== 'artifact' && i % 5 !== 4) continue;
    // A good one afterwards is taken, and clears what was refused.
    good = ++generation;
    await goTo(node, good);
    await serves(node, good);
    assert.deepEqual(node.heard().nacks, [], `after ${kase} and a good table`);
  }
  assert.equal(good, generation, 'the last case ends with a good one');
  node.say('good', 3);
  await waitFor(() => node.heard().nacks.some((nack) => nack.kind === 'head' && /older/.test(nack.reason)), { what: 'a NACK of an older head' });
  await serves(node, generation);
  for (const kind of ['evidence', 'directory']) {
    for (const how of ['corrupt', 'truncated', 'oversized', 'hash', 'schema', 'number']) {
      if (kind === 'directory' && how === 'oversized') continue; // it is as large as a frame may be
      node.say(`${kind}-${how}`, ++generation);
      const nack = await waitFor(() => node.heard().nacks.find((one) => one.kind === kind && one.reason), { what: `a NACK of ${kind}-${how}` });
      t.diagnostic(`${kind}-${how}: refused: ${nack.reason}`);
      // The head beside it is good, and taken: objects are judged one by one.
      await waitFor(() => node.heard().serving.generation === generation, { what: `the head beside ${kind}-${how}` });
      await serves(node, generation);
      await goTo(node, ++generation);
    }
  }
  for (const kase of ['nothing', 'garbage', 'garbage-huge']) {
    const before = node.control.stdout.length;
    node.say(kase, 0);
    await waitFor(() => node.master.stderr.includes('event=control.unheard'), { what: 'a warning' });
    await serves(node, generation);
    await goTo(node, ++generation);
    await serves(node, generation);
    assert.ok(node.control.stdout.length > before);
  }
  const { workers } = await node.status();
  assert.ok(workers.every((worker) => worker.starts === 1), 'no worker died of any of it');
  assert.equal((await node.master.stop()).code, 0);
});

test('a table that crashes workers is taken back after two crashes and refused as crashed', async (t) => {
  const node = await startNode({ env: { FAIRLEAD_FAULT_ENABLE: '1', FAIRLEAD_FAULT: 'crash_table:1:1000' } });
  await goTo(node, 5);
  await serves(node, 5);
  const from = performance.now();
  node.say('good', 6);
  const nack = await waitFor(() => node.heard().nacks.find((one) => one.kind === 'head'), { what: 'a NACK' });
  t.diagnostic(`refused as ${nack.reason} after ${Math.round(performance.now() - from)} ms`);
  assert.equal(nack.seq, 6);
  assert.equal(nack.reason, 'crashed');
  await workersUp(node, (workers) => workers.every((worker) => worker.generation === 5));
  assert.equal(node.heard().committed.generation, 5);
  await serves(node, 5);
  const metrics = await node.metrics();
  assert.equal(sumOf(metrics, 'fairlead_table_reverts_total'), 1);
  assert.equal(sumOf(metrics, 'fairlead_nacks_total', 'kind="head"'), 1);
  // The same table again is known and not tried again.
  const { workers } = await node.status();
  node.say('good', 6);
  node.say('good', 6);
  await waitFor(() => node.heard().nacks.some((one) => one.reason === 'crashed'));
  await serves(node, 5);
  assert.deepEqual((await node.status()).workers.map((worker) => worker.pid), workers.map((worker) => worker.pid));
  // Aborted on purpose: what the sanitizer says of that is no complaint.
  node.master.stderr = node.master.stderr.replaceAll('AddressSanitizer', 'aborted');
  assert.equal((await node.master.stop()).code, 0);
  node.master.stderr = '';
});

// ---- garbage on the wire: nng speaks SP over ipc: a greeting of 8 bytes, then messages of 0x01, a 64-bit length, a body ----

const greeting = (protocol) => Buffer.from([0x00, 0x53, 0x50, 0x00, 0x00, protocol, 0x00, 0x00]);
const req = 0x30;
const rep = 0x31;
const message = (body, length = body.length) => {
  const head = Buffer.alloc(9);
  head[0] = 1;
  head.writeBigUInt64BE(BigInt(length), 1);
  return Buffer.concat([head, body]);
};
// Bytes that look random and are the same each time.
const noise = (length, seed) => {
  const parts = [];
  for (let i = 0; parts.length * 32 < length; i++) parts.push(createHash('sha256').update(`${seed}-${i}`).digest());
  return Buffer.concat(parts).subarray(0, length);
};
const requestId = Buffer.from([0x80, 0x00, 0x00, 0x01]);
const framed = (body) => message(Buffer.concat([requestId, Buffer.from('FLR1'), body]));

const attacks = {
  'random bytes': (n) => [noise(4096, n)],
  'a wrong protocol': (n) => [greeting(rep), message(noise(64, n))],
  'half a greeting': () => [greeting(req).subarray(0, 5)],
  'a greeting and nothing': () => [greeting(req)],
  'an empty message': () => [greeting(req), message(Buffer.alloc(0))],
  'a message without a request id': (n) => [greeting(req), message(noise(3, n))],
  'a message without our magic': (n) => [greeting(req), message(Buffer.concat([requestId, noise(500, n)]))],
  'our magic and random bytes': (n) => [greeting(req), framed(noise(500, n))],
  'our magic and nothing': () => [greeting(req), framed(Buffer.alloc(0))],
  'half a message': (n) => [greeting(req), message(noise(100, n), 5000)],
  'a length of 2^63': (n) => [greeting(req), message(noise(100, n), 2n ** 63n)],
  'a length over the limit': (n) => [greeting(req), message(noise(100, n), 65 * 2 ** 20)],
  'a huge message': (n) => [greeting(req), framed(noise(8 * 2 ** 20, n))],
  'many messages at once': (n) => [greeting(req), ...Array.from({ length: 200 }, (_, i) => framed(noise(50, n * 1000 + i)))],
  'a long tail of nested fields': () => [greeting(req), framed(Buffer.alloc(2 ** 20, 0x0a))],
};

// Sends chunks to a socket and reads until the other side closes or nothing more is to be expected.
function attack(socketPath, chunks) {
  return new Promise((resolve) => {
    const socket = net.connect(socketPath, () => {
      for (const chunk of chunks) socket.write(chunk);
      socket.end();
    });
    let bytes = 0;
    socket.on('data', (data) => (bytes += data.length));
    socket.on('error', () => {});
    socket.on('close', () => resolve(bytes));
    socket.setTimeout(300, () => socket.destroy());
  });
}

test('garbage on every link of the control plane breaks nothing', async (t) => {
  const house = await startFairlead({
    policy: (fakes) => `providers:
  fake: {base_url: "${fakes[0].baseUrl}", auth: none, probe: {how: none}}
models:
  fake/one: {price: {input: 1, output: 2}, context: 8000}
routes:
  chat: {tiers: [{models: [fake/one]}]}`,
    directory: 'teams:\n  t: {routes: ["*"], models: ["*/*"]}',
  });
  const { key: mine } = await house.createKey();
  const pids = ['control', 'node', 'prober', 'pricefeed'].map((part) => holderOf(house.home, part));
  const before = JSON.parse((await house.cli(['status', '--json'])).stdout);
  let n = 0;
  for (const link of ['fetch', 'evidence', 'admin']) {
    const socketPath = path.join(house.home, 'run', `${link}.ipc`);
    assert.ok(existsSync(socketPath));
    for (const [name, chunks] of Object.entries(attacks)) {
      await Promise.all(Array.from({ length: 3 }, () => attack(socketPath, chunks(++n))));
      const answer = await house.request('/v1/chat/completions', { key: mine, body: chatBody('x') });
      assert.equal(answer.status, 200, `${name} on ${link}`);
    }
    const status = await house.cli(['status', '--json']);
    assert.equal(status.code, 0, `status after ${link}: ${status.stderr}`);
    const { generation, directory, nodes, refused_messages: refusals } = JSON.parse(status.stdout);
    t.diagnostic(`${link}: ${refusals[link]} messages refused and counted`);
    assert.ok(refusals[link] >= 600, `those that nng hands on, 600 of one attack among them: ${refusals[link]}`);
    assert.match((await house.cli(['status'])).stdout, new RegExp(`garbage +\\d+ messages on the ${link} link`));
    assert.deepEqual([generation, directory], [before.generation, before.directory], `${link}: nothing was changed`);
    assert.equal(nodes.length, 1, 'no node was made up');
    assert.equal(nodes[0].state, 'current');
  }
  assert.deepEqual(['control', 'node', 'prober', 'pricefeed'].map((part) => holderOf(house.home, part)), pids, 'nobody died');
  // A change still goes through all of it.
  const asker = await startAsker(house.home);
  const { generation } = await asker.must('providers.drain', { name: 'fake' });
  await workersUp(house, (workers) => workers.every((worker) => worker.generation >= generation));
  await asker.stop();
  t.diagnostic(`${n} attacks`);
  await house.stop();
});

test('garbage from what listens where the control plane should be', async () => {
  const node = await startNode();
  await goTo(node, 5);
  await node.control.stop();
  const socketPath = path.join(node.home, 'run/fetch.ipc');
  rmSync(socketPath, { force: true });
  let connections = 0;
  const open = new Set();
  const kinds = [
    () => [noise(4096, 1)],
    () => [greeting(rep)],
    () => [greeting(req)],
    () => [greeting(rep), message(noise(100, 2), 2n ** 63n)],
    () => [greeting(rep), message(noise(100, 3))],
    () => [greeting(rep), framed(noise(1000, 4))],
    () => [],
  ];
  const server = net.createServer((socket) => {
    open.add(socket);
    socket.on('error', () => {});
    for (const chunk of kinds[connections++ % kinds.length]()) socket.write(chunk);
    socket.end();
  });
  await new Promise((resolve) => server.listen(socketPath, resolve));
  await waitFor(() => connections > 2 * kinds.length, { what: 'the node to try again and again', timeoutMs: 30_000 });
  await serves(node, 5);
  await new Promise((resolve) => {
    server.close(resolve);
    open.forEach((socket) => socket.destroy());
  });
  rmSync(socketPath, { force: true });
  node.control = await startProcess('fakecontrol', ['--address', `ipc://${socketPath}`, '--port', node.fake.port, '--key', key], { readyPattern: /^listening$/m });
  await goTo(node, 6);
  await serves(node, 6);
  assert.ok((await node.status()).workers.every((worker) => worker.starts === 1));
  assert.equal((await node.master.stop()).code, 0);
});
