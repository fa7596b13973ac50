(function () {
  "use strict";
  var root = document.documentElement;
  var byId = function (id) { return document.getElementById(id); };
  document.querySelectorAll("[data-needs-script]").forEach(function (part) { part.hidden = false; });

  // Colours: automatic, light, dark. A frame without storage rights keeps the choice for this view only.
  var themes = ["automatic", "light", "dark"];
  var storage = null;
  try { storage = window.localStorage; } catch (error) { storage = null; }
  function setTheme(theme) {
    if (theme === "automatic") { root.removeAttribute("data-theme"); } else { root.dataset.theme = theme; }
    byId("theme-word").textContent = theme;
    if (storage) { try { storage.setItem("explainer-theme", theme); } catch (error) { storage = null; } }
  }
  var stored = null;
  try { stored = storage && storage.getItem("explainer-theme"); } catch (error) { stored = null; }
  var theme = themes.indexOf(stored) < 0 ? "automatic" : stored;
  setTheme(theme);
  byId("theme").addEventListener("click", function () {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
  });

  byId("pixels").addEventListener("click", function () {
    var exact = root.classList.toggle("exact-pixels");
    byId("pixels").setAttribute("aria-pressed", String(exact));
  });

  // Everything that is folded up is printed.
  var opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.prototype.slice.call(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (part) { part.open = false; });
    opened = [];
  });
}());
