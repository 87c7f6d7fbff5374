// What the page knows of each clip, and the decision by the thresholds as they stand.
// Three values as in SQL: 0 false, 1 true, 2 NULL. page.js follows in the same scope.
const page = JSON.parse(document.getElementById("data").textContent);
const MISSING = 65535, TOP_CODE = 65534, NUM_BINS = 36, WIDTH = 340, TOP = 26, BASE = 112;
const KEPT = 0, DROPPED = 1, GATED = 2, UNDECIDED = 3, DUPLICATE = -2, FIXED = -1;
const GROUPS = ["kept", "dropped", "gated", "undecided"];
const scale = page.count ? page.total / page.count : 1;
const isSample = page.total > page.count;
const $ = (id) => document.getElementById(id);

// --- data ---------------------------------------------------------------------------------------

function unpack(text, Type) {
  return new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

const lengths = unpack(page.lengths, Float32Array);
const fixed = unpack(page.fixed, Uint8Array);
const opaque = page.opaque.map((text) => unpack(text, Uint8Array));
const cluster = page.duplicates && unpack(page.duplicates.cluster, Int32Array);
const place = page.duplicates && unpack(page.duplicates.place, Int32Array);
for (const column of page.columns) {
  const width = column.high - column.low;
  column.values = Float64Array.from(unpack(column.codes, Uint16Array), (code) =>
    code === MISSING ? NaN
      : column.levels ? column.levels[code] : column.low + code / TOP_CODE * width);
}
const rules = page.rules;
const thresholds = new Map();
rules.forEach((rule) => leaves(rule.tree).forEach((node) => register(node, rule)));

function leaves(node) {
  return node.kind === "compare" ? [node] : (node.parts || []).flatMap(leaves);
}

function register(node, rule) {
  const column = page.columns[node.column];
  thresholds.set(node.key, {key: node.key, node, rule, column, recipe: node.value, isTried: false});
}

// --- deciding -----------------------------------------------------------------------------------

const COMPARE = {
  ">=": (a, b) => a >= b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, "<": (a, b) => a < b,
};

function truth(node, i) {
  if (node.kind === "opaque") return opaque[node.index][i];
  if (node.kind === "compare") {
    const value = page.columns[node.column].values[i];
    return value !== value ? 2 : +COMPARE[node.operator](value, node.value);
  }
  if (node.kind === "not") {
    const found = truth(node.parts[0], i);
    return found === 2 ? 2 : 1 - found;
  }
  const decisive = node.kind === "and" ? 0 : 1;
  let result = 1 - decisive;
  for (const part of node.parts) {
    const found = truth(part, i);
    if (found === decisive) return decisive;
    if (found === 2) result = 2;
  }
  return result;
}

function judge(rule) { // 1 where the rule keeps a clip
  const passes = new Uint8Array(page.count);
  for (let i = 0; i < page.count; i++) {
    const found = truth(rule.tree, i);
    passes[i] = found === 2 ? +(rule.onMissing === "keep") : found;
  }
  rule.passes = passes;
  rule.failed = null;
}

function decide() {
  const status = new Uint8Array(page.count), why = new Int16Array(page.count);
  for (let i = 0; i < page.count; i++) {
    let failed = fixed[i] ? FIXED : rules.findIndex((rule) => rule.isGate && !rule.passes[i]);
    if (fixed[i] || failed >= 0) { status[i] = GATED; why[i] = failed; continue; }
    if (!page.isDecided && !rules.some((rule) => !rule.isGate)) { status[i] = UNDECIDED; continue; }
    failed = rules.findIndex((rule) => !rule.isGate && !rule.passes[i]);
    status[i] = failed >= 0 ? DROPPED : KEPT;
    why[i] = failed;
  }
  if (cluster) {
    const best = new Map();
    for (let i = 0; i < page.count; i++) {
      const number = cluster[i];
      if (status[i] !== KEPT || !number) continue;
      const held = best.get(number);
      if (number > 0 && (held === undefined || place[i] < place[held])) best.set(number, i);
    }
    for (let i = 0; i < page.count; i++) {
      if (status[i] === KEPT && cluster[i] && best.get(cluster[i]) !== i) {
        status[i] = DROPPED;
        why[i] = DUPLICATE;
      }
    }
  }
  return {status, why, ...tally(status, why)};
}

function tally(status, why) {
  const found = {clips: 0, seconds: 0, byRule: new Map()};
  for (let i = 0; i < page.count; i++) {
    if (status[i] === KEPT || status[i] === UNDECIDED) {
      found.clips += 1;
      found.seconds += lengths[i];
      continue;
    }
    const amount = found.byRule.get(why[i]) || {clips: 0, seconds: 0};
    amount.clips += 1;
    amount.seconds += lengths[i];
    found.byRule.set(why[i], amount);
  }
  return found;
}

function alone(rule) { // what fails this rule, whatever others say; of written clips unless it is a gate
  if (rule.failed) return rule.failed;
  const found = {clips: 0, seconds: 0};
  for (let i = 0; i < page.count; i++) {
    if (rule.passes[i] || fixed[i] || (!rule.isGate && current.status[i] === GATED)) continue;
    found.clips += 1;
    found.seconds += lengths[i];
  }
  rule.failed = found;
  return found;
}

const isKept = (status) => status === KEPT || status === UNDECIDED;

function compared(now) {
  const found = {gained: 0, gainedSeconds: 0, lost: 0, lostSeconds: 0};
  for (let i = 0; i < page.count; i++) {
    const before = isKept(baseline.status[i]), after = isKept(now.status[i]);
    if (after && !before) { found.gained += 1; found.gainedSeconds += lengths[i]; }
    if (before && !after) { found.lost += 1; found.lostSeconds += lengths[i]; }
  }
  return found;
}
