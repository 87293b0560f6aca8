// tests/bench/run's second half: what is measured, in which order, and what is made of it. See `tests/bench/run --help`.
import { parseArgs } from 'node:util';
import { stopAll, temporaryDirectory } from '../../system/support/process.mjs';
import { checkFairlead, checkContents } from './checks.mjs';
import { cpu } from './cpu.mjs';
import { makeCertificate, startFairlead, starters, startUpstreams, transports } from './gateways.mjs';
import { machine } from './machine.mjs';
import { cpuTable, judgeTable } from './report.mjs';
import { Samples } from './stats.mjs';
import { works } from './work.mjs';

const help = `usage: tests/bench/run [options]

Measures the same work through Fairlead, HAProxy, nginx and Portkey's gateway, side by side and interleaved, one worker each, with the
same simulated upstream and the same load. Installs what it needs (Debian packages, npm packages below build/bench), builds
the release preset, prints tables of medians and ratios, and writes CSV and SVG into tests/bench/results/.

  --quick          CPU per request against HAProxy only: a couple of minutes
  --only A,B       only these: ${Object.keys(works).join(', ')} or one of them with a transport, as in unary/tls-up
                   (${Object.keys(transports).join(', ')})
  --gateways A,B   of ${Object.keys(starters).join(', ')}
  --rounds N       how often each figure is taken; medians are over rounds (default 5)
  --seconds N      how long one load runs (default 1.2)
  --help           print this
`;

const usage = (why) => {
  process.stderr.write(`run: ${why}\n`);
  process.exit(2);
};

function options() {
  let given;
  try {
    const option = (type) => ({ type });
    given = parseArgs({ options: { quick: option('boolean'), only: option('string'), gateways: option('string'), rounds: option('string'), seconds: option('string'), help: option('boolean') } }).values;
  } catch (error) {
    usage(error.message);
  }
  const number = (name, otherwise) => (given[name] === undefined ? otherwise : Number(given[name]) > 0 ? Number(given[name]) : usage(`--${name} ${given[name]}: not a number above 0`));
  const names = (given.gateways ?? (given.quick ? 'fairlead,haproxy' : Object.keys(starters).join())).split(',');
  for (const name of names) if (!starters[name]) usage(`--gateways: there is no ${name}`);
  return { ...given, gateways: names, rounds: number('rounds', 5), seconds: number('seconds', 1.2), only: given.only?.split(',') };
}

// [{work, transport}] that this run is about.
function chosen({ quick, only }) {
  const all = Object.keys(works).flatMap((work) => Object.keys(transports).map((transport) => ({ work, transport })));
  const wanted = all.filter(({ work, transport }) => {
    if (only) return only.some((name) => name === work || name === `${work}/${transport}`);
    return !quick || (work !== 'pace' && transport !== 'tls-client');
  });
  return wanted.length > 0 ? wanted : usage(`--only ${only}: there is no such work`);
}

const gateways = [];

async function main() {
  const wanted = options();
  if (wanted.help) return process.stdout.write(help);
  const cells = chosen(wanted);
  const say = (text) => process.stderr.write(`${text}\n`);
  const directory = temporaryDirectory('fairlead-bench-');
  makeCertificate(directory);
  const upstreams = await startUpstreams(directory);
  for (const name of wanted.gateways) gateways.push(await starters[name](directory, upstreams));
  const about = machine(gateways);
  say(about.map(([name, value]) => `${name.padEnd(12)}${value}`).join('\n'));
  for (const gateway of gateways) await checkContents(gateway, upstreams, cells);
  const fairlead = gateways.find(({ name }) => name === 'fairlead');
  if (fairlead) await checkFairlead(fairlead);
  const samples = new Samples();
  await cpu({ ...wanted, cells, gateways, upstreams, samples, say });
  const names = gateways.map(({ name }) => name);
  process.stdout.write(`${cpuTable(samples, cells, names)}\n\n${judgeTable(samples)}\n`);
}

process.on('SIGINT', () => process.exit(130));
process.on('SIGTERM', () => process.exit(143));
try {
  await main();
} catch (error) {
  process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
for (const gateway of gateways.reverse()) await gateway.stop();
await stopAll();
