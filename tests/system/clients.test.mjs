// The clients' side of a node: TLS with real clients, their certificates, several listeners, a Unix socket, PROXY headers, and
// certificates that change under traffic.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { after, before, test } from 'node:test';
import tls from 'node:tls';
import { run, startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const key = `fl-${'abcdefgh'.repeat(5)}`;
const home = temporaryDirectory('fl-');
const file = (name) => path.join(home, name);
const unixPath = file('api.sock');
let master;
const ports = {}; // by listener: tls, plain

const openssl = (...args) => execFileSync('openssl', args, { stdio: 'ignore' });
const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];

// For 127.0.0.1, by itself.
function serverCertificate(name) {
  openssl('req', '-x509', ...curve, '-subj', `/CN=${name}`, '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`));
}
function clientCertificate(name, issuer, alt) {
  writeFileSync(file(`${name}.ext`), `subjectAltName=${alt}\n`);
  openssl('req', ...curve, '-subj', `/CN=${name}`, '-keyout', file(`${name}.key`), '-out', file(`${name}.csr`));
  openssl('x509', '-req', '-in', file(`${name}.csr`), '-CA', file(`${issuer}.pem`), '-CAkey', file(`${issuer}.key`), '-CAcreateserial', '-days', '2', '-extfile', file(`${name}.ext`), '-out', file(`${name}.pem`));
}
function authority(name) {
  openssl('req', '-x509', ...curve, '-subj', `/CN=${name}`, '-keyout', file(`${name}.key`), '-out', file(`${name}.pem`));
}

before(async () => {
  const fake = await startFakellm({ name: 'alpha' });
  mkdirSync(file('db'), { mode: 0o700 });
  const put = await run('putable', ['--home', home, '--port', fake.port, '--key', key]);
  assert.equal(put.code, 0, put.stderr);
  ['first', 'second'].forEach(serverCertificate);
  ['ca', 'strangers', 'others'].forEach(authority);
  clientCertificate('ci', 'ca', 'DNS:ci.example.com');
  clientCertificate('nobody', 'ca', 'DNS:nobody.example.com');
  clientCertificate('stranger', 'strangers', 'DNS:ci.example.com');
  for (const end of ['pem', 'key']) copyFileSync(file(`first.${end}`), file(`server.${end}`));
  copyFileSync(file('ca.pem'), file('authorities.pem'));
  writeFileSync(file('node.yaml'), `schema: fairlead/1
kind: node
operations: 127.0.0.1:0
limits: {drain: 120s, drain_first: 60s, drain_idle: 60s} # a slow machine is no failure
listen:
  - address: 127.0.0.1:0
    tls: {certificate: ${file('server.pem')}, key: ${file('server.key')}, client_ca: ${file('authorities.pem')}, client_certificates: optional, teams: {ci.example.com: research}}
  - {address: "127.0.0.1:0", proxy_protocol: ["127.0.0.0/8"]}
  - {address: "unix:${unixPath}", mode: "0600"}
`);
  master = await startProcess('fairlead-dataplane', ['--home', home, '--workers', '2'], { readyPattern: /event=node\.listening/, readyFrom: 'stderr' });
  const operations = readFileSync(file('run/operations'), 'utf8').trim();
  await waitFor(async () => (await fetch(`http://${operations}/readyz`, { headers: { connection: 'close' } })).status === 200, { what: 'the node to be ready' });
  const addresses = await waitFor(() => {
    const found = [...readFileSync(file('run/listen'), 'utf8').matchAll(/^127\.0\.0\.1:(\d+)( tls)?$/gm)];
    return found.length === 2 && found;
  }, { what: 'the addresses' });
  // What speaks plaintext stands first, for who takes the first.
  assert.deepEqual(addresses.map(([, , tls]) => tls), [undefined, ' tls']);
  [ports.plain, ports.tls] = addresses.map(([, port]) => Number(port));
});
after(stopAll);

const body = JSON.stringify({ model: 'chat', messages: [{ role: 'user', content: 'hello' }] });

// {status, text, protocol, certificate} of one request on a connection of its own.
function ask(options, { withKey = true, module = https } = {}) {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json', 'content-length': body.length, ...(withKey && { authorization: `Bearer ${key}` }) };
    const request = module.request({ host: '127.0.0.1', path: '/v1/chat/completions', method: 'POST', agent: false, headers, ...options }, (response) => {
      let text = '';
      const { socket } = response;
      const facts = { status: response.statusCode, protocol: socket.getProtocol?.(), certificate: socket.getPeerCertificate?.().subject?.CN };
      response.on('data', (piece) => (text += piece));
      response.on('end', () => resolve({ ...facts, text }));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}
const secure = (more = {}) => ({ port: ports.tls, ca: readFileSync(file('first.pem')), ...more });
const shown = (name) => ({ cert: readFileSync(file(`${name}.pem`)), key: readFileSync(file(`${name}.key`)) });
const lastRecord = async (known) =>
  waitFor(() => {
    const lines = readdirSync(file('records')).flatMap((name) => readFileSync(path.join(file('records'), name), 'utf8').split('\n').slice(0, -1));
    return lines.map((text) => JSON.parse(text)).find(known);
  }, { what: 'the record' });

test('TLS 1.2 and 1.3, nothing older', async () => {
  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    const answer = await ask(secure({ minVersion: version, maxVersion: version }));
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.protocol, version);
  }
  await assert.rejects(ask(secure({ minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' })));
  await assert.rejects(ask(secure({ ca: readFileSync(file('second.pem')) })), /self-signed|unable to verify/);
  await assert.rejects(ask({ port: ports.tls }, { module: http }));
});

// New workers, and the old ones accept no more.
async function reload() {
  const drains = () => master.stderr.split('event=drain.begin').length - 1;
  const reloads = () => master.stderr.split('event=config.reloaded').length - 1;
  const before = [drains(), reloads()];
  process.kill(master.pid, 'SIGHUP');
  await waitFor(() => drains() >= before[0] + 2 && reloads() > before[1], { what: 'the reload' });
}

test('a session is resumed by any worker, also after a reload, but not under other rules', async () => {
  const connect = (session) =>
    new Promise((resolve, reject) => {
      const socket = tls.connect({ ...secure({ maxVersion: 'TLSv1.2' }), ...shown('ci'), host: '127.0.0.1', session });
      socket.on('error', reject);
      socket.on('secureConnect', () => {
        const facts = { reused: socket.isSessionReused(), session: socket.getSession() };
        socket.destroy();
        resolve(facts);
      });
    });
  // By both workers: each of twenty goes to either.
  const reused = async (session) => {
    const all = [];
    for (let i = 0; i < 20; i++) all.push((await connect(session)).reused);
    return all;
  };
  const { session } = await connect();
  assert.deepEqual(await reused(session), Array(20).fill(true));
  await reload();
  assert.deepEqual(await reused(session), Array(20).fill(true));
  writeFileSync(file('authorities.pem'), ['ca', 'others'].map((name) => readFileSync(file(`${name}.pem`), 'utf8')).join(''));
  await reload();
  assert.deepEqual(await reused(session), Array(20).fill(false));
  assert.deepEqual(await reused((await connect()).session), Array(20).fill(true));
});

test('certificates of clients are their teams', async () => {
  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    const limits = { minVersion: version, maxVersion: version };
    const known = await ask(secure({ ...shown('ci'), ...limits }), { withKey: false });
    assert.equal(known.status, 200, known.text);
    const other = await ask(secure({ ...shown('nobody'), ...limits }), { withKey: false });
    assert.equal(other.status, 401, other.text);
    assert.equal((await ask(secure({ ...shown('nobody'), ...limits }))).status, 200);
    assert.equal((await ask(secure(limits), { withKey: false })).status, 401);
    await assert.rejects(ask(secure({ ...shown('stranger'), ...limits })));
  }
  const record = await lastRecord(({ key_id: id }) => id.startsWith('certificate:'));
  assert.equal(record.key_id, 'certificate:ci.example.com');
  assert.equal(record.team, 'research');
  assert.match(record.client, /^127\.0\.0\.1:\d+$/);
});

test('a Unix socket', async () => {
  const answer = await ask({ socketPath: unixPath }, { module: http });
  assert.equal(answer.status, 200, answer.text);
  await lastRecord(({ client }) => client === 'unix');
});

test('a PROXY header is required of a trusted proxy, and names the client', async () => {
  const header = Buffer.from([0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0, 12, 192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 1, 0xbb]);
  const proxied = { port: ports.plain, agent: undefined, createConnection: (options, done) => {
    const socket = net.connect(options, done);
    socket.write(header);
    return socket;
  } };
  const answer = await ask(proxied, { module: http });
  assert.equal(answer.status, 200, answer.text);
  await lastRecord(({ client }) => client === '192.0.2.7:12345');
  await assert.rejects(ask({ port: ports.plain }, { module: http }));
});

test('workers that drain answer what is on its way, and say that it is the last', async () => {
  // Connections of the old workers: some have not asked yet, some are between two requests.
  const fresh = await Promise.all(Array.from({ length: 20 }, () => new Promise((resolve, reject) => {
    const socket = net.connect(unixPath, () => resolve(socket));
    socket.text = '';
    socket.setEncoding('utf8').on('data', (text) => (socket.text += text)).on('error', reject);
    socket.on('close', () => (socket.over = true));
  })));
  const used = fresh.slice(10);
  const message = `POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const answers = (socket) => socket.text.split('HTTP/1.1 200 OK').length - 1;
  used.forEach((socket) => socket.write(message));
  await waitFor(() => used.every((socket) => answers(socket) === 1), { what: 'the first answers' });
  assert.ok(used.every((socket) => !/connection: close/.test(socket.text)));
  const drains = () => master.stderr.split('event=drain.begin').length - 1;
  const reloads = () => master.stderr.split('event=config.reloaded').length - 1;
  const before = drains();
  const earlier = reloads();
  process.kill(master.pid, 'SIGHUP');
  await waitFor(() => drains() >= before + 2, { what: 'both workers to drain' });
  fresh.forEach((socket) => socket.write(message));
  await waitFor(() => fresh.every((socket) => socket.over), { what: 'the end of all' });
  assert.deepEqual(fresh.map(answers), fresh.map((socket) => (used.includes(socket) ? 2 : 1)));
  assert.ok(fresh.every((socket) => /connection: close/.test(socket.text)));
  await waitFor(() => reloads() > earlier, { what: 'the end of the reload' });
});

test('certificates are reloaded under traffic, and nobody is cut', async () => {
  const both = [readFileSync(file('first.pem')), readFileSync(file('second.pem'))];
  const reloads = () => master.stderr.split('event=config.reloaded').length - 1;
  let over = false;
  let asked = 0;
  const traffic = Array.from({ length: 4 }, async () => {
    while (!over) {
      const answer = await ask(secure({ ca: both }));
      assert.equal(answer.status, 200, answer.text);
      asked++;
    }
  });
  for (const end of ['pem', 'key']) copyFileSync(file(`second.${end}`), file(`server.${end}`));
  const earlier = reloads();
  process.kill(master.pid, 'SIGHUP');
  await waitFor(async () => (await ask(secure({ ca: both }))).certificate === 'second', { what: 'the new certificate' });
  await waitFor(() => reloads() > earlier, { what: 'the end of the reload' });
  const before = asked;
  await waitFor(() => asked > before + 8, { what: 'more traffic' });
  // A key that is not the certificate's changes nothing.
  copyFileSync(file('first.key'), file('server.key'));
  process.kill(master.pid, 'SIGHUP');
  await waitFor(() => /event=reload\.failed/.test(master.stderr), { what: 'the refusal', timeoutMs: 60_000 });
  assert.match(master.stderr, /server\.key: the key is not that of the certificate/);
  assert.equal((await ask(secure({ ca: both }))).certificate, 'second');
  over = true;
  await Promise.all(traffic);
});
