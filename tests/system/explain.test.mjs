// fairlead explain: each exclusion with its rule and its place in the policy, the chances, the order.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { stopAll, temporaryDirectory, waitFor } from './support/process.mjs';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import http2 from 'node:http2';
import path from 'node:path';

after(stopAll);

const many = Array.from({ length: 60 }, (_, i) => `${'long-name-'.repeat(12)}${i}`);

// Lines count from the file's first, `schema: fairlead/1`.
const policy = (fakes) => `defaults: {probe: {how: none}}
providers:
  a: {base_url: "${fakes[0].url}", data: {regions: [eu], retention_days: 0, trains: false}}
  b: {base_url: "${fakes[1].url}", data: {regions: [us], retention_days: 30, trains: true}}
  secret: {preset: openai, credentials: [nobody-has-it]}
models:
  a/one: {price: {input: 1, output: 1}, context: 2000}
  a/two: {price: {input: 2, output: 2}}
  a/blind: {price: {input: 1, output: 1}, capabilities: {images: false, tools: false}}
  a/dear: {price: {input: 100000, output: 100000}}
  b/one: {price: {input: 1, output: 1}}
  secret/one: {price: {input: 1, output: 1}}
  b/flaky: {sends: flaky, price: {input: 1, output: 1}}
${many.map((name) => `  a/${name}: {price: {input: 1, output: 1}}\n`).join('')}aliases: {gpt-4o: chat}
routes:
  chat:
    tiers:
      - models: {a/one: 75, a/two: 25}
      - models: [b/one]
  careful:
    max_cost_usd: 0.01
    tiers:
      - models: {a/one: 1, a/blind: 1, a/dear: 1, secret/one: 1}
  near:
    tiers:
      - models: {a/one: 1, b/one: 1}
    require: {region: eu}
  kept:
    tiers: [{models: {a/one: 1, b/one: 1}}]
    require: {max_retention_days: 7}
  tight:
    tiers:
      - models: [a/one, a/two]
        within:
          cost: 0.002
  short: {tiers: [{models: {a/one: 1, a/two: 1}}], attempts: 1}
  falls: {tiers: [{models: [b/flaky]}, {models: [a/one]}]}
  wide: {tiers: [{models: {${many.map((name) => `a/${name}: 1`).join(', ')}}}]}
`;

const directory = `teams:
  t: {routes: ["*"], models: ["*/*"], may: [explain]}
  hr:
    routes: ["*"]
    require: {no_training: true}
`;
let house, key, hr;

before(async () => {
  house = await startFairlead({ fakes: [{}, {}], policy, directory });
  key = await house.createKey();
  hr = await house.createKey({ team: 'hr' });
});

const explain = async (options, who = key.id) => {
  const { code, stdout, stderr } = await house.cli(['explain', '--key', who, ...options, '--json']);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
};
const candidates = (decision) => Object.fromEntries(decision.tiers.flatMap((tier) => tier.candidates.map((c) => [c.model, c])));
const bodyFile = (body) => {
  const file = path.join(temporaryDirectory('fl-explain-'), 'request.json');
  writeFileSync(file, JSON.stringify(body));
  return file;
};
const lineOf = (text) => {
  const whole = `schema: fairlead/1\nkind: policy\n${policy(house.fakes)}`.split('\n');
  const at = whole.findIndex((line) => line.includes(text));
  assert.ok(at >= 0, text);
  return `policy.yaml:${at + 1}`;
};
const endsWith = (where, line) => assert.ok(where.endsWith(line), `${where} ends with ${line}`);

test('the chances, the order, the way of the name', async () => {
  const decision = await explain(['--model', 'gpt-4o']);
  assert.equal(decision.route, 'chat');
  assert.equal(decision.alias, 'gpt-4o');
  endsWith(decision.where, lineOf('  chat:'));
  assert.equal(decision.arm.name, 'stable');
  assert.equal(decision.arm.policy_version, 1);
  assert.equal(decision.key.team, 't');
  assert.equal(decision.refused, null);
  const c = candidates(decision);
  assert.equal(c['a/one'].first_ppm, 750000);
  assert.equal(c['a/two'].first_ppm, 250000);
  assert.equal(c['b/one'].first_ppm, 0);
  assert.equal(c['a/one'].weight_from, 'policy');
  assert.deepEqual(c['a/one'].price, { source: 'policy', stale: c['a/one'].price.stale, input_nano_per_million: 1e9, output_nano_per_million: 1e9, request_nano: 0 });
  assert.equal(decision.attempts.length, 3);
  assert.equal(decision.attempts[2].model, 'b/one');
  assert.equal(decision.attempts[2].reason, 'next_tier');
  assert.equal(decision.attempts[0].model, Object.values(c).find((each) => each.attempt === 1).model);
  const floor = await explain(['--model', 'tight:floor']);
  assert.equal(floor.suffix, 'floor');
  assert.equal(candidates(floor)['a/one'].first_ppm, 1e6);
  assert.equal(floor.scores[0].route, 'tight', 'the control plane says how scores came about');
  assert.ok(floor.scores[0].members[0].terms);
});

