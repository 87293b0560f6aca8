// What clients see when providers misbehave: the next model's answer, or an honest error; and what is written down and paid.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { chatBody, contentOf, eventsOf, startFairlead } from './support/fairlead.mjs';
import path from 'node:path';
import { execFileSync } from 'node:child_process';
import { stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

// Faults before any content: how the attempt is written down for a whole answer and for a stream, and the provider's status (0: no
// answer came; undefined: chance decides). quick: the model's timeouts are short.
const faults = [
  { fault: 'refuse', errors: ['reset', 'reset'], status: 0 },
  { fault: 'hang', errors: ['timeout', 'timeout'], status: 0, quick: true },
  { fault: '429:7', errors: ['status', 'status'], status: 429 },
  { fault: '500', errors: ['status', 'status'], status: 500 },
  { fault: '503', errors: ['status', 'status'], status: 503 },
  { fault: '529', errors: ['status', 'status'], status: 529 },
  { fault: '404', errors: ['status', 'status'], status: 404 },
  { fault: '401', errors: ['status', 'status'], status: 401 },
  { fault: 'overload200', errors: ['error_in_200', 'error_in_200'], status: 200 },
  { fault: 'error200', errors: ['error_in_200', 'error_in_200'], status: 200 },
  { fault: 'cut:0', errors: ['reset', 'reset'], status: 200 },
  { fault: 'reset:0', errors: ['reset', 'reset'] }, // a reset may overtake the head
  { fault: 'empty', errors: ['empty', 'empty'], status: 200 },
  { fault: 'empty:1', errors: ['empty', 'empty'], status: 200 },
  { fault: 'garbage', errors: ['garbage', 'garbage'], status: 200 },
  { fault: 'garbage:1', errors: ['protocol', 'protocol'], status: 0 },
  { fault: 'slowhead:50', errors: ['timeout', 'timeout'], status: 0, quick: true },
  { fault: 'silent:0', errors: ['timeout', 'timeout'], status: 200, quick: true },
  { fault: 'nodone:0', errors: ['reset', 'empty'], status: 200 },
  { fault: 'errorevent:0', errors: ['error_in_200', 'error_in_200'], status: 200 },
  { fault: 'redirect', errors: ['status', 'status'], status: 302 },
  { fault: 'hugeevent:5000000', errors: [null, 'too_large'], status: 200 },
  { fault: 'bighead:70000', errors: ['protocol', 'protocol'], status: 0 },
];
const late = ['cut:3', 'reset:3 token_ms=100', 'silent:3', 'errorevent:3', 'nodone:3']; // a reset may overtake the last tokens

// Hand-worked. In dollars per million tokens; a token at 1 costs 1,000 nano-dollars.
const bills = [
  // 600 x 2.5 + 400 cached x 1.25 + (10 + 20 reasoning, which has no price of its own) x 10 = 1500 + 500 + 300 = 2300 millionths
  { price: 'input: 2.5, output: 10, cache_read: 1.25', say: 'prompt=1000 cached=400 tokens=10 reasoning=20', list: 2_300_000, charged: 2_300_000 },
  // 1001 x 0.15 + 7 x 0.6 + 13 x 0.9 = 150.15 + 4.2 + 11.7 = 166.05 millionths; less 12%: 146.124
  { price: 'input: 0.15, output: 0.6, reasoning: 0.9', say: 'prompt=1001 tokens=7 reasoning=13', discount: true, list: 166_050, charged: 146_124 },
  // 3 x 0.0375 + 1 x 0.15 = 0.2625 millionths = 262.5 nano-dollars, and 0.001 for the call: rounded up once
  { price: 'input: 0.0375, output: 0.15, request: 0.001', say: 'prompt=3 tokens=1', list: 1_000_263, charged: 1_000_263 },
  // One token too long: all of it at the dear tier, 1001 x 2 + 5 x 3 = 2017
  { price: 'input: 1, output: 2, long: {above: 1000, input: 2, output: 3}', say: 'prompt=1001 tokens=5', list: 2_017_000, charged: 2_017_000 },
  // and just not: 1000 x 1 + 5 x 2 = 1010
  { price: 'input: 1, output: 2, long: {above: 1000, input: 2, output: 3}', say: 'prompt=1000 tokens=5', list: 1_010_000, charged: 1_010_000 },
  // Thinking that is shown is paid, too: 100 x 1.1 + (4 + 6) x 4.4 = 110 + 44 = 154; 50 cached at 0.55: 27.5 for 55 -> 126.5
  { price: 'input: 1.1, output: 4.4, cache_read: 0.55', say: 'prompt=100 cached=50 tokens=4 think=6', list: 126_500, charged: 126_500 },
];

let house, alpha, beta, gamma, key;

// Each case has a model and a route of its own, so that what one case's failures do to a model disturbs no other.
const cases = [];
function newCase({ provider = 'one', more = '', price = 'input: 1, output: 2', alone = false, route = '' } = {}) {
  const name = `c${cases.length}`;
  cases.push({ name, model: `  ${provider}/${name}: {sends: m, price: {${price}}${more}}`, route: `  ${name}: {tiers: [{models: [${provider}/${name}]}${alone ? '' : ', {models: [two/m]}'}]${route}}` });
  return name;
}
const quick = ', timeouts: {first_token: 300ms, idle: 100ms}';

for (const one of faults) one.routes = [0, 1].map(() => newCase({ more: one.quick ? quick : '' }));
const lateRoutes = late.map((fault) => newCase({ more: fault.startsWith('silent') ? quick : '' }));
for (const bill of bills) bill.routes = [0, 1].map(() => newCase({ price: bill.price, provider: bill.discount ? 'cheap' : 'one', alone: true }));
const passedRoute = newCase();
const refusedRoute = newCase({ provider: 'dead' });
const setcookieRoute = newCase();
const retryAfterRoute = newCase();
const breakerRoute = newCase();
const holdRoute = newCase({ more: ', timeouts: {hold: 50ms, first_token: 600ms}' });
const holdAloneRoute = newCase({ more: ', timeouts: {hold: 50ms}', alone: true });
const turnsRoute = newCase({ provider: 'turns', alone: true });
const halfRoute = newCase({ provider: 'half', alone: true });
const wrongRoute = newCase({ provider: 'wrong', alone: true });
const elsewhereRoute = newCase({ provider: 'elsewhere', alone: true });
const azureRoute = newCase({ provider: 'azure', alone: true });
const trustedRoute = newCase({ provider: 'trusted' });
const strangerRoute = newCase({ provider: 'stranger' });
const misnamedRoute = newCase({ provider: 'misnamed' });

// A certificate for 127.0.0.1, signed by itself.
const certificates = temporaryDirectory('fl-');
function newCertificate(name) {
  const files = { tlsCert: path.join(certificates, `${name}.pem`), tlsKey: path.join(certificates, `${name}.key`) };
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-subj', `/CN=${name}`,
    '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', files.tlsKey, '-out', files.tlsCert], { stdio: 'ignore' });
  return files;
}
const trusted = newCertificate('trusted');

