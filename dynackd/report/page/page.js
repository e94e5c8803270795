"use strict";
// Draws the charts with Plotly, sorts the tables, switches light and dark. Nothing is loaded: the library lies packed in
// the page.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data"), colours = read("colours");
const root = document.documentElement;
const wantsDark = matchMedia("(prefers-color-scheme: dark)");
const charts = [];
// Plotly reads tags in texts; in ours they are letters.
const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const SYMBOLS = ["circle", "square", "triangle-up", "cross", "x", "hexagon", "triangle-down", "pentagon"];
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const narrow = () => innerWidth < 640;

// --- light and dark ----------------------------------------------------------------------------------------------

const isDark = () => (root.dataset.theme || (wantsDark.matches ? "dark" : "light")) === "dark";

function theme() {
  const style = getComputedStyle(root), own = (name) => style.getPropertyValue(`--${name}`).trim();
  const series = isDark() ? colours.dark : colours.light;
  return { ink: own("ink"), muted: own("muted"), line: own("line"), surface: own("surface"),
    series: (index) => series[index % series.length] };
}

function themed() {
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(isDark()));
  button.textContent = isDark() ? "Light" : "Dark";
  for (const draw of charts) draw();
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  themed();
});
wantsDark.addEventListener("change", themed);

// --- tables ------------------------------------------------------------------------------------------------------

function sortBy(table, place, descending) {
  const body = table.tBodies[0], key = (row) => row.cells[place].dataset.key;
  const ofNumbers = table.tHead.rows[0].cells[place].classList.contains("number");
  const compare = (a, b) => (ofNumbers ? a - b : a.localeCompare(b)) * (descending ? -1 : 1);
  const rows = [...body.rows], full = rows.filter((row) => key(row) !== ""), rest = rows.filter((row) => key(row) === "");
  body.append(...full.sort((a, b) => compare(key(a), key(b))), ...rest);
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sortBy(table, place, descending);
  }));
}

// --- charts: what they share ---------------------------------------------------------------------------------------

// A group of buttons, of which the one at `pressed` is. `choose` gets the place of the next one.
function addSwitch(figure, legend, names, choose, pressed = 0) {
  if (names.length < 2) return;
  const group = document.createElement("fieldset"), title = document.createElement("legend");
  group.className = "switch";
  title.textContent = legend;
  group.append(title);
  names.forEach((name, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", String(place === pressed));
    button.addEventListener("click", () => {
      for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      choose(place);
    });
    group.append(button);
  });
  figure.querySelector(".switches").append(group);
}

function layout(changes) {
  const now = theme(), axis = {
    gridcolor: now.line, linecolor: now.line, zerolinecolor: now.line, automargin: true, fixedrange: true,
    title: { font: { color: now.muted, size: 13 } },
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", height: narrow() ? 340 : 400,
    font: { color: now.ink, family: getComputedStyle(document.body).fontFamily, size: 13 },
    margin: { l: 8, r: 12, t: 12, b: 8 }, dragmode: false, hovermode: "closest", showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: now.ink } },
    hoverlabel: { bgcolor: now.surface, bordercolor: now.muted, font: { color: now.ink }, align: "left" },
    ...changes, xaxis: { ...axis, ...changes.xaxis }, yaxis: { ...axis, ...changes.yaxis },
  };
}

// 1, 2, 5 of every power of ten, or the powers alone where there are many.
function logTicks(values) {
  const [least, most] = [Math.min(...values), Math.max(...values)].map(Math.log10), ticks = [];
  for (let power = Math.floor(least) - 1; power <= Math.ceil(most); power += 1) {
    for (const digit of most - least < 2 ? [1, 2, 5] : [1]) ticks.push(Number(`${digit}e${power}`));
  }
  return { tickvals: ticks, ticktext: ticks.map((tick) => (tick < 1e-3 ? tick.toExponential(0) : String(tick))) };
}

const titled = (text) => ({ text: plain(text), font: { color: theme().muted, size: 13 }, standoff: 8 });

// Shows a figure that `make` fills: it returns [traces, layout, caption]; drawn again whenever something is switched.
function addChart(name, make) {
  const figure = document.getElementById(`figure-${name}`), plot = figure.querySelector(".plot");
  const draw = () => {
    const [traces, changes, caption] = make();
    figure.querySelector("figcaption").textContent = caption;
    Plotly.react(plot, traces, layout(changes), { displayModeBar: false, responsive: true });
  };
  figure.hidden = false;
  charts.push(draw);
  draw();
  return draw;
}

const figureOf = (name) => document.getElementById(`figure-${name}`);

// --- the trade-off -----------------------------------------------------------------------------------------------

