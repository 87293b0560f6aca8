// Table switches: from publishing until the last worker serves, and what requests feel of 100 of them.
import { bundleOf, createKey } from '../../system/support/control.mjs';
import { sleep, waitFor } from '../../system/support/process.mjs';
import { makeHome, startControl, startNode, valuesOf } from './fairlead.mjs';
import { fill } from './places.mjs';
import { load } from './work.mjs';

const switches = 100;
const workers = 2;
const rate = 2000;

async function startHouse({ directory, upstreams }) {
  const house = await makeHome(directory, directory, upstreams);
  const values = valuesOf(directory, upstreams);
  const control = await startControl(house.home);
  // A price that differs from one policy to the next.
  const push = (i) => control.asker.must('policy.push', { bundle: bundleOf(fill('fairlead-policy.yaml', values).replace('input: 0.15', `input: 0.15${String(i).padStart(4, '0')}1`)) });
  await push(0);
  await control.asker.must('teams.apply', { bundle: bundleOf(fill('fairlead-directory.yaml', values), 'directory.yaml') });
  const key = await createKey(control);
  const node = await startNode(house, { workers });
  return { control, node, push, endpoint: { url: `${node.url}/v1/chat/completions`, model: 'plain', key } };
}

const served = (node, generation) =>
  waitFor(async () => (await node.status()).workers.every((worker) => worker.generation >= generation), { everyMs: 1, timeoutMs: 20_000, what: `generation ${generation} on every worker` });

// Adds rows {what: 'push ms' | 'rollback ms' | 'switching latency pNN' | 'quiet latency pNN', gateway: 'fairlead'}.
export async function tableSwitches({ samples, say, ...options }) {
  const { control, node, push, endpoint } = await startHouse(options);
  const note = (what, round, value) => samples.add({ what, work: 'switches', transport: 'plain', gateway: 'fairlead' }, round, value);
  for (let i = 1; i <= 20; i++) {
    let from = performance.now();
    await served(node, (await push(i)).generation);
    note('push ms', i, performance.now() - from);
    from = performance.now();
    await served(node, (await control.asker.must('rollback')).generation);
    note('rollback ms', i, performance.now() - from);
  }
  const loading = (seconds) => load('unary', endpoint, { seconds, rate, connections: 64 });
  await loading(0.3);
  for (let round = 1; round <= 2; round++) {
    const quiet = await loading(5);
    let done = false;
    const going = loading(5).finally(() => (done = true));
    let made = 0;
    for (const from = performance.now(); made < switches / 2 && !done; made++) {
      await push(1000 * round + made);
      await sleep(Math.max(0, from + made * 95 - performance.now()));
    }
    const switching = await going;
    if (made < switches / 2) say(`switches: only ${made} of ${switches / 2} could be made in 5 s`);
    for (const share of ['p50', 'p99', 'p999']) {
      note(`quiet latency ${share}`, round, quiet.latency_us[share]);
      note(`switching latency ${share}`, round, switching.latency_us[share]);
    }
    say(`switches: quiet p99 ${quiet.latency_us.p99} us, during ${made} switches ${switching.latency_us.p99} us; none of ${switching.ok} requests failed`);
  }
  await node.stop();
  await control.stop();
}
