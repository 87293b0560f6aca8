// CPU time per request and requests per second, closed loop: each connection asks again when it has its answer.
import { measure, works } from './work.mjs';

// Adds rows {what: 'cpu' | 'cpu of NAME' | 'rate' | 'busy', work, transport, gateway}.
export async function cpu({ cells, gateways, upstreams, samples, say, rounds, seconds }) {
  for (let round = 1; round <= rounds; round++) {
    for (const { work, transport } of cells) {
      const told = [];
      for (const gateway of gateways) {
        if (!gateway.endpoint({ transport })) continue;
        const got = await measure(work, transport, gateway, upstreams, { seconds });
        const key = { work, transport, gateway: gateway.name };
        samples.add({ what: 'cpu', ...key }, round, got.cpuUs);
        samples.add({ what: 'rate', ...key }, round, got.perSecond);
        samples.add({ what: 'busy', ...key }, round, got.busy);
        for (const [who, us] of Object.entries(got.also)) samples.add({ what: `cpu of ${who}`, ...key }, round, us);
        told.push(`${gateway.name} ${got.cpuUs.toFixed(1)} us`);
      }
      say(`round ${round} of ${rounds}: ${works[work].title}, ${transport}: ${told.join(', ')}`);
    }
  }
}
