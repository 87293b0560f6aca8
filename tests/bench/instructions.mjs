// What tests/bench/instructions runs; options and reasons stand there.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = path.dirname(fileURLToPath(import.meta.url));
const release = path.resolve(process.env.FAIRLEAD_BIN ?? path.join(here, '../../build/release/bin'));
const ceilingsFile = path.join(here, 'ceilings');
const { values: options } = parseArgs({ options: { record: { type: 'boolean' }, profiles: { type: 'string' }, help: { type: 'boolean' } } });
if (options.help) {
  console.log(`usage: tests/bench/instructions [--record] [--profiles DIR]

Counts the instructions that a release worker spends on each kind of request, below callgrind, and fails above tests/bench/ceilings.

  --record        write the ceilings anew: what was counted, and a tenth more
  --profiles DIR  keep files for callgrind_annotate`);
  process.exit(0);
}
const MANY_ROUTES = 100_000;
const ROOM = 1.1; // from what was counted to the ceiling that --record writes

const preload = path.join(release, '../tests/bench/libunder_callgrind.so');
const dumpsIn = mkdtempSync(path.join(tmpdir(), 'fl-instructions-'));
process.on('exit', () => rmSync(dumpsIn, { recursive: true, force: true }));
process.env.FAIRLEAD_BIN = release;
const { startFairlead } = await import('../system/support/fairlead.mjs');
const { runLoadgen, stopAll } = await import('../system/support/process.mjs');

// Each on one connection. `less`: the same with 100 events fewer; what is told is the difference, per event.
const small = { promptBytes: 1400 };
const scenarios = {
  small: { what: 'a small request (1.7 KB), answered whole', requests: 200, load: small },
  large: { what: 'a prompt of 200 KB, answered whole', requests: 40, load: { promptBytes: 200_000 } },
  event: {
    what: 'an event of a stream',
    requests: 40,
    load: { prompt: '[[fake tokens=200]]', maxTokens: 1000, stream: true },
    less: { prompt: '[[fake tokens=100]]' },
  },
  routes: { what: `a small request among ${MANY_ROUTES} routes`, routes: MANY_ROUTES, requests: 200, load: small },
};

async function start(routes) {
  const house = await startFairlead({
    fakes: [{ models: 'm', keep: 0 }],
    workers: 1,
    env: { LD_PRELOAD: preload, UNDER_CALLGRIND: dumpsIn },
    node: 'limits: {watchdog: 0s}',
    policy: ([fake]) => `
defaults: {probe: {how: none}}
providers:
  p: {preset: vllm, base_url: "${fake.baseUrl}"}
models:
  p/m: {price: {input: 1, output: 1}}
routes:
${Array.from({ length: routes }, (_, i) => `  route-${i}: {tiers: [{models: [p/m]}]}`).join('\n')}`,
  });
  const { key } = await house.createKey();
  const worker = String((await house.status()).workers[0].pid);
  const control = (...args) => execFileSync('callgrind_control', [...args, worker], { stdio: 'pipe' });
  let dumps = 0;
  const send = async (load, requests) => {
    const common = { url: `${house.api}/v1/chat/completions`, key, model: `route-${routes >> 1}`, connections: 1 };
    const { exitCode, first_failure: failure } = await runLoadgen({ ...common, requests, ...load });
    if (exitCode !== 0) throw new Error(`a request failed: ${failure}`);
  };
  return {
    stop: house.stop,
    count: async (name, load, requests) => {
      await send(load, 20); // pools and caches are filled, code is translated
      control('-i', 'on');
      control('-z');
      await send(load, requests);
      control('-d');
      control('-i', 'off');
      const profile = readFileSync(`${dumpsIn}/out.${worker}.${++dumps}`, 'utf8');
      if (options.profiles) writeFileSync(path.join(options.profiles, `${name}.${dumps}`), profile);
      return Number(profile.match(/^totals: (\d+)/m)[1]) / requests;
    },
  };
}

const counted = {};
if (options.profiles) mkdirSync(options.profiles, { recursive: true });
try {
  for (const routes of [10, MANY_ROUTES]) {
    const house = await start(routes);
    for (const [name, scenario] of Object.entries(scenarios)) {
      if ((scenario.routes ?? 10) !== routes) continue;
      counted[name] = await house.count(name, scenario.load, scenario.requests);
      if (scenario.less) counted[name] = (counted[name] - (await house.count(name, { ...scenario.load, ...scenario.less }, scenario.requests))) / 100;
    }
    await house.stop();
  }
} finally {
  await stopAll(); // whatever happened: a node ends its children only when it is asked to
}

const version = (...command) => execFileSync(command[0], command.slice(1), { encoding: 'utf8' }).trim().split('\n')[0];
if (options.record) {
  const packages = ['libc6', 'libuv1', 'libssl3', 'liblmdb0', 'libprotobuf-c1', 'gcc', 'valgrind'];
  const versions = execFileSync('dpkg-query', ['-W', '-f', '${Package} ${Version}, ', ...packages], { encoding: 'utf8' }).replace(/, $/, '');
  writeFileSync(
    ceilingsFile,
    `# Instructions of a release worker's user space that tests/bench/instructions allows: a tenth above what was counted with
# ${versions},
# on ${version('uname', '-m')}. Written by tests/bench/instructions --record.
${Object.keys(scenarios).map((name) => `${name} ${Math.ceil(counted[name] * ROOM)}`).join('\n')}
`,
  );
}
const ceilings = Object.fromEntries(
  readFileSync(ceilingsFile, 'utf8')
    .split('\n')
    .filter((line) => line && !line.startsWith('#'))
    .map((line) => line.split(' ')),
);
let over = 0;
console.log(`${'instructions for'.padEnd(46)} counted  ceiling`);
for (const [name, { what }] of Object.entries(scenarios)) {
  const bad = !(counted[name] <= Number(ceilings[name]));
  over += bad;
  console.log(`${what.padEnd(46)} ${counted[name].toFixed(0).padStart(7)}  ${String(ceilings[name]).padStart(7)}${bad ? '  OVER' : ''}`);
}
process.exitCode = over ? 1 : 0;
