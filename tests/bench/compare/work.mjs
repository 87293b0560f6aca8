// The four kinds of work, and one measured run of one of them through one gateway.
import { bin, run, sleep } from '../../system/support/process.mjs';
import { cpuNs } from './proc.mjs';
import { cores } from './places.mjs';

// What the upstream does stands in the prompt (tests/support/fake_knobs.h). Clients ask for usage themselves, so that nobody needs
// to add that to a request, and every gateway sees the same events.
export const works = {
  unary: { title: 'small unary (1.7 KB in, 1.2 KB out)', prompt: '[[fake tokens=120]]', promptBytes: 1500, connections: 32, rate: 2000 },
  prompt: { title: 'long prompt (200 KB in)', prompt: '[[fake tokens=120]]', promptBytes: 200_000, connections: 8, rate: 500 },
  stream: { title: '200 tokens at full speed', prompt: '[[fake tokens=200]]', promptBytes: 1500, stream: true, events: 204, connections: 16, rate: 300 },
  pace: { title: '200 tokens at 2 ms', prompt: '[[fake tokens=200 token_ms=2]]', promptBytes: 1500, stream: true, events: 204, connections: 32, rate: 40 },
};

const answerBytesMin = { unary: 1100, prompt: 1100, stream: 40_000, pace: 40_000 };

// Runs loadgen on the cores that no gateway is on. Throws unless every answer came, and came whole.
export async function load(name, endpoint, { connections = works[name].connections, seconds, rate, requests }) {
  const work = works[name];
  const options = {
    url: endpoint.url,
    connections,
    prompt: work.prompt,
    'prompt-bytes': work.promptBytes,
    ...(endpoint.model && { model: endpoint.model }),
    ...(endpoint.key && { key: endpoint.key }),
    ...(endpoint.url.startsWith('https') && { ca: endpoint.ca }),
    ...(endpoint.varyModels && { 'vary-models': endpoint.varyModels, 'vary-keys': endpoint.varyKeys }),
    ...(seconds && { seconds }),
    ...(rate && { rate }),
    ...(requests && { requests }),
  };
  const args = Object.entries(options).flatMap(([option, value]) => [`--${option}`, value]);
  if (work.stream) args.push('--stream', '--include-usage');
  for (const header of endpoint.header ?? []) args.push('--header', header);
  const { code, stdout, stderr } = await run('/usr/bin/taskset', ['-c', cores.rest, bin('loadgen'), ...args], { timeoutMs: 120_000 });
  if (code !== 0 && code !== 1) throw new Error(`loadgen ended with ${code}: ${stderr}`);
  const result = JSON.parse(stdout);
  const wrong = (why) => {
    throw new Error(`${name} at ${endpoint.url}: ${why}`);
  };
  if (result.ok === 0 || result.failed > 0) wrong(`${result.ok} good answers, ${result.failed} bad ones; the first: ${result.first_failure}`);
  if (result.bytes_in / result.ok < answerBytesMin[name]) wrong(`answers of only ${Math.round(result.bytes_in / result.ok)} bytes`);
  if (work.events && result.events !== result.ok * work.events) wrong(`${result.events / result.ok} events an answer instead of ${work.events}`);
  return result;
}

// Until the process has used no CPU time to speak of for 10 ms: what is left to do after the last answer belongs to the run.
async function settled(pid) {
  for (let before = cpuNs(pid), turn = 0; turn < 20; turn++) {
    await sleep(10);
    const now = cpuNs(pid);
    if (now - before < 100_000) return;
    before = now;
  }
}

// One run after a short one that warms connections and caches: {requests, cpuUs (per request), also: {name: us per request}, perSecond,
// busy (the share of its core), load}. Throws when the upstream did not see each request, or when connections to it were not kept.
export async function measure(name, transport, gateway, upstreams, { seconds, rate }) {
  const endpoint = gateway.endpoint({ transport, stream: Boolean(works[name].stream) });
  const upstream = transport === 'tls-up' ? upstreams.tls : upstreams.plain;
  const pid = gateway.pid();
  const also = gateway.also();
  await load(name, endpoint, { seconds: 0.3, rate });
  await settled(pid);
  const before = { cpu: cpuNs(pid), also: Object.fromEntries(Object.entries(also).map(([who, id]) => [who, cpuNs(id)])), upstream: await upstream.stats() };
  const result = await load(name, endpoint, { seconds, rate });
  await settled(pid);
  const cpu = cpuNs(pid) - before.cpu;
  const after = await upstream.stats();
  const asked = after.paths[chatPath(after)] - before.upstream.paths[chatPath(before.upstream)];
  const opened = after.connections - before.upstream.connections - 1; // ours, that asks
  if (asked !== result.requests) throw new Error(`${gateway.name}, ${name}, ${transport}: ${result.requests} requests, but ${asked} at the upstream`);
  // A proxy must keep them; Node's fetch, in Portkey's gateway, now and then does not.
  if (opened > works[name].connections && gateway.name !== 'portkey') throw new Error(`${gateway.name}, ${name}, ${transport}: ${opened} connections to the upstream for ${works[name].connections} of clients: they are not kept`);
  return {
    requests: result.ok,
    cpuUs: cpu / result.ok / 1000,
    also: Object.fromEntries(Object.entries(also).map(([who, id]) => [who, (cpuNs(id) - before.also[who]) / result.ok / 1000])),
    perSecond: result.per_second,
    busy: cpu / 1e9 / result.seconds,
    load: result,
  };
}

const chatPath = (stats) => Object.keys(stats.paths).find((path) => path.endsWith('/chat/completions'));

// What one answer says, without what differs between two answers to one question: to compare what gateways pass on.
export async function contentOf(name, endpoint) {
  const work = works[name];
  const headers = { 'content-type': 'application/json', ...(endpoint.key && { authorization: `Bearer ${endpoint.key}` }), ...Object.fromEntries((endpoint.header ?? []).map((line) => line.split(/: (.*)/s).slice(0, 2))) };
  const body = { model: endpoint.model ?? 'fake-small', messages: [{ role: 'user', content: work.prompt }], ...(work.stream && { stream: true, stream_options: { include_usage: true } }) };
  const answer = await fetch(endpoint.url, { method: 'POST', headers, body: JSON.stringify(body) });
  const text = await answer.text();
  if (answer.status !== 200) throw new Error(`${endpoint.url}: ${answer.status} ${text}`);
  if (!work.stream) {
    const { choices, usage } = JSON.parse(text);
    return { text: choices[0].message.content, tokens: usage.completion_tokens };
  }
  const events = [...text.matchAll(/^data: (.*)$/gm)].map(([, data]) => data);
  if (events.pop() !== '[DONE]') throw new Error(`${endpoint.url}: a stream without [DONE]`);
  const parsed = events.map((event) => JSON.parse(event));
  return { text: parsed.map(({ choices }) => choices[0]?.delta.content ?? '').join(''), tokens: parsed.at(-1).usage.completion_tokens };
}
