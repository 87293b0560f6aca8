// What a figure is worth depends on where it was measured.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os';
import { repository } from '../../system/support/process.mjs';

const commit = () => {
  try {
    const git = (...args) => execFileSync('git', ['-C', repository, ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    return `${git('rev-parse', '--short', 'HEAD')}${git('status', '--porcelain', '--untracked-files=no') ? ' with changes' : ''}`;
  } catch {
    return 'no git';
  }
};
const system = () => readFileSync('/etc/os-release', 'utf8').match(/^PRETTY_NAME="(.*)"$/m)?.[1] ?? 'Linux';

// [name, value] pairs.
export function machine(gateways) {
  return [
    ['CPU', `${cpus()[0].model.trim()}, ${availableParallelism()} cores`],
    ['memory', `${Math.round(totalmem() / 2 ** 30)} GiB`],
    ['system', `${system()}, Linux ${release()}`],
    ['load', `${loadavg()[0].toFixed(1)} at the start`],
    ['programs', [...gateways.map(({ name, version }) => `${name} ${version}`), `node ${process.versions.node}`].join(', ')],
    ['commit', commit()],
  ];
}
