// Tables for people, and what the issue asks for.
import { transports } from './gateways.mjs';
import { works } from './work.mjs';

const number = (value, digits = 1) => (value === undefined ? 'n/a' : value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits }));

// A table of texts: the first column to the left, the others to the right.
export function layout(rows) {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  return rows.map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join('  ').trimEnd()).join('\n');
}

// CPU microseconds per request, median and quartiles, and Fairlead's share of HAProxy's.
export function cpuTable(samples, cells, names) {
  const rows = [['CPU us per request', ...names, 'fairlead/haproxy', 'quartiles']];
  for (const { work, transport } of cells) {
    const of = (gateway) => samples.spread({ what: 'cpu', work, transport, gateway });
    const ratio = samples.ratio({ what: 'cpu', work, transport, gateway: 'fairlead' }, { what: 'cpu', work, transport, gateway: 'haproxy' });
    rows.push([`${work}, ${transports[transport]}`, ...names.map((name) => number(of(name)?.median)), number(ratio?.median, 2), ratio ? `${number(ratio.q1, 2)}..${number(ratio.q3, 2)}` : '']);
  }
  return layout(rows);
}

const cpuOf = (work, transport) => (gateway) => ({ what: 'cpu', work, transport, gateway });

// What issue 3 asks for: a quotient of two figures of one run, or a difference or a figure by itself.
const targets = [
  { text: 'CPU per request, small unary', of: cpuOf('unary', 'plain'), than: 'haproxy', most: 0.9 },
  { text: 'CPU per request, small unary, TLS to upstream', of: cpuOf('unary', 'tls-up'), than: 'haproxy', most: 1.0 },
  { text: 'CPU per request, small unary', of: cpuOf('unary', 'plain'), than: 'portkey', most: 1 / 50 },
  { text: 'CPU per request, 200 KB prompt', of: cpuOf('prompt', 'plain'), than: 'haproxy', most: 1.3 },
  { text: 'CPU per event, stream at full speed', of: cpuOf('stream', 'plain'), than: 'haproxy', most: 1.3 },
  { text: 'CPU per event, stream at 2 ms', of: cpuOf('pace', 'plain'), than: 'haproxy', most: 1.3 },
];

// One row for each target that was measured: {text, got, spread, most, met}.
export function judge(samples) {
  return targets.flatMap(({ text, of, than, most }) => {
    const got = samples.ratio(of('fairlead'), of(than));
    return got ? [{ text: `${text}, of ${than}'s`, got: got.median, low: got.q1, high: got.q3, most, met: got.median <= most }] : [];
  });
}

export function judgeTable(samples) {
  const rows = judge(samples).map(({ text, got, low, high, most, met }) => [text, `${number(got, 3)}`, `${number(low, 3)}..${number(high, 3)}`, `${number(most, 2)}`, met ? 'met' : 'MISSED']);
  return layout([['Target', 'measured', 'quartiles', 'at most', ''], ...rows]);
}
