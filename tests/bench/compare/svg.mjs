// Plots as SVG, written by hand: grouped bars, and lines. Colours that stay apart in print and for most colour-blind eyes (Okabe and Ito, 2008).
const colours = ['#0072B2', '#E69F00', '#009E73', '#CC79A7', '#56B4E9', '#D55E00'];
const width = 860;
const height = 420;
const frame = { left: 78, right: 20, top: 64, bottom: 64 };
const plot = { width: width - frame.left - frame.right, height: height - frame.top - frame.bottom };

const escape = (text) => String(text).replace(/[&<>"]/g, (sign) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' })[sign]);
const round = (value) => Math.round(value * 100) / 100;
const text = (x, y, what, { anchor = 'middle', size = 13, weight = 'normal', colour = '#222' } = {}) =>
  `<text x="${round(x)}" y="${round(y)}" text-anchor="${anchor}" font-size="${size}" font-weight="${weight}" fill="${colour}">${escape(what)}</text>`;
const line = (x1, y1, x2, y2, colour = '#ddd', stroke = 1) => `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" stroke="${colour}" stroke-width="${stroke}"/>`;

// At most six round steps from 0 up to max.
export function ticks(max) {
  if (!(max > 0)) return [0, 1];
  const raw = max / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  return Array.from({ length: Math.ceil(max / step) + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

// Powers of ten around low..high.
const decades = (low, high) => {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  return Array.from({ length: Math.max(1, to - from) + 1 }, (_, i) => 10 ** (from + i));
};

function scaleOf(values, logarithmic) {
  const marks = logarithmic ? decades(Math.min(...values.filter((value) => value > 0)), Math.max(...values)) : ticks(Math.max(...values));
  const [low, high] = [marks[0], marks.at(-1)].map((mark) => (logarithmic ? Math.log10(mark) : mark));
  const at = (value) => frame.top + plot.height * (1 - ((logarithmic ? Math.log10(Math.max(value, marks[0])) : value) - low) / (high - low));
  return { marks, at };
}

function picture({ title, unit, series }, marks, at, inside) {
  const grid = marks.map((mark) => line(frame.left, at(mark), width - frame.right, at(mark)) + text(frame.left - 8, at(mark) + 4, mark.toLocaleString('en'), { anchor: 'end', size: 12 }));
  let x = frame.left;
  const legend = series.map((name, i) => {
    const item = `<rect x="${x}" y="36" width="12" height="12" fill="${colours[i % colours.length]}"/>${text(x + 17, 46, name, { anchor: 'start', size: 12 })}`;
    x += 34 + name.length * 7;
    return item;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="sans-serif">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    text(frame.left, 22, `${title}${unit ? `, ${unit}` : ''}`, { anchor: 'start', size: 15, weight: 'bold' }),
    ...legend,
    ...grid,
    ...inside,
    line(frame.left, frame.top + plot.height, width - frame.right, frame.top + plot.height, '#222'),
    '</svg>\n',
  ].join('\n');
}

// Bars in groups. values[group][series]: {median, q1, q3} or undefined; quartiles are drawn as a whisker.
export function bars({ title, unit, groups, series, values, logarithmic = false }) {
  const known = values.flat().filter(Boolean);
  const { marks, at } = scaleOf(known.flatMap(({ median, q3 }) => [median, q3]), logarithmic);
  const slot = plot.width / groups.length;
  const bar = Math.min(46, (slot * 0.8) / series.length);
  const inside = groups.flatMap((group, g) => {
    const middle = frame.left + slot * (g + 0.5);
    const drawn = series.flatMap((_, s) => {
      const value = values[g][s];
      if (!value) return [];
      const x = middle + bar * (s - series.length / 2);
      const y = at(value.median);
      const label = value.median >= 100 ? Math.round(value.median) : value.median.toPrecision(2);
      return [
        `<rect x="${round(x + 1)}" y="${round(y)}" width="${round(bar - 2)}" height="${round(frame.top + plot.height - y)}" fill="${colours[s % colours.length]}"/>`,
        line(x + bar / 2, at(value.q1), x + bar / 2, at(value.q3), '#222', 1.5),
        text(x + bar / 2, Math.min(y, at(value.q3)) - 5, label, { size: 10 }),
      ];
    });
    return [...drawn, ...group.split('\n').map((part, i) => text(middle, frame.top + plot.height + 18 + i * 15, part, { size: 12 }))];
  });
  return picture({ title, unit, series }, marks, at, inside);
}

// Lines over named places, evenly spaced. values[series][place]: number or undefined.
export function lines({ title, unit, places, series, values, logarithmic = false }) {
  const { marks, at } = scaleOf(values.flat().filter((value) => value !== undefined), logarithmic);
  const xOf = (i) => frame.left + (plot.width * (i + 0.5)) / places.length;
  const inside = series.flatMap((_, s) => {
    const points = values[s].map((value, i) => (value === undefined ? undefined : [round(xOf(i)), round(at(value))])).filter(Boolean);
    const colour = colours[s % colours.length];
    return [`<polyline points="${points.join(' ')}" fill="none" stroke="${colour}" stroke-width="2"/>`, ...points.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="3.5" fill="${colour}"/>`)];
  });
  const names = places.flatMap((place, i) => place.split('\n').map((part, k) => text(xOf(i), frame.top + plot.height + 18 + k * 15, part, { size: 12 })));
  return picture({ title, unit, series }, marks, at, [...inside, ...names]);
}
