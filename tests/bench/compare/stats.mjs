// What is made of the figures of several rounds.

const sorted = (list) => [...list].sort((a, b) => a - b);

// Between two values of a list in linear proportion (Hyndman and Fan's type 7); undefined of an empty one.
export function quantile(list, share) {
  const values = sorted(list);
  const at = (values.length - 1) * share;
  const low = Math.floor(at);
  return values.length === 0 ? undefined : values[low] + (values[Math.ceil(at)] - values[low]) * (at - low);
}

// {n, median, q1, q3, min, max}; undefined of an empty list.
export function spread(list) {
  if (list.length === 0) return undefined;
  return { n: list.length, median: quantile(list, 0.5), q1: quantile(list, 0.25), q3: quantile(list, 0.75), min: Math.min(...list), max: Math.max(...list) };
}

// Every figure that was measured, with what it is of. A key is an object whose members are all texts.
export class Samples {
  rows = [];

  add(key, round, value) {
    this.rows.push({ ...key, round, value });
  }

  // Rows that have all of these members.
  where(key) {
    return this.rows.filter((row) => Object.entries(key).every(([name, value]) => row[name] === value));
  }

  spread(key) {
    return spread(this.where(key).map((row) => row.value));
  }

  // How much of `other` one is, round by round: what disturbs the machine disturbs neighbours in one round alike, so the quotients of
  // rounds scatter less than the figures. Rounds that lack one of the two do not count.
  ratio(key, other) {
    const others = new Map(this.where(other).map((row) => [row.round, row.value]));
    return spread(this.where(key).filter((row) => others.get(row.round) > 0).map((row) => row.value / others.get(row.round)));
  }
}
