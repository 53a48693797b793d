// Shows what /api/v1 says (docs/http.md). Much of it is other processes' text: it reaches the
// document as text nodes only, with characters that hide or reorder others made visible.
"use strict";

// In the order in which they matter here.
const STATES = ["close_wait", "time_wait", "established", "fin_wait1", "fin_wait2", "last_ack",
  "closing", "syn_sent", "syn_recv", "new_syn_recv", "listen", "close"];
const HOUR = 3600;
// The worst at first: what is below stays in sight.
const FIRST_ROWS = 10;
const ROWS = 100;
const FEW_ROWS = 12;
// What uses less of its ports is left out.
const LEAST_SHARE = 0.005;
// A status comes every second.
const STALE_MS = 5_000;
const DEAD_MS = 20_000;

const $ = (id) => document.getElementById(id);
const isNumber = Number.isFinite;
const list = (value) => (Array.isArray(value) ? value : []);
const clean = (text) => String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
  (c) => `\\u{${c.codePointAt(0).toString(16).padStart(4, "0")}}`);
const count = (n) => (isNumber(n) ? Math.trunc(n).toLocaleString("en-US") : "–");
const plural = (n, noun) => `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
const rounded = (rate) => (Math.abs(rate) < 0.05 ? "0" : rate.toFixed(1));
const signed = (rate) => `${rate >= 0.05 ? "+" : ""}${rounded(rate)}/s`;
// Cut and not rounded: only the whole is 100 %.
function percent(share) {
  const tenths = Math.floor(1000 * Math.min(1, share) + 1e-9);
  return share <= 0 ? "0 %" : tenths < 1 ? "<0.1 %" : tenths === 1000 ? "100 %" : `${(tenths / 10).toFixed(1)} %`;
}
const capitals = (state) => String(state).toUpperCase();
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");
// Some engines do not read nanoseconds.
const instant = (time) => Date.parse(String(time).replace(/(\.\d{3})\d+/, "$1"));

// Cut and not rounded, so that "at least" stays true: 850ms, 3.2s, 12m03s, 2h05m, 3d04h.
function span(seconds) {
  const s = Math.max(0, seconds), two = (n) => String(Math.floor(n)).padStart(2, "0");
  if (s < 0.001) return "0s";
  if (s < 1) return `${Math.floor(s * 1000)}ms`;
  if (s < 60) return `${(Math.floor(s * 10) / 10).toFixed(1)}s`;
  if (s < HOUR) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  if (s < 24 * HOUR) return `${Math.floor(s / HOUR)}h${two((s % HOUR) / 60)}m`;
  return `${Math.floor(s / 24 / HOUR)}d${two((s % (24 * HOUR)) / HOUR)}h`;
}

function el(tag, name, ...children) {
  const node = document.createElement(tag);
  node.className = name;
  node.append(...children.map((child) => (child instanceof Node ? child : clean(child))));
  return node;
}
function svg(parent, tag, attributes, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return parent.appendChild(node);
}
// What has not changed is left alone: selections stay.
function setText(node, text) {
  const safe = clean(text);
  if (node.textContent !== safe) node.textContent = safe;
}
// Shown with this text, or hidden without.
function tell(id, text) {
  $(id).hidden = !text;
  setText($(id), text);
}
let announcedAt = -Infinity;
function announce(text) {
  if (performance.now() - announcedAt < 10_000) return;
  announcedAt = performance.now();
  setText($("announce"), text);
}

/* Talking to the daemon */

class Refused extends Error {}
let token = "";
// Where storage is forbidden the tab forgets the token.
try { token = sessionStorage.getItem("token"); } catch { /* None. */ }
function remember(next) {
  token = next;
  try { sessionStorage.setItem("token", next); } catch { /* Not for long. */ }
}

async function ask(path, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(`api/v1/${path}`, { headers, signal, cache: "no-store" });
  if (response.status === 401) throw new Refused();
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Error(told?.error ?? `${path}: HTTP ${response.status}`);
}
const because = (error) => (error.name === "Error" ? error.message : "no answer from the daemon");

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "", data = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    // A CR at the end may be half of a CRLF.
    const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      const [, field, text] = /^([^:]*):? ?(.*)$/s.exec(line);
      if (field === "event") name = text;
      if (field === "data") data.push(text);
      if (line !== "") continue;
      if (data.length) yield { name, data: JSON.parse(data.join("\n")) };
      [name, data] = ["", []];
    }
  }
}

const link = { state: "connecting", run: 0, heard: 0, retryAt: 0, why: "" };

// One stream at a time: a newer run ends the older one.
async function follow() {
  leave();
  const run = link.run;
  become("connecting");
  for (let failures = 0; ; failures++) {
    link.controller = new AbortController();
    link.heard = performance.now();
    try {
      for await (const event of events(await ask("events", link.controller.signal))) {
        if (run !== link.run) return;
        link.heard = performance.now();
        receive(event);
        if (link.state !== "live" && status) arrive();
        failures = 0;
      }
      throw new Error("the daemon ended the stream");
    } catch (error) {
      link.controller.abort();
      if (run !== link.run) return;
      if (error instanceof Refused) return lock();
      link.why = because(error);
    }
    const delay = 1000 * Math.min(30, 2 ** failures) * (0.75 + Math.random() / 4);
    link.retryAt = performance.now() + delay;
    become("down");
    await new Promise((done) => { link.wake = done; setTimeout(done, delay); });
    if (run !== link.run) return;
    become("connecting");
  }
}
function leave() {
  link.run++;
  link.controller?.abort();
}
function become(state) {
  if (state === "down" && link.state === "live") announce("Connection to the daemon lost");
  link.state = state;
  $("login").hidden = state !== "locked";
  if (state === "live" || state === "locked") $("main").hidden = state === "locked";
  freshness();
}
function arrive() {
  become("live");
  for (const source of Object.values(sources)) source.due = 0;
  tick();
}
function lock() {
  leave();
  tell("refusal", token && "The daemon did not accept this token.");
  remember("");
  become("locked");
  $("token").focus();
}

// What is fetched, and how often. `at` is when it came, on this side's clock.
const sources = {
  stuck: { every: 10_000, render: renderStuck },
  history: { every: 600_000, render: takeHistory },
  ports: { every: 5_000, render: renderPorts },
  owners: { every: 15_000, render: renderOwners },
};
async function refresh(name) {
  const source = sources[name];
  if (source.isBusy) return;
  Object.assign(source, { isBusy: true, asked: performance.now(), due: performance.now() + source.every });
  try {
    const data = await (await ask(name, AbortSignal.timeout(10_000))).json();
    Object.assign(source, { data, at: performance.now(), problem: "" });
    source.render(data);
    const time = $(`${name}-time`);
    if (time && data.taken) setText(time, `at ${clock(instant(data.taken))}`);
  } catch (error) {
    if (error instanceof Refused) lock();
    source.problem = `${name} not up to date: ${because(error)}. `;
  }
  source.isBusy = false;
  tell("problem", link.state === "live" ? Object.values(sources).map((one) => one.problem).join("") : "");
}
// An incident, or that some were missed, asks for the list anew, but not more than every two seconds.
function receive({ name, data }) {
  const { stuck } = sources;
  if (name === "status") renderStatus(data);
  else if (stuck.asked) stuck.due = Math.min(stuck.due, stuck.asked + 2000);
  if (name === "finding" && data.event !== "cleared" && data.severity === "critical") {
    announce(`Critical: ${what(data)}, ${data.reason}`);
  }
}
function tick() {
  if (document.hidden) return;
  const now = performance.now();
  if (link.state === "live") {
    for (const name in sources) if (now >= sources[name].due) refresh(name);
    for (const row of rows.values()) {
      setText(row.age, age(row.incident));
      setText(row.why, why(row.incident));
    }
  }
  if (link.state !== "down" && now - link.heard > DEAD_MS) link.controller?.abort();
  freshness();
}

/* Host and freshness */

let status = null, takenAt = 0;
function freshness() {
  const now = performance.now(), quiet = now - takenAt;
  const figures = status ? `figures of ${clock(instant(status.taken))}` : "";
  const wait = Math.max(0, Math.ceil((link.retryAt - now) / 1000));
  const [state, word, note] = link.state === "live" && quiet > STALE_MS
    ? ["stale", "Stale", `no new figures for ${span(quiet / 1000)}`]
    : {
      live: ["live", "Live", figures],
      connecting: ["connecting", "Connecting", figures],
      locked: ["locked", "Locked", "waiting for the token"],
      down: ["down", "Reconnecting", `in ${wait} s: ${link.why}${figures && `; ${figures}`}`],
    }[link.state];
  $("main").classList.toggle("old", state !== "live" && state !== "locked");
  $("fresh-state").className = `pill ${state}`;
  setText($("fresh-state"), word);
  setText($("fresh-note"), note);
  $("retry").hidden = state !== "down";
  $("doubt").hidden = status?.in_doubt !== true;
}
function renderStatus(next) {
  if (next.taken !== status?.taken) takenAt = performance.now();
  status = next;
  setText($("host"), next.host);
  setText($("version"), `tcplinger ${next.version}`);
  const lost = next.events?.lost;
  setText($("self"), `${plural(next.events?.received, "event")} received, ${count(lost)} lost; drift `
    + `${count(next.drift)}; ${plural(list(next.namespaces).length, "network namespace")}`);
  $("self").className = lost > 0 ? "warning" : "";
  renderTallies();
  renderChips();
  takeLive();
}
const givenName = (netns) => list(status?.namespaces).find((one) => one.netns === netns)?.name;
const nameOf = (netns) => givenName(netns) ?? `netns ${netns}`;

/* What is stuck */

function renderTallies() {
  const { critical = 0, warning = 0 } = status.stuck ?? {};
  tell("critical", critical && `${count(critical)} critical`);
  tell("warning", warning && `${count(warning)} warning`);
  const worst = critical ? `${count(critical)} critical · ` : warning ? `${count(warning)} warning · ` : "";
  document.title = `${worst}${clean(status.host)} · tcplinger`;
  const [oldest] = Object.entries(status.oldest_seconds ?? {}).filter(([, age]) => isNumber(age))
    .sort(([, one], [, other]) => other - one);
  setText($("longest"), oldest ? `The oldest: ${span(oldest[1])} in ${capitals(oldest[0])}.` : "No socket lingers.");
}

// What an incident is, in a few words.
function what({ kind, state, rule, mptcp }) {
  if (kind === "sockets") return capitals(state) + (mptcp ? " MPTCP" : "");
  if (kind === "leak") return `${capitals(state)} leak`;
  return kind === "count" ? `count ${rule}` : String(kind).replaceAll("_", " ").replace("time wait", "TIME_WAIT");
}
// The service: where it listens, or where it connects to.
function service({ local, remote, netns }) {
  const isOpen = (end) => end === "*";
  const ends = isOpen(local) ? (isOpen(remote) ? "" : `to ${remote}`)
    : isOpen(remote) ? String(local).replace(/^\*/, "") : `${local} → ${remote}`;
  const name = givenName(netns) ?? `netns ${netns}`;
  return [ends, name === "host" ? "" : `in ${name}`].filter(Boolean).join(" ") || name;
}
function holder({ comm, pid, fd, container, unit }) {
  const place = container ? String(container).slice(0, 12) : unit;
  return `${comm}[${pid}]${fd == null ? "" : ` fd ${fd}`}${place ? ` (${place})` : ""}`;
}
function holders({ owners, is_orphaned: isOrphaned }) {
  const [first, ...others] = list(owners);
  // The daemon names 32 at most.
  const more = others.length < 31 ? others.length : "31 or more";
  if (first) return holder(first) + (others.length ? `, and ${more} more` : "");
  return isOrphaned ? "orphaned" : "";
}
// Ages go on between two answers, but not without a daemon that knows the socket is still there.
let elapsed = 0;
function age({ oldest_seconds: seconds, age_is_lower_bound: isBound }) {
  if (!isNumber(seconds)) return "";
  if (link.state === "live") elapsed = (performance.now() - sources.stuck.at) / 1000;
  if (isBound && !seconds) return "unknown";
  return (isBound ? "≥ " : "") + span(seconds + elapsed);
}
// A span as the daemon's sentences have it: 850 ms, 3.2 s, 4 min 58 s, 12 min, 2 h 5 min, 3 d 4 h.
function inWords(seconds) {
  const s = Math.floor(seconds), tenth = Math.floor(seconds * 10) % 10;
  const pair = (count, large, rest, small) => `${count} ${large}${rest ? ` ${rest} ${small}` : ""}`;
  if (s < 1) return `${Math.floor(seconds * 1000)} ms`;
  if (s < 60) return tenth ? `${s}.${tenth} s` : `${s} s`;
  if (s < HOUR) return pair(Math.floor(s / 60), "min", s < 600 && s % 60, "s");
  if (s < 24 * HOUR) return pair(Math.floor(s / HOUR), "h", Math.floor(s % HOUR / 60), "min");
  return pair(Math.floor(s / 24 / HOUR), "d", Math.floor(s % (24 * HOUR) / HOUR), "h");
}
// The age within the reason goes on as the age beside it does.
function why({ reason, oldest_seconds: seconds }) {
  if (!isNumber(seconds)) return String(reason ?? "");
  const text = String(reason ?? ""), then = inWords(seconds), after = [" ago", ","].find((end) => text.includes(` ${then}${end}`));
  return after ? text.replace(` ${then}${after}`, () => ` ${inWords(seconds + elapsed)}${after}`) : text;
}
function identity({ kind, cause, mptcp, rule, netns, state, whose, local, remote }) {
  return kind === "count" ? JSON.stringify([rule, whose]) : JSON.stringify([kind, cause, mptcp, netns, state, whose, local, remote]);
}
function matches(incident, query) {
  const text = (nameOf(incident.netns) + JSON.stringify(incident)).toLowerCase();
  return query.every((word) => text.includes(word));
}

const rows = new Map();
let limit = FIRST_ROWS;
function newRow() {
  const row = {};
  const part = (name, style) => (row[name] = el("span", style));
  const summary = el("summary", "", part("level", ""), el("span", "state mono", part("state", ""), part("number", "number"), part("tag", "tag")),
    part("age", "age mono"), part("ends", "ends mono"), part("owner", "who mono"), part("why", "why"));
  row.details = el("details", "", summary);
  row.details.addEventListener("toggle", () => explain(row));
  row.node = el("li", "", row.details);
  return row;
}
function update(row, incident) {
  const { severity, sockets, exhausted_in_seconds: left } = incident;
  const level = ["critical", "warning"].includes(severity) ? severity : "none";
  row.incident = incident;
  row.node.dataset.severity = level;
  row.level.className = `level ${level}`;
  const tag = left === 0 ? "fails now" : isNumber(left) ? `fails in ${span(left)}` : "";
  const texts = { level: capitals(level), state: what(incident), number: sockets ? plural(sockets, "socket") : "", tag, age: age(incident), ends: service(incident), owner: holders(incident), why: why(incident) };
  for (const part in texts) setText(row[part], texts[part]);
  explain(row);
}
const FACTS = [
  ["Rule", "rule", String],
  ["Sockets", "sockets", count],
  ["Growth", "rate_per_second", signed],
  ["Exhausted in", "exhausted_in_seconds", span],
  ["Unread bytes", "recv_queue_bytes", count],
  ["Unacknowledged bytes", "send_queue_bytes", count],
  ["Retransmits", "retransmits", count],
];
function facts(incident) {
  const owners = list(incident.owners).slice(0, 20).map((owner) => ["Owner", [
    `${owner.comm}[${owner.pid}]`,
    ...["fd", "uid", "unit", "container", "pod", "exe"].filter((key) => owner[key] != null).map((key) => `${key} ${owner[key]}`),
    ...(owner.file_limit ? [`${count(owner.open_files)} of ${count(owner.file_limit)} descriptors open`] : []),
  ].join(", ")]);
  const others = FACTS.filter(([, key]) => incident[key]).map(([name, key, text]) => [name, text(incident[key])]);
  return [...owners, ["Network namespace", `${incident.netns} ${givenName(incident.netns) ?? ""}`], ...others];
}
function explain(row) {
  if (!row.details.open) return;
  if (!row.facts) {
    row.advice = el("p", "");
    row.facts = el("dl", "facts");
    row.sockets = el("ul", "sockets mono");
    row.details.append(el("div", "body", row.advice, row.facts, row.sockets));
  }
  // What stands in backticks is a command.
  const { advice, sockets } = row.incident, examples = list(row.incident.examples), rest = sockets - examples.length;
  const shown = examples.map((one) => `${one.local} → ${one.remote}, ${capitals(one.severity)}, ${one.age_is_lower_bound ? "≥ " : ""}${span(one.age_seconds)}`
    + `, unread ${count(one.recv_queue_bytes)}, unacknowledged ${count(one.send_queue_bytes)}, cookie ${one.cookie ?? "unknown"}`);
  if (examples.length && rest > 0) shown.push(`and ${count(rest)} more: tcplinger stuck --each`);
  while (row.sockets.children.length > shown.length) row.sockets.lastChild.remove();
  shown.forEach((text, i) => setText(row.sockets.children[i] ?? row.sockets.appendChild(el("li", "")), text));
  const parts = clean(advice).split("`");
  if (row.advised !== advice) row.advice.replaceChildren(...parts.map((part, i) => (i % 2 ? el("code", "", part) : part)));
  row.advised = advice;
  const pairs = facts(row.incident), { children } = row.facts;
  while (children.length > pairs.length) row.facts.lastChild.remove();
  pairs.forEach(([name, value], i) => {
    const pair = children[i] ?? row.facts.appendChild(el("div", "", el("dt", ""), el("dd", "mono")));
    pair.className = name === "Owner" ? "wide" : "";
    setText(pair.firstChild, name);
    setText(pair.lastChild, value);
  });
}
function renderStuck() {
  const { data } = sources.stuck, incidents = list(data?.incidents), ul = $("incidents");
  const query = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = query.length ? incidents.filter((incident) => matches(incident, query)) : incidents;
  const seen = new Set();
  let next = ul.firstChild;
  for (const incident of wanted.slice(0, limit)) {
    let key = identity(incident);
    while (seen.has(key)) key += "'";
    seen.add(key);
    if (!rows.has(key)) rows.set(key, newRow());
    const row = rows.get(key);
    if (row.node === next) next = next.nextSibling;
    else ul.insertBefore(row.node, next);
    update(row, incident);
  }
  for (const [key, row] of rows) {
    if (seen.has(key)) continue;
    row.node.remove();
    rows.delete(key);
  }
  const left = Math.max(0, wanted.length - limit);
  ul.hidden = !wanted.length;
  $("filter").hidden = !incidents.length && !query.length;
  $("nothing").hidden = wanted.length > 0;
  $("longest").hidden = incidents.length > 0;
  setText($("nothing-what"), incidents.length ? `None of ${plural(incidents.length, "incident")} matches.` : "Nothing is stuck.");
  tell("more", left && `Show ${Math.min(ROWS, left)} more of ${count(left)}`);
  renderTallies();
}

