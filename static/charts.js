// Draws the charts with uPlot, from the table behind each of them: what the chart shows, the table says without
// JavaScript. A live refresh morphs the table and leaves the drawing alone, which then takes the new values in place, so
// that neither the pointer's values nor a range being dragged is lost.
import { $, $$ } from "./dom.js";

const HEIGHT = 176; // pixels, without the legend
const NEAR = 6; // pixels between the pointer and a change that it points at
const drawn = new Map(); // .plot → its uPlot

const root = document.documentElement;
const colour = (name) => () => getComputedStyle(root).getPropertyValue(name).trim();

// ---- numbers and times ------------------------------------------------------------------------------------------
const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const at = (seconds) => new Date(1000 * seconds);
const isMidnight = (moment) => moment.getHours() + moment.getMinutes() === 0;

/** "2.5 ms", "340 ms", "1.2 s", "45 s"; the `duration` filter has the same rule. */
const duration = (seconds) => {
  if (seconds === 0) return "0";
  if (seconds < 0.00995) return `${Number((1000 * seconds).toFixed(1))} ms`;
  if (seconds < 0.9995) return `${Math.round(1000 * seconds)} ms`;
  return seconds < 10 ? `${Number(seconds.toFixed(1))} s` : `${Math.round(seconds)} s`;
};

const period = (start, step) => {
  if (step >= 86_400) return day.format(at(start));
  const days = day.format(at(start)) === day.format(new Date()) ? "" : `${day.format(at(start))} `;
  return `${days}${clock.format(at(start))}–${clock.format(at(start + step))}`;
};

// ---- what the tables say ----------------------------------------------------------------------------------------
/** The columns of a chart, one value per bar. A bar without calls has no row: no calls, and no duration. */
const read = (box) => {
  const [from, step, bars] = ["from", "step", "bars"].map((name) => Number(box.dataset[name]));
  const rows = new Map($$("[data-bar]", box).map((row) => [Number(row.dataset.bar.split(" ")[0]), row]));
  const starts = Array.from({ length: bars }, (_, place) => from + place * step);
  const values = starts.map((start) => rows.get(start)?.dataset.bar.split(" ").map(Number) ?? [start, 0]);
  const column = (place) => values.map((row) => row[place] ?? null);
  return {
    from, step, until: from + bars * step, rows: starts.map((start) => rows.get(start)),
    x: starts.map((start) => start + step / 2), // the middle of its bar
    calls: [column(1), column(2)].map((counts) => counts.map((count) => count || null)), // no bar for none
    latency: [column(3), column(4), column(5)],
    marks: $$("[data-mark]", box).map((row) => ({ at: Number(row.dataset.mark), words: [...row.children].reverse().map((part) => part.textContent).join(" ") })),
  };
};
const columns = (plot, facts) => [facts.x, ...facts[plot.dataset.plot]];

// ---- drawing ----------------------------------------------------------------------------------------------------
/** The value under the pointer, if it is over the chart. */
const shown = (format) => (_, value, __, place) => (place == null ? "" : format(value));
const bars = () => uPlot.paths.bars({ size: [0.8, 40] });
/** The places of values without a neighbour, which no line would show. */
const alone = (values) => [...values.keys()].filter((i) => values[i] != null && values[i - 1] == null && values[i + 1] == null);
const line = (label, stroke, width, dash = undefined) => ({
  label, class: label.toLowerCase(), stroke: colour(stroke), width, dash, value: shown((seconds) => (seconds == null ? "–" : duration(seconds))),
  points: { show: true, size: 5, fill: colour(stroke), width: 0, filter: (u, series) => alone(u.data[series]) },
});
const bar = (label, fill) => ({
  label, class: label.toLowerCase(), fill: colour(fill), stroke: colour(fill), width: 1, paths: bars(),
  points: { show: false }, value: shown((count) => whole.format(count ?? 0)),
});
const KINDS = {
  calls: {
    series: () => [bar("Calls", "--chart"), bar("Failed", "--chart-bad")],
    values: (value) => compact.format(value).toLowerCase(),
    incrs: [1, 2, 5].flatMap((first) => Array.from({ length: 9 }, (_, zeros) => first * 10 ** zeros)).sort((a, b) => a - b),
  },
  latency: {
    series: () => [line("P50", "--muted", 1.5), line("P95", "--accent", 2), line("P99", "--accent", 1, [3, 3])],
    values: duration,
    incrs: undefined,
  },
};

const axes = (kind) => {
  const font = `12px ${getComputedStyle(document.body).fontFamily}`;
  const common = { font, stroke: colour("--muted"), ticks: { show: false } };
  const guide = { stroke: colour("--line"), width: 1 };
  return [
    {
      ...common, size: 28, space: 64, grid: { show: false }, ticks: { show: true, size: 4, stroke: colour("--line-strong"), width: 1 },
      values: (_, times) => times.map(at).map((time) => (isMidnight(time) ? day : clock).format(time)),
    },
    { ...common, size: 52, space: 36, gap: 8, grid: guide, incrs: kind.incrs, values: (_, values) => values.map(kind.values) },
  ];
};

