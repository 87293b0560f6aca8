// Prices: absurd feeds are held back and shown, real catalogs are read whole, and requests cost what a pencil says they cost.
import assert from 'node:assert/strict';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, test } from 'node:test';
import { bundleOf, createKey, startParts } from './support/control.mjs';
import { chatBody } from './support/fairlead.mjs';
import { repository, run, startFakellm, stopAll, waitFor } from './support/process.mjs';

after(stopAll);

const data = path.join(process.env.FAIRLEAD_DATA ?? path.join(repository, '../shared/data'), 'prices');
const litellm = path.join(data, 'litellm_model_prices_and_context_window.json');
const openrouter = path.join(data, 'openrouter_models_2026-08-01.json');
const absent = (file, origin) => (existsSync(file) ? false : `${file} is not there; it is public: ${origin}`);

const directory = 'teams:\n  t: {routes: ["*"], models: ["*/*"]}';

// A house with one provider, its models m-0, m-1, ... known to the price book as names[i].
async function startHouse() {
  const fakes = [await startFakellm({ name: 'a' })];
  const house = await startParts({ directory, workers: 1, controlArgs: ['--decide-every', '100ms'] });
  await house.start('node');
  const key = await createKey(house);
  house.cli = async (...args) => {
    const ran = await run('fairlead', [...args, '--home', house.home]);
    assert.equal(ran.code, 0, `${args.join(' ')}: ${ran.stderr}`);
    return ran.stdout;
  };
  house.push = async (models) => {
    const lines = models.map((model, i) => `  p/m-${i}: {${model}, context: 1000000, capabilities: {tools: true}}`);
    const policy = `schema: fairlead/1\nkind: policy\nproviders:\n  p: {base_url: "${fakes[0].baseUrl}", auth: none, probe: {how: none}}\nmodels:\n${lines.join('\n')}\nroutes:\n  chat: {tiers: [{models: [p/m-0]}]}\n`;
    const { generation } = await house.asker.must('policy.push', { bundle: bundleOf(policy) });
    await waitFor(async () => (await house.status()).serving.generation === generation, { what: 'the policy to be served' });
  };
  house.feed = async (file) => run('fairlead-pricefeed', ['--home', house.home, '--file', file, '--once']);
  house.prices = async () => JSON.parse(await house.cli('status', '--json')).evidence.prices;
  // US dollars of a request, as its answer says.
  house.cost = async (i, usage) => {
    const { prompt, cached = 0, tokens, reasoning = 0 } = usage;
    const content = `[[fake prompt=${prompt} cached=${cached} tokens=${tokens} reasoning=${reasoning}]]`;
    const answer = await house.request('/v1/chat/completions', { key, body: chatBody(content, { model: `p/m-${i}` }) });
    assert.equal(answer.status, 200, answer.text);
    const told = JSON.parse(answer.text).usage;
    assert.deepEqual(
      [told.prompt_tokens, told.prompt_tokens_details.cached_tokens, told.completion_tokens, told.completion_tokens_details.reasoning_tokens],
      [prompt, cached, tokens + reasoning, reasoning],
    );
    return Number(answer.headers['x-fairlead-cost-usd']);
  };
  house.costs = (i, usage, expected) => {
    let last;
    return waitFor(async () => (last = await house.cost(i, usage)) === expected, { timeoutMs: 5000 }).catch(() => assert.equal(last, expected));
  };
  house.end = async () => {
    await house.asker.stop();
    assert.equal((await house.parts.node.stop()).code, 0);
    assert.equal((await house.parts.control.stop()).code, 0);
  };
  return house;
}

