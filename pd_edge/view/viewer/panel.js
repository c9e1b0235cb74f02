// The controls beside and below the picture. They change `look` and say so; nothing is drawn of the scene here.

const $ = (id) => document.getElementById(id);

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

class Panel {
  // `changed` is called after every change of `look`, `chose` with a box that was clicked, `pointed` with one or null.
  constructor(look, changed, chose, pointed) {
    Object.assign(this, { look, changed, chose, pointed, rows: new Map() });
    $("title").textContent = document.title = scene.title;
    $("subtitle").textContent = scene.subtitle;
    $("score").value = look.score;
    $("size").value = look.size;
    this.classes();
    this.colour();
    this.bind();
  }

  bind() {
    const { look, changed } = this;
    const on = (id, event, act) => $(id).addEventListener(event, () => (act($(id)), changed()));
    on("score", "input", (each) => (look.score = Number(each.value)));
    on("size", "input", (each) => (look.size = Number(each.value)));
    on("labels", "change", (each) => (look.labels = each.checked));
    on("colour", "change", (each) => {
      look.colour = each.value;
      this.colour();
    });
    on("by", "click", () => (look.by = look.by === "distance" ? "score" : "distance"));
    $("help-button").addEventListener("click", () => ($("help").hidden = !$("help").hidden));
  }

  // A line to switch on and off for each class that was found, and one for the ground truth.
  classes() {
    const lines = scene.classes.map((each, place) => [each.name, each.colour, `class-${place}`]);
    if (scene.frames.some((frame) => frame.truth)) lines.push(["ground truth", scene.truth_colour, "truth"]);
    for (const [name, colour, key] of lines) {
      const label = make("label"), tick = make("input"), chip = make("span", "chip");
      tick.type = "checkbox";
      tick.checked = true;
      tick.id = `show-${key}`;
      tick.addEventListener("change", () => (this.look.hidden[tick.checked ? "delete" : "add"](key), this.changed()));
      chip.style.borderColor = colour;
      if (key === "truth") chip.style.borderStyle = "dashed";
      else chip.style.background = `${colour}66`;
      const count = make("span", "count");
      count.id = `count-${key}`;
      label.append(tick, chip, make("span", "name", name), count);
      $("classes").append(label);
    }
    if (!lines.length) $("classes").append(make("span", "count", "no boxes"));
  }

  colour() {
    const { colour, range } = this.look;
    $("ramp").style.background = `linear-gradient(90deg, ${RAMPS[colour].join(", ")})`;
    const ends = colour === "height" ? [range.low, range.high] : [0, range.brightest];
    const unit = colour === "height" ? " m" : "";
    [$("ramp-low").textContent, $("ramp-high").textContent] = ends.map((end) => end.toFixed(2) + unit);
  }

  show(frame, boxes, chosen) {
    const count = (test) => boxes.filter(test).length;
    scene.classes.forEach((_, place) => {
      $(`count-class-${place}`).textContent = count((box) => box.what === "found" && box.cls === place);
    });
    if ($("count-truth")) $("count-truth").textContent = frame.truth ? count((box) => box.what === "truth") : "-";
    $("score-value").textContent = `≥ ${this.look.score.toFixed(2)}`;
    const all = frame.points.toLocaleString("en"), shown = frame.shown.toLocaleString("en");
    $("point-count").textContent = frame.shown === frame.points ? all : `${shown} of ${all}`;
    $("by").textContent = `by ${this.look.by}`;
    $("now").textContent = [frame.name, ...frame.notes].join("   ");
    this.list(boxes, chosen);
  }

  list(boxes, chosen) {
    const order = this.look.by === "distance" ? (a, b) => a.distance - b.distance : (a, b) => b.score - a.score;
    const kinds = ["found", "truth"].flatMap((what) => boxes.filter((box) => box.what === what).sort(order));
    this.rows.clear();
    const rows = kinds.map((box) => {
      const row = make("li"), chip = make("span", "chip");
      chip.style.borderColor = box.colour;
      if (box.what === "truth") chip.style.borderStyle = "dashed";
      row.append(chip, make("span", "name", box.name));
      row.append(make("span", "score", box.what === "found" ? box.score.toFixed(2) : ""));
      row.append(make("span", "", `${box.distance.toFixed(1)} m`), make("span", "", `${box.points} pt`));
      row.addEventListener("mouseenter", () => this.pointed(box));
      row.addEventListener("mouseleave", () => this.pointed(null));
      row.addEventListener("click", () => this.chose(box));
      this.rows.set(box.id, row);
      return row;
    });
    $("list").replaceChildren(...(rows.length ? rows : [make("li", "none", "none")]));
    this.mark(chosen);
  }

  mark(chosen) {
    for (const [id, row] of this.rows) row.classList.toggle("on", id === chosen);
  }

  tip(box, x, y) {
    const tip = $("tip");
    tip.hidden = !box;
    if (!box) return;
    const heading = make("b", "", box.what === "found" ? `${box.name}  ${box.score.toFixed(2)}` : `${box.name}  ground truth`);
    heading.style.color = box.colour;
    const lines = [
      `${box.distance.toFixed(1)} m away   ${box.points} points`,
      `x ${box.x.toFixed(1)}  y ${box.y.toFixed(1)}  z ${box.z.toFixed(1)} m   yaw ${((box.yaw * 180) / Math.PI).toFixed(0)}°`,
      `${box.length.toFixed(2)} × ${box.width.toFixed(2)} × ${box.height.toFixed(2)} m`,
    ];
    if (box.iou != null) lines.push(`3D IoU with ground truth ${box.iou.toFixed(2)}`);
    tip.replaceChildren(heading, `\n${lines.join("\n")}`);
    const room = $("stage").clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.min(x + 16, Math.max(0, room))}px`;
    tip.style.top = `${Math.max(8, Math.min(y + 16, $("stage").clientHeight - tip.offsetHeight - 8))}px`;
  }

  // How many boxes of each score there are in all frames.
  histogram() {
    const bins = new Array(50).fill(0);
    for (const frame of scene.frames)
      for (const box of frame.found)
        if (!this.look.hidden.has(`class-${box.cls}`)) bins[Math.min(49, Math.floor(box.score * 50))]++;
    const context = wiped($("histogram")), { clientWidth: width, clientHeight: height } = $("histogram");
    const most = Math.max(1, ...bins);
    bins.forEach((count, place) => {
      const tall = count ? Math.max(1.5, (height * Math.sqrt(count)) / Math.sqrt(most)) : 0;
      context.fillStyle = (place + 1) / 50 > this.look.score ? "#6fa8da" : FAINT;
      context.fillRect((place * width) / 50, height - tall, width / 50 - 1, tall);
    });
  }
}

// A canvas's context in CSS pixels, at its size on the screen, wiped.
function wiped(canvas) {
  canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
  canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
  return Overlay.fresh(canvas);
}