/* States: how many now, and over the last hour */

const chosen = new Set(STATES.slice(0, 2));
const chips = STATES.map((state) => {
  const now = el("b", ""), oldest = el("span", "quiet"), button = el("button", "", el("span", "name", capitals(state)), now, oldest);
  button.type = "button";
  button.ariaPressed = chosen.has(state);
  button.addEventListener("click", () => {
    if (!chosen.delete(state)) chosen.add(state);
    button.ariaPressed = chosen.has(state);
    drawChart();
  });
  $("chips").append(button);
  return { state, now, oldest };
});
function renderChips() {
  for (const { state, now, oldest } of chips) {
    const age = status.oldest_seconds?.[state];
    setText(now, count(status.sockets?.[state]));
    now.className = status.sockets?.[state] ? "" : "zero";
    setText(oldest, isNumber(age) ? `oldest ${span(age)}` : "");
  }
}

// A point is [seconds, state -> count]; `at` is the moment that the reader points at.
const chart = { points: [], lanes: [], step: 5, at: null };
function takeHistory({ times, step_seconds: step, states }) {
  chart.step = step;
  chart.points = list(times).map((time, i) => [time, Object.fromEntries(STATES.map((state) => [state, states[state]?.[i]]))]);
  drawChart();
}
function takeLive() {
  const now = [instant(status.taken) / 1000, status.sockets], { points, step } = chart;
  if (points.at(-1)?.[0] >= now[0]) return;
  // The last point moves on until it is a step from the one before.
  if (points.at(-2)?.[0] > now[0] - step) points.pop();
  points.push(now);
  while (points[0][0] < now[0] - HOUR) points.shift();
  drawChart();
}
// Axes end at round figures.
function ceiling(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * size).find((most) => most >= value && most % 1 === 0) ?? value;
}
const isGap = (from, to) => to - from > 2.5 * chart.step;

