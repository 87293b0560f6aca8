// An address that never answers a connect: its own requests wait, or fail over at the end of the connect time; nobody else does.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, test } from 'node:test';
import { sumOf } from './support/control.mjs';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';

const lanes = ['direct', 'curl'];
const fillers = [];
let house, key, hole;

// A stopped process accepts nothing; behind a full queue the kernel drops what asks to connect.
async function blackHole() {
  hole = spawn(process.execPath, ['-e', "const s = require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(s.address().port))"], { stdio: ['ignore', 'pipe', 'inherit'] });
  const port = Number(await once(hole.stdout, 'data'));
  hole.kill('SIGSTOP');
  for (let i = 0; i < 2; i++) { // the kernel takes one more than the backlog
    fillers.push(net.connect(port, '127.0.0.1'));
    await once(fillers.at(-1), 'connect');
  }
  return port;
}

before(async () => {
  const port = await blackHole();
  const address = `http://127.0.0.1:${port}/v1`;
  house = await startFairlead({
    workers: 1,
    policy: ([a]) => `
defaults: {probe: {how: none}}
providers:
  here: {preset: openai-compatible, base_url: "${a.baseUrl}"}
${lanes.map((lane) => `  ${lane}: {preset: openai-compatible, lane: ${lane}, base_url: "${address}", timeouts: {connect: 300ms}}
  patient-${lane}: {preset: openai-compatible, lane: ${lane}, base_url: "${address}", timeouts: {connect: 60s}}`).join('\n')}
models:
${['here', ...lanes, ...lanes.map((lane) => `patient-${lane}`)].map((name) => `  ${name}/m: {price: {input: 1, output: 2}}`).join('\n')}
routes:
  chat: {tiers: [{models: [here/m]}]}
${[...lanes, ...lanes.map((lane) => `patient-${lane}`)].map((name) => `  ${name}: {attempts: 2, tiers: [{models: [${name}/m]}, {models: [here/m]}]}`).join('\n')}`,
  });
  key = (await house.createKey()).key;
});
after(async () => {
  fillers.forEach((socket) => socket.destroy());
  hole?.kill('SIGKILL');
  await stopAll();
});

const ask = (model, more = {}) => house.request('/v1/chat/completions', { key, body: chatBody('[[fake tokens=2]]', { model, ...more }) });

for (const lane of lanes)
  test(`${lane}: the next model answers, and the record says why`, async () => {
    for (const stream of [false, true]) {
      const answer = await ask(lane, { stream });
      assert.equal(answer.status, 200, answer.text);
      const id = answer.headers['x-request-id'];
      const record = await waitFor(() => house.records().find((one) => one.request_id === id), { what: 'the record' });
      assert.deepEqual(record.attempts.map(({ model, status, error }) => [model, status, error ?? null]), [[`${lane}/m`, 0, 'connect'], ['here/m', 200, null]]);
    }
  });

for (const lane of lanes)
  test(`${lane}: others are served while many wait, and a client that leaves ends its own wait`, async () => {
    const open = async () => sumOf(await house.metrics(), 'fairlead_requests_open');
    const leaving = new AbortController();
    const waiting = Array.from({ length: 20 }, () =>
      fetch(`${house.api}/v1/chat/completions`, {
        method: 'POST', signal: leaving.signal, headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify(chatBody('x', { model: `patient-${lane}` })),
      }).then(() => 'answered', (error) => error.name));
    await waitFor(async () => (await open()) === 20, { what: 'all to wait' });
    for (let i = 0; i < 20; i++) assert.equal((await ask('chat')).status, 200);
    assert.equal(await open(), 20, 'they still wait');
    leaving.abort();
    assert.deepEqual(await Promise.all(waiting), Array(20).fill('AbortError'));
    await waitFor(async () => (await open()) === 0, { what: 'the end of all' });
  });
