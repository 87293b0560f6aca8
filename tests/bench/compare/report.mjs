// From samples to tables, verdicts, CSV and plots.
import { transports } from './gateways.mjs';
import { bars, lines } from './svg.mjs';
import { spread } from './stats.mjs';

const number = (value, digits = 1) => (value === undefined ? 'n/a' : value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }));
const short = (value) => number(value, Math.abs(value) >= 100 ? 0 : 1);
const range = (of, digits) => (of ? `${number(of.q1, digits)}..${number(of.q3, digits)}` : '');

// A table is {title, head, rows}, all of texts; the first column stands to the left, the others to the right.
export function asText({ title, head, rows }) {
  const all = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...all.map((row) => row[i].length)));
  const body = all.map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ').trimEnd());
  return `${title}\n${body.join('\n')}\n`;
}

export function asMarkdown({ title, head, rows }) {
  const line = (cells) => `| ${cells.join(' | ')} |`;
  return `### ${title}\n\n${[line(head), line(head.map((_, i) => (i === 0 ? '---' : '---:'))), ...rows.map(line)].join('\n')}\n`;
}

const cellName = ({ work, transport }) => `${work}, ${transports[transport]}`;
const gatewaysOf = (samples, what) => ['fairlead', 'haproxy', 'nginx', 'portkey'].filter((gateway) => samples.where({ what, gateway }).length > 0);
const cellsOf = (samples, what) => [...new Map(samples.where({ what }).map(({ work, transport }) => [`${work} ${transport}`, { work, transport }])).values()];
const absent = ({ transport }, gateway) => (transport === 'tls-client' && gateway === 'fairlead' ? 'not available' : 'n/a');

function cpuTable(samples) {
  const names = gatewaysOf(samples, 'cpu');
  const of = (cell, gateway) => samples.spread({ what: 'cpu', ...cell, gateway });
  const ratio = (cell) => samples.ratio({ what: 'cpu', ...cell, gateway: 'fairlead' }, { what: 'cpu', ...cell, gateway: 'haproxy' });
  return {
    title: 'CPU microseconds per request (medians of rounds; what is related is related round by round)',
    head: ['', ...names, 'fairlead/haproxy', 'quartiles'],
    rows: cellsOf(samples, 'cpu').map((cell) => [cellName(cell), ...names.map((name) => (of(cell, name) ? short(of(cell, name).median) : absent(cell, name))), number(ratio(cell)?.median, 2), range(ratio(cell), 2)]),
  };
}

function rateTable(samples) {
  const names = gatewaysOf(samples, 'rate');
  const of = (cell, gateway) => {
    const rate = samples.spread({ what: 'rate', ...cell, gateway });
    return rate ? `${number(rate.median, 0)} (${Math.round(samples.spread({ what: 'busy', ...cell, gateway }).median * 100)}%)` : absent(cell, gateway);
  };
  return {
    title: 'Requests per second, closed loop, and how busy the gateway kept its core (below 100% the load was the limit)',
    head: ['', ...names],
    rows: cellsOf(samples, 'rate').map((cell) => [cellName(cell), ...names.map((name) => of(cell, name))]),
  };
}

function helpersTable(samples) {
  const helpers = ['master', 'control plane'];
  const of = (cell, who) => samples.spread({ what: `cpu of ${who}`, ...cell, gateway: 'fairlead' });
  return {
    title: "CPU microseconds per request of Fairlead's other processes (records, metrics, tables), not in the table above",
    head: ['', ...helpers],
    rows: cellsOf(samples, 'cpu of control plane').map((cell) => [cellName(cell), ...helpers.map((who) => number(of(cell, who)?.median, 2))]),
  };
}

const percentiles = ['p50', 'p99', 'p999'];

function latencyTable(samples, what, title) {
  const names = gatewaysOf(samples, `${what} p50`);
  const of = (cell, gateway) => percentiles.map((share) => samples.spread({ what: `${what} ${share}`, ...cell, gateway })?.median);
  const cell_ = (cell, gateway) => (of(cell, gateway)[0] === undefined ? absent(cell, gateway) : of(cell, gateway).map((value) => number(value, 0)).join(' / '));
  return { title, head: ['', ...names], rows: cellsOf(samples, `${what} p50`).map((cell) => [cellName(cell), ...names.map((name) => cell_(cell, name))]) };
}