test('an absurd feed is held back, shown, and released by hand', async (t) => {
  const house = await startHouse();
  const file = path.join(house.home, 'feed.yaml');
  // Ten models; each figure passes through change(price, i).
  const write = (change = (price) => price, count = 10) => {
    const rows = Array.from({ length: count }, (_, i) => `  openai/test-${i}: {input: ${change(1 + i, i)}, output: ${change(2 + 2 * i, i)}, context: 1000, can: [chat]}`);
    writeFileSync(file, `schema: fairlead/1\nkind: prices\nprices:${count ? `\n${rows.join('\n')}` : ' {}'}\n`);
  };
  const usage = { prompt: 1000, tokens: 500 };
  const good = (1000 * 1 + 500 * 2) / 1e6;
  write();
  assert.equal((await house.feed(file)).code, 0);
  await house.push(['is: openai/test-0', 'is: openai/test-1']);
  await house.costs(0, usage, good);
  const entries = (await house.prices()).entries;
  const check = async (what, reason) => {
    const seen = await waitFor(async () => ((await house.prices()).quarantined > 0 || (await house.prices()).quarantined_batch) && house.prices(), { what: `${what} to be held back` });
    t.diagnostic(`${what}: ${seen.quarantined} held back; batch: ${seen.quarantined_batch}`);
    if (reason) assert.match(seen.quarantined_batch, reason);
    assert.match(await house.cli('status'), /held back/);
    assert.equal(await house.cost(0, usage), good, `${what} is not charged`);
    assert.equal((await house.prices()).entries, entries);
  };
  write(() => 0);
  await house.feed(file);
  await check('zeroed');
  assert.ok(JSON.parse(await house.cli('prices', 'list', '--held', '--json')).length >= 10);
  write();
  await house.feed(file);
  await waitFor(async () => (await house.prices()).quarantined === 0, { what: 'a feed that came back to end the hold' });
  write((price) => price * 1000);
  await house.feed(file);
  await check('x1000');
  write();
  await house.feed(file);
  await waitFor(async () => (await house.prices()).quarantined === 0);
  write(undefined, 0);
  const empty = await house.feed(file);
  t.diagnostic(`an empty feed ends with ${empty.code}: ${empty.stderr.split('\n').find((line) => /level=(warn|error)/.test(line)) ?? ''}`);
  const shown = await waitFor(async () => {
    const prices = await house.prices();
    return (prices.quarantined_batch ?? prices.feed.problem) && prices;
  }, { what: 'the empty feed to be seen' });
  t.diagnostic(`empty: ${shown.quarantined_batch ?? shown.feed.problem}`);
  assert.equal(await house.cost(0, usage), good);
  write();
  await house.feed(file);
  await waitFor(async () => !(await house.prices()).quarantined_batch && !(await house.prices()).feed.problem);
  write(undefined, 4);
  await house.feed(file);
  await check('less than half', /half/);
  write();
  await house.feed(file);
  await waitFor(async () => !(await house.prices()).quarantined_batch);
  // Half a file: no catalog at all.
  writeFileSync(file, '{"sample_spec": {}, "gpt-4o": {"input_cost_per_token": 2.5e-06, "outp');
  await house.feed(file);
  const problem = await waitFor(async () => (await house.prices()).feed.problem, { what: 'the problem to be seen' });
  t.diagnostic(`half a file: ${problem}`);
  assert.match(await house.cli('status'), new RegExp(problem.slice(0, 20).replace(/[.*+?^${}()|[\]\\]/g, '\\$&')));
  assert.equal(await house.cost(0, usage), good);
  // One price moves twentyfold: held by itself; accepted by hand it is charged.
  write((price, i) => (i === 0 ? price * 20 : price));
  await house.feed(file);
  await check('one price x20');
  const held = JSON.parse(await house.cli('prices', 'list', '--held', '--json'));
  assert.deepEqual(held.map((row) => row.name), ['openai/test-0']);
  await house.cli('prices', 'accept', 'openai/test-0', '--yes');
  await house.costs(0, usage, good * 20);
  assert.equal((await house.prices()).quarantined, 0);
  // And a whole batch by --all.
  write((price) => price * 100);
  await house.feed(file);
  await waitFor(async () => (await house.prices()).quarantined > 0);
  await house.cli('prices', 'accept', '--all', '--yes');
  await house.costs(1, usage, ((1000 * 2 + 500 * 4) * 100) / 1e6);
  await house.end();
});

test('set by hand before the feed, the policy before all', async () => {
  const house = await startHouse();
  const file = path.join(house.home, 'feed.yaml');
  writeFileSync(file, 'schema: fairlead/1\nkind: prices\nprices:\n  openai/test-0: {input: 1, output: 2, cache_read: 0.5, context: 1000, can: [chat]}\n');
  assert.equal((await house.feed(file)).code, 0);
  await house.push(['is: openai/test-0', 'is: openai/test-0, price: {input: 10, output: 20}']);
  const usage = { prompt: 1000, cached: 400, tokens: 100 };
  await house.costs(0, usage, (600 * 1 + 400 * 0.5 + 100 * 2) / 1e6);
  await house.costs(1, usage, (1000 * 10 + 100 * 20) / 1e6); // no cache_read of its own: as input
  await house.cli('prices', 'set', 'openai/test-0', '--input', '3', '--output', '6', '--cache-read', '0.3', '--yes');
  await house.costs(0, usage, (600 * 3 + 400 * 0.3 + 100 * 6) / 1e6);
  await house.costs(1, usage, (1000 * 10 + 100 * 20) / 1e6);
  assert.equal((await house.prices()).set, 1);
  // The feed goes on behind it.
  writeFileSync(file, 'schema: fairlead/1\nkind: prices\nprices:\n  openai/test-0: {input: 1.5, output: 3, cache_read: 0.75, context: 1000, can: [chat]}\n');
  await house.feed(file);
  await house.costs(0, usage, (600 * 3 + 400 * 0.3 + 100 * 6) / 1e6);
  await house.cli('prices', 'unset', 'openai/test-0', '--yes');
  await house.costs(0, usage, (600 * 1.5 + 400 * 0.75 + 100 * 3) / 1e6);
  await house.end();
});

