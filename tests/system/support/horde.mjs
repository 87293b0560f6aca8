// Thousands of clients that misbehave alike (tests/support/horde.c), what a process's memory is, and one client that behaves.
import { readFileSync } from 'node:fs';
import { startProcess, toOptions, waitFor } from './process.mjs';

// Resolves when all have connected, or could not. options: as in `horde --help`, in camelCase.
export async function startHorde(options) {
  const horde = await startProcess('horde', toOptions(options), { readyPattern: /^connected$/m, timeoutMs: 60_000 });
  const lines = () => horde.stdout.split('\n').slice(0, -1).filter((line) => line.startsWith('{'));
  const last = () => JSON.parse(lines().at(-1));
  return {
    // What has become of them so far.
    report: async () => {
      const before = lines().length;
      horde.child.stdin.write('report\n');
      await waitFor(() => lines().length > before, { what: 'a report' });
      return last();
    },
    read: () => horde.child.stdin.write('read\n'),
    // All leave at once.
    leave: async () => {
      horde.child.stdin.end();
      await horde.exited;
      return last();
    },
  };
}

// Bytes that belong to the processes alone: proportional set size.
export const memoryOf = (pids) =>
  pids.reduce((total, pid) => total + 1024 * Number(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8').match(/^Pss: +(\d+) kB$/m)[1]), 0);
// Bytes in the buffers of all TCP sockets of this machine.
export const kernelMemory = () => 4096 * Number(readFileSync('/proc/net/sockstat', 'utf8').match(/^TCP: .* mem (\d+)$/m)[1]);

// Asks again and again, one request after the other, until stopped; then resolves with what every ask gave.
export function bystander(ask) {
  const answers = [];
  let stopping = false;
  const done = (async () => {
    while (!stopping) answers.push(await ask());
  })();
  return {
    answers,
    stop: async () => {
      stopping = true;
      await done;
      return answers;
    },
  };
}
