#!/usr/bin/env node
// Mixed traffic with faults for a chosen time, then memory, descriptors and books:
//
//   tests/system/soak.mjs [--seconds N] [--seed S] [--home DIR]        default: 60 s, a new seed (printed: the same seed plays the same
//                                                                        kinds), a new directory that goes; DIR must be empty, and stays
//
// A whole Fairlead (control plane, node with two workers) before four simulated providers whose faults change all the time. Clients of
// all kinds (support/soak_clients.mjs); meanwhile policies are pushed and rolled back, keys made and revoked, providers drained. In parts:
//
// calm, half of the time: nothing is killed, and everything is exact. Each answer's request id has one record of the same outcome; the
//   counters are the records' sums, by outcome and in money; what was counted is what clients sent, but for those that left before
//   they could know; refusals of strangers and malformed heads are counted one for one; a provider got at least the attempts recorded.
//   After its first fifth memory and descriptors stay.
// turnover: the node is reloaded and upgraded again and again, and the same is exact, but for requests on kept connections that were
//   just being closed.
// storm, the rest: workers and the master die by SIGKILL. A dead worker may take along what it had open (all clients' requests at
//   most), a dead master the records in its hands; not more, and nothing is counted twice.
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { alive, bundleOf, holderOf, startAsker, sumOf, workersUp } from './support/control.mjs';
import { request, startFairlead } from './support/fairlead.mjs';
import { bin, sleep, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';
import { kinds, shares } from './support/soak_clients.mjs';

const CLIENTS = 16; // at once
const REQUESTS = 3; // of each at once, at most
const MASTER_BATCH = 256; // records that a killed master may have taken and not yet written
const VISITS_MS = 6000; // each of the control plane's visits to its own listeners has come and gone within that time
const faults = ['none', 'none', 'reset:3@0.3', 'cut:5@0.3', '429@0.5', '500@0.5', 'garbage@0.3', 'garbage:1@0.3', 'hang@0.03', 'refuse@0.5', 'errorevent:4@0.3', 'nodone:6@0.3', 'empty@0.3', 'slowhead:2@0.3', 'silent:3@0.03', 'overload200@0.3', 'error200@0.3', 'nousage@0.5', 'redirect@0.2', 'bighead@0.2'];

const node = (certificate, socket) => `limits: {body_bytes: 4MiB, upstream_idle: 8}
listen: ["127.0.0.1:0", {address: "127.0.0.1:0", tls: {certificate: "${certificate}.pem", key: "${certificate}.key"}}, "unix:${socket}"]`;

// For 127.0.0.1, by itself.
function makeCertificate(name) {
  const how = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext', 'subjectAltName=IP:127.0.0.1'];
  execFileSync('openssl', ['req', '-x509', ...how, '-keyout', `${name}.key`, '-out', `${name}.pem`], { stdio: 'ignore' });
}

const policy = (fakes, n) => `
defaults: {probe: {how: none}, timeouts: {connect: 2s, first_token: 1s, idle: 500ms, hold: 300ms}, deadline: 10s}
providers:
${fakes.map((fake, i) => `  p${i}: {base_url: "${fake.baseUrl}", auth: none}`).join('\n')}
models:
${fakes.map((_, i) => `  p${i}/m: {price: {input: ${1 + ((n + i) % 5)}, output: ${2 + (n % 3)}}, context: 2000000}`).join('\n')}
routes:
  chat: {tiers: [{models: [p${n % 4}/m, p${(n + 1) % 4}/m]}, {models: [p${(n + 2) % 4}/m, p${(n + 3) % 4}/m]}]}`;

// Numbers from 0 to 1, the same ones again for the same seed (xorshift32).
function numbers(seed) {
  let state = (seed >>> 0) || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

function drawKind(random) {
  let at = random() * Object.values(shares).reduce((sum, share) => sum + share, 0);
  return Object.keys(shares).find((name) => (at -= shares[name]) < 0) ?? 'unary';
}

// ---- what plays ----

// Clients, each in a loop, until stop(); every result with its kind.
function startClients(house, keys, random) {
  const results = [];
  const errors = [];
  let going = true;
  const one = async (agent) => {
    const kind = drawKind(random);
    const key = keys[Math.floor(random() * keys.length)].key;
    const content = (directives) => ({ model: 'chat', messages: [{ role: 'user', content: `${directives} hello` }] });
    try {
      const got = await kinds[kind](house, key, { agent, random, content });
      for (const result of [got].flat()) results.push({ kind, ...result });
    } catch (error) {
      errors.push(`${kind}: ${error.message}`);
    }
  };
  const running = Array.from({ length: CLIENTS }, async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    while (going) await one(agent);
    agent.destroy();
  });
  return { results, errors, stop: async () => ((going = false), await Promise.all(running)) };
}

// Calls one of the actions, drawn by name, at random moments of about everyMs, until stop().
function startActions(actions, names, random, everyMs) {
  let going = true;
  const done = {};
  const running = (async () => {
    while (going) {
      await sleep(everyMs * (0.5 + random()));
      const name = names[Math.floor(random() * names.length)];
      if (!going) break;
      await actions[name]();
      done[name] = (done[name] ?? 0) + 1;
    }
  })();
  return { done, stop: async () => ((going = false), await running) };
}

async function addKey(asker, keys) {
  const key = `fl-${[...randomBytes(43)].map((byte) => '23456789abcdefghijkmnpqrstuvwxyz'[byte % 32]).join('')}`;
  const { id } = await asker.must('keys.create', { team: 't', hash: createHash('sha256').update(key).digest('hex'), hint: key.slice(-4) });
  keys.push({ key, id });
}

const operators = (house, asker, keys, random) => {
  let version = 0;
  let drained = false;
  return {
    fault: () => house.fakes[Math.floor(random() * house.fakes.length)].config({ fault: faults[Math.floor(random() * faults.length)] }),
    push: () => asker.must('policy.push', { bundle: bundleOf(`schema: fairlead/1\nkind: policy\n${policy(house.fakes, ++version)}\n`) }),
    rollback: () => asker.ask('rollback'), // there may be nothing to return to
    // Used in a moment, when every worker knows it; the oldest goes.
    keys: async () => {
      await addKey(asker, keys);
      if (keys.length > 6) await asker.must('keys.revoke', { id: keys.shift().id });
    },
    drain: async () => {
      drained = !drained;
      await asker.must(drained ? 'providers.drain' : 'providers.undrain', { name: 'p0' });
    },
  };
};

// ---- what is measured ----

const status = (pid, name) => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(new RegExp(`^${name}:\\s+(\\d+)`, 'm'))[1]);

