// What the file holds: the scene, and each frame's points, unpacked when they are wanted.

const scene = JSON.parse(document.getElementById("scene").textContent);
const KEPT = 16;  // unpacked frames, about 1 MB each

// A box of a frame as a thing with names; `what` is "found" or "truth".
function boxOf(row, what, id) {
  const [cls, score, x, y, z, length, width, height, yaw, points, iou] = row;
  const name = what === "found" ? scene.classes[cls].name : scene.truth_names[cls];
  const colour = what === "found" ? scene.classes[cls].colour : scene.truth_colour;
  const distance = Math.hypot(x, y);
  return { what, id, cls, name, colour, score, x, y, z, length, width, height, yaw, points, iou, distance };
}

for (const frame of scene.frames) {
  frame.found = frame.found.map((row, place) => boxOf(row, "found", `f${place}`));
  frame.truth = frame.truth && frame.truth.map((row, place) => boxOf(row, "truth", `t${place}`));
}

// The eight corners, bottom then top, each counter-clockwise from the front left.
function cornersOf(box) {
  const cos = Math.cos(box.yaw), sin = Math.sin(box.yaw);
  return [-0.5, 0.5].flatMap((up) =>
    [[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]].map(([along, across]) => [
      box.x + along * box.length * cos - across * box.width * sin,
      box.y + along * box.length * sin + across * box.width * cos,
      box.z + up * box.height,
    ]));
}

class Clouds {
  constructor() {
    this.kept = new Map();
  }

  // A promise of 8 bytes a point: x y z as int16 in steps, the intensity as uint8, one to spare.
  get(place) {
    const known = this.kept.get(place);
    this.kept.delete(place);
    const wanted = known || this.unpack(place);
    this.kept.set(place, wanted);
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
    return wanted;
  }

  async unpack(place) {
    const text = document.getElementById(`points-${place}`).textContent;
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const count = bytes.length / 7;
    const cloud = new ArrayBuffer(8 * count);
    const shorts = new Int16Array(cloud), octets = new Uint8Array(cloud);
    for (let axis = 0; axis < 3; axis++) {
      const low = 2 * axis * count, high = low + count;
      let value = 0;
      for (let i = 0; i < count; i++) {
        const folded = bytes[low + i] | (bytes[high + i] << 8);
        value = ((value + ((folded >>> 1) ^ -(folded & 1))) << 16) >> 16;
        shorts[4 * i + axis] = value;
      }
    }
    for (let i = 0; i < count; i++) octets[8 * i + 6] = bytes[6 * count + i];
    return { data: cloud, count, step: scene.frames[place].step, place };
  }
}
