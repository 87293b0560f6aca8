// From starting the program until the first request is served.
import { request } from '../../system/support/fairlead.mjs';
import { sleep } from '../../system/support/process.mjs';

const body = (model) => ({ model, messages: [{ role: 'user', content: 'hello' }] });

async function firstAnswer({ url, model = 'fake-small', key, header = [] }) {
  const headers = Object.fromEntries(header.map((line) => line.split(/: (.*)/s).slice(0, 2)));
  for (const deadline = performance.now() + 20_000; performance.now() < deadline; await sleep(1)) {
    const answer = await request(url, { key, headers, body: body(model) }).catch((error) => error);
    if (answer.status === 200) return;
  }
  throw new Error(`${url} does not answer`);
}

// Adds rows {what: 'startup ms', gateway}.
export async function startups({ names, starters, directory, upstreams, samples, say, rounds }) {
  for (const name of names) {
    const gateway = await starters[name](directory, directory, upstreams);
    const endpoint = gateway.endpoint({ transport: 'plain' });
    await firstAnswer(endpoint);
    await gateway.stop();
    for (let round = 1; round <= rounds; round++) {
      const from = performance.now();
      const process = await gateway.again();
      await firstAnswer(endpoint);
      samples.add({ what: 'startup ms', work: 'startup', gateway: name }, round, performance.now() - from);
      await process.stop({ signal: name === 'portkey' ? 'SIGKILL' : 'SIGTERM' });
    }
    say(`startup: ${name} ${samples.spread({ what: 'startup ms', gateway: name }).median.toFixed(0)} ms`);
  }
}
