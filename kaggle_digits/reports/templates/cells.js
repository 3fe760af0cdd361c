// A click on a cell of the confusion matrix shows its digits.
const cells = JSON.parse(document.getElementById("cells-data").textContent);
const panel = document.getElementById("cell");

function digitOf([row, confidence, source], label, predicted) {
  const item = document.createElement("li"), picture = new Image(28, 28), words = document.createElement("span");
  picture.src = source;
  picture.alt = `Row ${row}: labelled ${label}, predicted ${predicted}`;
  words.append(confidence.toFixed(4), document.createElement("br"), `row ${row}`);
  item.append(picture, words);
  return item;
}

const numbers = document.querySelectorAll("td[data-cell]");
document.getElementById("cell-hint").hidden = numbers.length === 0;
let opened = null;
for (const cell of numbers) {
  const digits = cells[cell.dataset.cell], [label, predicted] = cell.dataset.cell.split(",");
  const button = document.createElement("button"), count = cell.textContent;
  button.type = "button";
  button.textContent = count;
  button.setAttribute("aria-label", `${count}: show the digits with label ${label} and prediction ${predicted}`);
  cell.replaceChildren(button);
  button.addEventListener("click", () => {
    opened = opened === cell.dataset.cell ? null : cell.dataset.cell;
    for (const other of numbers) other.firstChild.setAttribute("aria-pressed", other.dataset.cell === opened);
    panel.replaceChildren();
    if (opened === null) return;
    const title = document.createElement("h3"), words = document.createElement("p"), list = document.createElement("ul");
    const all = parseInt(count.replace(/,/g, ""), 10);
    title.textContent = `${label} predicted as ${predicted}: ${count} row${all === 1 ? "" : "s"}`
      + (digits.length < all ? `, the worst ${digits.length}` : "");
    words.className = "hint";
    words.textContent = `With the probability of the prediction, ${predicted}.`;
    list.className = "digits";
    list.append(...digits.map(digit => digitOf(digit, label, predicted)));
    panel.append(title, words, list);
  });
}
