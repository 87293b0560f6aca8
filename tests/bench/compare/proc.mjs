// What the kernel says of a process.
import { readFileSync, readdirSync } from 'node:fs';

const lines = (file) => readFileSync(file, 'utf8').split('\n');

// Nanoseconds that all threads of the process have run (Documentation/scheduler/sched-stats.rst).
export function cpuNs(pid) {
  return readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]), 0);
}

// The share of its time that it was in the kernel, since it started; proc_pid_stat(5).
export function systemTicks(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1).split(' ');
  return { user: Number(fields[11]), system: Number(fields[12]) };
}

export const children = (pid) => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);

// Bytes: {rss, pss, anonymous}; what is private or shared and how much of it is heap and stacks.
export function memory(pid) {
  const of = Object.fromEntries(lines(`/proc/${pid}/smaps_rollup`).map((line) => line.match(/^(\w+): +(\d+) kB/)).filter(Boolean).map(([, name, kib]) => [name, Number(kib) * 1024]));
  return { rss: of.Rss, pss: of.Pss, anonymous: of.Pss_Anon };
}

export const descriptors = (pid) => readdirSync(`/proc/${pid}/fd`).length;
