// The price feed against a real control plane: what is taken, what is held back, what is shown.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { repository, run, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const home = temporaryDirectory('pricefeed-');
const file = path.join(home, 'catalog.json');
const data = path.join(process.env.FAIRLEAD_DATA ?? path.join(repository, '../shared/data'), 'prices/litellm_model_prices_and_context_window.json');
let control;

const cli = async (...args) => {
  const { code, stdout, stderr } = await run('fairlead', [...args, '--home', home, '--json']);
  assert.equal(code, 0, `fairlead ${args.join(' ')}: ${stderr}${stdout}`);
  return JSON.parse(stdout);
};
const find = (value, test) => {
  if (value && typeof value === 'object') {
    if (test(value)) return value;
    for (const part of Object.values(value)) {
      const found = find(part, test);
      if (found) return found;
    }
  }
  return undefined;
};
const price = async (name) => find(await cli('prices', 'list', name), (v) => v.name === name);
const summary = async () => find(await cli('status'), (v) => 'quarantined' in v && 'entries' in v);
const startControl = async () => {
  control = await startProcess('fairlead-controlplane', ['--home', home], { readyPattern: /event=(ready|started|listening)/, readyFrom: 'stderr' });
};
const startFeed = (source, ...args) =>
  startProcess('fairlead-pricefeed', ['--home', home, ...source, '--every', '200ms', ...args], { readyPattern: /pricefeed\.started/, readyFrom: 'stderr' });

// Twenty models at 1 and 2 dollars per million tokens, changed by alter(entry, i); null drops one.
const catalog = (alter = (entry) => entry) => {
  const entries = {};
  for (let i = 0; i < 20; i++) {
    const entry = alter({ litellm_provider: 'groq', mode: 'chat', input_cost_per_token: 1e-6, output_cost_per_token: 2e-6 }, i);
    if (entry) entries[`groq/model-${i}`] = entry;
  }
  return JSON.stringify(entries);
};
const until = (what, predicate) => waitFor(predicate, { timeoutMs: 15_000, what });

before(startControl);
after(stopAll);

test('a catalog becomes the book; absurd ones are held back, shown and released', async () => {
  writeFileSync(file, catalog());
  const feed = await startFeed(['--file', file]);
  await until('the first catalog', async () => (await price('groq/model-0'))?.source === 'feed');
  const version = (await summary()).version;

  writeFileSync(file, catalog((e, i) => (i === 3 ? { ...e, input_cost_per_token: 1.5e-6 } : e)));
  await until('a change', async () => (await price('groq/model-3')).price.input === 1.5);
  assert.equal((await summary()).version, version + 1);
  assert.match(feed.stderr, /prices\.changed.*changed=1 /);

  const absurd = {
    zeroed: catalog((e) => ({ ...e, input_cost_per_token: 0, output_cost_per_token: 0 })),
    thousandfold: catalog((e) => ({ ...e, input_cost_per_token: e.input_cost_per_token * 1000 })),
    empty: '{}',
    half: catalog((e, i) => (i < 10 ? e : null)),
  };
  for (const [name, text] of Object.entries(absurd)) {
    writeFileSync(file, text);
    const held = await until(`${name} to be held`, async () => {
      const s = await summary();
      return s.quarantined >= 10 && s;
    });
    assert.ok(held.quarantined_batch, name);
    const row = await price('groq/model-15');
    assert.equal(row.price.input, 1, name);
    assert.equal(row.quarantined.old.input, 1, name);
    writeFileSync(file, catalog((e, i) => (i === 3 ? { ...e, input_cost_per_token: 1.5e-6 } : e)));
    await until(`${name} to be over`, async () => (await summary()).quarantined === 0);
    assert.equal((await summary()).version, version + 1, name);
  }

  // half a file: no catalog at all
  writeFileSync(file, catalog().slice(0, 500));
  const cut = await until('the cut file to be told', async () => {
    const s = await summary();
    return s.feed.problem && s;
  });
  assert.match(cut.feed.problem, /line \d+/);
  assert.equal(cut.quarantined, 0);
  assert.equal((await price('groq/model-15')).price.input, 1);

  writeFileSync(file, catalog((e, i) => (i === 7 ? { ...e, input_cost_per_token: 20e-6 } : e)));
  await until('a jump to be held', async () => (await price('groq/model-7')).quarantined);
  assert.equal((await summary()).feed.problem, null);
  await cli('prices', 'accept', 'groq/model-7', '--yes');
  assert.equal((await price('groq/model-7')).price.input, 20);

  // what was accepted survives the control plane; the feed tells its new life everything
  await control.stop();
  await startControl();
  assert.equal((await price('groq/model-7')).price.input, 20);
  writeFileSync(file, catalog((e, i) => (i === 7 ? { ...e, input_cost_per_token: 21e-6 } : e)));
  await until('news after the restart', async () => (await price('groq/model-7')).price.input === 21);
  assert.deepEqual(await feed.stop({ graceMs: 5000 }), { code: 0, signal: null });
});