function memoryTable(samples) {
  const names = gatewaysOf(samples, 'rest');
  const rest = (gateway) => number(samples.spread({ what: 'rest', transport: 'plain', gateway }).median / 2 ** 20);
  const rows = cellsOf(samples, 'stream').map((cell) => [
    `KiB per stream, ${Number(cell.work).toLocaleString('en')} open, ${transports[cell.transport]}`,
    ...names.map((gateway) => {
      const of = samples.spread({ what: 'stream', ...cell, gateway });
      return of ? number(of.median / 1024) : absent(cell, gateway);
    }),
  ]);
  return { title: 'Memory of the gateway process (proportional set size, without the kernel\'s buffers)', head: ['', ...names], rows: [['MiB at rest', ...names.map(rest)], ...rows] };
}

function startupTable(samples) {
  const names = gatewaysOf(samples, 'startup ms');
  return { title: 'Milliseconds from exec to the first served request', head: ['', ...names], rows: [['median', ...names.map((gateway) => short(samples.spread({ what: 'startup ms', gateway }).median))]] };
}

function switchTable(samples) {
  const of = (what) => samples.spread({ what });
  const served = (name, what) => [name, number(of(what).median), range(of(what), 1), number(of(what).max)];
  return {
    title: 'Milliseconds from asking until the last of two workers serves the new table',
    head: ['', 'median', 'quartiles', 'most'],
    rows: [served('policy push', 'push ms'), served('rollback', 'rollback ms')],
  };
}

function switchLatencyTable(samples) {
  const row = (name, what) => [name, ...percentiles.map((share) => number(samples.spread({ what: `${what} latency ${share}` }).median, 0))];
  return { title: 'Microseconds of latency at 2,000 requests/s, no request failing', head: ['', 'p50', 'p99', 'p99.9'], rows: [row('without switches', 'quiet'), row('during 10 switches a second, 100 in all', 'switching')] };
}

const sizesOf = (samples) => [...new Set(samples.where({ what: 'scale cpu' }).map(({ work }) => work))];

function scaleTable(samples) {
  const of = (what, work, digits, unit = 1) => number(samples.spread({ what, work })?.median / unit, digits);
  return {
    title: 'Tables of different sizes; every request another route and another key',
    head: ['', 'CPU us per request', 'worker MiB', 'key change ms', 'key change bytes'],
    rows: sizesOf(samples).map((size) => [size, of('scale cpu', size, 1), of('scale memory', size, 1, 2 ** 20), of('key change ms', size, 1), of('key change bytes', size, 0)]),
  };
}

// ---- what issue 3 asks for ----

const cpuOf = (work, transport) => (gateway) => ({ what: 'cpu', work, transport, gateway });
const addedOf = (work, transport) => (gateway) => ({ what: 'added p99', work, transport, gateway });

// Round by round, as the CPU figures are taken side by side.
const ratio = (of, than) => (samples) => samples.ratio(of('fairlead'), of(than));

// Of medians: differences of percentiles may come near nothing in one round.
function quotient(of, than) {
  return (samples) => {
    const [one, other] = [of('fairlead'), of(than)].map((key) => samples.spread(key));
    return one && other && other.median > 0 ? { median: one.median / other.median, q1: one.q1 / other.median, q3: one.q3 / other.median } : undefined;
  };
}

const kibPerStream = (transport) => (samples) => {
  const rows = samples.where({ what: 'stream', transport, gateway: 'fairlead' });
  return spread(rows.map(({ value }) => value / 1024));
};

function moreThanSmallest(samples) {
  const sizes = sizesOf(samples);
  if (sizes.length < 2) return undefined;
  const small = new Map(samples.where({ what: 'scale cpu', work: sizes[0] }).map(({ round, value }) => [round, value]));
  return spread(samples.where({ what: 'scale cpu', work: sizes.at(-1) }).map(({ round, value }) => value - small.get(round)));
}

export const targets = [
  { text: "CPU per request, small unary / haproxy's", of: ratio(cpuOf('unary', 'plain'), 'haproxy'), most: 0.9 },
  { text: "CPU per request, small unary, TLS to upstream / haproxy's", of: ratio(cpuOf('unary', 'tls-up'), 'haproxy'), most: 1 },
  { text: "CPU per request, small unary / portkey's", of: ratio(cpuOf('unary', 'plain'), 'portkey'), most: 0.02 },
  { text: "added p99, small unary / haproxy's", of: quotient(addedOf('unary', 'plain'), 'haproxy'), most: 1.2 },
  { text: "added p99, small unary, TLS to upstream / haproxy's", of: quotient(addedOf('unary', 'tls-up'), 'haproxy'), most: 1.2 },
  { text: "CPU per request, 200 KB prompt / haproxy's", of: ratio(cpuOf('prompt', 'plain'), 'haproxy'), most: 1.3 },
  { text: "CPU per event, stream at 2 ms / haproxy's", of: ratio(cpuOf('pace', 'plain'), 'haproxy'), most: 1.3 },
  { text: "CPU per event, stream at full speed / haproxy's", of: ratio(cpuOf('stream', 'plain'), 'haproxy'), most: 1.3 },
  { text: 'KiB per open plaintext stream', of: kibPerStream('plain'), most: 24 },
  { text: 'CPU us more per request with 100,000 routes and 1,000,000 keys than with ten', of: moreThanSmallest, most: 2 },
];

