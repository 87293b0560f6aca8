// The admin CLI as people and scripts use it: what it prints, how it ends, and that it does what it says.
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { alive, holderOf } from './support/control.mjs';
import { chatBody, request, startFairlead } from './support/fairlead.mjs';
import { repository, run, startFakellm, startProcess, stopAll, temporaryDirectory, waitFor } from './support/process.mjs';

const code = { good: 0, refused: 1, usage: 2, notFound: 3, conflict: 4, unreachable: 6, failed: 7, notYet: 8 };
const anyPort = ['--listen', '127.0.0.1:0', '--operations', '127.0.0.1:0', '--workers', '1'];
const parts = ['control', 'node', 'prober', 'pricefeed'];
const homes = new Set();

// Nobody's keys: what this machine's user has set must not change what is tested.
const noKeys = Object.fromEntries(Object.keys(process.env).flatMap((name) => (name.endsWith('_API_KEY') ? [[name, '']] : [])));

function newHome() {
  const home = temporaryDirectory('fl-');
  homes.add(home);
  return home;
}
const fairlead = (args, { env, ...options } = {}) => run('fairlead', args.map(String), { env: { ...noKeys, ...env }, ...options });
const inHome = (home) => (args, options) => fairlead([...args, '--home', home], options);

// It must end so and say this; gives its output.
async function expect(promise, expected, pattern) {
  const { code: got, stdout, stderr } = await promise;
  const said = `code ${got}\nstdout: ${stdout}\nstderr: ${stderr}`;
  assert.equal(got, expected, said);
  for (const one of pattern === undefined ? [] : [pattern].flat()) assert.match(stdout + stderr, one, said);
  return { stdout, stderr };
}

after(async () => {
  for (const home of homes) await fairlead(['down', '--home', home]); // what was detached
  await stopAll();
});

