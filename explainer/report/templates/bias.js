(function () {
  "use strict";
  var byId = function (id) { return document.getElementById(id); };
  var all = function (home, selector) { return Array.prototype.slice.call(home.querySelectorAll(selector)); };

  // Tables: a button in each header that sorts; what is unknown stays at the end.
  function sortBy(table, header, column) {
    var ascending = header.getAttribute("aria-sort") !== "ascending";
    var numbers = header.dataset.sort === "number";
    var body = table.tBodies[0];
    function key(row) {
      var cell = row.cells[column];
      if (!numbers) { return cell.textContent.trim().toLowerCase(); }
      return cell.dataset.value === undefined || cell.dataset.value === "" ? null : Number(cell.dataset.value);
    }
    var rows = Array.prototype.map.call(body.rows, function (row, index) { return { row: row, key: key(row), index: index }; });
    rows.sort(function (one, other) {
      if (one.key === null || other.key === null) {
        return one.key === other.key ? one.index - other.index : one.key === null ? 1 : -1;
      }
      var order = numbers ? one.key - other.key : one.key.localeCompare(other.key);
      return (ascending ? order : -order) || one.index - other.index;
    });
    rows.forEach(function (each) { body.appendChild(each.row); });
    all(table, "th[aria-sort]").forEach(function (each) { each.removeAttribute("aria-sort"); });
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    byId("sorted").textContent = "Sorted by " + header.textContent.trim() + ", " + (ascending ? "ascending" : "descending") + ".";
  }
  all(document, "table.sortable").forEach(function (table) {
    all(table.tHead, "th[data-sort]").forEach(function (header, column) {
      var button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.textContent = header.textContent.trim();
      header.textContent = "";
      header.appendChild(button);
      button.addEventListener("click", function () { sortBy(table, header, column); });
    });
  });

  // Downloads come out of the page itself: nothing is asked of a network.
  var kinds = { json: "application/json", csv: "text/csv;charset=utf-8" };
  all(document, "[data-download]").forEach(function (button) {
    button.addEventListener("click", function () {
      var kind = button.dataset.download;
      var text = byId("report-" + kind).textContent;
      if (kind === "csv") { text = JSON.parse(text); }
      var link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: kinds[kind] }));
      link.download = "audit." + kind;
      document.body.appendChild(link);
      link.click();
      link.remove();
      window.setTimeout(function () { URL.revokeObjectURL(link.href); }, 10000);
    });
  });

  // One slider for the walks of a finding: it shows the same frame of each of them large.
  function show(group, slider) {
    var wanted = Number(slider.value);
    var said = "Original";
    all(group, ".walk-strip").forEach(function (strip) {
      var items = all(strip, "ol.film > li");
      var index = Math.min(wanted, items.length - 1);
      var picture = items[index].querySelector("img");
      var home = strip.querySelector(".flip");
      var large = home.querySelector("img");
      if (!large) {
        large = document.createElement("img");
        home.appendChild(large);
        home.appendChild(document.createElement("figcaption"));
      }
      large.src = picture.src;
      large.alt = picture.alt + ", large";
      large.width = picture.width;
      large.height = picture.height;
      said = items[index].querySelector(".asked").textContent;
      home.querySelector("figcaption").textContent = all(items[index], ".said, .asked").map(function (part) {
        return part.textContent.replace(/[●○]/g, "").replace(/\s+/g, " ").trim();
      }).join(" · ");
      items.forEach(function (item, number) { item.classList.toggle("current", number === index); });
    });
    slider.setAttribute("aria-valuetext", said);
  }
  function start(group) {
    var slider = group.querySelector("input[type=range]");
    if (slider.dataset.ready) { return; }
    slider.dataset.ready = "yes";
    slider.addEventListener("input", function () { show(group, slider); });
    show(group, slider);
  }
  all(document, ".films").forEach(function (group) {
    var fold = group.closest("details");
    if (!fold || fold.open) { start(group); return; }
    fold.addEventListener("toggle", function () { if (fold.open) { start(group); } });
  });

  // A link to a finding opens it.
  function unfold() {
    var wanted = window.location.hash.slice(1);
    var fold = wanted && byId(wanted);
    if (!fold || fold.tagName !== "DETAILS") { return; }
    fold.open = true;
    fold.querySelector("summary").focus({ preventScroll: true });
    fold.scrollIntoView();
  }
  window.addEventListener("hashchange", unfold);
  all(document, "a[href^='#finding-']").forEach(function (link) {
    link.addEventListener("click", function () { window.setTimeout(unfold, 0); });
  });
  unfold();
}());