// [{text, got: {median, q1, q3}, most, met}] of the targets that were measured.
export const judge = (samples) =>
  targets.flatMap(({ text, of, most }) => {
    const got = of(samples);
    return got ? [{ text, got, most, met: got.median <= most }] : [];
  });

function targetTable(samples) {
  const rows = judge(samples).map(({ text, got, most, met }) => [text, number(got.median, 3), range(got, 3), String(most), met ? 'met' : 'MISSED']);
  return { title: 'Targets', head: ['', 'measured', 'quartiles', 'at most', ''], rows };
}

// Those that the samples can fill.
export function tables(samples) {
  const has = (what) => samples.where({ what }).length > 0;
  return [
    has('cpu') && cpuTable(samples),
    has('rate') && rateTable(samples),
    has('cpu of control plane') && helpersTable(samples),
    has('added p50') && latencyTable(samples, 'added', 'Added latency in microseconds, p50 / p99 / p99.9, open loop; to the last byte'),
    has('added first p50') && latencyTable(samples, 'added first', 'The same of streams, to the first token'),
    has('rest') && memoryTable(samples),
    has('startup ms') && startupTable(samples),
    has('push ms') && switchTable(samples),
    has('push ms') && switchLatencyTable(samples),
    has('scale cpu') && scaleTable(samples),
    judge(samples).length > 0 && targetTable(samples),
  ].filter(Boolean);
}

// ---- files ----

const columns = ['what', 'work', 'transport', 'gateway', 'round', 'value'];
const quoted = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

// Every figure that was measured, as RFC 4180 has it.
export const csv = (samples) => [columns, ...samples.rows.map((row) => columns.map((name) => quoted(String(row[name] ?? ''))))].map((cells) => `${cells.join(',')}\r\n`).join('');

function cpuPlot(samples, transport) {
  const series = gatewaysOf(samples, 'cpu');
  const cells = cellsOf(samples, 'cpu').filter((cell) => cell.transport === transport);
  const values = cells.map((cell) => series.map((gateway) => samples.spread({ what: 'cpu', ...cell, gateway })));
  return bars({ title: `CPU per request, ${transports[transport]}`, unit: 'microseconds, logarithmic', groups: cells.map(({ work }) => work), series, values, logarithmic: true });
}

function latencyPlot(samples) {
  const series = gatewaysOf(samples, 'added p50').filter((name) => name !== 'portkey');
  const values = series.map((gateway) => percentiles.map((share) => samples.spread({ what: `added ${share}`, work: 'unary', transport: 'plain', gateway })?.median));
  return lines({ title: 'Added latency, small unary, plain', unit: 'microseconds', places: ['p50', 'p99', 'p99.9'], series, values });
}

function memoryPlot(samples) {
  const cells = cellsOf(samples, 'stream');
  const series = gatewaysOf(samples, 'stream');
  const kib = (key) => {
    const of = samples.spread(key);
    return of && { median: of.median / 1024, q1: of.q1 / 1024, q3: of.q3 / 1024 };
  };
  const groups = cells.map(({ work, transport }) => `${Number(work).toLocaleString('en')} open\n${transports[transport]}`);
  return bars({ title: 'Memory per open stream', unit: 'KiB', groups, series, values: cells.map((cell) => series.map((gateway) => kib({ what: 'stream', ...cell, gateway }))) });
}

function scalePlot(samples) {
  const sizes = sizesOf(samples);
  return lines({ title: 'CPU per request by size of the table', unit: 'microseconds', places: sizes.map((size) => size.replace(', ', '\n')), series: ['fairlead'], values: [sizes.map((work) => samples.spread({ what: 'scale cpu', work }).median)] });
}

// {name: svg}
export function plots(samples) {
  const has = (what) => samples.where({ what }).length > 0;
  const drawn = {};
  for (const transport of new Set(cellsOf(samples, 'cpu').map((cell) => cell.transport))) drawn[`cpu-${transport}.svg`] = cpuPlot(samples, transport);
  if (samples.where({ what: 'added p50', work: 'unary', transport: 'plain' }).length > 0) drawn['latency.svg'] = latencyPlot(samples);
  if (has('stream')) drawn['memory.svg'] = memoryPlot(samples);
  if (has('scale cpu')) drawn['scale.svg'] = scalePlot(samples);
  return drawn;
}
