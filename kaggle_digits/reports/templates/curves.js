// The learning curves: charts with values under the pointer, and switches for the folds.
const folds = JSON.parse(document.getElementById("curves-data").textContent);
const epochs = folds.map(fold => fold.history).reduce((a, b) => a.length < b.length ? b : a).map(row => row.epoch);
const dark = matchMedia("(prefers-color-scheme: dark)");
const foldColor = i => `hsl(${Math.round(360 * i / folds.length + 215) % 360} 60% ${dark.matches ? 66 : 40}%)`;
const shown = folds.map(() => true);
let charts = [];

function drawChart(figure) {
  // Accuracies are drawn as error rates on a logarithmic, downward scale, and labelled as accuracies: otherwise the
  // first epochs would press all later ones, and all folds, into one line below 1.
  const name = figure.dataset.name, isAccuracy = name === "accuracy";
  const drawn = value => value == null ? null : isAccuracy ? Math.max(1 - value, 1e-4) : Math.max(value, 1e-6);
  const holder = figure.querySelector("div"), reading = figure.querySelector(".reading");
  const style = getComputedStyle(document.body), color = style.getPropertyValue("--line");
  const axis = { stroke: style.getPropertyValue("--soft"), grid: { stroke: color, width: 1 }, ticks: { stroke: color } };
  const lines = [];
  for (const [key, rows, dash] of [[name, "training rows", [2, 4]], [`val_${name}`, "validation rows", []]]) {
    folds.forEach(({ fold, history }, i) => lines.push({
      fold: i, values: epochs.map((_, at) => history[at]?.[key] ?? null),
      options: { label: `fold ${fold}, ${rows}`, stroke: foldColor(i), width: 1.5, dash, show: shown[i],
                 points: { show: epochs.length < 2 } },
    }));
  }
  let nearest = null;
  const read = chart => {
    const at = chart.cursor.idx, near = nearest && lines[nearest - 1];
    reading.textContent = at == null || !near || near.values[at] == null ? ""
      : `epoch ${epochs[at]}, ${near.options.label}: ${near.values[at].toFixed(isAccuracy ? 5 : 4)}`;
  };
  const chart = new uPlot({
    width: holder.clientWidth, height: 260, legend: { show: false },
    scales: { x: { time: false }, y: { distr: 3, dir: isAccuracy ? -1 : 1 } },
    cursor: { focus: { prox: 40 }, drag: { x: false, y: false }, y: false, points: { one: true } },
    focus: { alpha: 0.25 },
    series: [{}, ...lines.map(line => line.options)],
    axes: [{ ...axis, size: 34, incrs: [1, 2, 5, 10, 20, 50, 100] },
           { ...axis, size: 64, values: (_, splits) => splits.map(v => v == null ? "" : +(isAccuracy ? 1 - v : v).toFixed(5)) }],
    hooks: { setSeries: [(chart, i) => { nearest = i; read(chart); }], setCursor: [read] },
  }, [epochs, ...lines.map(line => line.values.map(drawn))], holder);
  // uPlot follows only the mouse; this is for touch screens.
  chart.over.addEventListener("pointerdown", event => {
    const box = chart.over.getBoundingClientRect();
    if (event.pointerType !== "mouse") chart.setCursor({ left: event.clientX - box.left, top: event.clientY - box.top });
  });
  chart.showFold = i => lines.forEach((line, at) => {
    if (line.fold === i) chart.setSeries(at + 1, { show: shown[i] });
  });
  return chart;
}

function drawCharts() {
  for (const chart of charts) chart.destroy();
  charts = [...document.querySelectorAll(".chart")].map(drawChart);
  document.querySelectorAll("#fold-switches label").forEach((label, i) => label.style.setProperty("--fold", foldColor(i)));
}

const switches = document.getElementById("fold-switches");
function switchFolds(isShown) {
  switches.querySelectorAll("input").forEach((box, i) => {
    if (shown[i] !== isShown(i)) {
      box.checked = shown[i] = isShown(i);
      for (const chart of charts) chart.showFold(i);
    }
  });
}
folds.forEach(({ fold }, i) => {
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.checked = true;
  box.addEventListener("change", () => switchFolds(other => other === i ? box.checked : shown[other]));
  label.append(box, fold);
  switches.append(label);
});
for (const [text, isShown] of [["all", true], ["none", false]]) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => switchFolds(() => isShown));
  switches.append(button);
}
drawCharts();
dark.addEventListener("change", drawCharts);
new ResizeObserver(() => {
  for (const chart of charts) {
    const width = chart.root.parentElement.clientWidth;
    if (width && width !== chart.width) chart.setSize({ width, height: chart.height });
  }
}).observe(document.getElementById("charts"));
