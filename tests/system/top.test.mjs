// top at a real house: figures that are true, one screen on a terminal, and the terminal given back however it ends.
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { chatBody, startFairlead } from './support/fairlead.mjs';
import { bin, run, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const hasScript = spawnSync('script', ['--version']).status === 0;
const policy = (fakes) =>
  `defaults: {probe: {how: none}}\nproviders:\n  a: {preset: openai-compatible, base_url: "${fakes[0].baseUrl}"}\nmodels:\n  a/m: {price: {input: 1, output: 1}}\nroutes:\n  chat: {tiers: [{models: [a/m]}]}`;

after(stopAll);

describe('top', () => {
  let house;
  let key;
  before(async () => {
    house = await startFairlead({ policy, workers: 1 });
    ({ key } = await house.createKey());
  });
  const ask = async (count) => {
    for (let i = 0; i < count; i++) assert.equal((await house.request('/v1/chat/completions', { key, body: chatBody('hello', { stream: true }) })).status, 200);
  };

  test('counts what happens while it looks', async () => {
    const looking = house.cli(['top', '--json', '--every', '3s']);
    let over = false;
    looking.then(() => (over = true));
    let asked = 0;
    while (!over) {
      await ask(1);
      asked++;
    }
    const { code, stdout, stderr } = await looking;
    assert.equal(code, 0, stderr);
    const seen = JSON.parse(stdout);
    const counted = (seen.routes[0].requests_per_s * seen.over_ms) / 1000;
    assert.equal(seen.nodes, 1);
    assert.equal(seen.routes[0].name, 'chat');
    assert.ok(counted > 0 && counted <= asked, `${counted} of ${asked}`);
    assert.equal(seen.routes[0].errors, 0);
    assert.ok(seen.routes[0].ttft_p50_ms > 0 && seen.routes[0].usd_per_hour > 0);
    assert.equal(seen.models[0].name, 'a/m');
  });

  test('prints once where there is no terminal', async () => {
    await house.admin('block', 'a', '--reason', 'looks odd');
    await ask(0);
    const { code, stdout } = await house.cli(['top', '--every', '200ms']);
    assert.equal(code, 0);
    assert.match(stdout, /^fairlead top · \d\d:\d\d:\d\dZ · policy v1 100% · 1 node/);
    assert.match(stdout, /^block +a by \S+: looks odd$/m);
    assert.match(stdout, /^ROUTE +REQ\/S[^]*^chat [^]*^MODEL[^]*^a\/m .* block$/m);
    assert.doesNotMatch(stdout, /\u001b/);
    await house.admin('unblock', 'a');
  });

  test('sums nodes that are named, and says whom it cannot ask', async () => {
    const address = house.operations.slice('http://'.length);
    const { stdout } = await house.cli(['top', '--node', address, '--node', address, '--node', '127.0.0.1:1', '--every', '200ms']);
    assert.match(stdout, /2 of 3 nodes/);
    assert.match(stdout, /no figures from 127\.0\.0\.1:1 \(refused\)/);
    assert.equal((await house.cli(['top', '--once', '--node', '127.0.0.1:1', '--every', '200ms'])).code, 6);
    const nowhere = await run('fairlead', ['top', '--home', temporaryDirectory('fl-'), '--every', '200ms']);
    assert.equal(nowhere.code, 6);
    assert.match(nowhere.stdout, /--node HOST:PORT/);
  });

  describe('on a terminal', { skip: !hasScript && 'script(1) makes the terminal' }, () => {
    // What the terminal got, and how it was left: stty tells before and after.
    const onTerminal = async (how) => {
      const top = `echo pid=$$=; exec '${bin('fairlead')}' top --home '${house.home}' --every 200ms`;
      const child = spawn('script', ['-qfc', 'stty rows 12 cols 70; stty -g; sh -c "$TOP"; echo "code=$?"; stty -g', '/dev/null'], { env: { ...process.env, TERM: 'xterm', TOP: top, SHELL: '/bin/sh' } });
      let text = '';
      child.stdout.setEncoding('utf8').on('data', (more) => (text += more));
      const ended = new Promise((resolve) => child.on('close', resolve));
      await waitFor(() => /MODEL[^]*\u001b\[J[^]*MODEL/.test(text), { what: () => `two frames in ${JSON.stringify(text)}`, timeoutMs: 20_000 });
      const pid = Number(/pid=(\d+)=/.exec(text)[1]);
      how(child, pid);
      await ended;
      return text;
    };
    const restored = (text) => {
      const modes = text.match(/^[0-9a-f]+(:[0-9a-f]+)+(?=\r?$)/gm);
      assert.equal(modes.length, 2, text);
      assert.equal(modes[0], modes[1], 'the mode of the terminal');
      assert.ok(text.lastIndexOf('\u001b[?1049l') > text.lastIndexOf('\u001b[?1049h'), 'the screen that was there is back');
      assert.ok(text.lastIndexOf('\u001b[?25h') > text.lastIndexOf('\u001b[?25l'), 'the cursor is back');
    };

    test('q ends it, and no frame is larger than the screen', async () => {
      const text = await onTerminal((child) => child.stdin.write('q'));
      restored(text);
      assert.match(text, /code=0/);
      for (const frame of text.split('\u001b[H').slice(1)) {
        const lines = frame.split('\u001b[J')[0].replace(/\u001b\[[0-9;?]*[A-Za-z]/g, '').split('\n');
        assert.ok(lines.length <= 12, `${lines.length} lines`);
        for (const line of lines) assert.ok([...line.replace(/\r/g, '')].length <= 70, line);
      }
    });

    for (const signal of ['SIGTERM', 'SIGINT', 'SIGABRT'])
      test(`${signal} gives the terminal back`, async () => restored(await onTerminal((_, pid) => process.kill(pid, signal))));
  });
});
