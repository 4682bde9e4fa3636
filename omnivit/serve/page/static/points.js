// A point cloud in WebGL: drag, arrow keys or a finger turn it; the wheel, + and - change its size.

const VERTEX = `
attribute vec3 place; attribute vec3 colour;
uniform mat3 turn; uniform vec2 scale; uniform float size;
varying vec3 shade;
void main() {
  vec3 turned = turn * place;
  float depth = 3.0 - turned.z;
  gl_Position = vec4(turned.xy * scale, turned.z * -0.2, depth);
  gl_PointSize = size * 3.0 / depth;
  shade = colour * (0.62 + 0.38 * clamp(turned.z * 0.5 + 0.5, 0.0, 1.0));
}`;
const FRAGMENT = `
precision mediump float;
varying vec3 shade;
void main() {
  if (length(gl_PointCoord - 0.5) > 0.5) discard;
  gl_FragColor = vec4(shade, 1.0);
}`;

/** Show points on a canvas.
 *
 * @param points Float32Array [N * 3]
 * @param colours Float32Array [N * 3] from 0 to 1, or null: coloured by height.
 */
export function showCloud(canvas, points, colours) {
  const gl = canvas.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) {
    canvas.replaceWith("This browser has no WebGL, which draws points.");
    return;
  }
  const { places, heights } = normalised(points);
  const program = linked(gl);
  fill(gl, program, "place", places);
  fill(gl, program, "colour", colours ?? ramp(heights));
  gl.enable(gl.DEPTH_TEST);
  const view = { yaw: 0.6, pitch: 0.35, zoom: 1.9 };
  const draw = () => {
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.max(1, canvas.clientWidth * ratio);
    canvas.height = Math.max(1, canvas.clientHeight * ratio);
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.07, 0.085, 0.1, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix3fv(gl.getUniformLocation(program, "turn"), false, rotation(view));
    const shorter = Math.min(canvas.width, canvas.height);
    const zoom = view.zoom * 1.25;
    gl.uniform2f(gl.getUniformLocation(program, "scale"), (zoom * shorter) / canvas.width, (zoom * shorter) / canvas.height);
    const count = points.length / 3;
    gl.uniform1f(gl.getUniformLocation(program, "size"), Math.max(1.6, Math.min(7, 190 / Math.sqrt(count))) * ratio);
    gl.drawArrays(gl.POINTS, 0, count);
    canvas.dataset.view = `${view.yaw.toFixed(2)} ${view.pitch.toFixed(2)} ${view.zoom.toFixed(2)}`;
  };
  listen(canvas, view, draw);
  new ResizeObserver(draw).observe(canvas);
  draw();
  spin(canvas, view, draw);
}

/** Turn slowly until the user takes over; not where the system asks for reduced motion. */
function spin(canvas, view, draw) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  let last = performance.now();
  const begun = last;
  const step = (now) => {
    if (view.taken || !canvas.isConnected || now - begun > 6000) return;
    view.yaw += (now - last) * 0.0004;
    last = now;
    draw();
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

function listen(canvas, view, draw) {
  const change = (yaw, pitch, factor = 1) => {
    view.taken = true;
    view.yaw += yaw;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + pitch));
    view.zoom = Math.max(0.3, Math.min(8, view.zoom * factor));
    draw();
  };
  canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
  canvas.addEventListener("pointermove", (event) => {
    if (canvas.hasPointerCapture(event.pointerId)) change(event.movementX * 0.01, event.movementY * 0.01);
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    change(0, 0, Math.exp(-event.deltaY * 0.0015));
  }, { passive: false });
  const keys = { ArrowLeft: [-0.15, 0], ArrowRight: [0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15], "+": [0, 0, 1.15], "-": [0, 0, 0.87] };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key]) return;
    event.preventDefault();
    change(...keys[event.key]);
  });
}

/** Centred, and inside a ball of radius 1; the second axis is drawn upwards. */
function normalised(points) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  points.forEach((value, at) => {
    low[at % 3] = Math.min(low[at % 3], value);
    high[at % 3] = Math.max(high[at % 3], value);
  });
  const centre = low.map((value, axis) => (value + high[axis]) / 2);
  const radius = Math.hypot(...low.map((value, axis) => (high[axis] - value) / 2)) || 1;
  const places = points.map((value, at) => (value - centre[at % 3]) / radius);
  const heights = Float32Array.from({ length: points.length / 3 }, (_, at) => (points[at * 3 + 1] - low[1]) / (high[1] - low[1] || 1));
  return { places, heights };
}

function ramp(heights) {
  const from = [0.25, 0.5, 0.85];
  const to = [0.98, 0.85, 0.45];
  const colours = new Float32Array(heights.length * 3);
  heights.forEach((height, at) => from.forEach((value, axis) => { colours[at * 3 + axis] = value + (to[axis] - value) * height; }));
  return colours;
}

function rotation({ yaw, pitch }) {
  const [a, b, c, d] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  return new Float32Array([a, b * d, -b * c, 0, c, d, b, -a * d, a * c]); // column by column
}

function linked(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(`WebGL: ${gl.getProgramInfoLog(program)}`);
  gl.useProgram(program);
  return program;
}

function fill(gl, program, name, values) {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
  const place = gl.getAttribLocation(program, name);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
}
