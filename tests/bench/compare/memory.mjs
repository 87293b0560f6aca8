// Memory at rest and with many open streams that say little, each gateway started anew: what it has once grown it may keep.
import { sleep, waitFor } from '../../system/support/process.mjs';
import { connections, onOtherCore } from './places.mjs';
import { memory } from './proc.mjs';

// 10,000, or as many as there are descriptors for, two each; nginx closes connections when a sixteenth is left.
const counts = [1000, Math.min(10_000, Math.floor((connections * 0.93) / 100) * 100)];

async function withStreams(count, gateway, transport, upstream) {
  const { url, model, key, header = [], ca } = gateway.endpoint({ transport, stream: true });
  const args = ['--url', url, '--connections', count, '--requests', count, '--rate', 4000, '--stream', '--include-usage', '--drain', '1ms', '--timeout', '5m', '--prompt', '[[fake tokens=100 token_ms=5000]]', '--prompt-bytes', 1500];
  if (model) args.push('--model', model);
  if (key) args.push('--key', key);
  if (url.startsWith('https')) args.push('--ca', ca);
  for (const line of header) args.push('--header', line);
  const load = await onOtherCore('loadgen', args);
  const open = (wanted) => waitFor(async () => load.end || (await upstream.stats()).streams_open === wanted, { timeoutMs: 120_000, everyMs: 50, what: `${wanted} streams through ${gateway.name}` });
  await open(count);
  if (load.end) throw new Error(`loadgen ended: ${load.stderr} ${load.stdout}`);
  await sleep(700); // the first tokens are on their way
  const used = memory(gateway.pid());
  await load.stop({ signal: 'SIGINT' });
  const { failures } = JSON.parse(load.stdout);
  if (Object.keys(failures).some((kind) => kind !== 'unfinished')) throw new Error(`${gateway.name}: ${count} streams: ${load.stdout}`);
  await waitFor(async () => (await upstream.stats()).streams_open === 0, { timeoutMs: 30_000, what: 'the end of the streams' });
  return used;
}

// Adds rows {what: 'rest' | 'stream', work: 'N', ...} in bytes.
export async function memories({ names, starters, directory, upstreams, samples, say, wrong }) {
  for (const name of names) {
    for (const transport of ['plain', 'tls-up', 'tls-client']) {
      if (name === 'portkey' && transport !== 'plain') continue;
      const gateway = await starters[name](directory, directory, upstreams);
      const upstream = transport === 'tls-up' ? upstreams.tls : upstreams.plain;
      if (gateway.endpoint({ transport })) {
        const rest = memory(gateway.pid());
        samples.add({ what: 'rest', work: 'rest', transport, gateway: name }, 1, rest.pss);
        for (const count of counts) {
          if (name === 'portkey') continue; // Node's garbage collector ends slow streams of this gateway (version 1.15.2)
          const used = await withStreams(count, gateway, transport, upstream).catch((error) => wrong(`memory: ${name}, ${transport}, ${count} streams: ${error.message}`));
          if (!used) break;
          samples.add({ what: 'stream', work: String(count), transport, gateway: name }, 1, (used.pss - rest.pss) / count);
          say(`memory: ${name}, ${transport}: at rest ${(rest.pss / 2 ** 20).toFixed(1)} MiB, ${count} streams ${((used.pss - rest.pss) / count / 1024).toFixed(1)} KiB each`);
        }
      }
      await gateway.stop();
    }
  }
}
