// Brings it together: one frame, one camera, what is to be seen of it; drawn only when something has changed.

const look = {
  score: scene.score, size: 2, colour: "height", labels: true, by: "distance", hidden: new Set(), chosen: null,
  range: { low: scene.ground, high: scene.ground + 4, brightest: scene.brightest, reach: scene.reach },
};
const stage = $("stage"), camera = new Camera(), overlay = new Overlay($("under"), $("over"));
const painter = pointPainter($("points")), clouds = new Clouds();
let cloud = null, boxes = [], asked = false, awaited = 0;

function visible(frame) {
  const found = frame.found.filter((box) => box.score >= look.score && !look.hidden.has(`class-${box.cls}`));
  return look.hidden.has("truth") ? found : [...found, ...(frame.truth || [])];
}

// Draws with the browser's next picture, once however often it is asked for.
function draw() {
  if (asked) return;
  asked = true;
  requestAnimationFrame(() => {
    asked = false;
    overlay.ground(camera);
    if (cloud) painter.paint(cloud, camera, look);
    overlay.boxes(camera, boxes, look.chosen, look.labels);
    for (const button of $("views").children) button.classList.toggle("on", button.dataset.view === camera.name);
    tell();
  });
}

// What is drawn, for whoever drives the page.
function tell() {
  const count = (what) => String(boxes.filter((box) => box.what === what).length);
  Object.assign(document.body.dataset, {
    frame: cloud ? String(cloud.place) : "", points: cloud ? String(cloud.count) : "0", painter: painter.kind,
    found: count("found"), truth: count("truth"), chosen: look.chosen || "", view: camera.name, colour: look.colour,
  });
}

// After another frame, score, class or colour: what is to be seen, and all that says so.
function refresh() {
  const frame = scene.frames[line.place];
  boxes = visible(frame);
  panel.show(frame, boxes, look.chosen);
  panel.histogram();
  line.draw(scene.frames.map((each) => visible(each).filter((box) => box.what === "found").length));
  draw();
}

async function go(place) {
  const turn = ++awaited;
  try {
    const wanted = await clouds.get(place);
    if (turn !== awaited) return;  // another frame was asked for meanwhile
    cloud = wanted;
  } catch (error) {
    return fail(`Frame ${scene.frames[place].name} cannot be unpacked: ${error.message}.`);
  }
  look.chosen = null;
  panel.tip(null);
  refresh();
  if (place + 1 < scene.frames.length) clouds.get(place + 1).catch(() => {});  // it is told when it is shown
}

function fail(text) {
  $("message").hidden = false;
  $("message").textContent = text;
}

function point(box, x, y) {
  stage.classList.toggle("over-box", box !== null);
  panel.tip(x === undefined ? null : box, x, y);
  const id = box ? box.id : null;
  if (id === look.chosen) return;
  look.chosen = id;
  panel.mark(id);
  draw();
}

function choose(box) {
  look.chosen = box.id;
  panel.mark(box.id);
  camera.focus(box.x, box.y, box.z);
  draw();
}

function view(name) {
  camera.look(name);
  draw();
}

function nudge(id, by) {
  $(id).value = Number($(id).value) + by;
  $(id).dispatchEvent(new Event("input"));
}

const panel = new Panel(look, refresh, choose, (box) => point(box));
const line = new TimeLine(go);

function bindMouse() {
  let held = null;
  const place = (event) => [event.offsetX, event.offsetY];
  const over = $("over");
  over.addEventListener("pointerdown", (event) => {
    over.setPointerCapture(event.pointerId);
    held = { at: [event.clientX, event.clientY], moved: 0, second: event.button !== 0 || event.shiftKey };
    stage.classList.add("held");
  });
  over.addEventListener("pointermove", (event) => {
    if (!held) return point(overlay.at(camera, boxes, ...place(event)), ...place(event));
    const [dx, dy] = [event.clientX - held.at[0], event.clientY - held.at[1]];
    held.at = [event.clientX, event.clientY];
    held.moved += Math.abs(dx) + Math.abs(dy);
    camera[held.second !== camera.flat ? "move" : "turn"](dx, dy);
    draw();
  });
  over.addEventListener("pointerup", (event) => {
    const box = held && held.moved < 4 ? overlay.at(camera, boxes, ...place(event)) : null;
    held = null;
    stage.classList.remove("held");
    if (box) choose(box);
  });
  over.addEventListener("pointerleave", () => held || point(null));
  over.addEventListener("contextmenu", (event) => event.preventDefault());
  over.addEventListener("wheel", (event) => (event.preventDefault(), camera.zoom(event.deltaY), draw()), { passive: false });
  for (const button of $("views").children) button.addEventListener("click", () => view(button.dataset.view));
}

const KEYS = {
  " ": () => line.toggle(),
  ArrowLeft: (event) => line.step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => line.step(event.shiftKey ? 10 : 1),
  Home: () => line.step(-Infinity),
  End: () => line.step(Infinity),
  1: () => view("chase"),
  2: () => view("above"),
  3: () => view("driver"),
  "[": () => nudge("score", -0.05),
  "]": () => nudge("score", 0.05),
  "+": () => nudge("size", 0.5),
  "-": () => nudge("size", -0.5),
  c: () => {
    $("colour").value = look.colour === "height" ? "intensity" : "height";
    $("colour").dispatchEvent(new Event("change"));
  },
  t: () => $("show-truth") && $("show-truth").click(),
  l: () => $("labels").click(),
  h: () => document.body.classList.toggle("bare"),
  "?": () => $("help-button").click(),
};

document.addEventListener("keydown", (event) => {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const typing = event.target.matches("select") || (event.target.matches("input[type=range]") && key.startsWith("Arrow"));
  if (!(key in KEYS) || event.ctrlKey || event.metaKey || event.altKey || typing) return;
  event.preventDefault();
  KEYS[key](event);
});

function resize() {
  for (const canvas of stage.querySelectorAll("canvas")) {
    canvas.width = Math.round(stage.clientWidth * devicePixelRatio);
    canvas.height = Math.round(stage.clientHeight * devicePixelRatio);
  }
  camera.resize(stage.clientWidth, stage.clientHeight);
  refresh();
}

if (typeof DecompressionStream === "undefined") fail("This browser is too old: it cannot unpack the points.\nChrome 80, Firefox 113, Safari 16.4 or later can.");
else {
  bindMouse();
  new ResizeObserver(resize).observe(stage);
  go(0);
}