function drawChart() {
  const { points } = chart, box = $("chart"), width = box.clientWidth - 24, states = STATES.filter((state) => chosen.has(state));
  box.hidden = !states.length || !points.length;
  tell("chart-empty", !points.length ? "No history yet." : states.length ? "" : "Choose a state above to draw it.");
  if (box.hidden || width < 40) return;
  const plot = states.length > 3 ? 44 : 76, height = states.length * (plot + 30) + 20;
  const first = points[0][0], end = points.at(-1)[0], length = Math.min(HOUR, Math.max(300, end - first)), start = end - length;
  const x = (time) => +(Math.max(0, time - start) / length * width).toFixed(1);
  const root = svg(document.createDocumentFragment(), "svg", { width, height });
  svg(svg(root, "pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse" }), "path", { d: "M0 7 7 0" });
  const every = [60, 120, 300, 600].find((each) => each / length * width >= 64) ?? 1200, times = [];
  for (let time = Math.ceil(start / every) * every; time <= end; time += every) times.push(time);
  const gaps = points.map(([time], i) => [i ? points[i - 1][0] : start, time]).filter(([from, to]) => isGap(from, to));
  chart.lanes = states.map((state, i) => {
    const top = i * (plot + 30) + 24, base = top + plot;
    const most = ceiling(Math.max(1, ...points.map(([, counts]) => counts[state] || 0)));
    const y = (value) => +(base - value / most * plot).toFixed(1);
    for (const [from, to] of gaps) svg(root, "rect", { fill: "url(#hatch)", x: x(from), y: top, width: x(to) - x(from), height: plot });
    svg(root, "path", { class: "grid", d: `${times.map((time) => `M${x(time)} ${top}V${base}`).join("")}M0 ${top}H${width}M0 ${base}H${width}` });
    const [line, area] = curves(points, state, x, y, base);
    svg(root, "path", { class: "area", d: area });
    svg(root, "path", { class: "line", d: line });
    svg(root, "text", { x: 3, y: top + 13 }, count(most));
    if (plot > 60 && most > 1) svg(root, "text", { x: 3, y: top + plot / 2 + 5 }, count(most / 2));
    svg(root, "text", { x: 3, y: base - 4 }, "0");
    svg(root, "text", { class: "lane", y: top - 7 }, capitals(state));
    return { state, y, value: svg(root, "text", { class: "value", x: width, y: top - 7 }), dot: svg(root, "circle", { r: 4 }) };
  });
  for (const time of times) {
    const anchor = x(time) < 20 ? "start" : x(time) > width - 20 ? "end" : "middle";
    svg(root, "text", { x: x(time), y: height - 4, "text-anchor": anchor }, clock(time * 1000).slice(0, 5));
  }
  Object.assign(chart, { x, start, length, cursor: svg(root, "path", { class: "cursor" }), bottom: height - 18 });
  box.replaceChildren(root);
  box.ariaValueMax = points.length - 1;
  readOut();
}
// A line and the area under it, both interrupted where nothing was counted.
function curves(points, state, x, y, base) {
  let line = "", area = "", last = null;
  for (const [time, counts] of points) {
    const value = counts[state], isBroken = last === null || isGap(last, time);
    if (last !== null && (isBroken || !isNumber(value))) area += `V${base}Z`;
    last = isNumber(value) ? time : null;
    if (last === null) continue;
    // A point on its own is still seen, by its round ends.
    line += isBroken ? `M${x(time)} ${y(value)}h.01` : `L${x(time)} ${y(value)}`;
    area += `${isBroken ? `M${x(time)} ${base}` : ""}L${x(time)} ${y(value)}`;
  }
  return [line, last === null ? area : `${area}V${base}Z`];
}
function nearest(time) {
  const off = (i) => Math.abs(chart.points[i][0] - time);
  return chart.points.reduce((best, _, i) => (off(i) <= off(best) ? i : best), 0);
}
function readOut() {
  const { at, points, lanes, cursor, x } = chart, isNow = at === null;
  if (!cursor) return;
  const index = isNow ? points.length - 1 : nearest(at), [time, counts] = points[index];
  const isNothing = !isNow && Math.abs(time - at) > 2 * chart.step;
  const moment = isNothing ? at : time, when = isNow ? "now" : `at ${clock(moment * 1000)}`;
  for (const { state, y, value, dot } of lanes) {
    const sockets = isNothing ? null : counts[state];
    value.textContent = `${isNumber(sockets) ? count(sockets) : "no data"} ${when}`;
    dot.setAttribute("visibility", isNow || !isNumber(sockets) ? "hidden" : "visible");
    dot.setAttribute("cx", x(time));
    dot.setAttribute("cy", y(sockets || 0));
  }
  cursor.setAttribute("d", isNow ? "" : `M${x(moment)} 0V${chart.bottom}`);
  const box = $("chart");
  box.ariaValueNow = index;
  box.ariaValueText = lanes.map(({ state, value }) => `${capitals(state)} ${value.textContent}`).join(", ");
}
function pointAt(at) {
  chart.at = at;
  readOut();
}
function point({ clientX }) {
  const { left, width } = $("chart").firstChild.getBoundingClientRect();
  pointAt(chart.start + (clientX - left) / width * chart.length);
}
function press(event) {
  const last = chart.points.length - 1, index = chart.at === null ? last : nearest(chart.at);
  const by = { ArrowLeft: -1, ArrowRight: 1, PageDown: -12, PageUp: 12, Home: -last, End: last }[event.key];
  if (by) pointAt(chart.points[Math.min(last, Math.max(0, index + by))][0]);
  else if (event.key === "Escape") pointAt(null);
  else return;
  event.preventDefault();
}

