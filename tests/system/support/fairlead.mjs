// A whole Fairlead for one test file: simulated providers, and `fairlead up` in a home of its own, with ports that the
// system chooses. Stopped by stopAll() of process.mjs, which also finds what sanitizers said: up's programs write to its stderr.
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { bin, repository, run, startFakellm, startProcess, temporaryDirectory, toOptions } from './process.mjs';

const shippedPrices = path.join(repository, 'deploy/examples/prices.yaml');

// fakes: options of each simulated provider (named a, b, c, ... unless they say otherwise), as in startFakellm.
// policy, directory: texts, or functions of the list of fakes; the usual heading is put before. Without a directory there is one team,
// "t", that may use everything. node: what follows the heading of node.yaml. Where probes would disturb a test its policy says
// `defaults: {probe: {how: none}}`. listen: null when node.yaml has a list of listeners; house.listeners are their addresses in order.
export async function startFairlead({ fakes: fakeOptions = [{}], policy, directory, node, workers = 2, env, args = {}, listen = '127.0.0.1:0', home = temporaryDirectory('fl-') }) {
  const fakes = await Promise.all(fakeOptions.map((options, i) => startFakellm({ name: 'abcdefghij'[i], ...options })));
  const text = (given) => (typeof given === 'function' ? given(fakes) : given);
  const write = (name, kind, body) => body !== undefined && writeFileSync(path.join(home, name), `schema: fairlead/1\nkind: ${kind}\n${body}\n`);
  // FAIRLEAD_LANE: the same tests over one lane (tests/run does both).
  const lane = process.env.FAIRLEAD_LANE;
  write('policy.yaml', 'policy', lane ? text(policy).replace(/\{preset: ([a-z-]+),/g, `{preset: $1, lane: ${lane},`) : text(policy));
  write('directory.yaml', 'directory', text(directory) ?? 'teams:\n  t: {routes: ["*"], models: ["*/*"]}');
  write('node.yaml', 'node', text(node));

  const up = await startProcess(
    'fairlead',
    ['up', '--home', home, ...(listen ? ['--listen', listen] : []), '--operations', '127.0.0.1:0', '--workers', workers, '--prices', shippedPrices, ...toOptions(args)],
    { env, readyPattern: /^Fairlead is up\. /m, timeoutMs: 60_000 },
  );
  const address = (name) => readFileSync(path.join(home, 'run', name), 'utf8').split('\n', 1)[0];
  const operations = `http://${address('operations')}`;
  const page = (name) => fetch(`${operations}/${name}`, { headers: { connection: 'close' } });

  const house = {
    home,
    up,
    fakes,
    address: address('listen'),
    listeners: [...up.stderr.matchAll(/event=node\.listening address=(\S+)/g)].map((match) => match[1]),
    port: Number(address('listen').split(':').at(-1)),
    api: `http://${address('listen')}`,
    operations,
    status: async () => (await page('status')).json(),
    metrics: async () => (await page('metrics')).text(),
    // The admin CLI: {code, stdout, stderr}.
    cli: (commandArgs, options) => run('fairlead', [...commandArgs, '--home', home], options),
    // The same, which must succeed; its answer.
    admin: async (...commandArgs) => {
      const { code, stdout, stderr } = await house.cli([...commandArgs, '--json', '--yes']);
      if (code !== 0) throw new Error(`fairlead ${commandArgs.join(' ')} ended with ${code}: ${stderr}`);
      return JSON.parse(stdout);
    },
    // A key that every worker knows: {key, id, ...}.
    createKey: ({ team = 't', ...options } = {}) => house.admin('keys', 'create', ...toOptions({ team, ...options }), '--wait'),
    // All records so far, the oldest first.
    records: () =>
      readdirSync(path.join(home, 'records'))
        .sort()
        .flatMap((name) => readFileSync(path.join(home, 'records', name), 'utf8').split('\n').slice(0, -1))
        .map((line) => JSON.parse(line)),
    // One request on a connection of its own: {status, headers, rawHeaders, text, end}; end is "end", or the error's code when the
    // body broke off. With onData(answer, request) a test may act while the answer comes.
    request: (where, options) => request(`${house.api}${where}`, options),
    stop: () => up.stop({ graceMs: 60_000 }),
  };
  return house;
}

export function request(url, { method = 'POST', body, key, headers = {}, onData, onHead } = {}) {
  return new Promise((resolve, reject) => {
    const auth = key ? { authorization: `Bearer ${key}` } : {};
    const req = http.request(url, { method, agent: false, headers: { 'content-type': 'application/json', ...auth, ...headers } });
    req.on('error', reject);
    req.on('response', (res) => {
      const answer = { status: res.statusCode, headers: res.headers, rawHeaders: res.rawHeaders, text: '', end: 'end' };
      onHead?.(answer, req);
      res.setEncoding('utf8');
      res.on('data', (text) => {
        answer.text += text;
        onData?.(answer, req);
      });
      res.on('error', (error) => (answer.end = error.code));
      res.on('close', () => resolve(answer));
    });
    req.end(body === undefined || typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body));
  });
}

// The data of a stream's events (of one line each), parsed, in order; "[DONE]" as it is.
export const eventsOf = (text) => [...text.replace(/^\ufeff/, '').matchAll(/(?<=^|[\r\n])data: ?([^\r\n]*)/g)].map((match) => (match[1] === '[DONE]' ? match[1] : JSON.parse(match[1])));
export const contentOf = (events) => events.map((event) => event.choices?.[0]?.delta?.content ?? event.choices?.[0]?.text ?? '').join('');
export const chatBody = (content, more = {}) => ({ model: 'chat', messages: [{ role: 'user', content }], ...more });
