// The simulated upstream and the gateways before it, each started in a directory of its own, pinned to its core. A gateway is
//   {name, version, pid(), also(): {name: pid}, endpoint({stream, transport, unix}), stop()}
// where pid() is the process that carries requests, also() its helpers, and endpoint() says how loadgen asks it:
// {url, model, key, header}, or undefined when it cannot do that.
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { userInfo } from 'node:os';
import path from 'node:path';
import { bin, repository, startProcess, waitFor } from '../../system/support/process.mjs';
import { createKey, startAsker, bundleOf } from '../../system/support/control.mjs';
import { children } from './proc.mjs';

export const templates = path.join(repository, 'tests/bench/gateways');
export const modules = path.join(repository, 'build/bench/node_modules');
export const transports = { plain: 'plain', 'tls-up': 'TLS to upstream', 'tls-client': 'TLS to client' };

// Descriptors that a process started here may open; a proxied connection needs two of them.
export const descriptors = Number(readFileSync('/proc/self/limits', 'utf8').match(/^Max open files +(\d+)/m)[1]);
const common = { DESCRIPTORS: descriptors - 100, CONNECTIONS: Math.min(25_000, Math.floor((descriptors - 200) / 2)), USER: userInfo().username };

function fill(name, values) {
  const all = { ...common, ...values };
  return readFileSync(path.join(templates, name), 'utf8').replace(/\$\{(\w+)\}/g, (_, key) => all[key] ?? fail(`${name}: no ${key}`));
}
const fail = (why) => {
  throw new Error(why);
};
const firstLine = (program, ...args) => execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] }).split('\n')[0];

// A port that was free a moment ago: for programs that cannot let the system choose and say which it was.
const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const answers = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1', () => resolve(true) ?? socket.destroy()).on('error', () => resolve(false));
  });

async function listening(process, port) {
  await waitFor(async () => process.end || (await answers(port)), { what: `${process.name} to listen`, timeoutMs: 30_000 });
  if (process.end) throw new Error(`${process.child.spawnargs.join(' ')} ended: ${process.stderr}`);
}

// Where processes run: gateways on one core, load and upstream on another, where there are two.
export const cores = { gateway: 0, rest: 1 };
const pinned = (core, name, args, options) => startProcess('/usr/bin/taskset', ['-c', core, name.includes('/') ? name : bin(name), ...args], options);
export const onGatewayCore = (name, args, options) => pinned(cores.gateway, name, args, options);
export const onOtherCore = (name, args, options) => pinned(cores.rest, name, args, options);

export function makeCertificate(directory) {
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '7', '-subj', '/CN=localhost',
    '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', path.join(directory, 'key.pem'), '-out', path.join(directory, 'cert.pem')], { stdio: 'ignore' });
  writeFileSync(path.join(directory, 'both.pem'), readFileSync(path.join(directory, 'cert.pem'), 'utf8') + readFileSync(path.join(directory, 'key.pem'), 'utf8'), { mode: 0o600 });
}

// Two simulated providers, one of them behind TLS: {plain, tls}, each {port, scheme, stats()}.
export async function startUpstreams(directory) {
  const start = async (scheme, ...tls) => {
    const process = await onOtherCore('fakellm', ['--keep', 0, ...tls], { readyPattern: /^listening \S*:(\d+)$/m });
    const port = Number(process.ready[1]);
    const stats = () =>
      new Promise((resolve, reject) => {
        const { get } = scheme === 'https' ? https : http;
        get({ host: '127.0.0.1', port, path: '/__fake/stats', ca: readFileSync(path.join(directory, 'cert.pem')), agent: false }, (answer) => {
          let text = '';
          answer.setEncoding('utf8').on('data', (part) => (text += part)).on('end', () => resolve(JSON.parse(text)));
        }).on('error', reject);
      });
    return { process, port, scheme, url: `${scheme}://127.0.0.1:${port}`, stats };
  };
  return { plain: await start('http'), tls: await start('https', '--tls-cert', path.join(directory, 'cert.pem'), '--tls-key', path.join(directory, 'key.pem')) };
}

const chat = '/v1/chat/completions';

// No gateway at all: what the others' latency is compared with.
export function direct(upstreams) {
  return {
    name: 'direct',
    also: () => ({}),
    endpoint: ({ transport }) => ({ url: `${transport === 'tls-client' ? upstreams.tls.url : upstreams.plain.url}${chat}` }),
    stop: async () => {},
  };
}

export async function startHaproxy(directory, upstreams) {
  const ports = { PLAIN_PORT: await freePort(), TLS_UP_PORT: await freePort(), TLS_CLIENT_PORT: await freePort() };
  const file = path.join(directory, 'haproxy.cfg');
  writeFileSync(file, fill('haproxy.cfg', { DIRECTORY: directory, UPSTREAM_PORT: upstreams.plain.port, UPSTREAM_TLS_PORT: upstreams.tls.port, ...ports }));
  const process = await onGatewayCore('/usr/sbin/haproxy', ['-db', '-f', file]);
  await listening(process, ports.PLAIN_PORT);
  const urls = { plain: `http://127.0.0.1:${ports.PLAIN_PORT}`, 'tls-up': `http://127.0.0.1:${ports.TLS_UP_PORT}`, 'tls-client': `https://127.0.0.1:${ports.TLS_CLIENT_PORT}` };
  return {
    name: 'haproxy',
    version: firstLine('/usr/sbin/haproxy', '-v').match(/version (\S+)/)[1],
    pid: () => process.pid,
    also: () => ({}),
    endpoint: ({ transport }) => ({ url: `${urls[transport]}${chat}` }),
    stop: () => process.stop({ signal: 'SIGTERM', graceMs: 3000 }),
  };
}