const draw = (plot) => {
  const box = plot.closest("[data-from]");
  const kind = KINDS[plot.dataset.plot];
  let facts = read(box);
  const options = {
    width: plot.clientWidth, height: HEIGHT, padding: [8, 8, 0, 0],
    cursor: {
      y: false, points: { size: 6 }, drag: { x: true, y: false, setScale: false },
      // The other chart follows the pointer, but only the one that is dragged chooses a range.
      sync: { key: "charts", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
    },
    legend: { markers: { show: true, width: 0 } },
    scales: {
      x: { time: true, range: () => [facts.from, facts.until] },
      y: { range: (_, __, most) => [0, most > 0 ? 1.1 * most : 1] },
    },
    axes: axes(kind),
    series: [{ label: "Time", value: (_, __, ___, place) => (place == null ? "" : period(facts.from + place * facts.step, facts.step)) }, ...kind.series()],
    hooks: {
      drawClear: [(u) => drawMarks(u, facts.marks)],
      setCursor: [(u) => showMark(u, facts.marks)],
      setSelect: [(u) => choose(u, plot, facts)],
    },
  };
  const chart = new uPlot(options, columns(plot, facts), plot);
  const note = chart.over.appendChild(document.createElement("div"));
  note.className = "chart-note";
  chart.over.addEventListener("click", (event) => {
    const link = facts.rows[chart.cursor.idx] && $("a", facts.rows[chart.cursor.idx]);
    if (link) event.metaKey || event.ctrlKey ? open(link.href) : location.assign(link.href);
  });
  chart.update = () => {
    if (chart.select.width > 0) return; // while a range is dragged
    facts = read(box);
    chart.setData(columns(plot, facts));
  };
  drawn.set(plot, chart);
};

/** Changes are vertical lines, behind the values. */
const drawMarks = (u, marks) => {
  const { ctx, bbox } = u;
  ctx.save();
  ctx.strokeStyle = colour("--amber")();
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
  for (const mark of marks) {
    const x = Math.round(u.valToPos(mark.at, "x", true)) + 0.5;
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
  }
  ctx.restore();
};

const showMark = (u, marks) => {
  const note = $(".chart-note", u.over);
  if (!note) return;
  const near = marks.filter((mark) => u.cursor.left >= 0 && Math.abs(u.valToPos(mark.at, "x") - u.cursor.left) <= NEAR);
  note.hidden = near.length === 0;
  note.textContent = near.map((mark) => mark.words).join(" · ");
  note.classList.toggle("left", u.cursor.left > u.over.clientWidth / 2);
};

// ---- another range ----------------------------------------------------------------------------------------------
const choose = (u, plot, { from, step, until }) => {
  const edge = (pixels, round) => from + step * round((u.posToVal(pixels, "x") - from) / step);
  const [start, end] = [edge(u.select.left, Math.floor), edge(u.select.left + u.select.width, Math.ceil)];
  u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  show(plot, rangeQuery(at(Math.max(start, from)), at(Math.min(end, until))));
};

const rangeQuery = (from, until) => `?from=${utc(from)}&until=${utc(until)}`;
const utc = (moment) => `${moment.toISOString().slice(0, 16)}Z`;

/** Show another range in the same panel, under its own address. */
const show = (within, query) => {
  history.pushState(null, "", query);
  refreshWith(within.closest("[data-live]"), query);
};
const refreshWith = (panel, query) => {
  panel.setAttribute("hx-get", panel.getAttribute("hx-get").split("?")[0] + query);
  htmx.process(panel);
  htmx.trigger(panel, "refresh");
};

document.addEventListener("click", (event) => {
  const link = event.target.closest?.(".chart-ranges a");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  show(link, link.search);
});
document.addEventListener("submit", (event) => {
  const form = event.target.closest(".chart-ranges form");
  if (!form) return;
  event.preventDefault();
  form.closest("details").open = false;
  show(form, rangeQuery(new Date(form.elements.from.value), new Date(form.elements.until.value)));
});
addEventListener("popstate", () => {
  const panel = $("[data-from]")?.closest("[data-live]");
  if (panel) refreshWith(panel, location.search);
});

// ---- keep up with the page --------------------------------------------------------------------------------------
const sizes = new ResizeObserver((entries) => {
  for (const { target } of entries) drawn.get(target)?.setSize({ width: target.clientWidth, height: HEIGHT });
});
const update = () => {
  for (const [plot, chart] of drawn) {
    if (plot.isConnected) chart.update();
    else {
      sizes.unobserve(plot);
      chart.destroy();
      drawn.delete(plot);
    }
  }
  for (const plot of $$(".plot")) {
    if (drawn.has(plot)) continue;
    draw(plot);
    sizes.observe(plot);
  }
};
const redraw = () => drawn.forEach((chart) => chart.redraw());

update();
document.addEventListener("htmx:afterSwap", update);
document.fonts.ready.then(redraw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("themechange", redraw);
new MutationObserver(redraw).observe(root, { attributeFilter: ["class", "data-theme"] });
