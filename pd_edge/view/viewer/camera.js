// Where the scene is looked at from. Metres; x forward, y left, z up, as everywhere in pd-edge.

const FIELD_OF_VIEW = 0.75;  // of the picture's height [rad]
const NEAR = 0.3, FAR = 2000;  // [m]
const CLOSEST = 2, FARTHEST = 600;  // of the eye to its target [m]

const VIEWS = {
  chase: { target: [14, 0, -1], distance: 34, azimuth: 0, elevation: 0.38, flat: false },
  above: { target: [26, 0, 0], distance: 88, azimuth: Math.PI / 2, elevation: Math.PI / 2, flat: true },
  driver: { target: [6, 0, -0.3], distance: 6.5, azimuth: 0, elevation: 0.14, flat: false },
};

class Camera {
  constructor() {
    this.width = this.height = 1;
    this.look("chase");
  }

  look(name) {
    Object.assign(this, VIEWS[name], { target: [...VIEWS[name].target], name });
    if (name !== "driver" && scene.around) this.target[0] = name === "chase" ? 4 : 0;
    if (name === "above") this.fit();
  }

  // Far enough for what the model sees, whatever the window's shape.
  fit() {
    const reach = scene.around ? [2 * scene.around, 1.4 * scene.around] : [76, 56];
    const tall = Math.max(reach[1], (reach[0] * this.height) / this.width);
    if (!scene.around) this.target[0] = 33;
    this.distance = tall / 2 / Math.tan(FIELD_OF_VIEW / 2);
  }

  resize(width, height) {
    this.width = width;
    this.height = height;
    if (this.name === "above") this.fit();
  }

  // Unit vectors: to the right, up and into the picture.
  axes() {
    const [ca, sa, ce, se] = [
      Math.cos(this.azimuth), Math.sin(this.azimuth), Math.cos(this.elevation), Math.sin(this.elevation),
    ];
    return [[sa, -ca, 0], [se * ca, se * sa, ce], [ce * ca, ce * sa, -se]];
  }

  turn(dx, dy) {
    this.azimuth -= dx * 0.006;
    if (!this.flat) this.elevation = Math.min(1.55, Math.max(0.02, this.elevation + dy * 0.006));
    this.name = "";
  }

  // Moves along the picture in Above, along the ground elsewhere.
  move(dx, dy) {
    const metres = (2 * this.distance * Math.tan(FIELD_OF_VIEW / 2)) / this.height;
    const [right, up] = this.axes();
    const ahead = this.flat ? up : [Math.cos(this.azimuth), Math.sin(this.azimuth), 0];
    for (let axis = 0; axis < 3; axis++) this.target[axis] += metres * (ahead[axis] * dy - right[axis] * dx);
    this.name = "";
  }

  zoom(steps) {
    this.distance = Math.min(FARTHEST, Math.max(CLOSEST, this.distance * 1.0012 ** steps));
    this.name = "";
  }

  focus(x, y, z) {
    this.target = [x, y, z];
    this.distance = Math.min(this.distance, this.flat ? 40 : 22);
    this.name = "";
  }

  // Column-major 4 x 4, scene to clip space, as WebGL takes it.
  matrix() {
    const [right, up, into] = this.axes();
    const eye = this.target.map((value, axis) => value - into[axis] * this.distance);
    const dot = (vector) => vector[0] * eye[0] + vector[1] * eye[1] + vector[2] * eye[2];
    const k = 1 / Math.tan(FIELD_OF_VIEW / 2) / (this.flat ? this.distance : 1);
    const wide = (k * this.height) / this.width;
    const [deep, offset] = this.flat ? [1 / FAR, 0] : [(FAR + NEAR) / (FAR - NEAR), (-2 * FAR * NEAR) / (FAR - NEAR)];
    const rows = [
      [...right.map((v) => v * wide), -wide * dot(right)],
      [...up.map((v) => v * k), -k * dot(up)],
      [...into.map((v) => v * deep), -deep * dot(into) + offset],
      this.flat ? [0, 0, 0, 1] : [...into, -dot(into)],
    ];
    return Float32Array.from({ length: 16 }, (_, place) => rows[place % 4][place >> 2]);
  }

  // A function from a point to [x, y] in CSS pixels and w, above NEAR where the point is ahead.
  projection() {
    const m = this.matrix(), halfWidth = this.width / 2, halfHeight = this.height / 2;
    const clip = (p) => [0, 1, 3].map((row) => m[row] * p[0] + m[row + 4] * p[1] + m[row + 8] * p[2] + m[row + 12]);
    const pixel = ([x, y, w]) => [halfWidth * (1 + x / w), halfHeight * (1 - y / w)];
    return { clip, pixel };
  }

  // The part of a segment that lies ahead, in pixels; null where none does.
  static cut(projection, from, to) {
    let a = projection.clip(from), b = projection.clip(to);
    if (a[2] < NEAR && b[2] < NEAR) return null;
    const between = () => {
      const t = (NEAR - a[2]) / (b[2] - a[2]);
      return a.map((value, place) => value + t * (b[place] - value));
    };
    if (a[2] < NEAR) a = between();
    else if (b[2] < NEAR) b = between();
    return [projection.pixel(a), projection.pixel(b)];
  }
}