before(async () => {
  house = await startFairlead({
    workers: 1, // cooling down and the retry budget are each worker's own
    fakes: [{ name: 'alpha', models: 'm' }, { name: 'beta', models: 'm' }, { name: 'gamma', models: 'm', requireKey: 'good-1,good-2' },
      { name: 'trusted', models: 'm', ...trusted }, { name: 'stranger', models: 'm', ...newCertificate('stranger') }],
    env: { BAD_KEY: 'bad', GOOD_1: 'good-1', GOOD_2: 'good-2' },
    node: `ca_file: ${trusted.tlsCert}
credentials:
  bad: {from: "env:BAD_KEY", hosts: ["127.0.0.1"]}
  good-1: {from: "env:GOOD_1", hosts: ["127.0.0.1"]}
  good-2: {from: "env:GOOD_2", hosts: ["127.0.0.1"]}
  elsewhere: {from: "env:GOOD_1", hosts: ["api.example.com"]}
  absent: {from: "env:NOT_SET", hosts: ["127.0.0.1"]}`,
    policy: ([a, b, c, d, e]) => `
defaults: {probe: {how: none}, timeouts: {first_token: 15s}}
providers:
  one: {preset: openai-compatible, base_url: "${a.baseUrl}"}
  two: {preset: openai-compatible, base_url: "${b.baseUrl}"}
  dead: {preset: openai-compatible, base_url: "http://127.0.0.1:1/v1"}
  cheap: {preset: openai-compatible, base_url: "${a.baseUrl}", discount: 12%}
  turns: {preset: openai-compatible, base_url: "${c.baseUrl}", credentials: [good-1, good-2]}
  half: {preset: openai-compatible, base_url: "${c.baseUrl}", credentials: [bad, good-1]}
  wrong: {preset: openai-compatible, base_url: "${c.baseUrl}", credentials: [bad]}
  elsewhere: {preset: openai-compatible, base_url: "${c.baseUrl}", credentials: [elsewhere, absent]}
  azure: {preset: azure, base_url: "${c.url}", credentials: [good-2]}
  trusted: {preset: openai-compatible, base_url: "${d.baseUrl}"}
  stranger: {preset: openai-compatible, base_url: "${e.baseUrl}"}
  misnamed: {preset: openai-compatible, base_url: "${d.baseUrl.replace('127.0.0.1', 'localhost')}"}
models:
${cases.map((one) => one.model).join('\n')}
  two/m: {price: {input: 1, output: 2}}
  one/x1: {sends: m, price: {input: 1, output: 2}}
  one/x2: {sends: m, price: {input: 1, output: 2}}
  one/x3: {sends: m, price: {input: 1, output: 2}}
  one/h1: {sends: m, price: {input: 1, output: 2}, timeouts: {first_token: 250ms}}
  one/h2: {sends: m, price: {input: 1, output: 2}, timeouts: {first_token: 250ms}}
  one/h3: {sends: m, price: {input: 1, output: 2}, timeouts: {first_token: 250ms}}
routes:
${cases.map((one) => one.route).join('\n')}
  storm: {tiers: [{models: [one/x1]}, {models: [one/x2]}, {models: [one/x3]}]}
  deadline: {tiers: [{models: [one/h1]}, {models: [one/h2]}, {models: [one/h3]}], deadline: 400ms}`,
  });
  [alpha, beta, gamma] = house.fakes;
  key = (await house.createKey()).key;
});
beforeEach(async () => {
  for (const one of house.fakes.slice(0, 3)) await one.reset();
});
after(stopAll);