const LISTENS = '0A';
const TIME_WAIT = '06';
// The machine's sockets, IPv4: proc(5). `waiting`: bytes unread, or connections that nobody has accepted yet where it listens.
const tcpSockets = () =>
  readFileSync('/proc/net/tcp', 'utf8').trim().split('\n').slice(1).map((line) => {
    const [, local, , state, queues, , , , , inode] = line.trim().split(/\s+/);
    return { port: parseInt(local.split(':')[1], 16), state, waiting: parseInt(queues.split(':')[1], 16), inode };
  });

// TCP connections come and go with the pool, which is bounded; all else must be the same.
function descriptors(pid, sockets) {
  const tcp = new Set(sockets.filter(({ state }) => state !== LISTENS).map(({ inode }) => inode));
  const found = { tcp: 0, other: 0 };
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    let target = '';
    try {
      target = readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      continue; // closed meanwhile
    }
    found[tcp.has(target.match(/^socket:\[(\d+)\]$/)?.[1]) ? 'tcp' : 'other']++;
  }
  return found;
}

// Each process at rest, when it has the fewest descriptors: every link of the control plane knocks at its own listener each five
// seconds, which takes two for half a second (proto/endpoint.c), and what leaked is there all the time. Once they are as many as in
// `before` there is nothing left to look for.
async function measure(house, before) {
  const workers = await workersUp(house, () => true, { timeoutMs: 30_000 });
  const pids = { control: holderOf(house.home, 'control'), node: holderOf(house.home, 'node') };
  workers.forEach((worker) => (pids[`worker${worker.slot}`] = worker.pid));
  const until = Date.now() + VISITS_MS;
  const found = {};
  for (;;) {
    const sockets = tcpSockets();
    for (const [name, pid] of Object.entries(pids)) {
      const now = { pid, anonKib: status(pid, 'RssAnon'), ...descriptors(pid, sockets) };
      if (!found[name] || now.other < found[name].other) found[name] = now;
    }
    if (Date.now() > until || Object.keys(pids).every((name) => found[name].other === before?.[name]?.other)) return found;
    await sleep(200);
  }
}

