// Draws what decide.js finds, and lets thresholds be moved: mouse, touch, keys, address.

// --- words --------------------------------------------------------------------------------------

const count = (n) => (isSample ? "≈ " : "") + Math.round(n * scale).toLocaleString("en-US");
const clips = (n) => count(n) + (Math.round(n * scale) === 1 ? " clip" : " clips");
const signs = (text) => text.replaceAll(">=", "≥").replaceAll("<=", "≤");

function hours(seconds) {
  const s = seconds * scale;
  if (s < 60) return s.toFixed(1) + " s";
  if (s < 3600) return (s / 60).toFixed(1) + " min";
  return (s / 3600).toLocaleString("en-US", {minimumFractionDigits: 1, maximumFractionDigits: 1}) + " h";
}

function percent(seconds) {
  const all = lengths.reduce((sum, s) => sum + s, 0);
  return (all ? 100 * seconds / all : 0).toFixed(1).replace(/\.0$/, "") + " %";
}

function numberText(value) { return String(Number(value.toPrecision(9))); }

function predicate(rule) { // the rule's text with the numbers that are dragged now
  let text = rule.text;
  for (const node of leaves(rule.tree).sort((a, b) => b.start - a.start)) {
    text = text.slice(0, node.start) + (node.text || numberText(node.value)) + text.slice(node.end);
  }
  return text;
}

const quoted = (text) => "'" + text.replaceAll("'", "'\\''") + "'";
const moved = () => [...thresholds.values()].filter((t) => t.isTried || t.node.value !== t.recipe);

function commands(changed) {
  const of = (isGate) => [...new Set(changed.filter((t) => t.rule.isGate === isGate).map((t) => t.rule))];
  const sets = (found, section) =>
    found.map((rule) => " --set " + quoted(`${section}.${rule.name}=${predicate(rule)}`)).join("");
  const keep = of(false), gates = of(true);
  return {
    decide: keep.length ? page.command + sets(keep, "keep") : "",
    gate: gates.length ? page.gateCommand + sets(gates, "gates") : "",
  };
}

function query(rule) { // counts what `alone` counts
  const gates = rules.filter((r) => r.isGate).map((r) => `'${r.name}'`).join(", ");
  const where = rule.isGate ? `(gate IS NULL OR gate IN (${gates}))` : "gate IS NULL";
  const fails = rule.onMissing === "keep" ? "IS FALSE" : "IS NOT TRUE";
  return "SELECT count(*) AS clips, sum(end_s - start_s) / 3600 AS hours FROM clips "
    + `WHERE ${where} AND (${predicate(rule)}) ${fails}`;
}

// --- drawing ------------------------------------------------------------------------------------

const figures = [...document.querySelectorAll(".histogram[data-column]")];
const tiles = [...document.querySelectorAll(".tile[data-clip]")];
const xOf = (column, value) => (value - column.low) / (column.high - column.low) * WIDTH;

function binsOf(column) { // the bin of each clip, NUM_BINS where it has no value
  const width = column.high - column.low;
  return Uint8Array.from(column.values, (value) => value !== value ? NUM_BINS
    : Math.max(0, Math.min(NUM_BINS - 1, Math.floor((value - column.low) / width * NUM_BINS))));
}

function bars(column, status) {
  const bins = Array.from({length: NUM_BINS + 1}, () => [0, 0, 0, 0]), step = WIDTH / NUM_BINS;
  column.bins ??= binsOf(column);
  for (let i = 0; i < page.count; i++) bins[column.bins[i]][status[i]] += 1;
  bins.pop();
  const tallest = Math.max(1, ...bins.map((bin) => bin[0] + bin[1] + bin[2] + bin[3]));
  return bins.map((bin, index) => {
    let y = BASE;
    return bin.map((amount, group) => {
      if (!amount) return "";
      const height = Math.max(1.5, amount / tallest * (BASE - TOP));
      y -= height;
      return `<rect class="${GROUPS[group]}" x="${(index * step + 0.6).toFixed(1)}" y="${y.toFixed(1)}"`
        + ` width="${(step - 1.2).toFixed(1)}" height="${height.toFixed(1)}"/>`;
    }).join("");
  }).join("");
}

