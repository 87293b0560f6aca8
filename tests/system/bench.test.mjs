// What tests/bench/run makes of figures: statistics, tables, verdicts, CSV and plots, on data that is fixed. It measures nothing here.
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { asMarkdown, asText, csv, judge, plots, tables } from '../bench/compare/report.mjs';
import { quantile, Samples, spread } from '../bench/compare/stats.mjs';
import { bars, lines, ticks } from '../bench/compare/svg.mjs';
import { repository, run } from './support/process.mjs';

const bench = path.join(repository, 'tests/bench/run');

// Fairlead at `us` and HAProxy at 20 in three rounds, of which the last is disturbed: both take twice as long.
function samplesOf(us, what = 'cpu') {
  const samples = new Samples();
  for (const [round, factor] of [[1, 1], [2, 1.1], [3, 2]]) {
    const cell = { what, work: 'unary', transport: 'plain' };
    samples.add({ ...cell, gateway: 'fairlead' }, round, us * factor);
    samples.add({ ...cell, gateway: 'haproxy' }, round, 20 * factor);
    samples.add({ ...cell, gateway: 'portkey' }, round, 2000 * factor);
  }
  return samples;
}

// Every element that is opened is closed, in order.
function assertXml(text) {
  const open = [];
  for (const [, close, name, self] of text.matchAll(/<(\/?)([a-z]+)(?:\s[^<>]*?)?(\/?)>/g)) {
    if (close) assert.equal(open.pop(), name);
    else if (!self) open.push(name);
  }
  assert.deepEqual(open, []);
  assert.doesNotMatch(text, /NaN|undefined|Infinity/);
}

test('quantiles are between values; spreads', () => {
  assert.equal(quantile([4, 1, 3, 2], 0.5), 2.5);
  assert.equal(quantile([5, 1], 0.25), 2);
  assert.equal(quantile([], 0.5), undefined);
  assert.deepEqual(spread([3, 1, 2]), { n: 3, median: 2, q1: 1.5, q3: 2.5, min: 1, max: 3 });
  assert.equal(spread([]), undefined);
});

test('ratios are taken round by round, and rounds that lack one side do not count', () => {
  const samples = samplesOf(10);
  const key = { what: 'cpu', work: 'unary', transport: 'plain' };
  const of = () => samples.ratio({ ...key, gateway: 'fairlead' }, { ...key, gateway: 'haproxy' });
  assert.deepEqual([of().n, of().min, of().max], [3, 0.5, 0.5]);
  samples.add({ ...key, gateway: 'fairlead' }, 4, 1000);
  assert.equal(of().n, 3);
});

test('a target is met up to its figure, and missed above it', () => {
  const verdicts = (us) => Object.fromEntries(judge(samplesOf(us)).map(({ text, met }) => [text, met]));
  assert.deepEqual(verdicts(18), { "CPU per request, small unary / haproxy's": true, "CPU per request, small unary / portkey's": true });
  assert.equal(verdicts(18.1)["CPU per request, small unary / haproxy's"], false);
  assert.equal(verdicts(41)["CPU per request, small unary / portkey's"], false);
  assert.deepEqual(judge(new Samples()), []);
});

test('differences and figures are judged, too', () => {
  const samples = new Samples();
  for (const [work, value] of [['10 routes, 10 keys', 20], ['100,000 routes, 1,000,000 keys', 21.5]]) samples.add({ what: 'scale cpu', work, gateway: 'fairlead' }, 1, value);
  samples.add({ what: 'stream', work: '1000', transport: 'plain', gateway: 'fairlead' }, 1, 25 * 1024);
  assert.deepEqual(judge(samples).map(({ got, most, met }) => [got.median, most, met]), [[25, 24, false], [1.5, 2, true]]);
});

test('tables for people and as Markdown', () => {
  const [table, targets] = tables(samplesOf(10));
  assert.deepEqual(table.head, ['', 'fairlead', 'haproxy', 'portkey', 'fairlead/haproxy', 'quartiles']);
  assert.deepEqual(table.rows, [['unary, plain', '11.0', '22.0', '2,200', '0.50', '0.50..0.50']]);
  assert.match(asText(table), /^CPU microseconds[^\n]*\n {14}fairlead {2}haproxy.*\nunary, plain {6}11\.0 {5}22\.0 /);
  assert.match(asMarkdown(table), /^### CPU .*\n\n\| {2}\| fairlead \|.*\n\| --- \| ---: \|.*\n\| unary, plain \| 11\.0 \|/);
  assert.match(asText(targets), /0\.500 +0\.500\.\.0\.500 +0\.9 +met/);
});

test('CSV holds each figure, quoted where it must be', () => {
  const samples = new Samples();
  samples.add({ what: 'scale cpu', work: '1,000 "routes"', gateway: 'fairlead' }, 2, 1.25);
  assert.equal(csv(samples), 'what,work,transport,gateway,round,value\r\nscale cpu,"1,000 ""routes""",,fairlead,2,1.25\r\n');
});

test('plots: axes start at nothing, bars stand in proportion, names are escaped', () => {
  assert.deepEqual(ticks(43), [0, 10, 20, 30, 40, 50]);
  assert.deepEqual(ticks(0.7), [0, 0.2, 0.4, 0.6, 0.8]);
  const of = (median) => ({ median, q1: median, q3: median });
  const svg = bars({ title: 'a < b & c', unit: 'us', groups: ['one\ntwo'], series: ['x', 'y', 'z'], values: [[of(10), of(20), undefined]] });
  assertXml(svg);
  assert.match(svg, /a &lt; b &amp; c, us/);
  const heights = [...svg.matchAll(/<rect x="[\d.]+" y="[\d.]+" width="[\d.]+" height="([\d.]+)" fill="#[0-9A-F]{6}"/g)].map(([, height]) => Number(height)).filter((height) => height > 12);
  assert.equal(heights.length, 2);
  assert.ok(Math.abs(heights[1] / heights[0] - 2) < 0.01, heights.join());
  assertXml(lines({ title: 't', unit: 'us', places: ['a', 'b'], series: ['s'], values: [[1, undefined]], logarithmic: true }));
  for (const drawn of Object.values(plots(samplesOf(10)))) assertXml(drawn);
  assert.deepEqual(Object.keys(plots(samplesOf(10))), ['cpu-plain.svg']);
});

test('--help says what it does and installs nothing; what it does not understand it refuses', async () => {
  const help = await run(bench, ['--help']);
  assert.deepEqual([help.code, help.stderr], [0, '']);
  for (const word of ['--quick', '--only', '--rounds', 'unary', 'tls-up', 'portkey', 'scale']) assert.ok(help.stdout.includes(word), word);
  const main = path.join(repository, 'tests/bench/compare/main.mjs');
  for (const args of [['--fast'], ['--rounds', '0'], ['--only', 'nothing'], ['--only', 'unary/carrier-pigeon'], ['--gateways', 'apache']]) {
    const { code, stderr, stdout } = await run(process.execPath, [main, ...args]);
    assert.deepEqual([code, stdout], [2, ''], args.join(' '));
    assert.match(stderr, /^run: /);
  }
});
