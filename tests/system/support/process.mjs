// Starts and stops the programs that a system test is about. Every process started here is stopped, by its pid, when
// stopAll() runs (the tests call it from `after`), and at the latest when the test process ends.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
export const binDir = process.env.FAIRLEAD_BIN ?? path.join(repository, 'build/dev/bin');
export const bin = (name) => path.join(binDir, name);

const lsanOptions = `suppressions=${path.join(repository, 'tests/system/support/lsan.supp')}:print_suppressions=0`;
const running = new Set();
const directories = new Set();

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  for (const directory of directories) rmSync(directory, { recursive: true, force: true });
});

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Asks predicate until it gives something truthy, and returns that. For conditions that nobody announces; what is announced is
// better awaited as it is.
export async function waitFor(predicate, { timeoutMs = 10_000, everyMs = 10, what = 'a condition' } = {}) {
  const deadline = Date.now() + timeoutMs;
  let last;
  for (;;) {
    try {
      const value = await predicate();
      if (value) return value;
      last = value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > deadline) {
      throw new Error(`waited ${timeoutMs} ms in vain for ${what}; last: ${last instanceof Error ? last.message : JSON.stringify(last)}`);
    }
    await sleep(everyMs);
  }
}

// A directory that is removed when the test process ends.
export function temporaryDirectory(prefix = 'fairlead-') {
  const directory = mkdtempSync(path.join(tmpdir(), prefix));
  directories.add(directory);
  return directory;
}

export class Process {
  constructor(name, args, { env = {}, cwd } = {}) {
    this.stdout = '';
    this.stderr = '';
    this.name = path.basename(name);
    this.watchers = new Set();
    this.child = spawn(name.includes('/') ? name : bin(name), args.map(String), {
      env: { LSAN_OPTIONS: lsanOptions, ...process.env, ...env },
      cwd,
      stdio: ['pipe', 'pipe', 'pipe'],
    });
    running.add(this.child);
    for (const stream of ['stdout', 'stderr']) {
      this.child[stream].setEncoding('utf8');
      this.child[stream].on('data', (text) => {
        this[stream] += text;
        this.#look();
      });
    }
    // {code, signal}; `close` comes after the last output.
    this.exited = new Promise((resolve) => {
      this.child.on('error', (error) => {
        this.failure = error;
        resolve({ code: null, signal: null, error });
      });
      this.child.on('close', (code, signal) => resolve({ code, signal }));
    }).then((end) => {
      running.delete(this.child);
      this.end = end;
      this.#look();
      return end;
    });
  }

  get pid() {
    return this.child.pid;
  }

  #look() {
    for (const watcher of this.watchers) watcher();
  }

  // Resolves with the match of pattern in stdout (or stderr); rejects when the process ends or the time is over before.
  waitForOutput(pattern, { from = 'stdout', timeoutMs = 10_000 } = {}) {
    return new Promise((resolve, reject) => {
      const settle = (action, value) => {
        clearTimeout(timer);
        this.watchers.delete(watch);
        action(value);
      };
      const fail = (why) => settle(reject, new Error(`${this.name}: ${why} before ${pattern}\nstdout: ${this.stdout}\nstderr: ${this.stderr}`));
      const watch = () => {
        const match = this[from].match(pattern);
        if (match) settle(resolve, match);
        else if (this.end) fail(this.failure ? this.failure.message : `ended with ${this.end.code ?? this.end.signal}`);
      };
      const timer = setTimeout(() => fail(`${timeoutMs} ms passed`), timeoutMs);
      this.watchers.add(watch);
      watch();
    });
  }

  kill(signal) {
    if (!this.end) this.child.kill(signal);
    return this.exited;
  }

  // Asks it to end, and makes it end when it does not within graceMs. Returns {code, signal}.
  async stop({ signal = 'SIGTERM', graceMs = 10_000 } = {}) {
    if (this.end) return this.end;
    const timer = setTimeout(() => this.child.kill('SIGKILL'), graceMs);
    this.child.kill(signal);
    const end = await this.exited;
    clearTimeout(timer);
    return end;
  }
}

const processes = new Set();