test('every rule with its words and its line', async () => {
  const images = bodyFile(chatBody([{ type: 'image_url', image_url: { url: 'data:image/png;base64,AAAA' } }], { max_tokens: 10 }));
  const tools = bodyFile(chatBody('hi', { max_tokens: 10, tools: [{ type: 'function', function: { name: 'f' } }] }));
  const long = bodyFile(chatBody('x'.repeat(12000), { max_tokens: 10 }));
  const cases = [
    [['--model', 'careful', '-f', images], 'a/blind', 'no_images', /has images/, 'a/blind:'],
    [['--model', 'careful', '-f', tools], 'a/blind', 'no_tools', /has tools/, 'a/blind:'],
    [['--model', 'careful', '-f', tools], 'a/dear', 'too_dear', /allows \$0\.01 .* estimate is \$2\.20$/, 'max_cost_usd'],
    [['--model', 'careful', '-f', long], 'a/one', 'too_long', /context is 2000 tokens; this needs 3\d\d\d in and 10 out/, 'a/one:'],
    [['--model', 'careful'], 'secret/one', 'no_credential', /no secret for nobody-has-it/, '  secret:'],
    [['--model', 'near'], 'b/one', 'region', /the route requires region eu; b is in us/, 'require: {region'],
    [['--model', 'kept'], 'b/one', 'retention', /kept for 7 days; b keeps it for 30/, 'require: {max_retention'],
    [['--model', 'tight'], 'a/two', 'out_of_bounds', /usual request within \$0\.002; it costs \$0\.0026/, 'within:'],
  ];
  for (const [options, model, reason, words, line] of cases) {
    const c = candidates(await explain(options))[model];
    assert.equal(c.reason, reason, `${options}`);
    assert.equal(c.excluded, true);
    assert.equal(c.attempt, null);
    assert.match(c.rule, words);
    endsWith(c.rule_where, lineOf(line));
  }
  const team = candidates(await explain(['--model', 'chat'], hr.id))['b/one'];
  assert.equal(team.reason, 'training');
  assert.match(team.rule, /the team requires no training on its data; b trains/);
  endsWith(team.rule_where, 'directory.yaml:7');
  const beyond = Object.values(candidates(await explain(['--model', 'short']))).find((c) => c.reason === 'beyond');
  assert.match(beyond.rule, /allows 1 attempts/);
  endsWith(beyond.rule_where, lineOf('short:'));
});

test('overrides with who and why; a route of which nothing is left', async () => {
  await house.admin('providers', 'drain', 'b', '--reason', 'rack moves', '--for', '1h', '--wait');
  const drained = candidates(await explain(['--model', 'chat']))['b/one'];
  assert.equal(drained.reason, 'drained');
  assert.match(drained.rule, /^b is drained by \S+: rack moves, for another (1h|59m.*)$/);
  assert.equal(drained.override.reason, 'rack moves');
  await house.admin('providers', 'drain', 'a', '--wait');
  const { stdout, code } = await house.cli(['explain', '--key', key.id, '--model', 'near']);
  assert.equal(code, 0);
  assert.match(stdout, /a\/one is drained by an operator: a is drained by \S+, until it is lifted/);
  assert.match(stdout, /refused {5}no_candidate: No model of route 'near'/);
  await house.admin('providers', 'undrain', 'a', '--wait');
  await house.admin('providers', 'undrain', 'b', '--wait');
});

const asked = (model, more = {}, who = key.key) => house.request('/v1/chat/completions', { key: who, headers: { 'x-fairlead-explain': '1' }, body: chatBody('hi', { model, ...more }) });

