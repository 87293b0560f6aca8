// A minute of the soak (soak.mjs); FAIRLEAD_SOAK_SECONDS says how long, FAIRLEAD_SOAK_SEED which one.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { soak } from './soak.mjs';
import { stopAll } from './support/process.mjs';

after(stopAll);

test('mixed traffic with faults: memory, descriptors and books', async (t) => {
  const seed = process.env.FAIRLEAD_SOAK_SEED;
  const failures = await soak({ seconds: Number(process.env.FAIRLEAD_SOAK_SECONDS ?? 60), seed: seed === undefined ? undefined : Number(seed), say: (text) => t.diagnostic(text) });
  assert.deepEqual(failures, []);
});
