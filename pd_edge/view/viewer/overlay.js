// Lines and words: the ground under the points, and the boxes over them.

const FAINT = "#25314c", MUTED = "#8f9cba", BRIGHT = "#eef2fb", BACK = "#0a0f1c";
const RING = 10;  // metres between circles
const TICK = 0.9;  // length of a heading's tick [m]
const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]];
const FRONT = [0, 3, 7, 4];
const DASHES = [5, 3];

class Overlay {
  constructor(under, over) {
    this.under = under;
    this.over = over;
  }

  // A context in CSS pixels, wiped.
  static fresh(canvas) {
    const context = canvas.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    return context;
  }

  static line(context, projection, points) {
    context.beginPath();
    for (let i = 1; i < points.length; i++) {
      const seen = Camera.cut(projection, points[i - 1], points[i]);
      if (!seen) continue;
      context.moveTo(...seen[0]);
      context.lineTo(...seen[1]);
    }
    context.stroke();
  }

  static circle(radius, z) {
    const at = (part) => (part * Math.PI) / 48;
    return Array.from({ length: 97 }, (_, part) => [radius * Math.cos(at(part)), radius * Math.sin(at(part)), z]);
  }

  ground(camera) {
    const context = Overlay.fresh(this.under), projection = camera.projection();
    const z = scene.ground;
    const farthest = Math.min(120, Math.ceil(scene.reach / RING) * RING);
    context.strokeStyle = FAINT;
    context.lineWidth = 1;
    for (let radius = RING; radius <= farthest; radius += RING) {
      Overlay.line(context, projection, Overlay.circle(radius, z));
    }
    for (const angle of [0, 1, 2, 3].map((quarter) => (quarter * Math.PI) / 2)) {
      Overlay.line(context, projection, [[0, 0, z], [farthest * Math.cos(angle), farthest * Math.sin(angle), z]]);
    }
    this.volume(context, projection, z);
    context.fillStyle = MUTED;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    for (let radius = RING; radius <= farthest; radius += RING) {
      const clip = projection.clip([radius * 0.82, -radius * 0.57, z]);
      if (clip[2] > NEAR) context.fillText(`${radius} m`, ...projection.pixel(clip));
    }
  }

  // Where the model looks, a shade brighter than the circles.
  volume(context, projection, z) {
    context.strokeStyle = "#3d5288";
    if (scene.around) Overlay.line(context, projection, Overlay.circle(scene.around, z));
    if (!scene.volume) return;
    const [x0, x1, y0, y1] = scene.volume;
    Overlay.line(context, projection, [[x0, y0, z], [x1, y0, z], [x1, y1, z], [x0, y1, z], [x0, y0, z]]);
  }

  boxes(camera, boxes, chosen, labels) {
    const context = Overlay.fresh(this.over), projection = camera.projection();
    this.ego(context, projection);
    // The truth comes first, and wider, so that both stay visible where they agree.
    for (const box of boxes) if (box.what === "truth") this.box(context, projection, box, box.id === chosen);
    for (const box of boxes) if (box.what === "found") this.box(context, projection, box, box.id === chosen);
    if (labels) this.labels(context, projection, camera, boxes, chosen);
  }

  box(context, projection, box, chosen) {
    const corners = cornersOf(box), truth = box.what === "truth";
    context.strokeStyle = box.colour;
    context.fillStyle = box.colour;
    this.face(context, projection, [0, 1, 2, 3].map((i) => corners[i]), truth ? 0 : 0.14);
    this.face(context, projection, FRONT.map((i) => corners[i]), truth ? 0 : 0.2);
    context.lineWidth = (truth ? 2.4 : 1.5) + (chosen ? 1.5 : 0);
    context.setLineDash(truth ? DASHES : []);
    for (const [a, b] of EDGES) Overlay.line(context, projection, [corners[a], corners[b]]);
    context.setLineDash([]);
    const ahead = [Math.cos(box.yaw), Math.sin(box.yaw)];
    const tip = (far) => [box.x + far * ahead[0], box.y + far * ahead[1], box.z - box.height / 2];
    Overlay.line(context, projection, [tip(box.length / 2), tip(box.length / 2 + TICK)]);
  }

  face(context, projection, corners, strength) {
    const clips = corners.map(projection.clip);
    if (!strength || clips.some((clip) => clip[2] < NEAR)) return;
    context.globalAlpha = strength;
    context.beginPath();
    for (const clip of clips) context.lineTo(...projection.pixel(clip));
    context.fill();
    context.globalAlpha = 1;
  }

  // An arrowhead at the sensor, pointing forward.
  ego(context, projection) {
    const outline = [[1.5, 0], [-1.2, 0.9], [-0.6, 0], [-1.2, -0.9]].map(([x, y]) => [x, y, scene.ground]);
    context.fillStyle = BRIGHT;
    this.face(context, projection, outline, 0.9);
  }

  // The best first; one that would cover another is left out.
  labels(context, projection, camera, boxes, chosen) {
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "left";
    const taken = [];
    const rank = (box) => (box.id === chosen ? 2 : box.score);
    for (const box of boxes.filter((each) => each.what === "found").sort((a, b) => rank(b) - rank(a))) {
      const clips = cornersOf(box).map(projection.clip);
      if (clips.some((clip) => clip[2] < NEAR)) continue;
      const pixels = clips.map(projection.pixel);
      const x = pixels.reduce((sum, pixel) => sum + pixel[0], 0) / 8, y = Math.min(...pixels.map((pixel) => pixel[1])) - 2;
      const text = `${box.name} ${box.score.toFixed(2)}`;
      const width = context.measureText(text).width + 10;
      const spot = [x - width / 2, y - 19, x + width / 2, y - 1];
      const outside = spot[2] < 0 || spot[0] > camera.width || spot[3] < 0 || spot[1] > camera.height;
      if (outside || taken.some((other) => overlap(spot, other))) continue;
      taken.push(spot);
      context.fillStyle = `${BACK}d0`;
      context.beginPath();
      context.roundRect(spot[0], spot[1], width, 18, 4);
      context.fill();
      context.fillStyle = box.colour;
      context.fillText(text, spot[0] + 5, y - 6);
    }
  }

  // The nearest box whose outline in the picture holds a pixel; null where none does.
  at(camera, boxes, x, y) {
    const projection = camera.projection();
    const depth = (box) => projection.clip([box.x, box.y, box.z])[2] - (box.what === "found" ? 0.5 : 0);
    const held = boxes.filter((box) => {
      const clips = cornersOf(box).map(projection.clip);
      return clips.every((clip) => clip[2] > NEAR) && inHull(clips.map(projection.pixel), x, y);
    });
    return held.sort((a, b) => depth(a) - depth(b) || a.length - b.length)[0] || null;
  }
}

function overlap(a, b) {
  return a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
}

// Whether a pixel lies in the convex hull of others: it does not where all of them are within half a turn around it.
function inHull(pixels, x, y) {
  const angles = pixels.map(([u, v]) => Math.atan2(v - y, u - x)).sort((a, b) => a - b);
  const gaps = angles.map((angle, i) => (i ? angle - angles[i - 1] : angle + 2 * Math.PI - angles[angles.length - 1]));
  return Math.max(...gaps) < Math.PI;
}