describe('init', () => {
  let fast;
  let slow;
  before(async () => {
    fast = await startFakellm({ name: 'fast', models: 'f-1,f-2' });
    slow = await startFakellm({ name: 'slow', models: 's-1' });
  });

  test('writes files that pass their checks', async () => {
    const home = newHome();
    const cli = inHome(home);
    const made = await expect(
      cli(['init', '--demo', `fast=${fast.baseUrl}@0.10/0.40`, '--demo', `slow=${slow.baseUrl}`], { env: { GROQ_API_KEY: 'gsk-not-real' } }),
      code.good,
      [/found +fast at \S+: 2 models/, /found +groq by \$GROQ_API_KEY/, /fairlead up --detach --home/],
    );
    assert.doesNotMatch(made.stdout + made.stderr, /gsk-not-real/);
    for (const name of ['policy.yaml', 'directory.yaml', 'node.yaml']) {
      const file = path.join(home, name);
      assert.doesNotMatch(readFileSync(file, 'utf8'), /gsk-not-real/);
      assert.equal(statSync(file).mode & 0o777, 0o600);
    }
    await expect(cli(['policy', 'check', path.join(home, 'policy.yaml')]), code.good, /good: 3 providers/);
    await expect(cli(['policy', 'check', path.join(home, 'directory.yaml')]), code.good, /good: 1 team$/m);
    const node = await run('fairlead-dataplane', ['--home', home, '--check-config'], { env: { GROQ_API_KEY: 'gsk-not-real' } });
    assert.equal(node.code, 0, node.stderr);
    assert.match(readFileSync(path.join(home, 'node.yaml'), 'utf8'), /groq: \{from: env:GROQ_API_KEY, hosts: \["api\.groq\.com"\]\}/);
    assert.match(readFileSync(path.join(home, 'policy.yaml'), 'utf8'), /"fast\/f-1": \{price: \{input: 0\.10, output: 0\.40\}\}/);
  });

  test('keeps files, and replaces them only by force', async () => {
    const home = newHome();
    const cli = inHome(home);
    const policy = path.join(home, 'policy.yaml');
    writeFileSync(policy, 'mine\n');
    await expect(cli(['init', '--demo', `fast=${fast.baseUrl}`]), code.good, [/kept +\S+policy\.yaml/, /wrote +\S+node\.yaml/]);
    assert.equal(readFileSync(policy, 'utf8'), 'mine\n');
    await expect(cli(['init', '--force', '--demo', `fast=${fast.baseUrl}`]), code.good, /moved +\S+policy\.yaml to/);
    assert.equal(readFileSync(`${policy}.old`, 'utf8'), 'mine\n');
    assert.match(readFileSync(policy, 'utf8'), /kind: policy/);
  });

  test('says what is wrong with --demo', async () => {
    const home = newHome();
    const cli = inHome(home);
    const init = (demo) => cli(['init', '--demo', demo]);
    await expect(init('fast'), code.usage, /there is no '='/);
    await expect(init('a b=http://127.0.0.1:1/v1'), code.usage, /a provider's name/);
    await expect(init(`fast=${fast.baseUrl}@1`), code.usage, /no INPUT\/OUTPUT/);
    await expect(init(`fast=${fast.baseUrl}@1/-2`), code.usage, /no INPUT\/OUTPUT/);
    await expect(init('x=https://example.com/v1'), code.usage, /not one of this machine/);
    await expect(init('x=http://127.0.0.1:99999/v1'), code.usage, /not one of this machine/);
    await expect(init('x=http://127.0.0.1:1/v1'), code.notFound, /is the server running\?/);
    assert.deepEqual(readdirSync(home), []);
  });

  test('finds nothing, and says what would be found', async () => {
    const home = newHome();
    // A model server may really run here: then it is found.
    const { code: got, stderr } = await inHome(home)(['init']);
    if (got !== code.good) {
      assert.equal(got, code.notFound);
      assert.match(stderr, /OPENAI_API_KEY/);
      assert.deepEqual(readdirSync(home), []);
    }
  });

  test('is not held up or misled by strange servers', async () => {
    const answers = {
      drip: (socket) => socket.write('HTTP/1.1 200 OK\r\n\r\n{'), // and never more
      html: (socket) => socket.end('HTTP/1.1 200 OK\r\n\r\n<html>'),
      error: (socket) => socket.end('HTTP/1.1 500 Oops\r\n\r\n{"data":[{"id":"a"}]}'),
      names: (socket) => socket.end(`HTTP/1.1 200 OK\r\n\r\n${JSON.stringify({ data: [{ id: 'a"\n}' }, { id: '*' }, { id: 'ok' }, { id: 7 }] })}`),
    };
    for (const [name, answer] of Object.entries(answers)) {
      const server = net.createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => answer(socket));
      });
      await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
      const home = newHome();
      const started = Date.now();
      const made = inHome(home)(['init', '--demo', `x=http://127.0.0.1:${server.address().port}/v1`]);
      if (name === 'names') {
        await expect(made, code.good, /1 model$/m);
        await expect(inHome(home)(['policy', 'check', path.join(home, 'policy.yaml')]), code.good);
      } else {
        await expect(made, code.notFound);
      }
      assert.ok(Date.now() - started < 10_000);
      await new Promise((resolve) => {
        server.close(resolve);
        server.unref();
        resolve();
      });
    }
  });
});