const ask = (model, text, more = {}) => house.request('/v1/chat/completions', { key, body: chatBody(text, { model, ...more }) });
const how = [
  ['whole', {}],
  ['stream', { stream: true }],
];
const chats = async (one) => (await one.stats()).paths['/v1/chat/completions'] ?? 0;
const recordOf = (answer) =>
  waitFor(
    () => {
      const found = house.records().filter((record) => record.request_id === answer.headers['x-request-id']);
      assert.ok(found.length < 2, 'one record');
      return found[0];
    },
    { what: `the record of ${answer.headers['x-request-id']}` },
  );
const tailOf = (answer) => Object.fromEntries([...answer.text.matchAll(/^: fairlead (.*)$/gm)].flatMap((match) => match[1].split(' ').map((pair) => pair.split('='))));
const textOf = (answer, stream) => (stream ? contentOf(eventsOf(answer.text)) : JSON.parse(answer.text).choices[0].message.content);

async function assertServedBy(answer, name, model, attempts, stream) {
  assert.equal(answer.status, 200, answer.text);
  assert.equal(answer.end, 'end');
  assert.ok(textOf(answer, stream).startsWith(name), answer.text.slice(0, 500));
  assert.equal(answer.headers['x-fairlead-model'], model);
  assert.equal(answer.headers['x-fairlead-attempts'], String(attempts));
  assert.equal(answer.headers['x-fairlead-policy'], '1');
  assert.match(answer.headers['x-fairlead-overhead-us'], /^\d+$/);
  if (stream) {
    assert.equal(eventsOf(answer.text).filter((event) => event === '[DONE]').length, 1);
    assert.deepEqual([tailOf(answer).model, tailOf(answer).attempts], [model, String(attempts)]);
  }
}