test('reads over HTTP, follows no redirect, and ends at 64 MiB', async () => {
  let answer = (_request, response) => response.end(catalog((e) => ({ ...e, output_cost_per_token: 2.5e-6 })));
  const server = createServer((request, response) => answer(request, response)).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const url = `http://127.0.0.1:${server.address().port}/prices.json`;
  const env = { no_proxy: '127.0.0.1', NO_PROXY: '127.0.0.1' };
  try {
    const once = await run('fairlead-pricefeed', ['--home', home, '--url', url, '--once'], { env });
    assert.equal(once.code, 0, once.stderr);
    await until('the price from HTTP', async () => (await price('groq/model-0')).price.output === 2.5);
    const secret = url.replace('://', '://user:hush@') + '?token=hush';
    const quiet = await run('fairlead-pricefeed', ['--home', home, '--url', secret, '--once'], { env });
    assert.equal(quiet.code, 0, quiet.stderr);
    assert.doesNotMatch(quiet.stderr, /hush/);
    const { feed: told } = await summary();
    assert.equal(told.origin, url);
    answer = (_request, response) => response.writeHead(302, { location: 'http://127.0.0.1:1/' }).end();
    const moved = await run('fairlead-pricefeed', ['--home', home, '--url', url, '--once'], { env });
    assert.equal(moved.code, 1);
    assert.match(moved.stderr, /302/);
    answer = (_request, response) => {
      const chunk = Buffer.alloc(1 << 20, ' ');
      const more = () => {
        while (!response.destroyed && response.write(chunk));
      };
      response.on('drain', more);
      response.on('error', () => {});
      more();
    };
    const endless = await run('fairlead-pricefeed', ['--home', home, '--url', url, '--check'], { env });
    assert.equal(endless.code, 1);
    assert.match(endless.stderr, /larger than 64 MiB/);
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test('checks the real catalog and lists what cannot be mapped', { skip: existsSync(data) ? false : `no ${data}; set FAIRLEAD_DATA` }, async () => {
  const { code, stdout } = await run('fairlead-pricefeed', ['--home', home, '--file', data, '--check', '--unmapped']);
  assert.equal(code, 0);
  assert.match(stdout, /^form +LiteLLM$/m);
  assert.match(stdout, /^entries +2984$/m);
  assert.match(stdout, /^unmapped anthropic\/claude-sonnet-4-5$/m);
  const listed = stdout.match(/^unmapped (?! )\S+\/|^unmapped \S+$/gm).length;
  assert.ok(listed > 1000);
});

test('ships a book, and says what is wrong with its options', async () => {
  const bare = temporaryDirectory('pricefeed-bare-');
  const shipped = await run('fairlead-pricefeed', ['--home', bare, '--check']);
  assert.equal(shipped.code, 0);
  assert.match(shipped.stdout, /^form +Fairlead$/m);
  assert.equal((await run('fairlead-pricefeed', ['--home', bare, '--every', '1ms'])).code, 2);
  assert.equal((await run('fairlead-pricefeed', ['--home', bare, '--file', 'a', '--url', 'b'])).code, 2);
  assert.equal((await run('fairlead-pricefeed', ['--home', bare, '--file', path.join(bare, 'none'), '--check'])).code, 1);
  // nobody listens: it waits, and a SIGTERM ends it
  const lost = await startProcess('fairlead-pricefeed', ['--home', bare], { readyPattern: /pricefeed\.started/, readyFrom: 'stderr' });
  assert.deepEqual(await lost.stop({ graceMs: 6000 }), { code: 0, signal: null });
});
