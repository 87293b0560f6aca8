// Fairlead as the benchmark runs it: a real control plane and a node, in a home of their own.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import tls from 'node:tls';
import { bundleOf, createKey, startAsker } from '../../system/support/control.mjs';
import { bin, waitFor } from '../../system/support/process.mjs';
import { below, fill, freePort, onGatewayCore, onOtherCore } from './places.mjs';

export const valuesOf = (certificates, upstreams) => ({ CERTIFICATES: certificates, UPSTREAM_PORT: upstreams.plain.port, UPSTREAM_TLS_PORT: upstreams.tls.port });

// A home with its node.yaml; the ports that this names stay the same when a node is started again.
export async function makeHome(directory, certificates, upstreams) {
  const home = below(directory, 'home');
  const ports = { PORT: await freePort(), TLS_PORT: await freePort() };
  mkdirSync(path.join(home, 'run'), { mode: 0o700 });
  writeFileSync(path.join(home, 'node.yaml'), fill('fairlead-node.yaml', { ...valuesOf(certificates, upstreams), ...ports }));
  return { home, urls: { plain: `http://127.0.0.1:${ports.PORT}`, tls: `https://127.0.0.1:${ports.TLS_PORT}` } };
}

// {process, asker, stop()}
export async function startControl(home) {
  const process = await onOtherCore('fairlead-controlplane', ['--home', home], { readyPattern: /event=started /, readyFrom: 'stderr', timeoutMs: 60_000 });
  const asker = await startAsker(home);
  const stop = async () => {
    await asker.stop();
    await process.stop();
  };
  return { process, asker, stop };
}

// A node whose workers are up: {master, workers: [pid], url, status(), metrics(), stop()}.
export async function startNode({ home, urls }, { workers = 1, timeoutMs = 20_000 } = {}) {
  const args = ['--home', home, '--workers', workers];
  const env = { FAKE_CREDENTIAL: 'sk-fake' };
  const master = await onGatewayCore('fairlead-dataplane', args, {
    env,
    readyPattern: /event=node\.listening address=(\S+)/,
    readyFrom: 'stderr',
    timeoutMs,
  });
  const page = (name) => fetch(`http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}/${name}`, { headers: { connection: 'close' } });
  const status = async () => (await page('status')).json();
  const up = async () => {
    if (master.end) throw new Error(`the node ended: ${master.stderr}`);
    if ((await page('readyz')).status !== 200) return undefined;
    const all = (await status()).workers;
    return all.length === workers && all.every(({ state }) => state === 'up') && all;
  };
  const pids = (await waitFor(up, { what: "Fairlead's workers", timeoutMs })).map(({ pid }) => pid);
  return { home, master, workers: pids, url: urls.plain, tlsUrl: urls.tls, status, metrics: async () => (await page('metrics')).text(), stop: () => master.stop(), again: () => onGatewayCore('fairlead-dataplane', args, { env }) };
}

export const recordsOf = (home) =>
  readdirSync(path.join(home, 'records'))
    .sort()
    .flatMap((name) => readFileSync(path.join(home, 'records', name), 'utf8').split('\n').slice(0, -1))
    .map((line) => JSON.parse(line));

const chat = '/v1/chat/completions';

// Whether somebody shakes hands there.
const speaksTls = (url, ca) =>
  new Promise((resolve) => {
    const { hostname, port } = new URL(url);
    const socket = tls.connect({ host: hostname, port: Number(port), ca: readFileSync(ca), servername: 'localhost' });
    const settle = (spoken) => {
      socket.destroy();
      resolve(spoken);
    };
    socket.on('secureConnect', () => settle(true)).on('error', () => settle(false)).on('close', () => settle(false));
    socket.setTimeout(3000, () => settle(false));
  });

// The gateway of that name: see gateways.mjs.
export async function startFairlead(directory, certificates, upstreams) {
  const house = await makeHome(directory, certificates, upstreams);
  const { home } = house;
  const control = await startControl(home);
  const { asker } = control;
  const values = valuesOf(certificates, upstreams);
  await asker.must('policy.push', { bundle: bundleOf(fill('fairlead-policy.yaml', values)) });
  await asker.must('teams.apply', { bundle: bundleOf(fill('fairlead-directory.yaml', values), 'directory.yaml') });
  const key = await createKey({ asker });
  const node = await startNode(house);
  const clientTls = await speaksTls(node.tlsUrl, upstreams.plain.ca); // a build may be older than that
  return {
    name: 'fairlead',
    version: execFileSync(bin('fairlead-dataplane'), ['--version'], { encoding: 'utf8' }).trim().split(' ').at(-1),
    home,
    key,
    asker,
    node,
    pid: () => node.workers[0],
    also: () => ({ master: node.master.pid, 'control plane': control.process.pid }),
    endpoint: ({ transport }) => (transport === 'tls-client' && !clientTls ? undefined : { url: `${transport === 'tls-client' ? node.tlsUrl : node.url}${chat}`, model: transport === 'tls-up' ? 'tls' : 'plain', key, ca: upstreams.plain.ca }),
    stop: async () => {
      await node.stop();
      await control.stop();
    },
    again: node.again, // it has its table
  };
}