// A client that vanished may have left its connection, its request in it, to a worker that has not come to accept it.
const unseen = (port) => tcpSockets().filter((socket) => socket.port === port && (socket.state === LISTENS ? socket.waiting > 0 : socket.state !== TIME_WAIT));

const gauges = { requests_open: 0, streams_open: 0, connections_open: 0, buffered_bytes: 64 * 1024 }; // idle connections to providers hold a little
async function atRest(house) {
  await waitFor(
    async () => {
      if (unseen(house.port).length > 0) throw new Error(`connections that no worker has seen end: ${JSON.stringify(unseen(house.port))}`);
      const metrics = await house.metrics();
      const open = Object.keys(gauges).filter((name) => sumOf(metrics, `fairlead_${name}`) > gauges[name]);
      if (open.length > 0) throw new Error(`still open: ${open.map((name) => `${name} ${sumOf(metrics, `fairlead_${name}`)}`)}`);
      return true;
    },
    { what: 'all to be at rest', timeoutMs: 30_000, everyMs: 100 },
  );
}

const outcomes = ['ok', 'client_error', 'error', 'cancelled'];
async function booksOf(house) {
  const metrics = await house.metrics();
  const sum = (name, labels) => sumOf(metrics, `fairlead_${name}`, labels);
  const nano = metrics.split('\n').filter((line) => line.startsWith('fairlead_cost_usd_total{')).reduce((all, line) => all + Math.round(Number(line.slice(line.lastIndexOf(' ') + 1)) * 1e9), 0);
  return {
    settled: sum('requests_settled_total'),
    ...Object.fromEntries(outcomes.map((outcome) => [outcome, sum('requests_total', `outcome="${outcome}"`)])),
    unauthorized: sum('unauthorized_total'),
    malformed: sum('bad_requests_total'),
    attempts: sum('attempts_total'),
    dropped: sum('records_dropped_total'),
    nano,
  };
}
const less = (now, then) => Object.fromEntries(Object.keys(now).map((name) => [name, now[name] - then[name]]));
const countBy = (list, of) => list.reduce((counts, one) => ({ ...counts, [of(one)]: (counts[of(one)] ?? 0) + 1 }), {});
const outcomeOfRecord = (record) => (record.outcome === 'truncated' ? 'error' : record.outcome);

// ---- the checks ----

class Checks {
  failures = [];
  rows = [];
  that(what, good, figures = '') {
    this.rows.push(`${good ? 'good' : 'BAD '}  ${what}${figures === '' ? '' : `: ${figures}`}`);
    if (!good) this.failures.push(`${what}: ${figures}`);
  }
  equal(what, found, expected) {
    this.that(what, found === expected, found === expected ? found : `${found}, not ${expected}`);
  }
}

// Records by request id, each there once; and what clients were told against them. allowedMissing: see storm.
function checkRecords(checks, part, results, records, allowedMissing) {
  const byId = new Map(records.map((record) => [record.request_id, record]));
  checks.equal(`${part}: request ids are unique`, byId.size, records.length);
  const answered = results.filter((result) => result.id && ['ok', 'client_error', 'error'].includes(result.outcome));
  const missing = answered.filter((result) => !byId.has(result.id));
  const otherwise = answered.filter((result) => byId.has(result.id) && outcomeOfRecord(byId.get(result.id)) !== result.outcome);
  checks.that(`${part}: each answer has its record`, missing.length <= allowedMissing, `${answered.length} answers, ${missing.length} without (at most ${allowedMissing})`);
  checks.that(`${part}: of the same outcome`, otherwise.length === 0, otherwise.length === 0 ? '' : JSON.stringify(otherwise.slice(0, 3).map((result) => [result, byId.get(result.id)])));
  checks.equal(`${part}: no id was used for two requests`, new Set(answered.map((result) => result.id)).size, answered.length);
}