test('x-fairlead-explain on an answer, a stream, a refusal; only who may, only when asked', async () => {
  const answer = await asked('chat');
  assert.equal(answer.status, 200);
  const explained = JSON.parse(answer.headers['x-fairlead-explain']);
  assert.equal(explained.arm, 'stable');
  assert.equal(explained.policy, 1);
  assert.equal(explained.arm_why, 'only');
  assert.equal(explained.route, 'chat');
  assert.deepEqual(explained.attempts.map((a) => [a.m, a.why, a.status]), [[answer.headers['x-fairlead-model'], 'weight', 200]]);
  assert.deepEqual(explained.candidates.map((c) => c.m), ['a/one', 'a/two', 'b/one']);
  assert.deepEqual(explained.candidates.map((c) => c.w), [750000, 250000, 1000000]);
  assert.equal(explained.first_p, { 'a/one': 0.75, 'a/two': 0.25 }[explained.attempts[0].m]);

  await house.fakes[1].config({ fault: '500' });
  for (const stream of [false, true]) {
    const fell = await asked('falls', { stream });
    assert.equal(fell.status, 200);
    const { attempts } = JSON.parse(fell.headers['x-fairlead-explain']);
    assert.deepEqual(attempts.map((a) => [a.m, a.why, a.status, a.error]), [['b/flaky', 'only', 500, 'status'], ['a/one', 'next_tier', 200, undefined]]);
    if (stream) assert.ok(attempts[1].ttft_us > 0);
  }
  await house.fakes[1].config({ fault: '' });

  const refused = await asked('near', { tools: [{ type: 'function', function: { name: 'f' } }], max_tokens: 3000 });
  const why = Object.fromEntries(JSON.parse(refused.headers['x-fairlead-explain'] ?? '{}').candidates?.map((c) => [c.m, c]) ?? []);
  assert.equal(refused.status, 400);
  assert.equal(why['a/one'].why, 'too_long');
  endsWith(why['a/one'].at, lineOf('a/one:'));
  endsWith(why['b/one'].at, lineOf('require: {region'));

  const wide = (await asked('wide')).headers['x-fairlead-explain'];
  assert.ok(wide.length <= 6144, `${wide.length}`);
  const { candidates: some, more } = JSON.parse(wide);
  assert.ok(some.length > 10 && more > 0);
  assert.equal(some.length + more, 60);

  const denied = await asked('chat', {}, hr.key);
  assert.equal(denied.status, 403);
  assert.equal(JSON.parse(denied.text).error.code, 'explain_not_allowed');
  assert.equal(denied.headers['x-fairlead-explain'], undefined);
  const plain = await house.request('/v1/chat/completions', { key: hr.key, body: chatBody('hi', { model: 'chat' }) });
  assert.equal(plain.status, 200);
  assert.equal(plain.headers['x-fairlead-explain'], undefined);
  assert.equal((await house.request('/v1/chat/completions', { key: key.key, headers: { 'x-fairlead-explain': '0' }, body: chatBody('hi', { model: 'chat' }) })).headers['x-fairlead-explain'], undefined);
});

test('x-fairlead-explain over HTTP/2', async () => {
  const client = http2.connect(house.api);
  const stream = client.request({ ':method': 'POST', ':path': '/v1/chat/completions', authorization: `Bearer ${key.key}`, 'content-type': 'application/json', 'x-fairlead-explain': '1' });
  stream.end(JSON.stringify(chatBody('hi', { model: 'wide' })));
  const [headers] = await once(stream, 'response');
  stream.resume();
  await once(stream, 'close');
  client.close();
  assert.equal(headers[':status'], 200);
  assert.equal(JSON.parse(headers['x-fairlead-explain']).attempts.length, 1);
});

test('a breaker that opened', async () => {
  await house.fakes[1].config({ fault: '500' });
  for (let i = 0; i < 5; i++) await house.request('/v1/chat/completions', { key: key.key, body: chatBody('hi', { model: 'b/one' }) });
  await house.fakes[1].config({ fault: '' });
  const ejected = candidates(await explain(['--model', 'chat']))['b/one'];
  assert.equal(ejected.reason, 'ejected');
  assert.match(ejected.rule, /^its breaker on this node is open for another \d+s, ejection 1 in a row$/);
  assert.equal(ejected.breaker.state, 'open');
  assert.equal(ejected.excluded, true);
});

