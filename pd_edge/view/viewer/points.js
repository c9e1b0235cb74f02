// Paints points: with WebGL, or, where there is none, pixel by pixel.

const RAMPS = {
  height: ["#2b3c66", "#4468ab", "#6fa8da", "#cfe6f9", "#f4f8ff"],
  intensity: ["#26305a", "#5b4b9a", "#b5568f", "#f0955f", "#fff3b0"],
};
const FOG = [0x0a, 0x0f, 0x1c].map((each) => each / 255);  // the background, which far points fade into

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);

const VERTEX = `#version 300 es
in vec3 place; in float bright;
uniform mat4 matrix; uniform float step, size, low, high, brightest, reach; uniform bool byHeight, flatView;
uniform vec3 ramp[5], fog;
out vec3 colour;
void main() {
  vec3 at = place * step;
  gl_Position = matrix * vec4(at, 1.0);
  gl_PointSize = flatView ? size : clamp(size * 24.0 / gl_Position.w, 0.7 * size, 1.6 * size);
  float t = byHeight ? (at.z - low) / (high - low) : sqrt(bright / brightest);
  t = clamp(t, 0.0, 1.0) * 4.0;
  int first = min(int(t), 3);
  float faded = flatView ? 0.0 : smoothstep(0.45, 1.3, length(at.xy) / reach) * 0.6;
  colour = mix(mix(ramp[first], ramp[first + 1], t - float(first)), fog, faded);
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 colour; out vec4 shown;
void main() { shown = vec4(colour, 1.0); }`;

class WebGlPoints {
  constructor(canvas) {
    const gl = canvas.getContext("webgl2", { antialias: false, alpha: true, powerPreference: "low-power" });
    if (!gl) throw new Error("no WebGL 2");
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "place");
    gl.bindAttribLocation(program, 1, "bright");
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.enableVertexAttribArray(0);
    gl.enableVertexAttribArray(1);
    gl.enable(gl.DEPTH_TEST);
    this.at = (name) => gl.getUniformLocation(program, name);
    this.gl = gl;
    this.kind = "webgl";
  }

  paint(cloud, camera, look) {
    const { gl, at } = this;
    if (cloud !== this.cloud) {
      gl.bufferData(gl.ARRAY_BUFFER, cloud.data, gl.STATIC_DRAW);
      gl.vertexAttribPointer(0, 3, gl.SHORT, false, 8, 0);
      gl.vertexAttribPointer(1, 1, gl.UNSIGNED_BYTE, true, 8, 6);
      this.cloud = cloud;
    }
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix4fv(at("matrix"), false, camera.matrix());
    const numbers = { step: cloud.step, size: look.size * devicePixelRatio, ...look.range };
    for (const [name, value] of Object.entries(numbers)) gl.uniform1f(at(name), value);
    gl.uniform1i(at("byHeight"), look.colour === "height");
    gl.uniform1i(at("flatView"), camera.flat);
    gl.uniform3fv(at("ramp"), RAMPS[look.colour].flatMap(rgb));
    gl.uniform3fv(at("fog"), FOG);
    gl.drawArrays(gl.POINTS, 0, cloud.count);
  }
}

class PlainPoints {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.kind = "canvas";
  }

  paint(cloud, camera, look) {
    const { width, height } = this.canvas;
    const image = this.context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer), depth = new Float32Array(width * height).fill(Infinity);
    const shorts = new Int16Array(cloud.data), octets = new Uint8Array(cloud.data), m = camera.matrix();
    const colours = this.colours(look), side = Math.max(1, Math.round((look.size * devicePixelRatio) / 1.5));
    const { low, high, brightest } = look.range, byHeight = look.colour === "height";
    for (let i = 0; i < cloud.count; i++) {
      const x = shorts[4 * i] * cloud.step, y = shorts[4 * i + 1] * cloud.step, z = shorts[4 * i + 2] * cloud.step;
      const w = m[3] * x + m[7] * y + m[11] * z + m[15];
      if (w < NEAR) continue;
      const column = Math.floor((((m[0] * x + m[4] * y + m[8] * z + m[12]) / w + 1) * width) / 2);
      const row = Math.floor(((1 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / w) * height) / 2);
      const deep = (m[2] * x + m[6] * y + m[10] * z + m[14]) / w;
      const t = byHeight ? (z - low) / (high - low) : Math.sqrt(octets[8 * i + 6] / 255 / brightest);
      const colour = colours[Math.max(0, Math.min(255, (t * 255) | 0))];
      for (let v = Math.max(row, 0); v < Math.min(row + side, height); v++)
        for (let u = Math.max(column, 0); u < Math.min(column + side, width); u++)
          if (deep < depth[v * width + u]) {
            depth[v * width + u] = deep;
            pixels[v * width + u] = colour;
          }
    }
    this.context.putImageData(image, 0, 0);
  }

  // 256 opaque colours of a ramp, as little-endian pixels.
  colours(look) {
    const ramp = RAMPS[look.colour].map(rgb);
    return Uint32Array.from({ length: 256 }, (_, place) => {
      const t = (place / 255) * 4, first = Math.min(3, Math.floor(t));
      const mixed = ramp[first].map((low, channel) => 255 * (low + (t - first) * (ramp[first + 1][channel] - low)));
      return 0xff000000 | (mixed[2] << 16) | (mixed[1] << 8) | mixed[0];
    });
  }
}

function pointPainter(canvas) {
  try {
    return new WebGlPoints(canvas);
  } catch (error) {
    return new PlainPoints(canvas);
  }
}