function checkExact(checks, part, { results, books, records, providers }) {
  const told = countBy(results, (result) => result.outcome);
  const sent = results.filter((result) => !['unauthorized', 'malformed', 'unsure', 'stale'].includes(result.outcome)).length;
  const unsure = (told.unsure ?? 0) + (told.stale ?? 0);
  checks.that(`${part}: no connection broke`, !told.broken, JSON.stringify(countBy(results.filter((result) => result.outcome === 'broken'), (result) => result.kind)));
  checkRecords(checks, part, results, records, 0);
  checks.that(`${part}: counted are the requests sent`, books.settled >= sent && books.settled <= sent + unsure, `${books.settled} counted, ${sent} sent, ${unsure} more left at once`);
  checks.equal(`${part}: one record each`, records.length, books.settled);
  const recorded = countBy(records, outcomeOfRecord);
  for (const outcome of outcomes) checks.equal(`${part}: records of outcome ${outcome} as counted`, recorded[outcome] ?? 0, books[outcome]);
  checks.equal(`${part}: money of records as counted (nano-USD)`, records.reduce((sum, record) => sum + record.cost_nano_usd, 0), books.nano);
  const strangers = told.unauthorized ?? 0; // who left at once may have had a key that was just revoked
  checks.that(`${part}: strangers counted`, books.unauthorized >= strangers && books.unauthorized <= strangers + unsure, `${books.unauthorized} counted, ${strangers} told`);
  checks.equal(`${part}: malformed heads counted`, books.malformed, told.malformed ?? 0);
  checks.equal(`${part}: no record dropped`, books.dropped, 0);
  checks.equal(`${part}: attempts of records as counted`, records.reduce((sum, record) => sum + record.attempts.length, 0), books.attempts);
  const answeredAttempts = records.reduce((sum, record) => sum + record.attempts.filter((attempt) => attempt.status > 0).length, 0);
  checks.that(`${part}: providers saw at least the attempts that were answered`, providers >= answeredAttempts, `${providers} seen, ${answeredAttempts} answered`);
}

// After a warm-up nothing grows: memory by no more than slackKib, connections by no more than the pool, other descriptors not at all.
function checkGrowth(checks, before, after) {
  // Sanitizers keep for themselves what is freed, most where batches of records come and go: see leaks.test.mjs; release programs
  // (FAIRLEAD_BIN) are held to less. The control plane keeps what was pushed.
  const sanitized = readFileSync(bin('fairlead-dataplane')).includes('__asan_init');
  for (const [name, now] of Object.entries(after)) {
    const then = before[name];
    const slackKib = (sanitized ? 6144 : 2048) * (name === 'control' || (sanitized && name === 'node') ? 2 : 1);
    checks.equal(`calm: ${name} is the same process`, now.pid, then.pid);
    checks.that(`calm: ${name}'s memory`, now.anonKib - then.anonKib <= slackKib, `${then.anonKib} -> ${now.anonKib} KiB (at most ${slackKib} more)`);
    checks.equal(`calm: ${name}'s descriptors, without TCP`, now.other, then.other);
    checks.that(`calm: ${name}'s TCP connections`, now.tcp <= then.tcp + 16, `${then.tcp} -> ${now.tcp}`);
  }
}

