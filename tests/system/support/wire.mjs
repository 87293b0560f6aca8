// HTTP byte by byte: what a client sends is written out, what comes back is taken apart here and not by a library that forgives.
import net from 'node:net';

// Sends pieces one after the other; a function among them is waited for: it gets all that came so far. Resolves with everything that
// comes until the other side closes, or until `until` holds.
export function raw(port, pieces, { until, timeoutMs = 20_000 } = {}) {
  return new Promise((resolve, reject) => {
    let text = '';
    let closed = false;
    const watchers = new Set();
    const socket = net.connect(port, '127.0.0.1');
    const settle = () => {
      clearTimeout(timer);
      socket.destroy();
      resolve({ text, closed, responses: responsesOf(text) });
    };
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no end within ${timeoutMs} ms; so far: ${text.slice(0, 2000)}`));
    }, timeoutMs);
    socket.setEncoding('latin1').setNoDelay(true);
    socket.on('data', (more) => {
      text += more;
      for (const watch of watchers) watch();
      if (until?.(text)) settle();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      closed = true;
      settle();
    });
    socket.on('connect', async () => {
      for (const piece of [pieces].flat()) {
        if (typeof piece !== 'function') socket.write(piece);
        else
          await new Promise((go) => {
            const watch = () => piece(text) && (watchers.delete(watch), go());
            watchers.add(watch);
            watch();
          });
      }
    });
  });
}

// The complete responses in what came: {status, headers, body}. Those to HEAD cannot be told apart from others: ask one at a time.
export function responsesOf(text) {
  const list = [];
  while (text.length > 0) {
    const end = text.indexOf('\r\n\r\n');
    if (end < 0) break;
    const [first, ...lines] = text.slice(0, end).split('\r\n');
    const headers = Object.fromEntries(lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]));
    const response = { status: Number(first.split(' ')[1]), headers, body: '' };
    text = text.slice(end + 4);
    if (headers['transfer-encoding'] === 'chunked') {
      for (;;) {
        const size = parseInt(text, 16);
        const from = text.indexOf('\r\n') + 2;
        response.body += text.slice(from, from + size);
        text = text.slice(from + size + 2);
        if (!(size > 0)) break;
      }
    } else {
      const length = Number(headers['content-length'] ?? 0);
      response.body = text.slice(0, length);
      text = text.slice(length);
    }
    list.push(response);
  }
  return list;
}
