// The simulated upstream and the gateways before it. A gateway is
//   {name, version, pid(), also(): {name: pid}, endpoint({stream, transport}), stop(), again()}
// where pid() is the process that carries requests, also() its helpers, and endpoint() says how loadgen asks it:
// {url, model, key, header, ca}, or undefined when it cannot do that. again() starts the same program again after stop(), at
// the same address, and does not wait for it.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { startFairlead } from './fairlead.mjs';
import { below, fill, freePort, listening, modules, onGatewayCore, onOtherCore } from './places.mjs';
import { children } from './proc.mjs';

export const transports = { plain: 'plain', 'tls-up': 'TLS to upstream', 'tls-client': 'TLS to client' };
const chat = '/v1/chat/completions';

// Two simulated providers, one of them behind TLS: {plain, tls}, each {port, scheme, url, stats()}.
export async function startUpstreams(certificates) {
  const start = async (scheme, ...tls) => {
    const process = await onOtherCore('fakellm', ['--keep', 0, ...tls], { readyPattern: /^listening \S*:(\d+)$/m });
    const port = Number(process.ready[1]);
    const ca = readFileSync(path.join(certificates, 'cert.pem'));
    const stats = () =>
      new Promise((resolve, reject) => {
        const { get } = scheme === 'https' ? https : http;
        const asked = get({ host: '127.0.0.1', port, path: '/__fake/stats', ca, agent: false }, (answer) => {
          let text = '';
          answer.setEncoding('utf8').on('data', (part) => (text += part));
          answer.on('end', () => resolve(JSON.parse(text)));
        });
        asked.on('error', reject);
      });
    return { process, port, scheme, url: `${scheme}://127.0.0.1:${port}`, stats, ca: path.join(certificates, 'cert.pem') };
  };
  return { plain: await start('http'), tls: await start('https', '--tls-cert', path.join(certificates, 'cert.pem'), '--tls-key', path.join(certificates, 'key.pem')) };
}

// No gateway at all: what the others' latency is compared with.
export const direct = (upstreams) => ({ name: 'direct', endpoint: ({ transport }) => ({ url: `${transport === 'plain' ? upstreams.plain.url : upstreams.tls.url}${chat}`, ca: upstreams.plain.ca }) });

const upstreamPorts = (upstreams) => ({ UPSTREAM_PORT: upstreams.plain.port, UPSTREAM_TLS_PORT: upstreams.tls.port });

async function startHaproxy(directory, certificates, upstreams) {
  const home = below(directory, 'haproxy');
  const ports = { PLAIN_PORT: await freePort(), TLS_UP_PORT: await freePort(), TLS_CLIENT_PORT: await freePort() };
  const file = path.join(home, 'haproxy.cfg');
  writeFileSync(file, fill('haproxy.cfg', { CERTIFICATES: certificates, ...upstreamPorts(upstreams), ...ports }));
  const again = () => onGatewayCore('/usr/sbin/haproxy', ['-db', '-f', file]);
  const process = await again();
  await listening(process, ports.PLAIN_PORT);
  const urls = { plain: `http://127.0.0.1:${ports.PLAIN_PORT}`, 'tls-up': `http://127.0.0.1:${ports.TLS_UP_PORT}`, 'tls-client': `https://127.0.0.1:${ports.TLS_CLIENT_PORT}` };
  return {
    name: 'haproxy',
    version: execFileSync('/usr/sbin/haproxy', ['-v'], { encoding: 'utf8' }).match(/version (\S+)/)[1],
    pid: () => process.pid,
    also: () => ({}),
    endpoint: ({ transport }) => ({ url: `${urls[transport]}${chat}`, ca: upstreams.plain.ca }),
    stop: () => process.stop({ graceMs: 3000 }),
    again,
  };
}

async function startNginx(directory, certificates, upstreams) {
  const home = below(directory, 'nginx');
  const names = ['PLAIN', 'TLS_UP', 'TLS_CLIENT'].flatMap((name) => [`${name}_PORT`, `${name}_STREAM_PORT`]);
  const ports = {};
  for (const name of names) ports[name] = await freePort();
  const file = path.join(home, 'nginx.conf');
  writeFileSync(file, fill('nginx.conf', { DIRECTORY: home, CERTIFICATES: certificates, ...upstreamPorts(upstreams), ...ports }));
  const again = () => onGatewayCore('/usr/sbin/nginx', ['-e', path.join(home, 'nginx.log'), '-p', home, '-c', file]);
  const process = await again();
  await listening(process, ports.PLAIN_PORT);
  return {
    name: 'nginx',
    version: execFileSync('/bin/sh', ['-c', '/usr/sbin/nginx -v 2>&1'], { encoding: 'utf8' }).match(/nginx\/(\S+)/)[1],
    pid: () => children(process.pid)[0],
    also: () => ({ master: process.pid }),
    endpoint: ({ transport, stream }) => {
      const port = ports[`${transport.replace('-', '_').toUpperCase()}${stream ? '_STREAM' : ''}_PORT`];
      return { url: `${transport === 'tls-client' ? 'https' : 'http'}://127.0.0.1:${port}${chat}`, ca: upstreams.plain.ca };
    },
    stop: () => process.stop({ graceMs: 3000 }),
    again,
  };
}

async function startPortkey(directory, certificates, upstreams) {
  const port = await freePort();
  const gateway = path.join(modules, '@portkey-ai/gateway');
  const env = { NODE_ENV: 'production', NODE_EXTRA_CA_CERTS: path.join(certificates, 'cert.pem'), TRUSTED_CUSTOM_HOSTS: 'localhost,127.0.0.1' };
  const again = () => onGatewayCore(globalThis.process.execPath, [path.join(gateway, 'build/start-server.js'), `--port=${port}`, '--headless'], { cwd: directory, env });
  const process = await again();
  await listening(process, port);
  return {
    name: 'portkey',
    version: JSON.parse(readFileSync(path.join(gateway, 'package.json'))).version,
    pid: () => process.pid,
    also: () => ({}),
    endpoint: ({ transport }) => {
      if (transport === 'tls-client') return undefined; // it has no TLS of its own
      const { scheme, port: at } = transport === 'tls-up' ? upstreams.tls : upstreams.plain;
      return { url: `http://127.0.0.1:${port}${chat}`, key: 'sk-fake', header: ['x-portkey-provider: openai', `x-portkey-custom-host: ${scheme}://127.0.0.1:${at}/v1`] };
    },
    stop: () => process.stop({ signal: 'SIGKILL' }),
    again,
  };
}

// Each takes (directory to live in, directory of certificates, upstreams).
export const starters = { fairlead: startFairlead, haproxy: startHaproxy, nginx: startNginx, portkey: startPortkey };