function checkStorm(checks, results, books, records, kills) {
  const told = countBy(results, (result) => result.outcome);
  const lost = kills.workers * CLIENTS * REQUESTS;
  const sent = results.filter((result) => !['unauthorized', 'malformed'].includes(result.outcome)).length;
  const sure = sent - (told.unsure ?? 0) - (told.stale ?? 0) - (told.broken ?? 0);
  checks.that('storm: connections broke by dead workers only', (told.broken ?? 0) <= lost, `${told.broken ?? 0} of at most ${lost}`);
  const unrecorded = lost + books.dropped + kills.masters * MASTER_BATCH;
  checkRecords(checks, 'storm', results, records, unrecorded);
  checks.that('storm: counted once', books.settled <= sent && books.settled >= sure - lost, `${books.settled} counted, ${sent} sent, ${sure} of them surely seen, ${lost} may be lost`);
  checks.that('storm: recorded once', records.length <= books.settled + lost && records.length >= books.settled - unrecorded, `${records.length} records, ${books.dropped} dropped, ${books.settled} counted`);
}

// ---- the play ----

const providerCount = async (house) => (await Promise.all(house.fakes.map((fake) => fake.stats()))).reduce((sum, one) => sum + (one.paths['/v1/chat/completions'] ?? 0), 0);

// What clients and operators do for so long; then all is at rest. Returns results, books, records of that time.
async function playPart(house, { keys, random, seconds, actions, names = Object.keys(actions), everyMs, progress }) {
  const before = await booksOf(house);
  const recordsBefore = house.records().length;
  const providersBefore = await providerCount(house);
  const clients = startClients(house, keys, random);
  const operator = startActions(actions, names, random, everyMs);
  const until = Date.now() + seconds * 1000;
  while (Date.now() < until) {
    await sleep(Math.min(5000, Math.max(0, until - Date.now())));
    progress(`${clients.results.length} requests, ${JSON.stringify(countBy(clients.results, (result) => result.outcome))}`);
  }
  await operator.stop();
  await clients.stop();
  await atRest(house);
  const books = less(await booksOf(house), before);
  // The master writes records in batches.
  const records = await waitFor(
    () => {
      const list = house.records().slice(recordsBefore);
      return list.length >= books.settled - books.dropped && list;
    },
    { what: 'the last records', timeoutMs: 30_000 },
  ).catch(() => house.records().slice(recordsBefore));
  return { results: clients.results, errors: clients.errors, done: operator.done, books, records, providers: (await providerCount(house)) - providersBefore };
}

// Every worker anew, and all programs: nobody is to notice.
function replacers(house) {
  const must = async (command) => {
    const { code, stderr } = await house.cli([command]);
    if (code !== 0) throw new Error(`fairlead ${command} ended with ${code}: ${stderr}`);
  };
  return { reload: () => must('reload'), upgrade: () => must('upgrade') };
}

function killers(house, random, kills) {
  const page = (name) => request(`http://${readFileSync(path.join(house.home, 'run/operations'), 'utf8').trim()}/${name}`, { method: 'GET' });
  house.status = async () => JSON.parse((await page('status')).text);
  house.metrics = async () => (await page('metrics')).text;
  return {
    worker: async () => {
      const workers = await workersUp(house, () => true, { timeoutMs: 30_000 });
      const { pid, slot } = workers[Math.floor(random() * workers.length)];
      if (!alive(pid)) return;
      process.kill(pid, 'SIGKILL');
      kills.workers++;
      await workersUp(house, (all) => all[slot].pid !== pid, { timeoutMs: 30_000 });
    },
    master: async () => {
      const pid = holderOf(house.home, 'node');
      if (!alive(pid)) return;
      process.kill(pid, 'SIGKILL');
      kills.masters++;
      await waitFor(() => !alive(pid) && alive(holderOf(house.home, 'node')), { what: 'the next master', timeoutMs: 30_000 });
      await workersUp(house, () => true, { timeoutMs: 30_000 });
    },
  };
}