// The first test that needs it to be over waits for it: an ejection lasts 30 s.
let ejectedAt;
test('five failures in a row eject a model: it is not asked again', async () => {
  for (let i = 0; i < 5; i++) await assertServedBy(await ask(breakerRoute, '[[fake:alpha fault=500]]'), 'beta', 'two/m', 2);
  ejectedAt = Date.now();
  assert.equal(await chats(alpha), 5);
  for (let i = 0; i < 10; i++) await assertServedBy(await ask(breakerRoute, 'hi'), 'beta', 'two/m', 1);
  assert.equal(await chats(alpha), 5);
  const metrics = await waitFor(async () => {
    const text = await house.metrics();
    return text.includes(`model="one/${breakerRoute}"`) && text;
  });
  assert.match(metrics, new RegExp(`^fairlead_breaker\\S*\\{[^}]*model="one/${breakerRoute}"[^}]*\\} [^0]`, 'm'));
});

describe('before content, the next model answers', () => {
  for (const { fault, errors, status, routes } of faults) {
    for (const [i, [name, more]] of how.entries()) {
      test(`${fault} (${name})`, async () => {
        const answer = await ask(routes[i], `[[fake:alpha fault=${fault}]]`, more);
        const failed = errors[i] !== null;
        if (failed) await assertServedBy(answer, 'beta', 'two/m', 2, more.stream);
        else assert.equal(answer.headers['x-fairlead-model'], `one/${routes[i]}`);
        // A kept connection that ends without a byte is replaced by a new one once: providers close idle ones at any time.
        const asked = await chats(alpha);
        assert.ok(asked === 1 || (fault === 'refuse' && asked === 2), `asked ${asked} times`);
        assert.equal(await chats(beta), failed ? 1 : 0);
        assert.equal((await alpha.stats()).paths['/redirected'], undefined);
        const record = await recordOf(answer);
        assert.equal(record.outcome, 'ok');
        assert.equal(record.status, 200);
        assert.deepEqual(
          record.attempts.map((attempt) => [attempt.model, attempt.error]),
          [[`one/${routes[i]}`, errors[i]], ...(failed ? [['two/m', null]] : [])],
        );
        if (status !== undefined) assert.equal(record.attempts[0].status, status);
        await waitFor(async () => (await alpha.stats()).streams_open === 0, { what: 'the failed attempt to be closed' });
      });
    }
  }

  test('nobody listens', async () => {
    for (const [, more] of how) {
      const answer = await ask(refusedRoute, 'hi', more);
      await assertServedBy(answer, 'beta', 'two/m', 2, more.stream);
      assert.deepEqual((await recordOf(answer)).attempts.map((attempt) => attempt.error), ['connect', null]);
    }
  });

  test('a model that said Retry-After is left alone', async () => {
    await assertServedBy(await ask(retryAfterRoute, '[[fake:alpha fault=429:30]]'), 'beta', 'two/m', 2);
    for (let i = 0; i < 3; i++) await assertServedBy(await ask(retryAfterRoute, 'hi'), 'beta', 'two/m', 1);
    assert.equal(await chats(alpha), 1);
  });
});

