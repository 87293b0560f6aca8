// A minute of the soak (soak.mjs); FAIRLEAD_SOAK_SECONDS says how long, FAIRLEAD_SOAK_SEED which one: the same as
// last time when nobody says (soak.mjs by itself plays another each time).
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { soak } from './soak.mjs';
import { stopAll } from './support/process.mjs';

after(stopAll);

test('mixed traffic with faults: memory, descriptors and books', async (t) => {
  const seconds = Number(process.env.FAIRLEAD_SOAK_SECONDS ?? 60);
  const failures = await soak({ seconds, seed: Number(process.env.FAIRLEAD_SOAK_SEED ?? 1), say: (text) => t.diagnostic(text) });
  assert.equal(failures.length, 0, failures.join('\n'));
});
