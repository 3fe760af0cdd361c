// A click on a cell of the confusion matrix shows its digits.
const cells = JSON.parse(document.getElementById("cells-data").textContent);
const panel = document.getElementById("cell");

function digitOf([row, confidence, position], label, predicted) {
  const item = document.createElement("li"), picture = document.createElement("div"), words = document.createElement("span");
  picture.className = "cut-out";
  picture.style.backgroundPosition = position;
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", `Row ${row}: labelled ${label}, predicted ${predicted}`);
  words.append(`${(100 * confidence).toFixed(1)} %`, document.createElement("br"), `row ${row}`);
  item.append(picture, words);
  return item;
}

for (const cell of document.querySelectorAll("td[data-cell]")) {
  const digits = cells[cell.dataset.cell], [label, predicted] = cell.dataset.cell.split(",");
  const button = document.createElement("button"), count = cell.textContent;
  button.type = "button";
  button.textContent = count;
  button.setAttribute("aria-label", `${count}: show the digits with label ${label} and prediction ${predicted}`);
  cell.replaceChildren(button);
  button.addEventListener("click", () => {
    const wasOpen = button.getAttribute("aria-pressed") === "true";
    for (const other of document.querySelectorAll(".matrix button")) other.removeAttribute("aria-pressed");
    panel.replaceChildren();
    if (wasOpen) return;
    button.setAttribute("aria-pressed", "true");
    const title = document.createElement("h3"), list = document.createElement("ul");
    const all = parseInt(count.replace(/,/g, ""), 10);
    title.textContent = `${label} predicted as ${predicted}: ${count} row${all === 1 ? "" : "s"}`
      + (digits.length < all ? `, the worst ${digits.length}` : "");
    list.className = "digits";
    list.append(...digits.map(digit => digitOf(digit, label, predicted)));
    panel.append(title, list);
  });
}