test('a secret key by standard input; who may not; nonsense', async () => {
  const bySecret = await house.cli(['explain', '--key', '-', '--model', 'chat', '--json'], { input: `${key.key}\n` });
  assert.equal(bySecret.code, 0, bySecret.stderr);
  assert.equal(JSON.parse(bySecret.stdout).key.id, key.id);
  assert.equal((await explain(['--model', 'chat'], key.key)).key.id, key.id);
  const unknown = await house.cli(['explain', '--key', 'key_nobody', '--model', 'chat']);
  assert.equal(unknown.code, 3);
  assert.match(unknown.stderr, /no key 'key_nobody'/);
  assert.equal((await house.cli(['explain', '--model', 'chat'])).code, 2);
  assert.equal((await house.cli(['explain', '--key', key.id])).code, 2);
  const nothing = await explain(['--model', 'chta']);
  assert.equal(nothing.refused.error, 'model_not_found');
  assert.match(nothing.refused.message, /Did you mean 'chat'/);
  const broken = path.join(temporaryDirectory('fl-explain-'), 'broken.json');
  writeFileSync(broken, '{"messages":\n nonsense}');
  const bad = await house.cli(['explain', '--key', key.id, '--model', 'chat', '-f', broken]);
  assert.equal(bad.code, 1);
  assert.match(bad.stderr, /broken\.json:2:3: /);
  assert.equal((await explain(['--model', 'chat', '--policy', '1'])).arm.why, 'past');
  assert.equal((await house.cli(['explain', '--key', key.id, '--model', 'chat', '--policy', '9'])).code, 3);
});

test('a request of the past, by its record', async () => {
  const answer = await asked('chat', { max_tokens: 7 });
  const id = answer.headers['x-request-id'];
  const past = async (...more) => {
    const { code, stdout, stderr } = await house.cli(['explain', id, ...more]);
    assert.equal(code, 0, stderr);
    return stdout;
  };
  await waitFor(() => house.records().some((record) => record.request_id === id), { timeoutMs: 30_000, what: 'its record' });
  const { records, now } = JSON.parse(await past('--json'));
  assert.equal(records[0].request_id, id);
  assert.equal(records[0].model, answer.headers['x-fairlead-model']);
  assert.equal(now.ask.max_output, 7);
  assert.equal(now.arm.policy_version, 1);
  assert.equal(now.arm.why, 'past');
  assert.deepEqual(Object.keys(candidates(now)), ['a/one', 'a/two', 'b/one']);
  const text = await past();
  assert.match(text, new RegExp(`^request +${id} at `, 'm'));
  assert.match(text, /^decided by +policy v1, arm stable, generation \d+; this first choice had a chance of (75|25)\.0%$/m);
  assert.match(text, /^Such a request now, by the same policy v1 on this node/m);

  // Another policy is live: its own is still held. And without a control plane the node's own files tell.
  writeFileSync(path.join(house.home, 'other.yaml'), `schema: fairlead/1\nkind: policy\n${policy(house.fakes).replace('a/one: 75, a/two: 25', 'a/two: 1')}`);
  await house.admin('policy', 'push', path.join(house.home, 'other.yaml'), '--now', '--wait');
  const later = JSON.parse(await past('--json', '--address', 'ipc:///nowhere/at/all'));
  assert.equal(later.records.length, 1);
  assert.equal(later.now.arm.name, 'past');
  assert.deepEqual(Object.keys(candidates(later.now)), ['a/one', 'a/two', 'b/one']);
  assert.deepEqual(Object.keys(candidates(await explain(['--model', 'chat']))), ['a/two', 'b/one']);

  const nobody = await house.cli(['explain', 'req_nobody']);
  assert.equal(nobody.code, 3);
  assert.match(nobody.stderr, /no record of 'req_nobody'/);
});

test('the arm that a unit is assigned to is the one that its requests obey', async () => {
  writeFileSync(path.join(house.home, 'third.yaml'), `schema: fairlead/1\nkind: policy\n${policy(house.fakes).replace('a/one: 75, a/two: 25', 'a/one: 1')}`);
  await house.admin('policy', 'push', path.join(house.home, 'third.yaml'), '--steps', '50,100', '--hold', '1h', '--unit', 'user', '--wait');
  const users = Array.from({ length: 22 }, (_, i) => `user-${i}`);
  const seen = new Set();
  for (const user of users) {
    const { arm } = await explain(['--model', 'chat', '--user', user]);
    const answer = await asked('chat', { user });
    const told = JSON.parse(answer.headers['x-fairlead-explain']);
    assert.equal(answer.headers['x-fairlead-arm'], arm.name);
    assert.deepEqual([told.arm, told.arm_why, told.assignment, told.unit, told.bucket], [arm.name, arm.why, arm.assignment, 'user', arm.bucket]);
    assert.match(arm.assignment, /^rollout-/);
    assert.equal(arm.unit_kind, 'user');
    seen.add(arm.name);
  }
  assert.equal(seen.size, 2, 'of so many users some obey either arm: all alike once in two million runs');
  const { stdout } = await house.cli(['explain', '--key', key.id, '--model', 'chat', '--user', 'user-0']);
  assert.match(stdout, /^obeys {7}policy v\d, arm \S+: rollout-\d+ (gives it|leaves to it) bucket \d+, which its user falls into; generation/m);
  await house.admin('rollback', '--wait');
});
