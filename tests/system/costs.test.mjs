// costs: what was asked and by whom, added up from shipped records; keys' tags are folded into it.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';

after(stopAll);

// Each answer: 3 tokens in at $1, 24 out at $2 a million, as the simulated provider counts.
const policy = (fakes) =>
  `defaults: {probe: {how: none}}\nproviders:\n  a: {preset: openai-compatible, base_url: "${fakes[0].baseUrl}"}\nmodels:\n  a/m: {price: {input: 1, output: 2}}\n  a/n: {price: {input: 1, output: 2}}\nroutes:\n  chat: {tiers: [{models: [a/m]}]}`;

test('by team, model, key and tag; as a table, CSV and JSON', async () => {
  const house = await startFairlead({ fakes: [{ prompt: 3 }], policy, workers: 1 });
  const plain = await house.createKey();
  const tagged = await house.admin('keys', 'create', '--team', 't', '--tag', 'project=x', '--tag', 'stage=a"b', '--wait');
  const other = await house.admin('keys', 'create', '--team', 't', '--tag', 'project=x', '--wait');
  const ask = async (key, model) => assert.equal((await house.request('/v1/chat/completions', { key, body: { ...chatBody('hello'), model } })).status, 200);
  for (const [{ key }, model] of [[plain, 'chat'], [tagged, 'chat'], [tagged, 'a/n'], [other, 'chat']]) await ask(key, model);
  const costs = async (...args) => JSON.parse((await house.cli(['costs', ...args, '--json'])).stdout);
  await waitFor(async () => (await costs()).rows.reduce((sum, row) => sum + row.requests, 0) === 4, { what: 'the records', timeoutMs: 60_000 });

  const { rows } = await costs('--by', 'team,model');
  assert.deepEqual(rows.map(({ team, model, requests }) => [team, model, requests]), [['t', 'a/m', 3], ['t', 'a/n', 1]]);
  const one = rows[1].charged_nano_usd;
  assert.ok(one > 0 && rows[0].charged_nano_usd === 3 * one && rows[0].list_nano_usd === 3 * one);

  const byProject = await costs('--by', 'tag:project');
  assert.deepEqual(byProject.rows.map((row) => [row['tag:project'], row.requests, row.charged_nano_usd]), [['x', 3, 3 * one], ['', 1, one]]);
  const byTag = await costs('--by', 'tag,model');
  assert.deepEqual(byTag.rows.map(({ tag, model, requests }) => [tag, model, requests]).sort(), [['', 'a/m', 1], ['project=x, stage=a"b', 'a/m', 1], ['project=x, stage=a"b', 'a/n', 1], ['project=x', 'a/m', 1]]);
  assert.equal((await costs('--by', 'tag,key')).rows.length, 3);

  const table = (await house.cli(['costs', '--by', 'model'])).stdout;
  assert.match(table, /^MODEL +REQUESTS +ERRORS +ESTIMATED +INPUT +CACHED +OUTPUT +LIST USD +CHARGED USD$/m);
  assert.match(table, /^a\/m +3 +0 +0 +9 /m);
  assert.match(table, /^\(total\) +4 +0 +0 +12 /m);
  const csv = (await house.cli(['costs', '--by', 'tag,model', '--csv'])).stdout.split('\r\n');
  assert.equal(csv[0], 'tag,model,requests,errors,estimated,input_tokens,cached_tokens,output_tokens,list_usd,charged_usd');
  assert.equal(csv.length, 6); // four rows, and the end of the last line
  assert.ok(csv.some((line) => line.startsWith('"project=x, stage=a""b","a/n",1,0,0,3,0,24,0.')), csv.join('\n'));

  assert.match((await house.cli(['costs', '--since', '1ms'])).stdout, /no requests in that time/);
  const wrong = await house.cli(['costs', '--by', 'teem']);
  assert.equal(wrong.code, 1);
  assert.equal((await house.cli(['costs', '--since', 'soon'])).code, 2);
  assert.equal((await house.stop()).code, 0);
});
