// Fairlead as the benchmark runs it: a real control plane and a node, in a home of their own.
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { bundleOf, createKey, startAsker } from '../../system/support/control.mjs';
import { bin, waitFor } from '../../system/support/process.mjs';
import { below, fill, freePort, onGatewayCore, onOtherCore } from './places.mjs';

export const valuesOf = (certificates, upstreams) => ({ CERTIFICATES: certificates, UPSTREAM_PORT: upstreams.plain.port, UPSTREAM_TLS_PORT: upstreams.tls.port });

// Clients' TLS is configured by `listen` where this build knows of that.
const clientTls = () => /^listen.*tls|certificate/m.test(execFileSync(bin('fairlead-dataplane'), ['--help-config'], { encoding: 'utf8' }));

export function makeHome(directory, certificates, upstreams) {
  const home = below(directory, 'home');
  mkdirSync(path.join(home, 'run'), { mode: 0o700 });
  writeFileSync(path.join(home, 'node.yaml'), fill('fairlead-node.yaml', valuesOf(certificates, upstreams)));
  return home;
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
export async function startNode(home, { workers = 1, timeoutMs = 20_000 } = {}) {
  const args = ['--home', home, '--workers', workers, '--listen', `127.0.0.1:${await freePort()}`];
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
  return { home, master, workers: pids, url: `http://${master.ready[1]}`, status, metrics: async () => (await page('metrics')).text(), stop: () => master.stop(), again: () => onGatewayCore('fairlead-dataplane', args, { env }) };
}

export const recordsOf = (home) =>
  readdirSync(path.join(home, 'records'))
    .sort()
    .flatMap((name) => readFileSync(path.join(home, 'records', name), 'utf8').split('\n').slice(0, -1))
    .map((line) => JSON.parse(line));

const chat = '/v1/chat/completions';

// The gateway of that name: see gateways.mjs.
export async function startFairlead(directory, certificates, upstreams) {
  const home = makeHome(directory, certificates, upstreams);
  const control = await startControl(home);
  const { asker } = control;
  const values = valuesOf(certificates, upstreams);
  await asker.must('policy.push', { bundle: bundleOf(fill('fairlead-policy.yaml', values)) });
  await asker.must('teams.apply', { bundle: bundleOf(fill('fairlead-directory.yaml', values), 'directory.yaml') });
  const key = await createKey({ asker });
  const node = await startNode(home);
  return {
    name: 'fairlead',
    version: execFileSync(bin('fairlead-dataplane'), ['--version'], { encoding: 'utf8' }).trim().split(' ').at(-1),
    home,
    key,
    asker,
    node,
    pid: () => node.workers[0],
    also: () => ({ master: node.master.pid, 'control plane': control.process.pid }),
    endpoint: ({ transport }) => (transport === 'tls-client' ? undefined : { url: `${node.url}${chat}`, model: transport === 'tls-up' ? 'tls' : 'plain', key }),
    stop: async () => {
      await node.stop();
      await control.stop();
    },
    again: node.again, // it has its table
  };
}
