// Added latency at a fixed rate, open loop: latency counts from when a request was due. What a gateway adds is the difference of
// percentiles to the same load sent to the upstream itself in the same round, whose connection is as encrypted as the gateway's.
import { direct } from './gateways.mjs';
import { load, works } from './work.mjs';

export const shares = { p50: 'p50', p99: 'p99', p999: 'p99.9' };
// Portkey's gateway would be saturated by the rate of the others.
const slower = { unary: 100, prompt: 40, stream: 10, pace: 5 };
const spare = 128; // connections: enough that none is waited for

// Adds rows {what: 'latency p50', ...}, 'first p50', the same with 'added ' before it, in microseconds; gateway 'direct' too.
export async function latency({ cells, gateways, upstreams, samples, say, rounds, seconds }) {
  const groups = [
    { members: gateways.filter(({ name }) => name !== 'portkey'), rateOf: (work) => works[work].rate, directly: 'direct' },
    { members: gateways.filter(({ name }) => name === 'portkey'), rateOf: (work) => slower[work], directly: 'direct, slower' },
  ];
  for (let round = 1; round <= rounds; round++) {
    for (const { work, transport } of cells) {
      const told = [];
      for (const { members, rateOf, directly } of groups) {
        const able = members.filter((gateway) => gateway.endpoint({ transport }));
        if (able.length === 0) continue;
        const run = async (gateway) => {
          const endpoint = gateway.endpoint({ transport, stream: Boolean(works[work].stream) });
          await load(work, endpoint, { seconds: 0.2, rate: rateOf(work), connections: spare });
          return load(work, endpoint, { seconds, rate: rateOf(work), connections: spare });
        };
        const base = await run(direct(upstreams));
        const note = (what, gateway, value) => samples.add({ what, work, transport, gateway }, round, value);
        for (const share of Object.keys(shares)) note(`latency ${share}`, directly, base.latency_us[share]);
        for (const gateway of able) {
          const got = await run(gateway);
          for (const share of Object.keys(shares)) {
            note(`latency ${share}`, gateway.name, got.latency_us[share]);
            note(`added ${share}`, gateway.name, got.latency_us[share] - base.latency_us[share]);
            if (works[work].stream) note(`added first ${share}`, gateway.name, got.ttft_us[share] - base.ttft_us[share]);
          }
          told.push(`${gateway.name} ${got.latency_us.p50 - base.latency_us.p50}/${got.latency_us.p99 - base.latency_us.p99}`);
        }
      }
      say(`latency, round ${round} of ${rounds}: ${work}, ${transport}: us added at p50/p99: ${told.join(', ')}`);
    }
  }
}
