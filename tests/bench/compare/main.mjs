// tests/bench/run's second half: what is measured, in which order, and what is made of it. See `tests/bench/run --help`.
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { stopAll, temporaryDirectory } from '../../system/support/process.mjs';
import { checkContents, checkFairlead } from './checks.mjs';
import { cpu } from './cpu.mjs';
import { starters, startUpstreams, transports } from './gateways.mjs';
import { latency } from './latency.mjs';
import { machine } from './machine.mjs';
import { memories } from './memory.mjs';
import { makeCertificate, results } from './places.mjs';
import { asMarkdown, asText, csv, plots, tables } from './report.mjs';
import { scale } from './scale.mjs';
import { startups } from './startup.mjs';
import { Samples } from './stats.mjs';
import { tableSwitches } from './switches.mjs';
import { works } from './work.mjs';

const sections = { cpu, latency, memory: memories, startup: startups, switches: tableSwitches, scale };
const list = (names) => Object.keys(names).join(', ');

const help = `usage: tests/bench/run [options]

Measures the same work through Fairlead, HAProxy, nginx and Portkey's gateway, side by side and interleaved, one worker each, with the
same simulated upstream and the same load. Installs what it needs (Debian packages, npm packages below build/bench), builds
the release preset, prints tables of medians and ratios, and writes CSV, SVG and summary.md into tests/bench/results/.

  --quick          CPU per request against HAProxy only: a minute
  --only A,B       only these sections: ${list(sections)};
                   or only this work in cpu and latency: ${list(works)}, or one with a transport
                   (${list(transports)}), as in unary/tls-up
  --gateways A,B   of ${list(starters)}
  --rounds N       how often each figure is taken; medians are over rounds (default 4)
  --seconds N      how long one load runs (default 1)
  --results DIR    where files are written; without it only a whole run writes any, into tests/bench/results
  --help           print this

Gateways run on one core, everything else on the other. Times of a machine that does other things meanwhile mean little;
CPU time per request, and still more its ratios, mean something on any.
`;

const usage = (why) => {
  process.stderr.write(`run: ${why}\n`);
  process.exit(2);
};

function options() {
  const kinds = { quick: 'boolean', only: 'string', gateways: 'string', rounds: 'string', seconds: 'string', results: 'string', help: 'boolean' };
  let given;
  try {
    given = parseArgs({ options: Object.fromEntries(Object.entries(kinds).map(([name, type]) => [name, { type }])) }).values;
  } catch (error) {
    usage(error.message);
  }
  const number = (name, otherwise) => (given[name] === undefined ? otherwise : Number(given[name]) > 0 ? Number(given[name]) : usage(`--${name} ${given[name]}: not a number above 0`));
  const names = (given.gateways ?? (given.quick ? 'fairlead,haproxy' : Object.keys(starters).join())).split(',');
  for (const name of names) if (!starters[name]) usage(`--gateways: there is no ${name}`);
  const only = given.only?.split(',') ?? [];
  const named = Object.keys(sections).filter((section) => only.includes(section));
  const rest = only.filter((name) => !sections[name]);
  for (const name of rest) if (!works[name.split('/')[0]] || (name.includes('/') && !transports[name.split('/')[1]])) usage(`--only: there is no ${name}`);
  return {
    help: given.help,
    sections: given.quick ? ['cpu'] : named.length > 0 ? named : rest.length > 0 ? ['cpu', 'latency'] : Object.keys(sections),
    cells: cells(rest, given.quick),
    names,
    rounds: Math.ceil(number('rounds', 4)),
    seconds: number('seconds', 1),
    results: given.results ?? (given.quick || given.only || given.gateways ? undefined : results),
  };
}

// [{work, transport}] that cpu and latency are about.
function cells(only, quick) {
  const all = Object.keys(works).flatMap((work) => Object.keys(transports).map((transport) => ({ work, transport })));
  return all.filter(({ work, transport }) => {
    if (only.length > 0) return only.some((name) => name === work || name === `${work}/${transport}`);
    return !quick || (work !== 'pace' && transport !== 'tls-client');
  });
}

function write(directory, about, samples) {
  mkdirSync(directory, { recursive: true });
  writeFileSync(path.join(directory, 'figures.csv'), csv(samples));
  for (const [name, svg] of Object.entries(plots(samples))) writeFileSync(path.join(directory, name), svg);
  const where = about.map(([name, value]) => `* ${name}: ${value}`).join('\n');
  writeFileSync(path.join(directory, 'summary.md'), `# Fairlead beside others\n\nWritten by \`tests/bench/run\`.\n\n${where}\n\n${tables(samples).map(asMarkdown).join('\n')}`);
}

const gateways = [];

// What could not be measured is said, is absent from the tables, and makes the run end with 1; the rest goes on.
function wrong(why) {
  process.stderr.write(`WRONG: ${why}\n`);
  process.exitCode = 1;
}

async function main() {
  const wanted = options();
  if (wanted.help) return void process.stdout.write(help);
  const say = (text) => process.stderr.write(`${text}\n`);
  const directory = temporaryDirectory('fairlead-bench-');
  makeCertificate(directory);
  const upstreams = await startUpstreams(directory);
  for (const name of wanted.names) gateways.push(await starters[name](directory, directory, upstreams));
  const about = machine(gateways);
  say(about.map(([name, value]) => `${name.padEnd(10)}${value}`).join('\n'));
  const fairlead = gateways.find(({ name }) => name === 'fairlead');
  if (fairlead) await checkFairlead(fairlead);
  for (const gateway of gateways) await checkContents(gateway, upstreams, wanted.cells);
  const samples = new Samples();
  const common = { ...wanted, gateways, starters, directory, upstreams, samples, say, wrong };
  for (const section of wanted.sections) await sections[section](common).catch((error) => wrong(`${section}: ${error.stack}`));
  process.stdout.write(`\n${tables(samples).map(asText).join('\n')}`);
  if (!wanted.results) return;
  write(wanted.results, about, samples);
  say(`\nwritten: ${wanted.results}/summary.md, figures.csv, *.svg`);
}

// Masters are asked to end, and take their workers with them: killed, they would leave those behind.
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143]]) {
  process.on(signal, () => stopAll().catch(() => {}).finally(() => process.exit(code)));
}
try {
  await main();
} catch (error) {
  wrong(error.stack);
}
for (const gateway of gateways.reverse()) await gateway.stop();
// What a failed part has left running ends here, and complains of that in vain.
await stopAll().catch((error) => process.exitCode || Promise.reject(error));
process.exit();