test('certificates of providers are verified: an unknown issuer or another name is no provider', async () => {
  for (const [, more] of how) {
    await assertServedBy(await ask(trustedRoute, 'hi', more), 'trusted', `trusted/${trustedRoute}`, 1, more.stream);
    for (const route of [strangerRoute, misnamedRoute]) {
      const answer = await ask(route, 'hi', more);
      await assertServedBy(answer, 'beta', 'two/m', 2, more.stream);
      assert.deepEqual((await recordOf(answer)).attempts.map((attempt) => attempt.error), ['tls', null]);
    }
  }
});

describe('after content, an honest end', () => {
  for (const [i, fault] of late.entries()) {
    test(fault, async () => {
      const answer = await ask(lateRoutes[i], `[[fake:alpha fault=${fault}]]`, { stream: true });
      assert.equal(answer.status, 200);
      assert.equal(answer.end, 'end', 'the body is whole as HTTP');
      const events = eventsOf(answer.text);
      assert.ok(!events.includes('[DONE]'), answer.text);
      assert.equal(events.at(-1).error.code, 'upstream_truncated');
      assert.ok(events.at(-1).error.message.length > 20);
      const tokens = contentOf(events).trim().split(' ').length;
      assert.ok(fault.startsWith('reset') ? tokens >= 1 : tokens === 3, `${tokens} tokens`);
      assert.deepEqual([await chats(alpha), await chats(beta)], [1, 0]);
      const record = await recordOf(answer);
      assert.equal(record.outcome, 'truncated');
      assert.equal(record.attempts[0].error, 'truncated');
      assert.ok(record.estimated && record.usage.output > 0 && record.cost_nano_usd > 0, 'what was generated is charged, as an estimate');
    });
  }
});

describe("the client's own mistakes", () => {
  for (const status of [400, 413, 415, 422]) {
    for (const [name, more] of how) {
      test(`${status} is passed on as it came, once (${name})`, async () => {
        const text = `[[fake fault=${status}]]`;
        const answer = await ask(passedRoute, text, more);
        assert.equal(answer.status, status);
        assert.equal(JSON.parse(answer.text).error.message, `simulated ${status}`);
        assert.deepEqual([await chats(alpha), await chats(beta)], [1, 0]);
        const record = await recordOf(answer);
        assert.equal(record.outcome, 'client_error');
        assert.equal(record.status, status);
      });
    }
  }

  test('they eject nobody', async () => {
    for (let i = 0; i < 8; i++) assert.equal((await ask(passedRoute, '[[fake fault=400]]')).status, 400);
    await assertServedBy(await ask(passedRoute, 'hi'), 'alpha', `one/${passedRoute}`, 1);
  });
});

describe('when everything fails', () => {
  test('one error that names every attempt', async () => {
    for (const [, more] of how) {
      await alpha.reset();
      const answer = await ask('storm', '[[fake fault=429]]', more);
      assert.equal(answer.status, 429);
      assert.match(JSON.parse(answer.text).error.message, /one\/x1 \(status 429\), one\/x2 \(status 429\), one\/x3 \(status 429\)/);
      assert.equal(answer.headers['x-fairlead-attempts'], '3');
      assert.equal(await chats(alpha), 3);
      const record = await recordOf(answer);
      assert.deepEqual([record.outcome, record.status, record.attempts.length], ['error', 429, 3]);
    }
  });

  test('retries are bounded: a dead provider is not asked three times as much', async () => {
    const answers = await Promise.all(Array.from({ length: 60 }, () => ask('storm', '[[fake fault=429 fault_ms=300]]')));
    assert.ok(answers.every((answer) => answer.status === 429));
    const calls = await chats(alpha);
    // 60 first attempts; at most 20% of 60, plus 3, run as second ones, fewer as third ones.
    assert.ok(calls >= 60 && calls <= 60 + 15 + 15, `${calls} calls for 60 requests`);
    assert.equal(answers.reduce((sum, answer) => sum + Number(answer.headers['x-fairlead-attempts']), 0), calls);
  });

  test('one deadline to the first content covers all attempts', async () => {
    for (const [, more] of how) {
      const began = performance.now();
      const answer = await ask('deadline', '[[fake fault=hang]]', more);
      assert.equal(answer.status, 504, answer.text);
      assert.match(JSON.parse(answer.text).error.message, /deadline/);
      const took = performance.now() - began;
      assert.ok(took >= 395 && took < 5000, `${took} ms`);
      const record = await recordOf(answer);
      assert.equal(record.attempts.length, more.stream ? 2 : 1);
      assert.equal(record.attempts.at(-1).error, 'timeout');
      await waitFor(async () => (await alpha.stats()).requests_cancelled >= 1, { what: 'the provider to be told' });
    }
  });
});