function drawHandle(threshold) {
  const {node, column, rule, handle, shade} = threshold;
  if (!handle) return;
  const x = Math.max(0, Math.min(WIDTH, xOf(column, node.value)));
  const text = `${rule.name} ${signs(node.operator)} ${node.text || numberText(node.value)}`;
  handle.setAttribute("transform", `translate(${x.toFixed(1)} 0)`);
  const label = handle.querySelector("text");
  label.textContent = text;
  label.classList.toggle("end", x > WIDTH * 0.6);
  label.setAttribute("x", x > WIDTH * 0.6 ? -4 : 4);
  handle.classList.toggle("moved", threshold.isTried || node.value !== threshold.recipe);
  threshold.was.style.display = threshold.isTried || node.value === threshold.recipe ? "none" : "";
  const keepsAbove = node.operator.startsWith(">");
  shade.setAttribute("x", keepsAbove ? 0 : x.toFixed(1));
  shade.setAttribute("width", (keepsAbove ? x : WIDTH - x).toFixed(1));
  const found = alone(rule);
  for (const [name, value] of Object.entries({
    "aria-valuemin": column.low, "aria-valuemax": column.high, "aria-valuenow": node.value,
    "aria-valuetext": `${signs(predicate(rule))}, ${clips(found.clips)} fail it`,
  })) handle.setAttribute(name, value);
}

function ruleWords(rule, now) {
  const index = rules.indexOf(rule), none = {clips: 0, seconds: 0};
  const drops = now.byRule.get(index) || none, before = baseline.byRule.get(index) || none;
  const all = alone(rule);
  const verb = rule.isGate ? "not written" : "dropped";
  const note = rule.isGate ? " A gate: this takes another curate." : "";
  const rest = all.clips > drops.clips ? `; ${count(all.clips)} fail it in all` : "";
  return `${signs(predicate(rule))}: ${clips(drops.clips)} ${verb} (${hours(drops.seconds)}, `
    + `${percent(drops.seconds)})${rest}; by the recipe ${count(before.clips)}.${note}`;
}

// Bars out of sight are drawn when they come into it: a page has dozens of figures.
const inSight = new Set(), isBehind = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const {target, isIntersecting} of entries) {
    inSight[isIntersecting ? "add" : "delete"](target);
    if (isIntersecting && isBehind.has(target)) drawBars(target);
  }
}, {rootMargin: "300px"});
figures.forEach((figure) => watcher.observe(figure));
addEventListener("beforeprint", () => isBehind.forEach(drawBars));

function drawBars(figure) {
  isBehind.delete(figure);
  const column = page.columns[figure.dataset.column];
  figure.querySelector(".bars").innerHTML = bars(column, current.status);
}

function drawFigures(now) {
  for (const figure of figures) {
    const column = page.columns[figure.dataset.column];
    if (inSight.has(figure)) drawBars(figure);
    else isBehind.add(figure);
    const changed = moved().filter((t) => t.column === column);
    const output = figure.querySelector(".now");
    const words = [...new Set(changed.map((t) => ruleWords(t.rule, now)))].join(" ");
    output.hidden = !words;
    output.textContent = words;
  }
}

function drawTiles(now) {
  for (const tile of tiles) {
    const i = Number(tile.dataset.clip);
    const isSame = isKept(baseline.status[i]) === isKept(now.status[i]);
    const rule = now.why[i] === DUPLICATE ? "near_duplicate" : rules[now.why[i]]?.name;
    tile.classList.toggle("flipped", !isSame);
    if (isSame) delete tile.dataset.now;
    else tile.dataset.now = isKept(now.status[i]) ? "now kept" : `now dropped: ${rule}`;
  }
}

function drawPanel(now, changed) {
  const panel = $("whatif");
  panel.hidden = !changed.length;
  document.body.classList.toggle("trying", changed.length > 0);
  if (!changed.length) return;
  const against = compared(now), command = commands(changed);
  const latest = changed.includes(last) ? last : changed[changed.length - 1];
  $("whatif-kept").textContent = `${clips(now.clips)} kept, ${hours(now.seconds)} (${percent(now.seconds)})`;
  $("whatif-before").textContent = `recipe: ${count(baseline.clips)}, ${hours(baseline.seconds)}`;
  $("whatif-gained").textContent =
    against.gained ? `+${count(against.gained)} gained (${hours(against.gainedSeconds)})` : "";
  $("whatif-lost").textContent =
    against.lost ? `−${count(against.lost)} lost (${hours(against.lostSeconds)})` : "";
  $("whatif-none").hidden = against.gained + against.lost > 0;
  $("whatif-rules").textContent = rules.map((rule, index) => {
    const before = baseline.byRule.get(index)?.clips || 0, after = now.byRule.get(index)?.clips || 0;
    return before === after ? "" : `${rule.name} ${count(before)} → ${count(after)}`;
  }).concat(duplicateWords(now)).filter(Boolean).join(" · ");
  for (const [name, text] of [["decide", command.decide], ["gate", command.gate],
    ["sql", query(latest.rule)]]) {
    $(`copy-${name}`).hidden = !text;
    $(`copy-${name}`).querySelector("code").textContent = text;
  }
  Object.assign(panel.dataset, {kept: now.clips, seconds: now.seconds.toFixed(3),
    gained: against.gained, lost: against.lost});
}

