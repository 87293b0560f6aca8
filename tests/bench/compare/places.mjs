// Where things stand and run: templates, descriptors, ports, cores.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { userInfo } from 'node:os';
import path from 'node:path';
import { bin, repository, startProcess, waitFor } from '../../system/support/process.mjs';

export const templates = path.join(repository, 'tests/bench/gateways');
export const modules = path.join(repository, 'build/bench/node_modules');
export const results = path.join(repository, 'tests/bench/results');

// Descriptors that a process started here may open; a proxied connection needs two of them.
const descriptors = Number(readFileSync('/proc/self/limits', 'utf8').match(/^Max open files +(\d+)/m)[1]);
export const connections = Math.min(25_000, Math.floor((descriptors - 100) / 2));
const common = { DESCRIPTORS: descriptors - 50, CONNECTIONS: connections, USER: userInfo().username };

// A template's text with the names in braces filled in.
export function fill(name, values) {
  const all = { ...common, ...values };
  return readFileSync(path.join(templates, name), 'utf8').replace(/\$\{(\w+)\}/g, (_, key) => {
    if (all[key] === undefined) throw new Error(`${name}: nothing is known of ${key}`);
    return all[key];
  });
}

// A directory for one gateway, below that of the run.
export function below(directory, name) {
  mkdirSync(directory, { recursive: true });
  return mkdtempSync(path.join(directory, `${name}-`));
}

// cert.pem, which signs itself, key.pem, and both in both.pem.
export function makeCertificate(directory) {
  const [certificate, key, both] = ['cert.pem', 'key.pem', 'both.pem'].map((name) => path.join(directory, name));
  const kind = ['-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '7', '-subj', '/CN=localhost'];
  execFileSync('openssl', ['req', ...kind, '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', certificate], { stdio: 'ignore' });
  writeFileSync(both, readFileSync(certificate, 'utf8') + readFileSync(key, 'utf8'), { mode: 0o600 });
}

// A port that was free a moment ago: for programs that cannot let the system choose and say which it was.
export const freePort = () =>
  new Promise((resolve, reject) => {
    const server = net.createServer().on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

const answers = (port) =>
  new Promise((resolve) => {
    const socket = net.connect(port, '127.0.0.1');
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });

// Until the process accepts connections there.
export async function listening(process, port) {
  await waitFor(async () => process.end || (await answers(port)), { what: `${process.name} to listen`, timeoutMs: 30_000 });
  if (process.end) throw new Error(`${process.child.spawnargs.join(' ')} ended: ${process.stderr}`);
}

// Gateways run on one core; load, upstream and whatever else there is on the other.
export const cores = { gateway: 0, rest: 1 };
const pinned = (core, name, args, options) => startProcess('/usr/bin/taskset', ['-c', core, name.includes('/') ? name : bin(name), ...args], options);
export const onGatewayCore = (name, args, options) => pinned(cores.gateway, name, args, options);
export const onOtherCore = (name, args, options) => pinned(cores.rest, name, args, options);
