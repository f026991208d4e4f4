"use strict";
// Draws the curves of the runs in #data into #curves: which curve, which runs and which axis can be chosen.
(() => {
  const {runs, labels} = JSON.parse(document.getElementById("data").textContent);
  const place = document.getElementById("curves");
  // Okabe and Ito's colours, which colour-blind readers can tell; dashes tell runs beyond them.
  const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999"];
  const colour = (i) => COLOURS[i % COLOURS.length];
  const dashes = (i) => ["", "6 3", "2 3", "8 3 2 3"][Math.floor(i / COLOURS.length) % 4];
  const WIDTH = 1100, HEIGHT = 420, LEFT = 64, RIGHT = 16, TOP = 12, BOTTOM = 40;

  const make = (tag, attributes = {}, parent = null, text = "") => {
    const isSvg = ["svg", "path", "line", "text", "circle", "g"].includes(tag);
    const node = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };

  const offered = Object.keys(labels).filter((key) => runs.some((run) => key in run.curves));
  if (!offered.length) { make("p", {}, place, "No epoch of these runs is complete yet."); return; }
  const controls = make("div", {class: "controls"}, place);
  const chosen = make("select", {"aria-label": "curve"}, controls);
  for (const key of offered) make("option", {value: key}, chosen, labels[key]);
  const logLabel = make("label", {}, controls);
  const log = make("input", {type: "checkbox"}, logLabel);
  logLabel.append(" logarithmic");
  const filter = make("input", {type: "search", placeholder: "filter runs by name", "aria-label": "filter"}, controls);
  const keys = make("div", {class: "controls"}, place);
  const boxes = runs.map((run, i) => {
    const label = make("label", {}, keys);
    const box = make("input", {type: "checkbox"}, label);
    box.checked = true;
    const key = make("svg", {class: "key", viewBox: "0 0 20 10"}, label);
    make("line", {x1: 0, x2: 20, y1: 5, y2: 5, stroke: colour(i), "stroke-width": 3, "stroke-dasharray": dashes(i)}, key);
    label.append(` ${run.name}`);
    return {box, label};
  });
  const svg = make("svg", {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img"}, place);
  const readout = make("div", {id: "readout"}, place);

  const ticks = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(at);
    return found;
  };
  const powers = (low, high) => {
    const found = [];
    for (let p = Math.ceil(Math.log10(low)); p <= Math.log10(high); p++) found.push(10 ** p);
    return found.length > 1 ? found : [low, high];
  };
  const words = (value) => String(Number(value.toPrecision(4)));

  let across = null;
  const draw = () => {
    svg.replaceChildren();
    const key = chosen.value, isLog = log.checked;
    const usable = (value) => value !== null && value !== undefined && (!isLog || value > 0);
    const shown = runs.map((run, i) => ({run, i})).filter(({run, i}) => {
      const isNamed = run.name.toLowerCase().includes(filter.value.toLowerCase());
      boxes[i].label.hidden = !isNamed;
      return isNamed && boxes[i].box.checked && key in run.curves;
    });
    const values = shown.flatMap(({run}) => run.curves[key].filter(usable));
    if (!values.length) { make("text", {x: LEFT, y: HEIGHT / 2}, svg, "nothing to draw"); across = null; return; }
    const lastEpoch = Math.max(1, ...shown.flatMap(({run}) => run.epoch));
    let low = Math.min(...values), high = Math.max(...values);
    if (!isLog) low = Math.min(0, low);
    if (low === high) { low = isLog ? low / 2 : low - 1; high = isLog ? high * 2 : high + 1; }
    const scale = (value) => isLog ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
    const x = (epoch) => LEFT + epoch / lastEpoch * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - scale(value) * (HEIGHT - TOP - BOTTOM);
    for (const at of isLog ? powers(low, high) : ticks(low, high, 6)) {
      make("line", {class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(at), y2: y(at)}, svg);
      make("text", {x: LEFT - 6, y: y(at) + 4, "text-anchor": "end"}, svg, words(at));
    }
    for (const at of ticks(0, lastEpoch, 10).filter(Number.isInteger)) {
      make("text", {x: x(at), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle"}, svg, String(at));
    }
    make("text", {x: WIDTH / 2, y: HEIGHT - 4, "text-anchor": "middle"}, svg, "epoch");
    make("text", {x: -HEIGHT / 2, y: 14, transform: "rotate(-90)", "text-anchor": "middle"}, svg, labels[key]);
    for (const {run, i} of shown) {
      let path = "", isBroken = true;
      run.epoch.forEach((epoch, n) => {
        const value = run.curves[key][n];
        if (usable(value)) path += `${isBroken ? "M" : "L"}${x(epoch).toFixed(1)} ${y(value).toFixed(1)}`;
        isBroken = !usable(value);
      });
      make("path", {d: path, fill: "none", stroke: colour(i), "stroke-width": 2, "stroke-dasharray": dashes(i)}, svg);
      if (run.epoch.length < 31) {
        run.epoch.forEach((epoch, n) => {
          const value = run.curves[key][n];
          if (usable(value)) make("circle", {cx: x(epoch), cy: y(value), r: 3, fill: colour(i)}, svg);
        });
      }
    }
    const cursor = make("line", {class: "grid", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden"}, svg);
    across = {shown, key, lastEpoch, x, cursor};
  };

  svg.addEventListener("mousemove", (event) => {
    if (!across) return;
    const box = svg.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * WIDTH;
    const fraction = (at - LEFT) / (WIDTH - LEFT - RIGHT);
    const epoch = Math.min(across.lastEpoch, Math.max(1, Math.round(fraction * across.lastEpoch)));
    across.cursor.setAttribute("x1", across.x(epoch));
    across.cursor.setAttribute("x2", across.x(epoch));
    across.cursor.setAttribute("visibility", "visible");
    const told = across.shown.map(({run}) => {
      const value = run.curves[across.key][run.epoch.indexOf(epoch)];
      return value === null || value === undefined ? null : `${run.name} ${words(value)}`;
    });
    readout.textContent = `epoch ${epoch}: ${told.filter(Boolean).join("; ")}`;
  });
  for (const node of [chosen, log, filter, ...boxes.map(({box}) => box)]) node.addEventListener("input", draw);
  draw();
})();