function addTradeoff() {
  if (!data.axes.length) return;
  let chosen = 0;
  const make = () => {
    const axis = data.axes[chosen], now = theme(), isLog = axis.logarithmic;
    const traces = axis.series.map((series, index) => ({
      type: "scatter", name: plain(series.name), mode: `markers+text${series.joined ? "+lines" : ""}`,
      x: series.points.map((point) => point.x), y: series.points.map((point) => point.y),
      text: series.points.map((point) => plain(point.label)),
      textposition: series.points.map((point) => (index % 2 || point.is_teacher ? "bottom center" : "top center")),
      textfont: { size: 11, color: now.series(index) }, cliponaxis: false,
      hovertext: series.points.map((point) => point.told.map(plain).join("<br>")), hoverinfo: "text",
      line: { color: now.series(index), width: 1.5 },
      marker: { opacity: 1, color: now.series(index), line: { color: now.surface, width: 1 },
        size: series.points.map((point) => (point.is_teacher ? 14 : 10)),
        symbol: series.points.map((point) => (point.is_teacher ? "star" : SYMBOLS[index % SYMBOLS.length])) },
    }));
    const hasLine = data.teacher !== null && !axis.own_rows;
    const lines = !hasLine ? [] : [{
      type: "line", xref: "paper", x0: 0, x1: 1, y0: data.teacher, y1: data.teacher,
      line: { color: now.muted, width: 1, dash: "dash" } }];
    const changes = {
      shapes: lines,
      xaxis: { type: isLog ? "log" : "linear", title: titled(axis.measured ? "latency (ms, median)" : axis.unit),
        rangemode: isLog ? "normal" : "tozero",
        ...(isLog ? logTicks(axis.series.flatMap((series) => series.points.map((point) => point.x))) : {}) },
      yaxis: { title: titled(data.metric) },
    };
    const line = !hasLine ? "" : " The dashed line is the teacher's, the star the teacher.";
    return [traces, changes, `${data.metric} against ${axis.title}.${line}`];
  };
  const draw = addChart("tradeoff", make), figure = figureOf("tradeoff");
  addSwitch(figure, "Cost", data.axes.map((axis) => axis.name), (place) => { chosen = place; draw(); });
}

// --- the grid ----------------------------------------------------------------------------------------------------

function addHeat() {
  if (!data.heat || !data.heat.looks.length) return;
  let chosen = 0;
  const { widths, depths, looks } = data.heat;
  const make = () => {
    const look = looks[chosen];
    const told = look.texts.map((row, y) => row.map((text, x) =>
      `width ${widths[x]}, depth ${depths[y]}<br>${plain(look.name)} ${text}`));
    const trace = {
      type: "heatmap", x: widths, y: depths, z: look.values,
      hovertext: told, hoverinfo: "text", colorscale: "Cividis", reversescale: look.less_is_better, showscale: false,
      xgap: 3, ygap: 3,
    };
    const known = look.values.flat().filter((value) => value !== null);
    const [least, most] = [Math.min(...known), Math.max(...known)];
    // Black on the yellow half of the scale, white on the blue one.
    const ink = (value) => ((value - least) / (most - least || 1) > 0.5) !== look.less_is_better ? "#000" : "#fff";
    const labels = look.texts.flatMap((row, y) => row.map((text, x) => ({ x, y, text: plain(text),
      showarrow: false, font: { color: ink(look.values[y][x]), size: 13 } })));
    const changes = { showlegend: false, height: 80 + 62 * depths.length, annotations: labels,
      xaxis: { title: titled("width"), type: "category", showgrid: false },
      yaxis: { title: titled("depth"), type: "category", showgrid: false } };
    return [[trace], changes, `${look.name}: yellow is ${look.less_is_better ? "less" : "more"}, which is better.`];
  };
  const draw = addChart("heat", make);
  addSwitch(figureOf("heat"), "Show", looks.map((look) => look.name), (place) => { chosen = place; draw(); });
}

// --- losses ------------------------------------------------------------------------------------------------------

function addLosses() {
  if (!data.losses.length) return;
  let chosen = data.losses.length - 1, isLog = true;
  const make = () => {
    const stage = data.losses[chosen], now = theme();
    const traces = stage.terms.map((term, index) => ({
      type: "scatter", mode: "lines", name: plain(term.name), x: term.steps, y: term.values,
      line: { color: now.series(index), width: index ? 1.5 : 2.5, dash: DASHES[index % DASHES.length] },
      hovertemplate: `${plain(term.name)} %{y:.4g}, step %{x}<extra></extra>`,
    }));
    const values = stage.terms.flatMap((term) => term.values).filter((value) => value > 0);
    const changes = { xaxis: { title: titled("step") },
      yaxis: { title: titled("loss"), type: isLog ? "log" : "linear", rangemode: "tozero",
        ...(isLog && values.length ? logTicks(values) : {}) } };
    const relations = stage.terms.some((term) => term.name.startsWith("wr ")) ?
      " wr: relations between words, ltr: between the layers of a word; of pairs and of triples." : "";
    const terms = stage.terms.length > 1 ?
      ` Terms are shown before their weights; the loss is their weighted sum.${relations}` : "";
    return [traces, changes, `The ${stage.stage} stage${stage.finished ? "" : ", not finished"}.${terms}`];
  };
  const draw = addChart("losses", make), figure = figureOf("losses");
  const names = data.losses.map((stage) => stage.stage);
  addSwitch(figure, "Stage", names, (place) => { chosen = place; draw(); }, chosen);
  addSwitch(figure, "Scale", ["logarithmic", "linear"], (place) => { isLog = place === 0; draw(); });
}