function duplicateWords(now) {
  const before = baseline.byRule.get(DUPLICATE)?.clips || 0;
  const after = now.byRule.get(DUPLICATE)?.clips || 0;
  return before === after ? "" : `near_duplicate ${count(before)} → ${count(after)}`;
}

let baseline = null, current = null, last = null, isWaiting = false;

function draw() {
  isWaiting = false;
  if (rules.some((rule) => rule.isGate && rule.isStale)) rules.forEach((rule) => { rule.failed = null; });
  rules.forEach((rule) => rule.isStale && (judge(rule), rule.isStale = false));
  current = decide();
  baseline ??= current;
  const changed = moved();
  if (changed.length || document.body.classList.contains("trying")) {
    drawFigures(current);
    drawTiles(current);
  }
  thresholds.forEach(drawHandle);
  drawPanel(current, changed);
}

function redraw() {
  if (isWaiting) return;
  isWaiting = true;
  requestAnimationFrame(draw);
}

// --- moving -------------------------------------------------------------------------------------

function stepOf(column) { // 1, 2 or 5 times a power of ten, at most a 150th of the range
  const wanted = (column.high - column.low) / 150;
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [5, 2, 1].map((n) => n * power).find((step) => step <= wanted * 1.0001) || power;
}

function rounded(column, value) {
  const step = stepOf(column), digits = Math.max(0, -Math.floor(Math.log10(step)));
  const near = Number((Math.round(value / step) * step).toFixed(digits));
  return Math.max(column.low, Math.min(column.high, near));
}

function setValue(threshold, value, text) {
  threshold.node.value = value;
  threshold.node.text = text;
  threshold.rule.isStale = true;
  last = threshold;
  redraw();
}

function remember() {
  const parts = moved().map((t) => `${t.key}=${t.node.text || numberText(t.node.value)}`);
  try {
    history.replaceState(null, "", parts.length ? "#" + parts.join("&") : location.pathname + location.search);
  } catch { /* some browsers refuse this for files: the page works on without it */ }
}

function reset() {
  for (const threshold of [...thresholds.values()]) {
    if (threshold.isTried) remove(threshold);
    else if (threshold.node.value !== threshold.recipe) setValue(threshold, threshold.recipe);
  }
  last = null;
  redraw();
  remember();
}

function remove(threshold) {
  thresholds.delete(threshold.key);
  rules.splice(rules.indexOf(threshold.rule), 1);
  threshold.handle?.remove();
  threshold.shade?.remove();
  threshold.was?.remove();
  redraw();
}

function svgElement(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function attach(threshold, handle, shade) {
  const {column, node} = threshold, x = xOf(column, threshold.recipe).toFixed(1);
  const was = svgElement("line", {class: "was", x1: x, x2: x, y1: TOP, y2: BASE}); // the recipe's
  shade.after(was);
  Object.assign(threshold, {handle, shade, was});
  handle.setAttribute("tabindex", "0");
  handle.setAttribute("role", "slider");
  handle.setAttribute("aria-label", `Threshold of ${threshold.rule.name} on ${column.name}`);
  const svg = handle.ownerSVGElement;
  let grip = 0;
  const at = (event) => {
    const box = svg.getBoundingClientRect();
    return (event.clientX - box.left) / box.width * WIDTH;
  };
  const onMove = (event) => {
    const share = Math.max(0, Math.min(1, (at(event) - grip) / WIDTH));
    setValue(threshold, rounded(column, column.low + share * (column.high - column.low)));
  };
  handle.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    handle.focus({preventScroll: true});
    handle.setPointerCapture(event.pointerId);
    grip = at(event) - xOf(column, node.value);
    handle.addEventListener("pointermove", onMove);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    handle.addEventListener(name, () => {
      handle.removeEventListener("pointermove", onMove);
      remember();
    });
  }
  handle.addEventListener("keydown", (event) => {
    const step = stepOf(column) * (event.shiftKey ? 10 : 1);
    const target = {
      ArrowLeft: node.value - step, ArrowDown: node.value - step,
      ArrowRight: node.value + step, ArrowUp: node.value + step,
      PageDown: node.value - 10 * step, PageUp: node.value + 10 * step,
      Home: column.low, End: column.high,
    }[event.key];
    if (event.key === "Escape" || event.key === "Delete") {
      if (threshold.isTried) remove(threshold);
      else setValue(threshold, threshold.recipe);
    } else if (target !== undefined) setValue(threshold, rounded(column, target));
    else return;
    event.preventDefault();
    remember();
  });
}