/* Ports, buckets, owners */

// As many rows as can be read, and how many more there are.
function fill(id, all, row, isShown = () => true) {
  const shown = all.filter(isShown).slice(0, FEW_ROWS), rest = all.length - shown.length;
  $(id).replaceChildren(...shown.map(row));
  tell(`${id}-note`, rest ? `${shown.length ? "and " : ""}${count(rest)} more${shown.length < FEW_ROWS ? " below 0.5 %" : ""}` : all.length ? "" : "None.");
}
function gauge(what, used, capacity, waiting, share, severity, notes) {
  const part = (style, sockets) => {
    const node = el("span", style);
    node.style.width = `${Math.min(100, 100 * sockets / capacity || 0)}%`;
    return node;
  };
  const level = severity === "none" ? "" : severity;
  const note = el("p", "quiet", used > capacity ? `${count(used)}, above the limit of ${count(capacity)}` : `${count(used)} of ${count(capacity)}`);
  for (const one of notes.filter(Boolean)) note.append(" · ", one);
  return el("li", "", el("span", "mono", what), el("b", level, percent(share)),
    el("div", "gauge", part("waiting", waiting), part("used", used - waiting)), note);
}
function renderPorts({ ports, buckets }) {
  fill("ports", list(ports), (port) => {
    const { rate_per_second: rate, exhausted_in_seconds: left, reusable } = port;
    const end = left === 0 ? "none left: connect() fails" : `the rest lasts ${span(left)}`;
    return gauge(`${port.local} → ${port.remote}`, port.used, port.capacity, port.time_wait, port.used_ratio, port.severity, [
      `${count(port.time_wait)} in TIME_WAIT`, reusable && `${count(reusable)} more may be reused`,
      isNumber(rate) && signed(rate), isNumber(left) && el("b", "", end), clean(nameOf(port.netns))]);
  }, (port) => port.used_ratio >= LEAST_SHARE);
  const fullest = list(buckets).sort((one, other) => other.ratio - one.ratio);
  fill("buckets", fullest, ({ netns, time_wait: used, limit, ratio, severity, overflows, overflow_rate_per_second: rate, uncounted }) =>
    gauge(nameOf(netns), used, limit, used, ratio, severity, [
      overflows ? el("b", "", `${plural(overflows, "close")} skipped TIME_WAIT${rate ? `, ${rounded(rate)}/s now` : ""}`) : "no overflow",
      uncounted && `${plural(uncounted, "socket")} to further destinations not listed`]), ({ ratio }) => ratio >= LEAST_SHARE);
}
function renderOwners(data) {
  const owners = list(data.owners), states = STATES.filter((state) => owners.some(({ sockets }) => sockets[state]));
  $("owners-head").replaceChildren(...["owner", "total", ...states].map((name) => el("th", "", capitals(name))));
  fill("owners", owners, ({ kind, owner, total, sockets }) => {
    const cell = (name, value) => {
      const td = el("td", value ? "" : "zero", count(value));
      td.dataset.name = capitals(name);
      return td;
    };
    const name = owner ?? { nobody: "no process", other: "all others" }[kind];
    const label = el(owner === null ? "b" : "button", "mono", name);
    if (owner !== null) label.addEventListener("click", () => filterBy(owner));
    return el("tr", "", el("td", "", label, owner === null ? "" : el("span", "tag", kind)),
      cell("total", total), ...states.map((state) => cell(state, sockets[state])));
  });
}

/* What the reader does */

const on = (target, kinds, act) => { for (const kind of kinds.split(" ")) target.addEventListener(kind, act); };
on($("login"), "submit", (event) => {
  event.preventDefault();
  remember($("token").value.trim());
  $("token").value = "";
  // A header can carry no other characters.
  if (/^[\x21-\x7e]+$/.test(token)) follow();
  else lock();
});
on($("retry"), "click", () => link.wake());
function filterBy(words) {
  $("filter").hidden = false;
  $("filter").value = words;
  $("filter").dispatchEvent(new Event("input"));
  $("filter").scrollIntoView({ block: "center" });
}
on($("filter"), "input", () => { limit = FIRST_ROWS; renderStuck(); });
on($("more"), "click", () => { limit += ROWS; renderStuck(); });
on($("chart"), "pointermove pointerdown", point);
on($("chart"), "keydown", press);
on($("chart"), "blur pointerleave", ({ pointerType }) => pointerType === "touch" || pointAt(null));
new ResizeObserver(drawChart).observe($("chart-card"));
// A hidden tab asks for nothing.
on(document, "visibilitychange", () => {
  if (document.hidden) leave();
  else if (link.state !== "locked") follow();
});
setInterval(tick, 1000);
if (!document.hidden) follow();
