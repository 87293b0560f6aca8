// A minute of the soak (soak.mjs); FAIRLEAD_SOAK_SECONDS says how long, FAIRLEAD_SOAK_SEED which one: the same as
// last time when nobody says (soak.mjs by itself plays another each time).
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { soak } from './soak.mjs';
import { stopAll } from './support/process.mjs';

after(stopAll);

// What a loaded machine bends (a process that got no CPU while another was killed) does not come twice; what is broken does. The first
// minute's findings are printed in any case.
test('mixed traffic with faults: memory, descriptors and books', async (t) => {
  const minute = (seed) => soak({ seconds: Number(process.env.FAIRLEAD_SOAK_SECONDS ?? 60), seed, say: (text) => t.diagnostic(text) });
  const seed = Number(process.env.FAIRLEAD_SOAK_SEED ?? 1);
  const first = await minute(seed);
  if (first.length === 0) return;
  t.diagnostic(`again, as these failed: ${JSON.stringify(first)}`);
  assert.deepEqual(await minute(seed), []);
});
