// The replay tool: what it prints must be what happened, to the token and the nano-dollar.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { gunzipSync, gzipSync } from 'node:zlib';
import { bin, binDir, repository, run, startFakellm, startProcess, stopAll, temporaryDirectory, toOptions } from './support/process.mjs';

const directory = temporaryDirectory();
const dataDirectory = process.env.FAIRLEAD_DATA ?? path.join(repository, '../shared/data');
const data = (name) => path.join(dataDirectory, 'traces', name);
const withoutData = existsSync(data('azure_llm_conv_2023.csv.gz')) ? false : 'the traces are not in $FAIRLEAD_DATA or ../shared/data';

function trace(name, lines) {
  const file = path.join(directory, name);
  const text = lines.join('\r\n') + '\r\n';
  writeFileSync(file, name.endsWith('.gz') ? gzipSync(text) : text);
  return file;
}

// [seconds after 18:59:59.5, input, output]; the second one is on the next day.
const azure = (rows) => [
  'TIMESTAMP,ContextTokens,GeneratedTokens',
  ...rows.map(([s, input, output]) => {
    const at = new Date(Date.UTC(2024, 1, 28, 23, 59, 59, 500) + Math.round(s * 1000)).toISOString();
    return `${at.slice(0, 10)} ${at.slice(11, 23)}0000,${input},${output}`;
  }),
];

async function replay(options, more = []) {
  const { code, stdout, stderr } = await run('replay', [...toOptions({ url, json: true, ...options }), ...more]);
  assert.ok(code === 0 || code === 1, `${code}: ${stderr}`);
  return { ...JSON.parse(stdout), exitCode: code, stderr };
}

async function refused(code, args) {
  const result = await run('replay', args);
  assert.equal(result.code, code, `${args.join(' ')}: ${result.stdout}${result.stderr}`);
  assert.equal(result.stdout, '');
  return result.stderr;
}