describe('up and down', () => {
  let fake;
  before(async () => {
    fake = await startFakellm({ name: 'a', models: 'm' });
  });
  const prepared = async () => {
    const home = newHome();
    await expect(inHome(home)(['init', '--demo', `a=${fake.baseUrl}@1/2`]), code.good);
    return home;
  };
  const housePids = (home) => ['up', ...parts].map((lock) => holderOf(home, lock));
  const gone = (pids) => waitFor(() => pids.every((pid) => pid === 0 || !alive(pid)), { what: 'every process to end' });

  test('detached: up, up again, down, down again', async () => {
    const home = await prepared();
    const cli = inHome(home);
    await expect(cli(['up', '--detach', ...anyPort]), code.good, [/Fairlead is up\. API http:\/\/127\.0\.0\.1:\d+\/v1/, /v1 is live at 100%/]);
    const pids = housePids(home);
    assert.ok(pids.every((pid) => pid > 0 && alive(pid)));
    await startFakellm({ lock: path.join(home, 'run', 'guest.lock') }); // as the quickstart does
    const guest = holderOf(home, 'guest');
    assert.ok(alive(guest));
    const again = await expect(cli(['up', '--detach']), code.good, /Fairlead is up\./);
    assert.doesNotMatch(again.stderr, /counts only/);
    await expect(cli(['up', '--listen', '127.0.0.1:1', '--prices', 'x.yaml']), code.good, [/--listen counts only after/, /--prices counts only after/]);
    assert.deepEqual(housePids(home), pids);
    await expect(cli(['status']), code.good, [/v1 100% · generation 1 \(push v1/, /current/]);
    await expect(cli(['down']), code.good, /Fairlead is down\./);
    await gone([...pids, guest]);
    await expect(cli(['down']), code.good, /nothing runs in/);
    await expect(cli(['status']), code.unreachable, /no control plane answers at .*`fairlead up` starts one/);
  });

  test('down also ends workers whose master was killed', async () => {
    const home = await prepared();
    const cli = inHome(home);
    await expect(cli(['up', '--detach', ...anyPort]), code.good);
    const operations = readFileSync(path.join(home, 'run', 'operations'), 'utf8').trim();
    const { workers } = await fetch(`http://${operations}/status`, { headers: { connection: 'close' } }).then((answer) => answer.json());
    const pids = workers.map((worker) => worker.pid);
    assert.ok(pids.length === 1 && pids.every(alive));
    for (const lock of ['up', 'node']) process.kill(holderOf(home, lock), 'SIGKILL');
    await expect(cli(['down']), code.good, /Fairlead is down\./);
    await gone(pids);
  });

  test('in the foreground, stopped by a signal', async () => {
    const home = await prepared();
    const up = await startProcess('fairlead', ['up', '--home', home, ...anyPort], { readyPattern: /^Fairlead is up\. /m, timeoutMs: 60_000 });
    const pids = housePids(home);
    await expect(inHome(home)(['up', '--detach']), code.good, /Fairlead is up\./);
    const end = await up.stop({ signal: 'SIGINT', graceMs: 60_000 });
    assert.deepEqual(end, { code: 0, signal: null }, up.stderr);
    await gone(pids);
  });

  test('without a policy it is up, and says so', async () => {
    const home = newHome();
    const cli = inHome(home);
    await expect(cli(['up', '--detach', ...anyPort]), code.good, /No policy is live yet: `fairlead init`/);
    await expect(cli(['status']), code.good, /none pushed yet/);
    for (const empty of [['policy', 'list'], ['teams', 'list'], ['keys', 'list'], ['weights', 'show'], ['providers', 'list'], ['audit']]) {
      const { stdout } = await expect(cli(empty), code.good);
      assert.match(stdout, /no (policy|teams|keys)|nothing .*has been changed/, empty.join(' '));
    }
    await expect(cli(['rollback', '--yes']), code.notFound, /nothing is live/);
    await expect(cli(['keys', 'create', '--team', 't']), code.notFound, /teams apply/);
    await expect(cli(['down']), code.good);
  });

  test('a first policy that is refused leaves nothing behind', async () => {
    const home = await prepared();
    const cli = inHome(home);
    const bad = path.join(home, 'bad.yaml');
    writeFileSync(bad, readFileSync(path.join(home, 'policy.yaml'), 'utf8').replace('prefer:', 'prefr:'));
    for (const how of [['--detach'], []]) {
      const { stderr } = await expect(cli(['up', ...how, ...anyPort, '--policy', bad]), code.refused, /bad\.yaml:\d+:\d+: error: .*did you mean 'prefer'/);
      assert.equal(stderr.match(/did you mean 'prefer'/g).length, how.length ? 1 : stderr.match(/did you mean 'prefer'/g).length);
      assert.ok(parts.every((lock) => !alive(holderOf(home, lock))));
    }
    // Where something is live already, a refused file stops nothing.
    await expect(cli(['up', '--detach', ...anyPort]), code.good);
    await expect(cli(['up', '--policy', bad]), code.refused, /what was live stays live/);
    await expect(cli(['down']), code.good);
    await expect(cli(['up', '--detach', ...anyPort, '--policy', bad]), code.good, [/what was live stays live/, /Fairlead is up\./]);
    await expect(cli(['status']), code.good, /v1 100%/);
    await expect(cli(['down']), code.good);
  });

  test('a port in use, a home too long', async () => {
    const home = await prepared();
    const server = net.createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    const listen = ['--listen', `127.0.0.1:${server.address().port}`, '--operations', '127.0.0.1:0'];
    await expect(inHome(home)(['up', '--detach', ...listen]), code.failed, [/another program listens there/, /did not come up; \S+fairlead\.log/]);
    await expect(inHome(home)(['up', ...listen]), code.failed, /another program listens there/);
    assert.ok(parts.every((lock) => !alive(holderOf(home, lock))));
    server.close();
    await expect(fairlead(['up', '--home', `/tmp/${'x'.repeat(100)}`]), code.usage, /too long a name/);
  });

  test('kill -9 of the supervisor: the house goes on, and up takes it over', async () => {
    const home = await prepared();
    const cli = inHome(home);
    await expect(cli(['up', '--detach', ...anyPort]), code.good);
    const [supervisor, ...others] = housePids(home);
    process.kill(supervisor, 'SIGKILL');
    await gone([supervisor]);
    assert.ok(others.every(alive));
    await expect(cli(['up', '--detach', ...anyPort]), code.good, /Fairlead is up\./);
    const [next, ...kept] = housePids(home);
    assert.notEqual(next, supervisor);
    assert.deepEqual(kept, others);
    // It watches what it did not start.
    process.kill(others[0], 'SIGKILL');
    await waitFor(() => ![0, others[0]].includes(holderOf(home, 'control')) && alive(holderOf(home, 'control')), { what: 'a new control plane' });
    await waitFor(async () => (await cli(['status'])).code === 0, { what: 'its answer' });
    const pids = housePids(home);
    process.kill(next, 'SIGKILL');
    await gone([next]);
    await expect(cli(['down']), code.good, /Fairlead is down/); // without a supervisor
    await gone(pids);
  });

  test('what crashes is started again', async () => {
    const home = await prepared();
    const cli = inHome(home);
    await expect(cli(['up', '--detach', ...anyPort]), code.good);
    for (const lock of parts) {
      const pid = holderOf(home, lock);
      process.kill(pid, 'SIGKILL');
      await waitFor(() => ![0, pid].includes(holderOf(home, lock)) && alive(holderOf(home, lock)), { what: `another ${lock}` });
    }
    await waitFor(async () => /current/.test((await cli(['nodes'])).stdout), { timeoutMs: 20_000, what: 'the node to serve' });
    await expect(cli(['down']), code.good);
  });
});

describe('a running house', () => {
  let house;
  let cli;
  let files;
  const policy = (fakes, prefer) => `providers:
${fakes.map(({ baseUrl }, i) => `  ${'ab'[i]}: {preset: openai-compatible, base_url: "${baseUrl}"}`).join('\n')}
models:
  a/m: {price: {input: 1, output: 2}}
  b/m: {price: {input: 2, output: 4}}
routes:
  chat: {tiers: [{models: [a/m, b/m], prefer: ${prefer}}]}`;
  const file = (name, text) => {
    const where = path.join(files, name);
    writeFileSync(where, text);
    return where;
  };
  let cheap;
  let quick;

  before(async () => {
    files = mkdtempSync('/tmp/fl-files-');
    house = await startFairlead({ fakes: [{ models: 'm' }, { models: 'm' }], policy: (fakes) => policy(fakes, 'cheapest') });
    cli = house.cli;
    cheap = path.join(house.home, 'policy.yaml');
    quick = file('quick.yaml', `schema: fairlead/1\nkind: policy\n${policy(house.fakes, 'fastest')}\n`);
  });
  after(() => rmSync(files, { recursive: true, force: true }));

  const ask = async (...words) => JSON.parse((await expect(cli([...words, '--json']), code.good)).stdout);
  const live = async () => (await ask('status')).arms[0].version;

  test('policy: diff, push, list, show, roll back', async () => {
    await expect(cli(['policy', 'diff', cheap]), code.good, /^no change for requests$/m);
    await expect(cli(['policy', 'diff', quick]), code.good, [/^ {2}~ route chat: .*cheapest -> fastest$/m, /^\d+ changes$/m]);
    await expect(cli(['policy', 'push', quick, '--dry-run']), code.good, /dry run, nothing was changed: v2/);
    assert.equal(await live(), 1);
    await expect(cli(['policy', 'push', quick, '--expect', '7']), code.conflict, /v7 was expected to be live, but v1 is/);
    await expect(cli(['policy', 'push', quick, '-m', 'faster', '--expect', 'v1', '--wait']), code.good, [/v2 is live at 100% \(was v1\)/, /serving on every worker of every node after \d+ ms/]);
    await expect(cli(['policy', 'push', quick]), code.good, /nothing to do: this is v2/);
    await expect(cli(['policy', 'diff', '1', '2']), code.good, /cheapest -> fastest/);
    await expect(cli(['policy', 'diff', 'v1']), code.good, /fastest -> cheapest/);
    await expect(cli(['policy', 'diff', '99']), code.notFound, /there is no version 99/);
    const shown = await expect(cli(['policy', 'show', 'v2']), code.good, [/^# message +faster$/m, /^# --- quick\.yaml$/m]);
    assert.ok(shown.stdout.endsWith(readFileSync(quick, 'utf8')));
    await expect(cli(['policy', 'show', '99']), code.notFound);

    await expect(cli(['rollback'], { input: '' }), code.refused, /say --yes/);
    await expect(cli(['rollback', '--dry-run']), code.good, /dry run, nothing was changed: returned to v1/);
    assert.equal(await live(), 2);
    await expect(cli(['rollback', '--yes', '--wait']), code.good, [/returned to v1, which last held 100%/, /serving on every worker/]);
    assert.equal(await live(), 1);
    await expect(cli(['policy', 'push', quick]), code.conflict, /v2, which was rolled back; push with --again/);
    const again = await house.admin('policy', 'push', quick, '--again', '--wait');
    assert.equal(again.version, 2);
    assert.equal(again.new, false);
    await expect(cli(['rollback', '1', '--yes']), code.good, /returned to v1/);
    await expect(cli(['rollback', '1', '--yes']), code.good, /nothing to do/);
    await expect(cli(['rollback', '99', '--yes']), code.notFound);
    await expect(cli(['rollback', 'x', '--yes']), code.refused, /'x' is no version/);

    const held = file('held.yaml', `schema: fairlead/1\nkind: policy\n${policy(house.fakes, 'balanced')}\n`);
    await expect(cli(['policy', 'push', held, '--hold']), code.good, /v3 is stored, not live/);
    assert.equal(await live(), 1);
    await expect(cli(['policy', 'list']), code.good, [/^VERSION +STATE +SHARE +PUSHED/m, /^ +3 +stored/m, /^ +2 +rolled back/m, /^ +1 +live/m]);
  });

  test('a policy that is wrong', async () => {
    const bad = file('bad.yaml', readFileSync(quick, 'utf8').replace('prefer:', 'prefr:'));
    const where = /^\S*bad\.yaml:\d+:\d+: error: tier 1 has no field 'prefr' \(did you mean 'prefer'\?\)$/gm;
    for (const command of ['check', 'diff', 'push']) {
      const { stdout, stderr } = await expect(cli(['policy', command, bad]), code.refused);
      assert.equal((stdout + stderr).match(where)?.length, 1, `${command}: ${stdout}${stderr}`); // once
    }
    const { stdout } = await expect(cli(['policy', 'push', bad, '--json']), code.refused);
    const [item] = JSON.parse(stdout).diagnostics.items;
    assert.equal(item.severity, 'error');
    assert.ok(item.line > 0 && item.column > 0);
    for (const command of ['check', 'diff', 'push']) await expect(cli(['policy', command, '/nonexistent/p.yaml']), code.refused, /cannot read this file/);
    await expect(cli(['teams', 'apply', quick]), code.refused, /no document of `kind: directory`/);
    await expect(cli(['policy', 'push', path.join(house.home, 'directory.yaml')]), code.refused, /no document of `kind: policy`/);
  });

  test('keys: shown once, rotated, revoked', async () => {
    const made = await expect(cli(['keys', 'create', '--team', 't', '--tag', 'a=b', '--tag', 'c=d', '--expires', '30d', '--wait']), code.good, [/^id +key_/m, /^expires +in 30d$/m, /^tags +a=b, c=d$/m, /only time the key is shown/]);
    const [secret] = made.stdout.split('\n');
    assert.match(secret, /^fl-[a-z0-9]{40,}$/);
    const id = made.stdout.match(/key_\w+/)[0];
    const chat = (key) => request(`${house.api}/v1/chat/completions`, { key, body: chatBody('hi') });
    assert.equal((await chat(secret)).status, 200);
    const listed = await expect(cli(['keys', 'list']), code.good, new RegExp(`^${id} +t +active +${secret.slice(-4)}`, 'm'));
    assert.ok(!listed.stdout.includes(secret));
    await expect(cli(['keys', 'create', '--team', 'tt']), code.notFound, /did you mean 't'/);
    await expect(cli(['keys', 'create']), code.refused, /--team NAME/);
    await expect(cli(['keys', 'create', '--team', 't', '--expires', 'soon']), code.refused, /neither a duration .* nor a date/);
    await expect(cli(['keys', 'create', '--team', 't', '--tag', 'x']), code.refused, /not name=value/);
    const dry = await expect(cli(['keys', 'create', '--team', 't', '--dry-run']), code.good, /dry run, nothing was changed/);
    assert.doesNotMatch(dry.stdout, /^fl-/m);

    const next = await house.admin('keys', 'rotate', id, '--overlap', '1h', '--wait');
    assert.match(next.key, /^fl-/);
    assert.equal((await chat(secret)).status, 200);
    assert.equal((await chat(next.key)).status, 200);
    await expect(cli(['keys', 'rotate', id]), code.conflict, new RegExp(`being rotated already, to ${next.id}`));
    await expect(cli(['keys', 'revoke', id], { input: '' }), code.refused, /say --yes/);
    await expect(cli(['keys', 'revoke', id, '--dry-run']), code.good, /dry run/);
    assert.equal((await chat(secret)).status, 200);
    await expect(cli(['keys', 'revoke', id, '--yes', '--wait']), code.good, /is revoked; nothing brings it back/);
    assert.equal((await chat(secret)).status, 401);
    assert.equal((await chat(next.key)).status, 200);
    await expect(cli(['keys', 'revoke', 'key_nope', '--yes']), code.notFound);
    assert.ok(!(await cli(['keys', 'list'])).stdout.includes(id));
    await expect(cli(['keys', 'list', '--all']), code.good, new RegExp(`^${id} +t +revoked`, 'm'));
  });

  test('no secret is kept or logged', async () => {
    const { key, id } = await house.createKey();
    const holders = await run('/bin/grep', ['-rlaF', key, house.home]);
    assert.equal(holders.stdout, '');
    assert.ok(!house.up.stderr.includes(key));
    assert.ok((await ask('keys', 'list')).some((one) => one.id === id));
    assert.ok(!JSON.stringify(await ask('audit')).includes(key));
  });

  test('teams', async () => {
    const two = file('two.yaml', 'schema: fairlead/1\nkind: directory\nteams:\n  t: {routes: ["*"], models: ["*/*"]}\n  hr: {routes: [chat], require: {region: eu}}\n');
    await expect(cli(['teams', 'diff', two]), code.good, /\+ .*hr/);
    await expect(cli(['teams', 'apply', two, '--dry-run']), code.good, /dry run/);
    assert.equal((await ask('teams', 'list')).length, 1);
    await expect(cli(['teams', 'apply', two, '--wait']), code.good, [/2 teams/, /serving on every worker/]);
    await expect(cli(['teams', 'list']), code.good, [/^TEAM +ROUTES +MODELS +REQUIRE +MAY$/m, /^hr +chat +- +regions=eu +-$/m]);
    await expect(cli(['teams', 'apply', two]), code.good, /nothing to change/);
    // Removing a team asks; without a terminal it says so and changes nothing.
    const one = file('one.yaml', 'schema: fairlead/1\nkind: directory\nteams:\n  t: {routes: ["*"], models: ["*/*"]}\n');
    await expect(cli(['teams', 'apply', one]), code.refused, /removes 1 team, whose keys stop working/);
    assert.equal((await ask('teams', 'list')).length, 2);
    await expect(cli(['teams', 'apply', one, '--yes']), code.good, /1 team, 1 change applied/);
    assert.equal((await ask('teams', 'list')).length, 1);
    await expect(cli(['teams', 'apply', two, '--wait']), code.good, /2 teams/);
  });

  test('providers: probed, drained, undrained', async () => {
    await waitFor(async () => (await ask('providers', 'list')).providers.every((one) => one.health === 'up'), { timeoutMs: 20_000, what: 'probes' });
    await expect(cli(['providers', 'list']), code.good, [/^PROVIDER +PROBE +PROBED/m, /^a +up +\d+s +- +a\/m +up/m]);
    await expect(cli(['providers', 'drain', 'aa', '--yes']), code.notFound, /did you mean 'a'/);
    await expect(cli(['providers', 'drain', 'aa'], { input: '' }), code.notFound, /did you mean 'a'/); // before it asks
    await expect(cli(['block', 'nobody', '--reason', 'x'], { input: '' }), code.notFound, /no provider or provider\/model 'nobody'/);
    await expect(cli(['block', 'a', '--reason', 'x'], { input: '' }), code.refused, /say --yes/);
    await expect(cli(['providers', 'drain', 'a', '--for', 'ever', '--yes']), code.refused, /--for: 'ever' is no duration/);
    await expect(cli(['providers', 'drain', 'a', '--reason', 'too slow', '--for', '2h', '--yes', '--wait']), code.good, /until it expires or is lifted/);
    const { key } = await house.createKey();
    for (let i = 0; i < 5; i++) {
      const answer = await request(`${house.api}/v1/chat/completions`, { key, body: chatBody('hi') });
      assert.equal(answer.headers['x-fairlead-model'], 'b/m');
    }
    await expect(cli(['providers', 'list']), code.good, [/^drain +a +\S+ +\d+s +in 2h +too slow$/m, /a\/m .* drain /]);
    await expect(cli(['providers', 'undrain', 'a', '--wait']), code.good, /a is no longer drained/);
    await expect(cli(['providers', 'undrain', 'a']), code.notFound);
  });

  test('weights', async () => {
    const shown = await expect(cli(['weights', 'show']), code.good, /^VERSION +ROUTE +TIER/m);
    assert.match(shown.stdout, /^ +1 +chat +1 +cheapest +a\/m +\d+\.\d%/m);
    await expect(cli(['weights', 'freeze', 'chat', '--reason', 'holiday']), code.good, /chat is frozen/);
    await waitFor(async () => (await ask('weights', 'show')).every((tier) => tier.frozen), { what: 'frozen weights' });
    await expect(cli(['weights', 'unfreeze', 'chat']), code.good);
    await expect(cli(['weights', 'freeze', 'chta']), code.notFound, /did you mean 'chat'/);
    await expect(cli(['weights', 'reset', 'chat', '--yes', '--wait']), code.good, /which --wait does not watch/);
    await expect(cli(['weights', 'reset', 'nope', '--yes']), code.notFound);
  });

  test('prices: shown in US dollars per million tokens, set and unset', async () => {
    const feed = () => waitFor(async () => (await ask('prices', 'list', 'openai/gpt-4o')).length === 1, { what: 'the price feed' });
    await feed();
    await expect(cli(['prices', 'show', 'openai/gpt-4o']), code.good, [/^openai\/gpt-4o +2\.50 +10\.00 +1\.25 /m, /US dollars per million tokens/]);
    await expect(cli(['prices', 'list', 'openai/gpt-4o*']), code.good, /^openai\/gpt-4o-mini +0\.15 +0\.60 +0\.075 /m);
    await expect(cli(['prices', 'list', 'gpt-4o']), code.good, /names are PROVIDER\/MODEL/);
    await expect(cli(['prices', 'show', 'nope']), code.notFound, /searches/);
    await expect(cli(['prices', 'set', 'openai/gpt-4o']), code.refused, /--input is needed/);
    await expect(cli(['prices', 'set', 'openai/gpt-4o', '--input', 'much']), code.refused, /'much' is no price/);
    await expect(cli(['prices', 'set', 'openai/gpt-4o', '--input', '3', '--output', '0.5']), code.good, /outranks feed and book/);
    await expect(cli(['prices', 'show', 'openai/gpt-4o']), code.good, /^openai\/gpt-4o +3\.00 +0\.50 .* set /m);
    await expect(cli(['prices', 'unset', 'openai/gpt-4o']), code.good, /feed or book again/);
    await expect(cli(['prices', 'unset', 'openai/gpt-4o']), code.notFound);
    await expect(cli(['prices', 'list', '--held']), code.good, /nothing is held back/);
    assert.deepEqual(JSON.parse((await cli(['prices', 'list', '--held', '--json'])).stdout), []);
    await expect(cli(['prices', 'accept', '--all', '--yes']), code.notFound);
  });

  test('nodes pinned and unpinned, --wait that waits in vain', async () => {
    await expect(cli(['nodes']), code.good, /^\S+ +current /m);
    await expect(cli(['nodes', 'pin', '--local']), code.good, /pinned/);
    await waitFor(async () => (await ask('nodes'))[0].state === 'pinned', { what: 'the pin' });
    await expect(cli(['nodes']), code.good, /is pinned: it takes no tables until `fairlead nodes unpin --local`/);
    const before = (await ask('nodes'))[0].serving.generation;
    await expect(cli(['weights', 'freeze', 'chat', '--wait'], { timeoutMs: 90_000 }), code.notYet, /stored, but 1 node does not serve it yet: "/);
    assert.equal((await ask('nodes'))[0].serving.generation, before);
    await expect(cli(['nodes', 'unpin', '--local']), code.good);
    await expect(cli(['weights', 'unfreeze', 'chat', '--wait']), code.good, /serving on every worker/);
  });

  test('the audit log has who did what', async () => {
    const { stdout } = await expect(cli(['audit', '--limit', '3']), code.good, /^SEQ +WHEN +WHO +COMMAND +WHAT$/m);
    assert.equal(stdout.trim().split('\n').length, 4);
    const entries = await ask('audit', '--limit', '1000');
    for (const command of ['policy.push', 'rollback', 'keys.create', 'keys.revoke', 'teams.apply', 'providers.drain'])
      assert.ok(entries.some(({ entry }) => entry.command === command && entry.user), command);
  });

  test('every command that asks answers in JSON', async () => {
    for (const words of ['status', 'nodes', 'policy list', 'policy show', 'providers list', 'weights show', 'prices list', 'teams list', 'keys list', 'audit'])
      await ask(...words.split(' '));
  });

  test('control characters in a name of ours do not reach a terminal', async () => {
    const other = file('other.yaml', readFileSync(quick, 'utf8').replace('{input: 1,', '{input: 1.5,'));
    await expect(cli(['policy', 'push', other, '-m', 'evil \u001b[31m\u009b2J text']), code.good, /is live/);
    const { stdout } = await expect(cli(['policy', 'list']), code.good, /evil +\[31m 2J text/);
    assert.ok(!/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/.test(stdout));
  });
});

describe('backup and restore', () => {
  test('a restored store is taken by nodes only when they are told', async () => {
    const fake = await startFakellm({ name: 'a', models: 'm' });
    const home = newHome();
    const cli = inHome(home);
    const backup = path.join(temporaryDirectory('fl-backup-'), 'copy');
    await expect(cli(['init', '--demo', `a=${fake.baseUrl}@1/2`]), code.good);
    await expect(cli(['up', '--detach', ...anyPort]), code.good);
    await expect(cli(['backup', backup]), code.good, /it holds hashes of keys, no keys and no credentials/);
    await expect(cli(['backup', backup]), code.conflict, /backups overwrite nothing/);
    const next = path.join(home, 'next.yaml');
    writeFileSync(next, readFileSync(path.join(home, 'policy.yaml'), 'utf8').replace('cheapest', 'fastest'));
    await expect(cli(['policy', 'push', next, '--wait']), code.good, /v2 is live/);
    await expect(cli(['restore', backup, '--yes']), code.failed, /stop it first/);
    await expect(cli(['down']), code.good);
    await expect(cli(['restore', '/nonexistent/copy', '--yes']), code.failed, /nothing was changed/);
    await expect(cli(['restore', backup], { input: '' }), code.refused, /say --yes/);
    await expect(cli(['restore', backup, '--dry-run']), code.good, /dry run/);
    await expect(cli(['restore', backup, '--yes']), code.good, [/nodes adopt --all/, /is kept as/]);
    await expect(cli(['up', '--detach', ...anyPort]), code.good, [/does not serve what is live; `fairlead nodes` tells why/, /Fairlead is up/]);
    await expect(cli(['nodes']), code.good, [/other epoch/, /`fairlead nodes adopt \S+` lets it take these/]);
    await expect(cli(['nodes', 'adopt', 'nope', '--yes']), code.notFound);
    await expect(cli(['nodes', 'adopt', '--all', '--yes', '--wait']), code.good, /serving on every worker/);
    const { nodes, arms } = JSON.parse((await cli(['status', '--json'])).stdout);
    assert.equal(arms[0].version, 1);
    assert.equal(nodes[0].state, 'current');
    await expect(cli(['down']), code.good);
  });
});

test('a program that is not there is named', async () => {
  const alone = path.join(temporaryDirectory('fl-alone-'), 'fairlead');
  const program = path.join(process.env.FAIRLEAD_BIN ?? path.join(repository, 'build/dev/bin'), 'fairlead');
  await run('/bin/cp', [program, alone]);
  assert.ok(existsSync(alone));
  const { code: got, stderr } = await run(alone, ['policy', 'check', 'x.yaml'], { env: { PATH: '/nonexistent' } });
  assert.equal(got, code.failed);
  assert.match(stderr, /fairlead-controlplane cannot be run: No such file/);
});
