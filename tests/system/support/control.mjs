// What tests of the control plane need beside the CLI: the admin link spoken directly, the processes of a house, figures.
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { availableParallelism, loadavg } from 'node:os';
import path from 'node:path';
import { request } from './fairlead.mjs';
import { startProcess, temporaryDirectory, waitFor } from './process.mjs';

// Speaks the admin link of a home without a CLI process for each command: {ask, change, process}.
export async function startAsker(home) {
  const asker = await startProcess('asker', ['--address', `ipc://${home}/run/admin.ipc`]);
  const waiting = [];
  let rest = '';
  let count = 0;
  asker.child.stdin.on('error', () => {});
  asker.child.stdout.on('data', (text) => {
    const lines = (rest + text).split('\n');
    rest = lines.pop();
    for (const line of lines) waiting.shift()?.resolve(JSON.parse(line));
  });
  let ended;
  asker.exited.then(({ code, signal, error }) => {
    ended = error ?? new Error(`asker ended with ${code ?? signal}: ${asker.stderr}`);
    waiting.forEach(({ reject }) => reject(ended));
  });
  // One request as it is: {err, status, message, result}.
  const ask = (command, args = {}, { id = `test-${process.pid}-${home.slice(-6)}-${++count}`, timeoutMs } = {}) =>
    new Promise((resolve, reject) => {
      if (ended) return reject(ended);
      waiting.push({ resolve, reject });
      const stringArgs = Object.fromEntries(Object.entries(args).map(([name, value]) => [name, String(value)]));
      asker.child.stdin.write(`${JSON.stringify({ id, command, args: stringArgs, timeout_ms: timeoutMs })}\n`);
    });
  // One that must succeed: its result.
  const must = async (command, args, options) => {
    const answer = await ask(command, args, options);
    if (answer.err !== 'ok' || answer.status !== 0) throw new Error(`${command}: ${answer.err}, status ${answer.status}: ${answer.message}`);
    return answer.result;
  };
  const stop = async () => {
    asker.child.stdin.end();
    return asker.exited;
  };
  return { ask, must, stop, process: asker };
}

// A policy of one file as the CLI would bundle it.
export const bundleOf = (text, name = 'policy.yaml') => JSON.stringify({ root: name, files: [{ name, text }] });

// The pid in a lock of the home (control, node, prober, pricefeed), 0 when there is none.
export function holderOf(home, lock) {
  const file = path.join(home, 'run', `${lock}.lock`);
  return existsSync(file) ? Number(readFileSync(file, 'utf8').trim()) || 0 : 0;
}

export const alive = (pid) => {
  try {
    process.kill(pid, 0);
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
};

// Sum of a metric's samples; labels: a text that must stand in them.
export const sumOf = (metrics, name, labels = '') =>
  metrics
    .split('\n')
    .filter((line) => line.startsWith(name) && /[{ ]/.test(line[name.length] ?? '') && line.includes(labels))
    .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);

// The status page once every worker is up (and passes the further condition).
export const workersUp = (house, condition = () => true, options = {}) =>
  waitFor(
    async () => {
      const { workers } = await house.status();
      return workers.length > 0 && workers.every((worker) => worker.state === 'up') && condition(workers) && workers;
    },
    { what: 'all workers', ...options },
  );

// What "within a second" may take in milliseconds: that, but on a machine where many more want to run than can.
export const aSecond = () => 1000 * Math.max(1, loadavg()[0] / (3 * availableParallelism()));

// {p50, p99, max} of a list of milliseconds, for people.
export function figures(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] * 10) / 10;
  return { n: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) };
}

// The programs of a house by themselves, for tests that kill them and start them when they want.
export async function startParts({ policy, directory, controlArgs = [], workers = 2 }) {
  const home = temporaryDirectory('fl-');
  mkdirSync(path.join(home, 'run'), { mode: 0o700 });
  const start = {
    control: () => startProcess('fairlead-controlplane', ['--home', home, ...controlArgs], { readyPattern: /event=started /, readyFrom: 'stderr' }),
    node: (listen = '127.0.0.1:0') =>
      startProcess('fairlead-dataplane', ['--home', home, '--listen', listen, '--operations', '127.0.0.1:0', '--workers', workers], { readyPattern: /event=node\.listening address=(\S+)/, readyFrom: 'stderr' }),
    prober: () => startProcess('fairlead-prober', ['--home', home], { readyPattern: /event=prober\.started/, readyFrom: 'stderr' }),
  };
  const parts = { control: await start.control() };
  const asker = await startAsker(home);
  if (policy) await asker.must('policy.push', { bundle: bundleOf(`schema: fairlead/1\nkind: policy\n${policy}\n`) });
  await asker.must('teams.apply', { bundle: bundleOf(`schema: fairlead/1\nkind: directory\n${directory}\n`, 'directory.yaml') });
  const house = {
    home,
    asker,
    parts,
    start: async (name, ...more) => (parts[name] = await start[name](...more)),
    // Waits for its end, not for that of its output: a master's workers write on.
    kill: async (name) => {
      const { child } = parts[name];
      child.kill('SIGKILL');
      await waitFor(() => child.signalCode !== null, { everyMs: 1, what: `the end of ${name}` });
    },
    request: (where, options) => request(`http://${readFileSync(path.join(home, 'run/listen'), 'utf8').split('\n', 1)[0]}${where}`, options),
    status: async () => JSON.parse((await request(`http://${readFileSync(path.join(home, 'run/operations'), 'utf8').trim()}/status`, { method: 'GET' })).text),
  };
  return house;
}

// A key made here, its SHA-256 sent, as the CLI does.
export async function createKey(house) {
  const key = `fl-${[...randomBytes(43)].map((byte) => '23456789abcdefghijkmnpqrstuvwxyz'[byte % 32]).join('')}`;
  await house.asker.must('keys.create', { team: 't', hash: createHash('sha256').update(key).digest('hex'), hint: key.slice(-4) });
  return key;
}
