// Prompts and answers in the records: of a team that the policy names, as long as that version is live, and of nobody else.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { stopAll, waitFor } from './support/process.mjs';
import { readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';

after(stopAll);

const policy = (fakes, records = '') => `defaults: {probe: {how: none}}
providers:
  a: {base_url: "${fakes[0].url}"}
models:
  a/one: {price: {input: 1, output: 1}}
routes:
  chat: {tiers: [{models: [a/one]}]}
${records}`;
const directory = 'teams:\n  t: {routes: [chat]}\n  hr: {routes: [chat]}';
let house, key, hr;

before(async () => {
  house = await startFairlead({ fakes: [{}], policy, directory, workers: 1 });
  key = await house.createKey();
  hr = await house.createKey({ team: 'hr' });
});

const file = () => path.join(house.home, 'policy.yaml');
const write = (records) => writeFileSync(file(), `schema: fairlead/1\nkind: policy\n${policy(house.fakes, records)}`);
const push = async (records) => {
  write(records);
  const { code, stdout, stderr } = await house.cli(['policy', 'push', file(), '--wait', '--yes']);
  assert.equal(code, 0, stderr);
  return stdout + stderr;
};
const ask = async (content, { who = key, ...more } = {}) => {
  const answer = await house.request('/v1/chat/completions', { key: who.key, body: chatBody(content, more) });
  assert.equal(answer.status, 200, answer.text);
  return { ...answer, id: answer.headers['x-request-id'] };
};
const linesOf = (id) => house.records().filter((record) => record.request_id === id);
// The lines of a request, all of them: those of a later one, by the same worker, come after.
const settled = async (answer) => {
  const later = await ask('later', { who: hr });
  await waitFor(() => linesOf(later.id).length > 0, { what: 'a later record' });
  await waitFor(() => linesOf(answer.id).length > 0, { what: 'its record' });
  return linesOf(answer.id);
};
const files = (directory) => readdirSync(path.join(house.home, directory)).map((name) => path.join(house.home, directory, name));
const mention = (directory, text) => files(directory).some((name) => readFileSync(name, 'utf8').includes(text));

test('nobody is recorded unless a policy says so', async () => {
  assert.equal((await settled(await ask('the first secret'))).length, 1);
  assert.ok(!mention('records', 'the first secret'));
});

test('a push that turns it on says so, and the team is recorded', async () => {
  const said = await push('records: {content: {teams: [t], share: 100%, bytes: 300}}');
  assert.match(said, /policy\.yaml:10:\d+: warning: personal data: a part of team t's prompts and answers .* of 100% of its requests, up to 300 bytes each/);
  assert.match(said, /\+ content of team t is now recorded: 100%/);
  assert.match(await push('records: {content: {teams: [t], share: 100%, bytes: 4KiB}}'), /warning: personal data: more of team t's/);

  const whole = await ask('a "quoted" word');
  const content = await waitFor(() => linesOf(whole.id).find((line) => line.kind === 'content'), { what: 'what was said' });
  assert.deepEqual(Object.keys(content), ['time', 'request_id', 'node', 'kind', 'of', 'team', 'prompt', 'prompt_cut', 'answer', 'answer_cut']);
  assert.equal(content.of, whole.id);
  assert.equal(content.team, 't');
  assert.deepEqual(JSON.parse(content.prompt), chatBody('a "quoted" word'));
  assert.equal(content.answer, whole.text);
  assert.equal(content.prompt_cut || content.answer_cut, false);

  const stream = await ask('streamed', { stream: true });
  const events = await waitFor(() => linesOf(stream.id).find((line) => line.kind === 'content'), { what: 'a stream' });
  assert.equal(events.answer, events.answer_cut ? stream.text.slice(0, events.answer.length) : stream.text);
  assert.match(events.answer, /^data: /);

  const long = await ask('é'.repeat(9000));
  const cut = await waitFor(() => linesOf(long.id).find((line) => line.kind === 'content'), { what: 'a long one' });
  assert.ok(cut.prompt_cut && JSON.stringify(chatBody('é'.repeat(9000))).startsWith(cut.prompt));

  assert.equal((await settled(await ask('secret of hr', { who: hr }))).length, 1);
  assert.ok(!mention('records', 'secret of hr'));
  assert.ok(!mention('records', key.key), 'keys are in no record');
  for (const name of files('records')) assert.equal(statSync(name).mode & 0o777, 0o600);
});

test('it is shown to those who ask for it, and stays on the node', async () => {
  const answer = await ask('where is it?');
  const shipped = () => mention('control/records', answer.id);
  await waitFor(() => linesOf(answer.id).length === 2 && shipped(), { what: 'its record at the control plane' });
  assert.ok(!mention('control/records', 'where is it?') && !mention('control/records', '"content"'));

  const plain = await house.cli(['records', answer.id]);
  assert.equal(plain.code, 0, plain.stderr);
  assert.match(plain.stdout, /served by {5}a\/one/);
  assert.doesNotMatch(plain.stdout, /where is it/);
  assert.doesNotMatch((await house.cli(['records', '--last', '100', '--json'])).stdout, /"kind":"content"/);

  const full = await house.cli(['records', answer.id, '--content']);
  assert.match(full.stdout, /^prompt\n {2}.*where is it\?/m);
  assert.ok(full.stdout.includes(JSON.parse(answer.text).id));
  const list = JSON.parse((await house.cli(['records', '--content', '--json'])).stdout);
  assert.ok(list.length > 0 && list.every((line) => line.kind === 'content'));
  assert.equal((await house.cli(['records', 'req_nobody', '--content'])).code, 3);
});

test('a rollback turns it off, and so does a share of nothing', async () => {
  assert.doesNotMatch(await push('records: {content: {teams: [t], share: 0%}}'), /personal data/);
  assert.equal((await settled(await ask('at no share'))).length, 1);
  assert.match(await push('records: {content: {teams: [t], share: 50%}}'), /personal data/);
  const back = await house.cli(['rollback', '1', '--wait', '--yes']);
  assert.equal(back.code, 0, back.stderr);
  assert.equal((await settled(await ask('after the rollback'))).length, 1);
  assert.ok(!mention('records', 'after the rollback') && !mention('records', 'at no share'));
});