// --- importance --------------------------------------------------------------------------------------------------

const ORDERS = ["before rewiring", "after rewiring"];

function addHeads() {
  const told = data.importance;
  let isAfter = true;
  const make = () => {
    const shares = isAfter ? told.after : told.before, now = theme();
    const places = shares[0].map((_, place) => place + 1), layers = shares.map((_, layer) => layer + 1);
    const trace = {
      type: "heatmap", x: places, y: layers, z: shares, colorscale: "Cividis", showscale: !narrow(), xgap: 2, ygap: 2,
      colorbar: { tickformat: ".0%", outlinewidth: 0, thickness: 12 }, hoverinfo: "text",
      hovertext: shares.map((row, layer) => row.map((share, place) => {
        const head = isAfter ? told.order[layer][place] + 1 : place + 1;
        return `layer ${layer + 1}, head ${head}${isAfter ? `, now ${place + 1}` : ""}<br>` +
          `${(100 * share).toFixed(1)} % of its layer's importance`;
      })),
    };
    const cuts = isAfter ? told.cuts.filter((cut) => cut.heads < places.length) : [];
    const changes = { showlegend: false, height: 110 + 34 * layers.length,
      shapes: cuts.map((cut) => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: cut.heads + 0.5, x1: cut.heads + 0.5,
        line: { color: now.ink, width: 2, dash: "dot" } })),
      annotations: cuts.map((cut) => ({ yref: "paper", y: 1, yanchor: "bottom", x: cut.heads + 0.5, showarrow: false,
        text: `width ${cut.width}`, font: { size: 12, color: now.muted } })),
      margin: { l: 8, r: 12, t: 28, b: 8 },
      xaxis: { title: titled(isAfter ? "head, by its new place" : "head"), showgrid: false, dtick: narrow() ? 2 : 1 },
      yaxis: { title: titled("layer"), showgrid: false, dtick: 1, autorange: "reversed" } };
    const cut = cuts.length ? " A width keeps the heads to the left of its line." : "";
    return [[trace], changes, `Each head's share of its layer's importance (${told.score}, on ${told.rows} rows).${cut}`];
  };
  const draw = addChart("heads", make);
  addSwitch(figureOf("heads"), "Order", ORDERS, (place) => { isAfter = place === 1; draw(); }, 1);
}

function addNeurons() {
  const told = data.importance;
  let isAfter = true;
  const make = () => {
    const curves = isAfter ? told.neurons_after : told.neurons_before, now = theme();
    const traces = curves.map((kept, layer) => ({
      type: "scatter", mode: "lines", name: `layer ${layer + 1}`, x: told.ranks, y: kept,
      line: { color: now.series(layer), width: 1.75, dash: DASHES[Math.floor(layer / 8) % DASHES.length] },
      hovertemplate: `layer ${layer + 1}: its first %{x:.0%} of neurons hold %{y:.0%} of the importance<extra></extra>`,
    }));
    const cuts = told.cuts.filter((cut) => cut.width < 1);
    const changes = {
      shapes: cuts.map((cut) => ({ type: "line", yref: "paper", y0: 0, y1: 1, x0: cut.width, x1: cut.width,
        line: { color: now.muted, width: 1, dash: "dot" } })),
      xaxis: { title: titled("share of the layer's neurons, in their order"), tickformat: ".0%", range: [0, 1.01], dtick: 0.25 },
      yaxis: { title: titled("share of importance"), tickformat: ".0%", range: [0, 1.01], dtick: 0.25 } };
    return [traces, changes, "How much of a layer's importance its first neurons hold; dotted lines are the widths."];
  };
  const draw = addChart("neurons", make);
  addSwitch(figureOf("neurons"), "Order", ORDERS, (place) => { isAfter = place === 1; draw(); }, 1);
}

// --- the library -------------------------------------------------------------------------------------------------

// Unpacks the library and runs it as a script of the page, which the page's policy allows by its hash.
async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function main() {
  themed();
  if (typeof DecompressionStream === "undefined") {
    document.getElementById("too-old").hidden = false;
    return;
  }
  await unpack();
  addTradeoff();
  addHeat();
  addLosses();
  if (data.importance) {
    addHeads();
    addNeurons();
  }
  root.dataset.drawn = "true";
}

main();
