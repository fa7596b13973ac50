(function () {
  "use strict";
  var byId = function (id) { return document.getElementById(id); };

  // The stage: all frames lie on top of each other, one is visible, so nothing flickers and no picture is stored twice.
  var stage = byId("stage");
  if (!stage) { return; }
  var changes = Array.prototype.slice.call(document.querySelectorAll("#changes > li"));
  var frames = Array.prototype.slice.call(document.querySelectorAll("ol.strip:not(.changes) > li"));
  function stack(home, items) {
    return items.map(function (item) {
      var layer = item.querySelector(".panels").cloneNode(true);
      home.appendChild(layer);
      return layer;
    });
  }
  var images = stack(byId("stage-frame"), frames);
  var differences = stack(byId("stage-change"), changes);
  var behind = byId("stage-original").querySelector(".panels").cloneNode(true);
  byId("stage-frame").appendChild(behind);
  var slider = byId("slider");
  var blink = byId("blink");
  var play = byId("play");
  var current = Number(stage.dataset.selected);
  var blinking = false;

  function show() {
    var data = changes[current].dataset;
    images.forEach(function (layer, index) {
      layer.classList.toggle("visible", index === current && !blinking);
      layer.setAttribute("aria-hidden", String(index !== current || blinking));
    });
    differences.forEach(function (layer, index) {
      layer.classList.toggle("visible", index === current);
      layer.setAttribute("aria-hidden", String(index !== current));
    });
    behind.classList.toggle("visible", blinking);
    behind.setAttribute("aria-hidden", String(!blinking));
    var levels = "asked " + data.asked + ", achieved " + data.achieved + (data.reached === "yes" ? "" : ", not reached");
    slider.value = String(current + 1);
    slider.setAttribute("aria-valuetext", "Frame " + (current + 1) + " of " + changes.length + ", " + levels);
    byId("stage-caption").textContent = blinking ? "Original, in place of the frame" : "Frame " + (current + 1) + " · " + data.achieved;
    byId("readout").textContent = "Frame " + (current + 1) + " of " + changes.length + ": " + levels + ".";
    byId("readout").classList.toggle("missed", data.reached !== "yes");
    frames.forEach(function (item, index) { item.classList.toggle("current", index === current); });
  }
  slider.addEventListener("input", function () { current = Number(slider.value) - 1; show(); });
  blink.addEventListener("click", function () {
    blinking = !blinking;
    blink.setAttribute("aria-pressed", String(blinking));
    show();
  });

  var timer = null;
  var direction = 1;
  function step() {
    if (changes.length > 1) {
      if (current + direction < 0 || current + direction >= changes.length) { direction = -direction; }
      current += direction;
    }
    show();
  }
  function setPlaying(on) {
    if (timer !== null) { window.clearInterval(timer); timer = null; }
    if (on) { timer = window.setInterval(step, 400); }
    // While it runs, a screen reader would be told of every frame.
    byId("readout").setAttribute("aria-live", on ? "off" : "polite");
    play.textContent = on ? "Pause" : "Play";
  }
  play.addEventListener("click", function () { setPlaying(timer === null); });
  slider.addEventListener("pointerdown", function () { setPlaying(false); });
  slider.addEventListener("keydown", function () { setPlaying(false); });
  show();
}());
