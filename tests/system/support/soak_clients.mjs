// Clients of all kinds for the soak: each makes one request and says how it ended, as the books must have it:
//
//   {outcome, id}: ok, client_error, error, cancelled (as in /metrics); unauthorized, malformed (counted apart, no record);
//   broken (the connection ended without an answer's end); stale (so did a kept one, before any answer: the server may have closed it
//   just when the request was sent, which HTTP/1.1 cannot avoid: RFC 9112 section 9.5); unsure (the client left before it could know whether its request was seen).
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import { eventsOf } from './fairlead.mjs';

const TIME_LIMIT_MS = 60_000; // nothing may hang: a client that waits longer is broken

const outcomeOfStatus = (status) => {
  if (status === 200) return 'ok';
  if (status === 401) return 'unauthorized';
  return status >= 500 || status === 429 ? 'error' : 'client_error';
};

function outcomeOf({ status, text, whole, stream }) {
  if (!whole) return 'broken';
  if (status !== 200 || !stream) {
    const body = JSON.parse(text); // each answer is JSON, errors too
    if (status === 200 && typeof body.choices[0].message.content !== 'string') throw new Error(`not an answer: ${text}`);
    if (status !== 200 && !body.error?.message) throw new Error(`not an error: ${text}`);
    return outcomeOfStatus(status);
  }
  const events = eventsOf(text);
  if (events.at(-1) === '[DONE]') return 'ok';
  if (events.at(-1)?.error) return 'error';
  throw new Error(`a stream without an end: ${text.slice(-300)}`);
}

// A question over Node's HTTP. way: where else than over plain TCP (ways). leave: 'data' (after the first bytes), 'sent' (at once, when all is written). slowMs: rests between reads.
function ask(house, { key, body, agent = false, stream = false, leave, slowMs = 0, way = { send: http.request, url: house.api } }) {
  return new Promise((resolve, reject) => {
    const text = typeof body === 'string' ? body : JSON.stringify({ ...body, stream });
    const answer = { text: '', whole: false, stream };
    const settle = () => {
      clearTimeout(timer);
      try {
        const id = answer.id;
        if (req.reusedSocket && answer.status === undefined && !answer.left) resolve({ outcome: 'stale' });
        else if (answer.left) resolve({ outcome: leave === 'sent' ? 'unsure' : 'cancelled', id });
        else resolve({ outcome: outcomeOf(answer), id, status: answer.status, code: answer.text.match(/"code":\s*"(\w+)"/)?.[1] });
      } catch (error) {
        reject(error);
      }
    };
    const req = way.send(`${way.url}/v1/chat/completions`, {
      ...way.options,
      method: 'POST',
      agent,
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text), authorization: `Bearer ${key}` },
    });
    const timer = setTimeout(() => {
      reject(new Error(`no end within the time limit: status ${answer.status}, ${answer.id}, ${answer.text.slice(-200)}`));
      req.destroy();
    }, TIME_LIMIT_MS);
    const go = () => {
      answer.left = true;
      req.destroy();
    };
    req.on('error', () => {}); // 'close' follows
    req.on('close', () => answer.status ?? settle()); // a response may have more to read
    req.on('response', (res) => {
      answer.status = res.statusCode;
      answer.id = res.headers['x-request-id'];
      res.setEncoding('utf8');
      res.on('data', (part) => {
        answer.text += part;
        if (leave === 'data' && res.statusCode === 200) go();
        if (slowMs) {
          res.pause();
          setTimeout(() => res.resume(), slowMs);
        }
      });
      res.on('end', () => (answer.whole = res.complete));
      res.on('error', () => {});
      res.on('close', settle);
    });
    req.end(text, () => leave === 'sent' && go());
  });
}

const ways = {
  tls: (house) => ({ send: https.request, url: house.tls.url, options: { ca: house.tls.ca } }),
  unix: (house) => ({ send: http.request, url: 'http://unix', options: { socketPath: house.socket } }),
};

// The same questions on as many streams of one connection over HTTP/2; cancelled: those are reset after the first bytes of the answer.
async function askTogether(house, url, bodies, { key, stream = false, cancelled = () => false }) {
  const session = http2.connect(url, { ca: house.tls.ca });
  session.on('error', () => {}); // its streams say so
  try {
    return await Promise.all(bodies.map((body, i) => askStream(session, { key, stream, cancels: cancelled(i), text: JSON.stringify({ ...body, stream }) })));
  } finally {
    session.destroy();
  }
}

function askStream(session, { key, stream, cancels, text }) {
  return new Promise((resolve, reject) => {
    const answer = { text: '', whole: false, stream };
    const req = session.request({ ':method': 'POST', ':path': '/v1/chat/completions', 'content-type': 'application/json', authorization: `Bearer ${key}` });
    const timer = setTimeout(() => reject(new Error(`no end of a stream within the time limit: status ${answer.status}, ${answer.id}`)), TIME_LIMIT_MS);
    req.setEncoding('utf8');
    req.on('response', (headers) => ((answer.status = headers[':status']), (answer.id = headers['x-request-id'])));
    req.on('data', (part) => {
      answer.text += part;
      if (!cancels || answer.status !== 200 || answer.left) return;
      answer.left = true;
      req.close(http2.constants.NGHTTP2_CANCEL);
    });
    req.on('end', () => (answer.whole = req.rstCode === http2.constants.NGHTTP2_NO_ERROR && !answer.left && answer.status !== undefined));
    req.on('error', () => {}); // 'close' follows
    req.on('close', () => {
      clearTimeout(timer);
      try {
        if (answer.left) resolve({ outcome: 'cancelled', id: answer.id });
        else if (answer.status === undefined && req.rstCode === http2.constants.NGHTTP2_REFUSED_STREAM) resolve({ outcome: 'stale' });
        else resolve({ outcome: outcomeOf(answer), id: answer.id, status: answer.status, code: answer.text.match(/"code":\s*"(\w+)"/)?.[1] });
      } catch (error) {
        reject(error);
      }
    });
    req.end(text);
  });
}