export async function startNginx(directory, upstreams) {
  const names = ['PLAIN', 'TLS_UP', 'TLS_CLIENT'].flatMap((name) => [`${name}_PORT`, `${name}_STREAM_PORT`]);
  const ports = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await freePort()])));
  const file = path.join(directory, 'nginx.conf');
  writeFileSync(file, fill('nginx.conf', { DIRECTORY: directory, UPSTREAM_PORT: upstreams.plain.port, UPSTREAM_TLS_PORT: upstreams.tls.port, ...ports }));
  const process = await onGatewayCore('/usr/sbin/nginx', ['-e', path.join(directory, 'nginx.log'), '-p', directory, '-c', file]);
  await listening(process, ports.PLAIN_PORT);
  const [worker] = children(process.pid);
  return {
    name: 'nginx',
    version: execFileSync('/bin/sh', ['-c', '/usr/sbin/nginx -v 2>&1'], { encoding: 'utf8' }).match(/nginx\/(\S+)/)[1],
    pid: () => worker,
    also: () => ({ master: process.pid }),
    endpoint: ({ transport, stream }) => {
      const port = ports[`${transport.replace('-', '_').toUpperCase()}${stream ? '_STREAM' : ''}_PORT`];
      return { url: `${transport === 'tls-client' ? 'https' : 'http'}://127.0.0.1:${port}${chat}` };
    },
    stop: () => process.stop({ signal: 'SIGTERM', graceMs: 3000 }),
  };
}

export async function startPortkey(directory, upstreams) {
  const port = await freePort();
  const package_ = path.join(modules, '@portkey-ai/gateway');
  const process = await onGatewayCore(globalThis.process.execPath, [path.join(package_, 'build/start-server.js'), `--port=${port}`, '--headless'], {
    cwd: directory,
    env: { NODE_ENV: 'production', NODE_EXTRA_CA_CERTS: path.join(directory, 'cert.pem'), TRUSTED_CUSTOM_HOSTS: 'localhost,127.0.0.1' },
  });
  await listening(process, port);
  return {
    name: 'portkey',
    version: JSON.parse(readFileSync(path.join(package_, 'package.json'))).version,
    pid: () => process.pid,
    also: () => ({}),
    endpoint: ({ transport }) => {
      if (transport === 'tls-client') return undefined; // it has no TLS of its own
      const upstream = transport === 'tls-up' ? upstreams.tls : upstreams.plain;
      return { url: `http://127.0.0.1:${port}${chat}`, key: 'sk-fake', header: [`x-portkey-provider: openai`, `x-portkey-custom-host: ${upstream.scheme}://localhost:${upstream.port}/v1`] };
    },
    stop: () => process.stop({ signal: 'SIGKILL' }),
  };
}

// A control plane and a node of one worker, in a home of their own, with a pushed policy and a key.
export async function startFairlead(directory, upstreams, { policy = 'fairlead-policy.yaml' } = {}) {
  const home = path.join(directory, 'fairlead');
  mkdirSync(path.join(home, 'run'), { mode: 0o700, recursive: true });
  const values = { DIRECTORY: directory, UPSTREAM_PORT: upstreams.plain.port, UPSTREAM_TLS_PORT: upstreams.tls.port };
  writeFileSync(path.join(home, 'node.yaml'), fill('fairlead-node.yaml', values));
  const control = await onOtherCore('fairlead-controlplane', ['--home', home], { readyPattern: /event=started /, readyFrom: 'stderr' });
  const asker = await startAsker(home);
  await asker.must('policy.push', { bundle: bundleOf(fill(policy, values)) });
  await asker.must('teams.apply', { bundle: bundleOf(fill('fairlead-directory.yaml', values), 'directory.yaml') });
  const key = await createKey({ asker });
  const master = await onGatewayCore('fairlead-dataplane', ['--home', home], {
    env: { FAKE_CREDENTIAL: 'sk-fake' },
    readyPattern: /event=node\.listening address=(\S+)/,
    readyFrom: 'stderr',
  });
  const page = (name) => fetch(`http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}/${name}`, { headers: { connection: 'close' } });
  const status = async () => (await page('status')).json();
  const worker = await waitFor(async () => (await page('readyz')).status === 200 && (await status()).workers.find(({ state }) => state === 'up'), { what: "Fairlead's worker" });
  return {
    name: 'fairlead',
    version: firstLine(bin('fairlead-dataplane'), '--version').split(' ').at(-1),
    home,
    key,
    asker,
    pid: () => worker.pid,
    also: () => ({ master: master.pid, 'control plane': control.pid }),
    status,
    metrics: async () => (await page('metrics')).text(),
    endpoint: ({ transport }) => (transport === 'tls-client' ? undefined : { url: `http://${master.ready[1]}${chat}`, model: transport === 'tls-up' ? 'tls' : 'plain', key }),
    stop: async () => {
      await asker.stop();
      await master.stop();
      await control.stop();
    },
  };
}

export const starters = { fairlead: startFairlead, haproxy: startHaproxy, nginx: startNginx, portkey: startPortkey };