// Starts bin (a name in binDir, or a path) and, with readyPattern, waits until its output (readyFrom: stdout or stderr) matches; `ready`
// is then the match.
export async function startProcess(name, args = [], { env, cwd, readyPattern, readyFrom = 'stdout', timeoutMs = 10_000 } = {}) {
  const started = new Process(name, args, { env, cwd });
  processes.add(started);
  if (readyPattern) {
    try {
      started.ready = await started.waitForOutput(readyPattern, { from: readyFrom, timeoutMs });
    } catch (error) {
      await started.stop({ graceMs: 1000 });
      throw error;
    }
  }
  return started;
}

// Runs a program to its end: {code, signal, stdout, stderr}.
export async function run(name, args = [], { env, cwd, input, timeoutMs = 60_000 } = {}) {
  const started = new Process(name, args, { env, cwd });
  processes.add(started);
  const timer = setTimeout(() => started.child.kill('SIGKILL'), timeoutMs);
  started.child.stdin.on('error', () => {}); // it may end without reading
  started.child.stdin.end(input ?? '');
  const end = await started.exited;
  clearTimeout(timer);
  processes.delete(started);
  if (end.error) throw end.error;
  return { ...end, stdout: started.stdout, stderr: started.stderr };
}

const sanitizerReport = /(ERROR|WARNING|SUMMARY): \w*Sanitizer|runtime error:/;

// Stops all that startProcess started, the last first. Throws when one that still ran did not end with 0, or when a sanitizer
// complained in any of them: a leak or a crash at the end must not pass unseen.
export async function stopAll() {
  const complaints = [];
  for (const started of [...processes].reverse()) {
    const ran = !started.end;
    const { code, signal } = await started.stop();
    if ((ran && code !== 0) || sanitizerReport.test(started.stderr)) {
      complaints.push(`${started.name} (${started.pid}) ended with ${code ?? signal}\n${started.stderr.slice(-8192)}`);
    }
  }
  processes.clear();
  if (complaints.length > 0) throw new Error(complaints.join('\n'));
}

const dashed = (name) => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`).replaceAll('_', '-');

// {ttftMs: 5, strictModels: true} -> ['--ttft-ms', '5', '--strict-models']
export function toOptions(values) {
  return Object.entries(values).flatMap(([name, value]) => {
    if (value === undefined || value === false) return [];
    return value === true ? [`--${dashed(name)}`] : [`--${dashed(name)}`, String(value)];
  });
}

async function json(response) {
  const text = await response.text();
  if (!response.ok) throw new Error(`${response.url}: ${response.status} ${text}`);
  return JSON.parse(text);
}

// A simulated provider; options as in `fakellm --help`, in camelCase. Its control calls use their own connections.
export async function startFakellm(options = {}) {
  const started = await startProcess('fakellm', toOptions({ listen: '127.0.0.1:0', ...options }), { readyPattern: /^listening \S*:(\d+)$/m });
  const port = Number(started.ready[1]);
  const scheme = options.tlsCert ? 'https' : 'http';
  const url = `${scheme}://127.0.0.1:${port}`;
  const ask = (what, init) => fetch(`${url}/__fake/${what}`, { ...init, headers: { connection: 'close' } }).then(json);
  return {
    process: started,
    port,
    url,
    baseUrl: `${url}/v1`,
    config: (knobs) => ask('config', { method: 'POST', body: JSON.stringify(knobs) }),
    reset: () => ask('reset', { method: 'POST' }),
    stats: () => ask('stats'),
    requests: () => ask('requests'),
    stop: (how) => started.stop(how),
  };
}

// Runs loadgen with options in camelCase (or a ready list of arguments) and returns its summary, with its exit code.
export async function runLoadgen(options, { timeoutMs = 120_000 } = {}) {
  const args = Array.isArray(options) ? options : toOptions(options);
  const { code, signal, stdout, stderr } = await run('loadgen', args, { timeoutMs });
  if (code !== 0 && code !== 1) throw new Error(`loadgen ended with ${code ?? signal}: ${stderr}`);
  return { ...JSON.parse(stdout), exitCode: code };
}