// --- a threshold of one's own -------------------------------------------------------------------

function attempt(figure, side, value) {
  const index = Number(figure.dataset.column), column = page.columns[index];
  const key = `${column.name}.${side}`, operator = side === "min" ? ">=" : "<=";
  if (thresholds.has(key)) return thresholds.get(key);
  const sorted = column.values.filter((v) => v === v).sort();
  const start = sorted[Math.floor((side === "min" ? 0.1 : 0.9) * (sorted.length - 1))] ?? column.low;
  const number = value ?? rounded(column, start);
  const before = (column.hasMissing ? `${column.sql} IS NULL OR ` : "") + `${column.sql} ${operator} `;
  const node = {kind: "compare", key, column: index, operator, value: number,
    start: before.length, end: before.length + 1};
  const name = `${side}_${column.name}`.toLowerCase().replace(/\W+/g, "_").replace(/_+$/, "");
  const rule = {name, isGate: false, onMissing: "keep", text: before + "0", tree: node, isStale: true};
  rules.push(rule);
  register(node, rule);
  const threshold = thresholds.get(key);
  threshold.isTried = true;
  const svg = figure.querySelector("svg");
  const shade = svgElement("rect", {class: "shade", y: TOP, height: BASE - TOP});
  svg.querySelector(".bars").before(shade);
  const handle = svgElement("g", {class: "handle"});
  handle.innerHTML = `<rect class="hit" x="-13" y="0" width="26" height="${BASE + 10}"/>`
    + `<line class="cut" y1="2" y2="${BASE}"/><circle class="knob" cy="${BASE}" r="5"/>`
    + `<text class="cut" x="4" y="${side === "min" ? 10 : 21}"></text>`;
  svg.append(handle);
  attach(threshold, handle, shade);
  last = threshold;
  redraw();
  return threshold;
}

// --- start --------------------------------------------------------------------------------------

function follow() { // #dark=60&contrast_luma.min=12
  let text = "";
  try {
    text = decodeURIComponent(location.hash.slice(1));
  } catch { /* a lone % is no address of ours */ }
  if (!text.includes("=")) return;
  let first = null;
  for (const part of text.split("&")) {
    const [key, words] = part.split("="), value = Number(words);
    if (!words || !Number.isFinite(value)) continue;
    let threshold = thresholds.get(key);
    const [, name, side] = /^(.*)\.(min|max)$/.exec(key) || [];
    if (!threshold && side) {
      const figure = figures.find((f) => page.columns[f.dataset.column].name === name);
      threshold = figure && attempt(figure, side, value);
    }
    if (threshold) {
      setValue(threshold, value, words);
      first ??= threshold.handle;
    }
  }
  draw();
  first?.closest("figure").scrollIntoView({block: "center", behavior: "instant"});
}

for (const figure of figures) {
  for (const handle of figure.querySelectorAll(".handle[data-key]")) {
    const key = handle.dataset.key;
    const shade = [...figure.querySelectorAll(".shade")].find((s) => s.dataset.key === key);
    if (thresholds.has(key)) attach(thresholds.get(key), handle, shade);
  }
  for (const button of figure.querySelectorAll(".try")) {
    button.addEventListener("click", () => {
      attempt(figure, button.dataset.side).handle.focus({preventScroll: true});
      remember();
    });
  }
}
$("whatif-reset").addEventListener("click", reset);
for (const button of document.querySelectorAll(".copy button")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
if (matchMedia("(max-width: 600px)").matches) $("whatif-commands").open = false;
rules.forEach(judge);
document.documentElement.classList.add("live");
draw();
follow();
addEventListener("hashchange", follow);
window.egodojo = {
  keys: () => [...thresholds.keys()],
  set: (key, value) => { setValue(thresholds.get(key), value); draw(); remember(); },
  reset: () => { reset(); draw(); },
  state: () => ({kept: current.clips, seconds: current.seconds, ...compared(current),
    status: Array.from(current.status, (s) => GROUPS[s])}),
};