// What a request costs, worked out by hand from the catalog's own figures: 10,000 prompt tokens of which 4,000 from the cache, 500
// tokens of text and 300 of reasoning.
const usage = { prompt: 10_000, cached: 4_000, tokens: 500, reasoning: 300 };
const long = { ...usage, prompt: 300_000, cached: 100_000 };
const worked = {
  [litellm]: [
    ['openai/gpt-4o', usage, 0.028], //                 6,000 x 2.50 = 15,000; 4,000 x 1.25 = 5,000; 800 x 10 = 8,000 microdollars
    ['openai/gpt-4o-mini', usage, 0.00168], //          6,000 x 0.15 = 900; 4,000 x 0.075 = 300; 800 x 0.60 = 480
    ['openai/o3-mini', usage, 0.01232], //              6,000 x 1.10 = 6,600; 4,000 x 0.55 = 2,200; 800 x 4.40 = 3,520
    ['anthropic/claude-sonnet-4-5', usage, 0.0312], //  6,000 x 3 = 18,000; 4,000 x 0.30 = 1,200; 800 x 15 = 12,000
    ['anthropic/claude-sonnet-4-5', long, 1.278], //    over 200,000: 200,000 x 6 = 1,200,000; 100,000 x 0.60 = 60,000; 800 x 22.50 = 18,000
    ['gemini/gemini-2.5-flash', usage, 0.00392], //     6,000 x 0.30 = 1,800; 4,000 x 0.03 = 120; 500 x 2.50 = 1,250; 300 x 2.50 = 750
    ['perplexity/sonar-deep-research', usage, 0.0249], // no cache price: 10,000 x 2 = 20,000; 500 x 8 = 4,000; reasoning 300 x 3 = 900
    ['deepseek/deepseek-chat', usage, 0.002128], //     6,000 x 0.28 = 1,680; 4,000 x 0.028 = 112; 800 x 0.42 = 336
    ['groq/llama-3.1-8b-instant', usage, 0.000564], //  10,000 x 0.05 = 500; 800 x 0.08 = 64
  ],
  [openrouter]: [
    ['openrouter/openai/gpt-4o', usage, 0.028],
    ['openrouter/anthropic/claude-sonnet-4.5', usage, 0.0312],
    ['openrouter/anthropic/claude-sonnet-4.5', long, 1.278],
    ['openrouter/deepseek/deepseek-r1', usage, 0.009], // 10,000 x 0.70 = 7,000; 800 x 2.50 = 2,000
  ],
};
const catalogs = [
  [litellm, 'LiteLLM', 2900, 'model_prices_and_context_window.json of github.com/BerriAI/litellm'],
  [openrouter, 'OpenRouter', 330, 'https://openrouter.ai/api/v1/models'],
];

for (const [file, name, least, origin] of catalogs) {
  test(`${name}'s catalog, whole: requests cost what its figures say`, { skip: absent(file, origin) }, async (t) => {
    const house = await startHouse();
    const from = performance.now();
    const fed = await house.feed(file);
    assert.equal(fed.code, 0, fed.stderr);
    const prices = await house.prices();
    t.diagnostic(`read, sent and taken in ${Math.round(performance.now() - from)} ms: ${JSON.stringify({ ...prices, feed: undefined })}`);
    assert.ok(prices.entries > least, `${prices.entries} entries`);
    const cases = worked[file];
    await house.push(cases.map(([entry]) => `is: "${entry}"`));
    for (const [i, [entry, tokens, dollars]] of cases.entries()) assert.equal(await house.cost(i, tokens), dollars, entry);
    // What cannot be mapped is counted and listed.
    const unmapped = JSON.parse(await house.cli('prices', 'list', '--unmapped', '--json'));
    assert.equal(unmapped.length, prices.unmapped);
    if (file === litellm) assert.ok(unmapped.some((row) => row.name.startsWith('dashscope/')), 'a provider without a preset');
    await house.end();
  });
}
