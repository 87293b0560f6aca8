// Named targets of the CLI: what goes before what, and that a change says where it would be made.
import assert from 'node:assert/strict';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { run, startProcess, stopAll, temporaryDirectory } from './support/process.mjs';

const code = { good: 0, refused: 1, usage: 2, notFound: 3, conflict: 4, unreachable: 6 };
const config = temporaryDirectory('fl-');
const homes = { a: temporaryDirectory('fl-'), b: temporaryDirectory('fl-') };
const file = path.join(config, 'fairlead/contexts.yaml');
const cli = (args, env = {}) => run('fairlead', args, { env: { XDG_CONFIG_HOME: config, FAIRLEAD_CONTEXT: '', FAIRLEAD_HOME: '', HOME: config, XDG_STATE_HOME: config, ...env } });
async function expect(promise, expected, pattern) {
  const { code: got, stdout, stderr } = await promise;
  assert.equal(got, expected, stdout + stderr);
  assert.match(stdout + stderr, pattern);
  return stdout;
}

after(stopAll);

describe('contexts', () => {
  before(async () => {
    for (const home of Object.values(homes)) await startProcess('fairlead-controlplane', ['--home', home], { readyPattern: /event=started/, readyFrom: 'stderr' });
  });

  test('are added, listed, used, removed', async () => {
    await expect(cli(['context', 'list']), code.good, /context add NAME/);
    await expect(cli(['context', 'add', 'a']), code.usage, /--home DIR/);
    await expect(cli(['context', 'add', 'a', '--home', homes.a, '--team', 'search']), code.good, /added/);
    await expect(cli(['context', 'add', 'a', '--home', homes.b]), code.conflict, /--force/);
    await expect(cli(['context', 'add', 'b', '--address', `ipc://${homes.b}/run/admin.ipc`]), code.good, /added/);
    await expect(cli(['context', 'add', 'gone', '--home', '/nowhere']), code.good, /added/);
    assert.equal(statSync(file).mode & 0o777, 0o600);
    await expect(cli(['context', 'use', 'c']), code.notFound, /no context 'c'/);
    await expect(cli(['context', 'use', 'a']), code.good, /go to a/);
    assert.deepEqual(JSON.parse((await cli(['context', 'list', '--json'])).stdout).map(({ name, current }) => [name, current]), [['a', true], ['b', false], ['gone', false]]);
    await expect(cli(['context', 'remove', 'gone']), code.refused, /say --yes/);
    await expect(cli(['context', 'remove', 'gone', '--yes']), code.good, /forgotten/);
    assert.doesNotMatch(readFileSync(file, 'utf8'), /gone/);
  });

  test('decide where commands go, after options and before the usual home', async () => {
    const goes = async (where, args, env) => assert.equal(JSON.parse((await expect(cli(['status', '--json', ...args], env), code.good, /home/))).home, where);
    await goes(homes.a, []); // the current one
    await goes(homes.b, [], { FAIRLEAD_CONTEXT: 'b' });
    await goes(homes.a, ['--context', 'a'], { FAIRLEAD_CONTEXT: 'b' });
    await goes(homes.b, ['--home', homes.b]); // not the current one's address with another's home
    await goes(homes.b, [], { FAIRLEAD_HOME: homes.b }); // the environment goes before the file
    await goes(homes.a, ['--context', 'a'], { FAIRLEAD_HOME: homes.b });
    await goes(homes.a, ['--context', 'b', '--home', homes.a]);
    await expect(cli(['status', '--context', 'nope']), code.usage, /no context 'nope'/);
    await expect(cli(['context', 'show']), code.good, /^context +a, by the current one$/m);
    await expect(cli(['context', 'use', '--none']), code.good, /no context/);
    await expect(cli(['status']), code.unreachable, /no control plane/); // the usual home, where nobody is
  });

  test('give defaults, and are named where something is asked', async () => {
    await expect(cli(['keys', 'create', '--context', 'a', '--dry-run']), code.notFound, /search/);
    await expect(cli(['keys', 'create', '--context', 'b', '--dry-run']), code.refused, /--team/);
    await expect(cli(['weights', 'reset', '--context', 'b']), code.refused, /In context b: Forget what was learned/);
    await expect(cli(['weights', 'reset', '--home', homes.b]), code.refused, /^Forget what was learned/);
  });

  test('that cannot be read stop what would go somewhere, and nothing else', async () => {
    writeFileSync(file, 'schema: fairlead/1\nkind: contexts\ncurrent: x\ncontexts: {}\n');
    await expect(cli(['status']), code.usage, /contexts\.yaml:3:10: the current one is not among/);
    await expect(cli(['status', '--home', homes.a]), code.good, /control/);
    await expect(cli(['help', 'status']), code.good, /Usage/);
  });
});