// A server that says of itself what Fairlead does. answer(n, body) -> {status, model, cost, input, output}
async function startTeller(answer) {
  const seen = [];
  const server = http.createServer((request, response) => {
    let text = '';
    request.on('data', (part) => (text += part));
    request.on('end', () => {
      const body = JSON.parse(text);
      const told = answer(seen.push({ at: performance.now(), body, headers: request.headers }) - 1, body);
      if (told.status) {
        response.writeHead(told.status, { 'x-fairlead-model': told.model }).end('{"error":{"message":"no"}}');
      } else if (body.stream) {
        response.writeHead(200, { 'content-type': 'text/event-stream', ...(told.early ? {} : { 'x-fairlead-model': told.model }) });
        response.write('data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\ndata: {"choices":[{"delta":{"content":"x"}}]}\n\n');
        response.end(`: fairlead model=${told.model} attempts=1 input_tokens=${told.input} output_tokens=${told.output} estimated=0 cost_usd=${told.cost}\n\ndata: [DONE]\n\n`);
      } else {
        response.writeHead(200, { 'x-fairlead-model': told.model, 'x-fairlead-cost-usd': told.cost });
        response.end(JSON.stringify({ model: 'upstream-name', usage: { prompt_tokens: told.input, completion_tokens: told.output } }));
      }
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  after(() => server.close());
  return { seen, url: `http://127.0.0.1:${server.address().port}/v1/chat/completions` };
}

let fake;
let url;
let four;

before(async () => {
  fake = await startFakellm({ keep: 10 });
  url = `${fake.baseUrl}/chat/completions`;
  four = trace('four.csv', azure([[0, 1000, 500], [0.7, 333, 77], [0.7, 14050, 992], [0.9, 1, 1]]));
});
after(stopAll);

const tokens = { input: 1000 + 333 + 14050 + 1, output: 500 + 77 + 992 + 1 };

for (const unary of [false, true]) {
  test(`costs and tokens are exact (${unary ? 'whole answers' : 'streams'})`, async () => {
    // Worked by hand. small: 150 and 600 nano-dollars a token: 450,000 + 96,150 + 2,702,700 + 750. large: 2,500 and 10,000: 7,500,000 +
    // 1,602,500 + 45,045,000 + 12,500. crumbs: 1,000 and 3,000 a million tokens: 2.5, 0.564, 17.026 and 0.004, each rounded up: 3 + 1 + 18 + 1.
    const price = ['--price', 'small=0.15,0.60', '--price', 'large=2.5,10', '--price', 'crumbs=0.000001,0.000003'];
    const result = await replay({ trace: four, speed: 10, model: 'small', unary }, price);
    assert.equal(result.exitCode, 0);
    assert.equal(result.models.length, 1);
    for (const group of [result.models[0], result.all]) {
      assert.deepEqual([group.requests, group.errors, group.input_tokens, group.output_tokens], [4, 0, tokens.input, tokens.output]);
      assert.deepEqual([group.cost_usd, group.unpriced], [0.0032496, 0]);
      assert.deepEqual([group.ttft_us.count, group.total_us.count], [unary ? 0 : 4, 4]);
    }
    assert.deepEqual([result.usage_missing, result.waited, result.failures], [0, 0, {}]);
    assert.deepEqual(result.dearest, { model: 'large', cost_usd: 0.05416 });
    assert.deepEqual(result.cheapest, { model: 'crumbs', cost_usd: 0.000000023 });
  });
}

test('requests: a bounded prompt, the tokens of the trace, the key', async () => {
  await fake.reset();
  await replay({ trace: four, speed: 100, model: 'm', key: 'k1', padBytes: 2000 });
  const kept = (await fake.requests()).map(({ headers, body }) => ({ key: headers.find(([name]) => name === 'authorization')?.[1], ...JSON.parse(body) }));
  const longest = kept.find((body) => body.max_tokens === 992);
  const shortest = kept.find((body) => body.max_tokens === 1);
  assert.equal(longest.key, 'Bearer k1');
  assert.equal(longest.messages[0].content.length, 2000 + '[[fake prompt=14050 tokens=992]]'.length);
  assert.equal(shortest.messages[0].content, 'and [[fake prompt=1 tokens=1]]');
  assert.deepEqual([shortest.model, shortest.stream, shortest.stream_options], ['m', true, { include_usage: true }]);
});

test('what Fairlead tells is believed: model, tokens, cost', async () => {
  const answers = [
    { model: 'b/large', cost: '0.000000001', input: 10, output: 20 },
    { model: 'a/small', cost: '1.50', input: 1, output: 2 },
    { model: 'b/large', status: 503 },
    { model: 'a/small', cost: '0.25', input: 100, output: 200, early: true },
  ];
  for (const unary of [false, true]) {
    const teller = await startTeller((n) => answers[n]);
    const result = await replay({ url: teller.url, trace: four, speed: 1, unary, connectionsMax: 1, price: 'x=1,1' });
    assert.equal(result.exitCode, 1);
    const rows = result.models.map((g) => [g.model, g.requests, g.errors, g.input_tokens, g.output_tokens, g.cost_usd, g.total_us.count]);
    assert.deepEqual(rows, [['a/small', 2, 0, 101, 202, 1.75, 2], ['b/large', 2, 1, 10, 20, 0.000000001, 1]]);
    assert.deepEqual([result.all.requests, result.all.errors, result.all.cost_usd], [4, 1, 1.750000001]);
    assert.deepEqual(result.cheapest, { model: 'x', cost_usd: (101 + 202 + 10 + 20) / 1e6 });
    assert.deepEqual(result.failures, { status: 1 });
    assert.match(result.first_failure, /status 503: \{"error"/);
  }
});

test('arrivals are the trace\'s, faster; latency counts from when a request was due', async () => {
  const teller = await startTeller(() => ({ model: 'm', cost: '0', input: 1, output: 1 }));
  const steady = trace('steady.csv.gz', azure([[0, 1, 1], [2, 1, 1], [3, 1, 1]]));
  const result = await replay({ url: teller.url, trace: steady, speed: 10 });
  const [first, second, third] = teller.seen.map(({ at }) => at);
  // Only the lower bounds are certain on a loaded machine; the first one may have come late.
  assert.ok(second - first > 100 && third - first > 200 && result.seconds >= 0.3, `${second - first} ${third - first} ${result.seconds}`);
  assert.equal(result.trace_seconds, 3);
  // Three at once over one connection, 60 ms each: the last has its answer after 180 ms.
  await fake.config({ ttft_ms: 60 });
  const burst = trace('burst.csv', azure([[0, 1, 1], [0, 1, 1], [0, 1, 1]]));
  const queued = await replay({ trace: burst, connectionsMax: 1 });
  assert.ok(queued.all.ttft_us.p50 >= 118_000 && queued.all.ttft_us.p99 >= 178_000, JSON.stringify(queued.all));
  assert.equal(queued.waited, 2);
  await fake.config({ ttft_ms: 0 });
});

test('slices: by rows, by time; Mooncake\'s form', async () => {
  const mooncake = path.join(directory, 'mooncake.jsonl.gz');
  const rows = [[0, 5, 6], [1000, 7, 8], [1500, 9, 10], [4000, 11, 0]];
  writeFileSync(mooncake, gzipSync(rows.map(([ms, i, o]) => JSON.stringify({ timestamp: ms, input_length: i, output_length: o, hash_ids: [1, 2] })).join('\n')));
  const sums = async (options) => {
    const { all } = await replay({ trace: mooncake, speed: 1000, ...options });
    return [all.requests, all.input_tokens, all.output_tokens];
  };
  assert.deepEqual(await sums({}), [4, 32, 25]); // an answer has one token at least
  assert.deepEqual(await sums({ slice: '1,2' }), [2, 16, 18]);
  assert.deepEqual(await sums({ slice: '3,100' }), [1, 11, 1]);
  assert.deepEqual(await sums({ from: '1s' }), [3, 27, 19]);
  assert.deepEqual(await sums({ from: '1s', for: '500ms' }), [1, 7, 8]);
  assert.deepEqual(await sums({ for: '1501ms' }), [3, 21, 24]);
});

test('a table and a progress line for people', async () => {
  const slow = trace('slow.csv', azure([[0, 1500, 500], [12, 333, 77]]));
  const args = toOptions({ url, trace: slow, speed: 10, model: 'small', progress: true });
  const { code, stdout, stderr } = await run('replay', [...args, '--price', 'small=0.15,0.60', '--price', 'dear/large=2.5,10']);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^\[ 50%\] 1 sent · 0 in flight · 0 failed · 0:01 left$/m);
  const lines = stdout.split('\n');
  assert.match(lines[0], /^slow\.csv: 2 requests of 0:12 minutes, at 10 times their pace in 1\.\d s$/);
  assert.match(lines[2], /^model +requests +input tok +output tok +cost USD +TTFT p50 +p95 +p99 +total p50 +p95 +p99 +errors$/);
  const time = String.raw`\d[\d.]* m?s`;
  assert.match(lines[3], new RegExp(`^small +2 +1,833 +577 +0\\.000621(  +${time}){6} +0$`)); // 525,000 + 96,150 nano-dollars
  assert.match(lines[4], new RegExp(`^all +2 +1,833 +577 +0\\.000621(  +${time}){6} +0$`));
  assert.equal(new Set(lines.slice(2, 5).map((line) => line.length)).size, 1);
  assert.equal(lines[6], 'everything to the dearest  (dear/large): 0.010353 USD, saved 94.0%'); // 8,750,000 + 1,602,500
  assert.equal(lines[7], 'everything to the cheapest (small): 0.000621 USD, saved 0.0%');
});

test('failures, unknown prices, silence about usage and interruption are said', async () => {
  await fake.config({ fault: 'nousage' });
  const quiet = await run('replay', toOptions({ url, trace: four, speed: 10 }));
  await fake.config({ fault: '500' });
  const failing = await run('replay', toOptions({ url, trace: four, speed: 10 }));
  await fake.config({ fault: 'none' });
  assert.equal(quiet.code, 0);
  assert.match(quiet.stdout, new RegExp(`^all +4 +${tokens.input.toLocaleString('en')} +1,570 +- `, 'm'));
  assert.match(quiet.stdout, /4 responses told no usage/);
  assert.match(quiet.stdout, /the cost of 4 requests is not known/);
  assert.equal(failing.code, 1);
  assert.match(failing.stdout, /^\(no model\) +4 +0 +0 +0\.000000 +- .* 4$/m);
  assert.match(failing.stdout, /^first failure: status after .*status 500/m);

  const long = trace('long.csv', azure([[0, 10, 10], [3600, 10, 10]]));
  const process = await startProcess('replay', toOptions({ url, trace: long, progress: true }), { readyPattern: /1 sent · 0 in flight/, readyFrom: 'stderr' });
  assert.deepEqual(await process.stop({ signal: 'SIGINT' }), { code: 1, signal: null });
  assert.match(process.stdout, /interrupted; only 1 requests were sent/);
});

test('prices from a file', async () => {
  const file = path.join(directory, 'prices');
  writeFileSync(file, '# US dollars\n\nsmall = 0.15, 0.60 # a million tokens\nlarge=2.5,10\n');
  const { all, dearest } = await replay({ trace: four, speed: 10, model: 'small', prices: file });
  assert.deepEqual([all.cost_usd, dearest], [0.0032496, { model: 'large', cost_usd: 0.05416 }]);
  writeFileSync(file, 'small=0.15,0.60\nlarge\n');
  assert.match(await refused(2, ['--trace', four, '--prices', file]), /line 2: syntax/);
});

test('damaged traces and wrong options are refused, naming the place', async () => {
  const header = 'TIMESTAMP,ContextTokens,GeneratedTokens';
  const row = '2023-11-16 18:15:46.6805900,374,44';
  const cases = [
    [[header, row, '2023-11-16 18:15:47,1'], /line 3 is not TIMESTAMP/],
    [[header, '2023-13-16 18:15:47,1,1'], /line 2 is not/],
    [[header, '2023-11-16 18:15:47,-1,1'], /line 2 is not/],
    [[header, '2023-11-16 18:15:47,1,1000001'], /line 2 is not/],
    [[header, row, '2023-11-16 18:15:46.6805899,1,1'], /line 3 is earlier/],
    [['{"timestamp": 1}'], /line 1 is neither/],
    [[header], /no request of the trace is in this slice/],
  ];
  for (const [lines, message] of cases) assert.match(await refused(2, ['--trace', trace('bad.csv', lines)]), message);
  const cut = path.join(directory, 'cut.csv.gz');
  writeFileSync(cut, gzipSync(azure([[0, 1, 1]]).join('\n')).subarray(0, 40));
  assert.match(await refused(2, ['--trace', cut]), /gzip: .*unexpected end of file/);
  writeFileSync(cut, 'no gzip');
  assert.match(await refused(2, ['--trace', cut]), /replay: .*gzip cannot unpack it/);
  for (const args of [['--price', 'a=1'], ['--price', '=1,1'], ['--price', 'a=-1,1'], ['--price', 'a=1,1', '--price', 'a=1,1'], ['--slice', '1'], ['--slice', '1,0'], ['--slice', '0,1', '--from', '1s'], ['--speed', '0'], ['--speed', 'fast'], ['--url', 'https://x'], ['--sped', '1'], ['extra']]) {
    assert.match(await refused(2, ['--trace', four, ...args]), /^replay: /, args.join(' '));
  }
  const absent = await refused(77, ['--trace', path.join(directory, 'absent.csv')]);
  assert.match(absent, /absent\.csv: No such file/);
  assert.match(absent, /Azure\/AzurePublicDataset/);
  assert.match((await run('replay', ['--help'])).stdout, /--connections-max N/);
});

test('a slice of the real trace', { skip: withoutData }, async () => {
  const file = data('azure_llm_conv_2023.csv.gz');
  const rows = gunzipSync(readFileSync(file)).toString().trim().split('\r\n').slice(1).map((line) => line.split(','));
  assert.equal(rows.length, 19366);
  const slice = rows.slice(100, 400).map(([, input, output]) => [Number(input), Number(output)]);
  const sum = (of) => slice.reduce((total, row) => total + of(row), 0);
  const nano = (input, output) => sum(([i, o]) => Math.ceil(i * input + o * output));
  const { all, dearest, exitCode, trace_seconds: seconds } = await replay({ trace: file, slice: '100,300', speed: 40, model: 'mid' }, ['--price', 'mid=1,3', '--price', 'top=2.5,10']);
  assert.equal(exitCode, 0);
  assert.deepEqual([all.requests, all.input_tokens, all.output_tokens], [300, sum(([i]) => i), sum(([, o]) => o)]);
  assert.equal(Math.round(all.cost_usd * 1e9), nano(1000, 3000));
  assert.equal(Math.round(dearest.cost_usd * 1e9), nano(2500, 10000));
  const at = (row) => Date.parse(`${rows[row][0].slice(0, 23).replace(' ', 'T')}Z`) / 1000;
  assert.ok(Math.abs(seconds - (at(399) - at(100))) < 0.002, `${seconds}`);
  const whole = await replay({ trace: data('mooncake_conversation.jsonl.gz'), slice: '12000,31', speed: 100, model: 'mid', padBytes: 100 });
  assert.deepEqual([whole.all.requests, whole.all.errors], [31, 0]);
});

const programs = ['fairlead', 'fairlead-controlplane', 'fairlead-dataplane', 'fairlead-pricefeed', 'fairlead-prober', 'fakellm', 'replay'];
const missing = programs.filter((name) => !existsSync(bin(name)));
test('the driver: three providers behind Fairlead', { skip: withoutData || (missing.length > 0 && `not built: ${missing.join(', ')}`) }, async () => {
  const driver = path.join(repository, 'tests/bench/replay_trace');
  const { code, stdout, stderr } = await run(driver, ['--slice', '0,60', '--speed', '20', '--json'], { env: { FAIRLEAD_BIN: binDir }, timeoutMs: 120_000 });
  assert.equal(code, 0, stderr);
  const result = JSON.parse(stdout);
  assert.deepEqual([result.all.requests, result.all.errors, result.all.unpriced, result.usage_missing], [60, 0, 0, 0]);
  const nanoPerToken = { 'small/small-chat': [150, 600], 'medium/medium-chat': [800, 3200], 'large/large-chat': [2500, 10000] };
  assert.ok(result.models.length > 1, JSON.stringify(result.models));
  for (const { model, input_tokens: input, output_tokens: output, cost_usd: cost } of result.models) {
    const [in_, out] = nanoPerToken[model];
    assert.equal(Math.round(cost * 1e9), input * in_ + output * out, model);
  }
  assert.ok(result.cheapest.cost_usd <= result.all.cost_usd && result.all.cost_usd <= result.dearest.cost_usd);
});