// Bytes as they are, on a connection of their own; resolves with all that came until the end, or until `enough`.
function raw(house, bytes, enough = () => false) {
  return new Promise((resolve, reject) => {
    let text = '';
    const socket = net.connect(house.port, '127.0.0.1', () => socket.write(bytes));
    const timer = setTimeout(() => reject(new Error(`no end within the time limit: ${text.slice(0, 300)}`)), TIME_LIMIT_MS);
    socket.setEncoding('utf8');
    socket.on('data', (part) => {
      text += part;
      if (enough(text)) socket.end();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      clearTimeout(timer);
      resolve(text);
    });
  });
}

const heads = (text) => [...text.matchAll(/HTTP\/1\.1 (\d{3}) .*?\r\n\r\n/gs)].map((match) => ({ status: Number(match[1]), id: match[0].match(/^x-request-id: (\S+)\r$/im)?.[1], closes: /^connection: close\r$/im.test(match[0]) }));

const PIPELINED = 3;
async function pipelined(house, key, body) {
  const text = JSON.stringify(body);
  const request = (last) =>
    `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\n${last ? 'connection: close\r\n' : ''}content-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
  const answered = heads(await raw(house, request(false).repeat(PIPELINED - 1) + request(true)));
  // What follows an answer that closes the connection was not looked at: RFC 9112 section 9.6.
  const unanswered = answered.at(-1)?.closes ? 'stale' : 'broken';
  return Array.from({ length: PIPELINED }, (_, i) => (answered[i] ? { outcome: outcomeOfStatus(answered[i].status), ...answered[i] } : { outcome: unanswered }));
}

async function refusedAtOnce(house, bytes, outcome, status) {
  const [first] = heads(await raw(house, bytes));
  if (!first) return { outcome: 'broken' };
  if (first.status === 401) return { outcome: 'unauthorized', ...first }; // its key was revoked a moment ago
  if (first.status !== status) throw new Error(`status ${first.status}, not ${status}`);
  return { outcome, ...first };
}

// kinds[name](house, key, {random, agent, content}) -> one result, or a list. `content` makes the prompt, with directives for fakellm.
export const kinds = {
  unary: (house, key, { agent, content }) => ask(house, { key, agent, body: content('') }),
  connects: (house, key, { content }) => ask(house, { key, body: content('') }),
  stream: (house, key, { agent, content }) => ask(house, { key, agent, stream: true, body: content('[[fake tokens=30 token_ms=1]]') }),
  slow: (house, key, { content }) => ask(house, { key, stream: true, slowMs: 5, body: content('[[fake tokens=300]]') }),
  leaves: (house, key, { content }) => ask(house, { key, stream: true, leave: 'data', body: content('[[fake tokens=5000 token_ms=2]]') }),
  vanishes: (house, key, { content }) => ask(house, { key, leave: 'sent', body: content('[[fake ttft_ms=30]]') }),
  big: (house, key, { agent, random, content }) => ask(house, { key, agent, body: content('p'.repeat(100_000 + random() * 1_500_000)) }),
  pipelined: (house, key, { content }) => pipelined(house, key, content('')),
  tls: (house, key, { content }) => ask(house, { key, way: ways.tls(house), body: content('') }),
  tlsStream: (house, key, { content }) => ask(house, { key, way: ways.tls(house), stream: true, body: content('[[fake tokens=30 token_ms=1]]') }),
  tlsLeaves: (house, key, { content }) => ask(house, { key, way: ways.tls(house), stream: true, leave: 'data', body: content('[[fake tokens=5000 token_ms=2]]') }),
  unix: (house, key, { content }) => ask(house, { key, way: ways.unix(house), body: content('') }),
  unixStream: (house, key, { content }) => ask(house, { key, way: ways.unix(house), stream: true, body: content('[[fake tokens=30 token_ms=1]]') }),
  http2: (house, key, { content }) => askTogether(house, house.api, [content(''), content('p'.repeat(100_000)), content('')], { key }),
  http2Cancels: (house, key, { content }) => askTogether(house, house.api, Array(3).fill(content('[[fake tokens=200 token_ms=2]]')), { key, stream: true, cancelled: (i) => i > 0 }),
  http2Tls: (house, key, { content }) => askTogether(house, house.tls.url, Array(2).fill(content('[[fake tokens=30 token_ms=1]]')), { key, stream: true }),
  stranger: (house, key, { agent, content }) => ask(house, { key: 'fl-nobody', agent, body: content('') }),
  unknown: (house, key, { agent, content }) => ask(house, { key, agent, body: { ...content(''), model: 'no-such' } }),
  notJson: (house, key, { agent }) => ask(house, { key, agent, body: '{"model": "chat", "messages": [' }),
  tooLarge: (house, key) =>
    refusedAtOnce(house, `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\ncontent-length: 99999999\r\n\r\n`, 'client_error', 413),
  malformed: (house) => refusedAtOnce(house, 'POST /v1/chat/completions HTTP/1.1\r\nhost : x\r\n\r\n', 'malformed', 400),
};
// How often, of their sum.
export const shares = { tls: 6, tlsStream: 5, tlsLeaves: 3, unix: 4, unixStream: 4, http2: 5, http2Cancels: 5, http2Tls: 5, unary: 28, connects: 12, stream: 20, slow: 3, leaves: 8, vanishes: 4, big: 4, pipelined: 5, stranger: 4, unknown: 4, notJson: 4, tooLarge: 2, malformed: 2 };
