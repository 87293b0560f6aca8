// A measurement is only worth something when the work was done: asked before it.
import assert from 'node:assert/strict';
import { waitFor } from '../../system/support/process.mjs';
import { recordsOf } from './fairlead.mjs';
import { direct } from './gateways.mjs';
import { contentOf, load, works } from './work.mjs';

// What the gateway passes on says the same as what the upstream said.
export async function checkContents(gateway, upstreams, cells) {
  for (const { work, transport } of cells) {
    if (transport === 'tls-client') continue; // the same bytes in another wrapping
    const endpoint = gateway.endpoint({ transport, stream: Boolean(works[work].stream) });
    const expected = await contentOf(work, direct(upstreams).endpoint({ transport: 'plain' }));
    assert.deepEqual(await contentOf(work, endpoint), expected, `${gateway.name}, ${work}, ${transport}`);
  }
}

// Fairlead's own work is on: the first 1,000 requests make 1,000 records with their usage and cost.
export async function checkFairlead(fairlead) {
  const requests = 1000;
  await load('unary', fairlead.endpoint({ transport: 'plain' }), { requests });
  const records = await waitFor(() => recordsOf(fairlead.home).length === requests && recordsOf(fairlead.home), { what: `${requests} records` });
  for (const record of records) assert.ok(record.usage.output === 120 && record.cost_nano_usd > 0 && !record.estimated, JSON.stringify(record));
}