export async function soak({ seconds = 60, seed = Math.floor(Math.random() * 1e6), home = temporaryDirectory('fl-'), say = console.log } = {}) {
  const random = numbers(seed);
  const began = Date.now();
  const progress = (part) => (text) => say(`${String(Math.round((Date.now() - began) / 1000)).padStart(4)} s  ${part}: ${text}`);
  say(`soak: ${seconds} s, --seed ${seed}`);
  mkdirSync(home, { recursive: true });
  if (readdirSync(home).length > 0) throw new Error(`${home} is not empty`);
  const certificate = path.join(home, 'client-side');
  const socket = path.join(home, 'clients.sock');
  makeCertificate(certificate);
  const house = await startFairlead({
    home,
    listen: null,
    fakes: Array.from({ length: 4 }, (_, i) => ({ name: `p${i}`, models: 'm', keep: 0, seed: 1 + ((seed + i) % 1000) })),
    env: { ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:quarantine_size_mb=1:thread_local_quarantine_size_kb=64` },
    policy: (fakes) => policy(fakes, 0),
    node: node(certificate, socket),
    workers: 2,
  });
  Object.assign(house, { socket, tls: { url: `https://${house.listeners[1]}`, ca: readFileSync(`${certificate}.pem`) } });
  const asker = await startAsker(house.home);
  const keys = [];
  for (let i = 0; i < 3; i++) keys.push(await house.createKey());
  const checks = new Checks();
  const actions = operators(house, asker, keys, random);
  const calm = { keys, random, actions, everyMs: 400 };

  const warm = await playPart(house, { ...calm, seconds: seconds * 0.13, progress: progress('warm-up') });
  const before = await measure(house);
  const main = await playPart(house, { ...calm, seconds: seconds * 0.42, progress: progress('calm') });
  checkGrowth(checks, before, await measure(house, before));
  const turnover = await playPart(house, {
    ...calm,
    actions: { ...actions, ...replacers(house) },
    names: ['reload', 'upgrade', 'push', 'keys', 'fault'],
    seconds: seconds * 0.15,
    progress: progress('turnover'),
  });
  for (const [name, part] of Object.entries({ 'warm-up': warm, calm: main, turnover })) checkExact(checks, name, part);
  for (const part of [warm, main]) checks.equal('calm: no kept connection was closed under a request', part.results.filter((result) => result.outcome === 'stale').length, 0);

  const kills = { workers: 0, masters: 0 };
  const storm = await playPart(house, {
    ...calm,
    actions: { ...actions, ...killers(house, random, kills) },
    names: ['worker', 'worker', 'worker', 'master', 'fault', 'push', 'keys'],
    seconds: seconds * 0.23,
    progress: progress('storm'),
  });
  checkStorm(checks, storm.results, storm.books, storm.records, kills);
  for (const part of [warm, main, turnover, storm]) checks.equal('every answer was well-formed', part.errors.slice(0, 3).join('; '), '');

  const all = [warm, main, turnover, storm].flatMap((part) => part.results);
  await asker.stop();
  await stopAll(); // throws when a program complained
  say(`by kind: ${JSON.stringify(countBy(all, (result) => result.kind))}`);
  say(`errors: ${JSON.stringify(countBy(all.filter((result) => result.outcome === 'error'), (result) => `${result.status} ${result.code}`))}`);
  say(`done: ${JSON.stringify([warm.done, main.done, turnover.done, storm.done])}, killed: ${JSON.stringify(kills)}`);
  for (const row of checks.rows) say(row);
  say(checks.failures.length === 0 ? `soak: all ${checks.rows.length} checks are good` : `soak: ${checks.failures.length} checks are bad; again: --seconds ${seconds} --seed ${seed}`);
  return checks.failures;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { values } = parseArgs({ options: { seconds: { type: 'string' }, seed: { type: 'string' }, home: { type: 'string' } } });
  // Ended early, its children end with it: what is left of them when this process exits is killed.
  for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]]) process.once(signal, () => void stopAll().catch(() => {}).finally(() => process.exit(code)));
  const number = (text) => (text === undefined ? undefined : Number(text));
  const failures = await soak({ seconds: number(values.seconds), seed: number(values.seed), home: values.home && path.resolve(values.home) });
  process.exitCode = failures.length === 0 ? 0 : 1;
}