describe('holding', () => {
  test('a slow model: comments keep the line alive, then its answer', async () => {
    const answer = await ask(holdAloneRoute, '[[fake ttft_ms=300 tokens=3]]', { stream: true });
    assert.equal(answer.status, 200);
    assert.match(answer.text, /^: keep-alive\n\n/);
    assert.ok((answer.text.match(/^: keep-alive$/gm) ?? []).length >= 2, answer.text);
    assert.equal(answer.headers['x-fairlead-model'], undefined, 'nobody knew it yet');
    assert.equal(tailOf(answer).model, `one/${holdAloneRoute}`);
    assert.equal(eventsOf(answer.text).at(-1), '[DONE]');
    assert.match(contentOf(eventsOf(answer.text)), /^alpha:/);
  });

  test('and still fails over', async () => {
    const answer = await ask(holdRoute, '[[fake:alpha fault=silent:0]]', { stream: true });
    assert.match(answer.text, /^: keep-alive\n\n/);
    assert.match(contentOf(eventsOf(answer.text)), /^beta:/);
    assert.deepEqual([tailOf(answer).model, tailOf(answer).attempts], ['two/m', '2']);
    assert.equal(eventsOf(answer.text).filter((event) => event.choices?.[0].delta?.role).length, 1, 'nothing of the first attempt');
  });

  test('a final failure is an error event, without [DONE]', async () => {
    const answer = await ask(holdRoute, '[[fake:alpha fault=silent:0]][[fake:beta fault=500]]', { stream: true });
    assert.equal(answer.status, 200, 'the head had gone');
    assert.equal(answer.end, 'end');
    const events = eventsOf(answer.text);
    assert.equal(events.length, 1);
    assert.match(events[0].error.message, /two\/m \(status 500\)/);
    const record = await recordOf(answer);
    assert.equal(record.outcome, 'error');
  });
});

