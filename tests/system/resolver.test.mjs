// Name servers that hang, fail or lie, and addresses that never answer: their own requests fail over within the connect time, and
// everybody else's go on.
import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { after, before, test } from 'node:test';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { bystander } from './support/horde.mjs';
import { stopAll, waitFor } from './support/process.mjs';

let house, fake, key;
const asked = new Map();
const server = dgram.createSocket('udp4');

// A name server that does as its names say: hung.test is never answered, failing.test SERVFAIL, slow.test after a while, crowded.test with
// many addresses, all of them this machine's, huge.test with more than a message may hold.
const questionOf = (message) => {
  const labels = [];
  let at = 12;
  for (; message[at]; at += message[at] + 1) labels.push(message.toString('latin1', at + 1, at + 1 + message[at]));
  return { name: labels.join('.').toLowerCase(), type: message.readUInt16BE(at + 1), end: at + 5 };
};
function reply(message, { end }, { code = 0, addresses = [] }) {
  const header = Buffer.from(message.subarray(0, 12));
  header.writeUInt16BE(0x8180 | code, 2);
  header.writeUInt16BE(addresses.length, 6);
  header.writeUInt32BE(0, 8);
  const records = addresses.map((address) => Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...address]));
  return Buffer.concat([header, message.subarray(12, end), ...records]);
}
server.on('message', (message, { port }) => {
  const question = questionOf(message);
  const { name, type } = question;
  asked.set(name, (asked.get(name) ?? 0) + 1);
  const say = (what) => server.send(reply(message, question, what), port, '127.0.0.1');
  const here = type === 1 ? [[127, 0, 0, 1]] : [];
  if (name === 'failing.test') say({ code: 2 });
  else if (name === 'slow.test') setTimeout(() => say({ addresses: here }), 300);
  else if (name === 'crowded.test') say({ addresses: Array(25).fill(here).flat() });
  else if (name === 'huge.test') say({ addresses: Array(2000).fill(here).flat() });
  else if (name === 'good.test') say({ addresses: here });
});

before(async () => {
  await new Promise((resolve) => server.bind(0, '127.0.0.1', resolve));
  const names = ['hung', 'failing', 'slow', 'crowded', 'huge', 'good'];
  house = await startFairlead({
    workers: 1,
    node: `resolvers: ["127.0.0.1:${server.address().port}"]`,
    policy: ([a]) => `
defaults: {probe: {how: none}, timeouts: {connect: 1s}}
providers:
  here: {preset: openai-compatible, base_url: "${a.baseUrl}"}
${names.map((name) => `  ${name}: {preset: openai-compatible, lane: direct, base_url: "http://${name}.test:${a.port}/v1"}`).join('\n')}
models:
${['here', ...names].map((name) => `  ${name}/m: {price: {input: 1, output: 2}}`).join('\n')}
routes:
  chat: {tiers: [{models: [here/m]}]}
${names.map((name) => `  ${name}: {attempts: 2, tiers: [{models: [${name}/m]}, {models: [here/m]}]}`).join('\n')}`,
  });
  [fake] = house.fakes;
  key = (await house.createKey()).key;
});
after(async () => {
  await stopAll();
  server.close();
});

const ask = (model, more = {}) => house.request('/v1/chat/completions', { key, body: chatBody('[[fake tokens=2]]', { model, ...more }) });
const attemptsOf = async ({ headers }) => {
  const id = headers['x-request-id'];
  const record = await waitFor(() => house.records().find((one) => one.request_id === id || one.id === id), { what: `the record of ${id}` });
  return record.attempts.map(({ model, error }) => [model, error ?? null]);
};

test('a hung resolver: its requests fail over, all others are served meanwhile, and one query stands for all who wait', async (t) => {
  const others = bystander(() => ask('chat'));
  const waiting = Array.from({ length: 40 }, (_, i) => ask('hung', { stream: i % 2 === 0 }));
  await waitFor(() => asked.has('hung.test'));
  const before = others.answers.length;
  await waitFor(() => others.answers.length >= before + 20); // they come through while the others wait
  const answers = await Promise.all(waiting);
  // All fail at one moment: as many as the retry budget lets go on (a fifth of those under way, and three), and none hangs.
  const ends = answers.map(({ status, headers }) => `${status} ${headers['x-fairlead-model']}`);
  assert.ok(ends.every((end) => ['200 here/m', '502 hung/m'].includes(end)), String(ends));
  const served = ends.filter((end) => end.startsWith('200')).length;
  assert.ok(served >= 3, `${served}`);
  for (const { status } of await others.stop()) assert.equal(status, 200);
  // Two types of address, three tries each, of one query; perhaps a second one after the breaker let a request through.
  assert.ok(asked.get('hung.test') <= 24, `${asked.get('hung.test')} datagrams for 40 requests`);
  t.diagnostic(`${others.answers.length} others answered; ${asked.get('hung.test')} datagrams for 40 requests`);
});

test('a resolver that fails: the next model, and the reason in the record', async () => {
  const answer = await ask('failing');
  assert.equal(answer.status, 200, answer.text);
  assert.deepEqual(await attemptsOf(answer), [['failing/m', 'connect'], ['here/m', null]]);
});

test('a slow one is waited for, once', async () => {
  const answers = await Promise.all(Array.from({ length: 10 }, () => ask('slow')));
  assert.deepEqual(new Set(answers.map(({ headers }) => headers['x-fairlead-model'])), new Set(['slow/m']));
  assert.ok(asked.get('slow.test') <= 2, `${asked.get('slow.test')}`); // A and AAAA
});

test('an answer of many addresses is taken, one that is larger than any message fails over', async () => {
  const crowded = await ask('crowded');
  assert.equal(crowded.headers['x-fairlead-model'], 'crowded/m', crowded.text);
  const huge = await ask('huge');
  assert.equal(huge.status, 200, huge.text);
  assert.equal(huge.headers['x-fairlead-model'], 'here/m');
});

test('afterwards all is well: names resolve, nothing is held', async () => {
  assert.equal((await ask('good')).headers['x-fairlead-model'], 'good/m');
  await waitFor(async () => /^fairlead_requests_open 0$/m.test(await house.metrics()));
  await waitFor(async () => /^fairlead_buffered_bytes 0$/m.test(await house.metrics()));
});
