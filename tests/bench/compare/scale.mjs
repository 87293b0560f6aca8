// What many routes and keys cost: each request; a key change; memory. Every house has its own control plane until its node has the table.
import { cpSync, appendFileSync } from 'node:fs';
import { createHash } from 'node:crypto';
import net from 'node:net';
import path from 'node:path';
import { bundleOf } from '../../system/support/control.mjs';
import { request } from '../../system/support/fairlead.mjs';
import { run, waitFor } from '../../system/support/process.mjs';
import { makeHome, startControl, startNode, valuesOf } from './fairlead.mjs';
import { below, fill } from './places.mjs';
import { cpuNs, memory } from './proc.mjs';
import { load } from './work.mjs';

export const sizes = [
  { routes: 10, keys: 10 },
  { routes: 1000, keys: 10 },
  { routes: 100_000, keys: 10 },
  { routes: 10, keys: 1_000_000 },
  { routes: 100_000, keys: 1_000_000 },
];
export const sizeName = ({ routes, keys }) => `${routes.toLocaleString('en')} routes, ${keys.toLocaleString('en')} keys`;

const digits = (number) => String(number).padStart(10, '0');
const letters = (number) => digits(number).replace(/\d/g, (digit) => 'abcdefghij'[digit]);
const keyName = `fl-${'bench'.repeat(8)}`;
const changes = 20;

function policyOf(routes, values) {
  const rows = Array.from({ length: routes }, (_, i) => `  r-${digits(i)}: {tiers: [{models: {plain/one: 50, plain/two: 50}}]}`);
  return `${fill('fairlead-policy.yaml', values).replace(/^routes:[^]*/m, '')}routes:\n${rows.join('\n')}\n`;
}

// Stands between a node and its control plane and counts what comes down: {bytes()}.
async function startRelay(home) {
  let bytes = 0;
  const sockets = new Set();
  const server = net.createServer((node) => {
    const control = net.connect(path.join(home, 'run/fetch.ipc'));
    control.on('data', (part) => (bytes += part.length));
    for (const [from, to] of [[node, control], [control, node]]) {
      sockets.add(from);
      from.pipe(to);
      from.on('error', () => to.destroy()).on('close', () => sockets.delete(from) && to.destroy());
    }
  });
  await new Promise((resolve) => server.listen(path.join(home, 'run/relay.ipc'), resolve));
  const stop = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { bytes: () => bytes, stop };
}

const ask = (node, key, model) => request(`${node.url}/v1/chat/completions`, { key, body: { model, messages: [{ role: 'user', content: 'hello' }] } });
const answered = (node, key, model, timeoutMs) => waitFor(async () => {
    const { status, text } = await ask(node, key, model);
    return status === 200 || Promise.reject(new Error(text));
  }, { timeoutMs, everyMs: 1, what: `${model} for ${key.slice(0, 8)}...` });

// Milliseconds and bytes from asking for a new key until it opens the door.
async function changeKeys({ node, asker, relay, samples, size }) {
  for (let i = 1; i <= changes; i++) {
    const key = `fl-${'changes'.repeat(6)}${letters(i)}`;
    const from = performance.now();
    const bytes = relay.bytes();
    await asker.must('keys.create', { team: 't', hash: createHash('sha256').update(key).digest('hex'), hint: key.slice(-4) });
    await answered(node, key, `r-${digits(0)}`, 30_000);
    samples.add({ what: 'key change ms', work: size, gateway: 'fairlead' }, i, performance.now() - from);
    samples.add({ what: 'key change bytes', work: size, gateway: 'fairlead' }, i, relay.bytes() - bytes);
  }
}

async function startHouse({ routes, keys }, { directory, upstreams, samples, say }, stores) {
  const size = sizeName({ routes, keys });
  const values = valuesOf(directory, upstreams);
  const house = await makeHome(directory, directory, upstreams);
  const { home } = house;
  appendFileSync(path.join(home, 'node.yaml'), `control: ipc://${home}/run/relay.ipc\n`);
  if (!stores.has(keys)) {
    const store = below(directory, 'keys');
    const put = await run('putkeys', ['--home', store, '--name', keyName, '--team', 't', '--count', keys], { timeoutMs: 300_000 });
    if (put.code !== 0) throw new Error(put.stderr);
    stores.set(keys, store);
  }
  cpSync(path.join(stores.get(keys), 'db'), path.join(home, 'db'), { recursive: true });
  const relay = await startRelay(home);
  const control = await startControl(home);
  let from = performance.now();
  await control.asker.must('policy.push', { bundle: bundleOf(policyOf(routes, values)) }, { timeoutMs: 120_000 });
  await control.asker.must('teams.apply', { bundle: bundleOf(fill('fairlead-directory.yaml', values), 'directory.yaml') });
  const pushed = performance.now() - from;
  from = performance.now();
  const node = await startNode(house, { timeoutMs: 120_000 });
  await answered(node, `${keyName}${letters(keys - 1)}`, `r-${digits(routes - 1)}`, 120_000);
  say(`scale: ${size}: compiled in ${Math.round(pushed)} ms, a new node serves it after ${Math.round(performance.now() - from)} ms, fetched ${(relay.bytes() / 2 ** 20).toFixed(1)} MiB`);
  await changeKeys({ node, asker: control.asker, relay, samples, size });
  await control.stop();
  relay.stop();
  return { routes, keys, size, node };
}

// Adds rows {what: 'scale cpu' | 'scale memory' | 'key change ms' | 'key change bytes', work: size, gateway: 'fairlead'}.
export async function scale(options) {
  const { samples, say, rounds, seconds } = options;
  const stores = new Map();
  const houses = [];
  for (const size of sizes) houses.push(await startHouse(size, options, stores));
  for (let round = 1; round <= rounds; round++) {
    const told = [];
    for (const { routes, keys, size, node } of houses) {
      const endpoint = { url: `${node.url}/v1/chat/completions`, model: 'r', key: keyName, varyModels: routes, varyKeys: keys };
      await load('unary', endpoint, { seconds: 0.5 });
      const [pid] = node.workers;
      const before = cpuNs(pid);
      const { ok } = await load('unary', endpoint, { seconds });
      const us = (cpuNs(pid) - before) / ok / 1000;
      samples.add({ what: 'scale cpu', work: size, gateway: 'fairlead' }, round, us);
      samples.add({ what: 'scale memory', work: size, gateway: 'fairlead' }, round, memory(pid).pss);
      told.push(`${size} ${us.toFixed(1)} us`);
    }
    say(`scale, round ${round} of ${rounds}: ${told.join('; ')}`);
  }
  for (const { node } of houses) await node.stop();
}