describe('headers', () => {
  test('what a provider sets for itself does not come down', async () => {
    for (const [, more] of how) {
      const answer = await ask(setcookieRoute, '[[fake fault=setcookie]]', more);
      assert.equal(answer.status, 200);
      assert.match(answer.headers['x-request-id'], /^req_/);
      for (const name of ['set-cookie', 'openai-organization', 'openai-project', 'server', 'x-big']) assert.equal(answer.headers[name], undefined, name);
      const big = await ask(setcookieRoute, '[[fake fault=bighead:9000]]', more);
      assert.equal(big.status, 200);
      assert.equal(big.headers['x-big'], undefined);
    }
  });

  test("credentials go to the provider in turn; the client's key never does", async () => {
    for (let i = 0; i < 4; i++) assert.equal((await ask(turnsRoute, 'hi')).status, 200);
    const sent = (await gamma.requests()).map((kept) => kept.headers.filter(([name]) => name.toLowerCase() === 'authorization').map(([, value]) => value));
    assert.deepEqual(sent.map((values) => values.length), [1, 1, 1, 1]);
    assert.deepEqual([...new Set(sent.flat())].sort(), ['Bearer good-1', 'Bearer good-2']);
    assert.ok(!JSON.stringify(await gamma.requests()).includes(key));
  });

  test('Azure: the deployment stands in the path, the credential in api-key', async () => {
    for (const [, more] of how) assert.equal((await ask(azureRoute, 'hi', more)).headers['x-fairlead-model'], `azure/${azureRoute}`);
    for (const kept of await gamma.requests()) {
      assert.match(kept.path, /^\/openai\/deployments\/m\/chat\/completions\?api-version=\d{4}-\d\d-\d\d$/);
      assert.deepEqual(kept.headers.filter(([, value]) => /good|bad|fl-/.test(value)), [['api-key', 'good-2']]);
    }
  });

  test('a refused credential: the next one is tried, for the same model', async () => {
    const answers = [];
    for (let i = 0; i < 4; i++) answers.push(await ask(halfRoute, 'hi'));
    assert.deepEqual(answers.map((answer) => answer.status), [200, 200, 200, 200]);
    assert.deepEqual(answers.map((answer) => answer.headers['x-fairlead-model']), Array(4).fill(`half/${halfRoute}`));
    const refused = answers.find((answer) => answer.headers['x-fairlead-attempts'] === '2');
    assert.deepEqual((await recordOf(refused)).attempts.map((attempt) => [attempt.model, attempt.status, attempt.error]), [
      [`half/${halfRoute}`, 401, 'status'],
      [`half/${halfRoute}`, 200, null],
    ]);
  });

  test('no usable credential: an error of ours, nothing about it leaks', async () => {
    const wrong = await ask(wrongRoute, 'hi');
    assert.equal(wrong.status, 502, wrong.text); // never 401: the client's own key is fine
    assert.doesNotMatch(wrong.text, /Bearer|\bbad\b/);
    await gamma.reset();
    const elsewhere = await ask(elsewhereRoute, 'hi');
    assert.equal(elsewhere.status, 503, elsewhere.text);
    assert.match(JSON.parse(elsewhere.text).error.message, /credential/);
    assert.equal((await gamma.stats()).requests, 0, 'a credential goes only to the hosts that the node names');
    for (const secret of ['good-1', 'good-2', key]) assert.ok(!house.up.stderr.includes(secret), 'no secret in the log');
  });
});

describe('costs, to the nano-dollar', () => {
  for (const bill of bills) {
    for (const [i, [name, more]] of how.entries()) {
      test(`{${bill.price}} ${bill.say} (${name})`, async () => {
        const answer = await ask(bill.routes[i], `[[fake ${bill.say}]]`, more);
        assert.equal(answer.status, 200, answer.text);
        const record = await recordOf(answer);
        assert.deepEqual([record.cost_list_nano_usd, record.cost_nano_usd, record.estimated], [bill.list, bill.charged, false], JSON.stringify(record.usage));
        const told = more.stream ? tailOf(answer).cost_usd : answer.headers['x-fairlead-cost-usd'];
        assert.equal(Math.round(Number(told) * 1e9), bill.charged, told);
      });
    }
  }
});

test('an ejected model is asked again after its time, and stays when it answers', async () => {
  const answer = await waitFor(
    async () => {
      const one = await ask(breakerRoute, 'hi');
      assert.equal(one.status, 200);
      return one.headers['x-fairlead-model'] === `one/${breakerRoute}` && one;
    },
    { what: 'the model to be asked again', timeoutMs: 45_000, everyMs: 100 },
  );
  assert.ok(Date.now() - ejectedAt > 29_000, `${Date.now() - ejectedAt} ms`);
  await assertServedBy(answer, 'alpha', `one/${breakerRoute}`, 1);
  for (let i = 0; i < 5; i++) await assertServedBy(await ask(breakerRoute, 'hi'), 'alpha', `one/${breakerRoute}`, 1);
});
