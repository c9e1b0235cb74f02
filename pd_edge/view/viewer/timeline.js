// The time line: which frame is shown, playing, stepping, and how many boxes each frame has.

const USUAL_MS = 100;  // between frames without a time
const SHORTEST_MS = 15, LONGEST_MS = 1000;

class TimeLine {
  // `go` is called with a frame's place and gives a promise that is kept once the frame is shown.
  constructor(go) {
    Object.assign(this, { go, place: 0, playing: false, timer: 0, counts: [] });
    const act = { first: () => this.to(0), back: () => this.step(-1), play: () => this.toggle(), next: () => this.step(1) };
    for (const [id, run] of Object.entries(act)) $(id).addEventListener("click", run);
    const line = $("line");
    const scrub = (event) => {
      const box = line.getBoundingClientRect();
      this.to(Math.floor(((event.clientX - box.left) / box.width) * scene.frames.length));
    };
    line.addEventListener("pointerdown", (event) => {
      line.setPointerCapture(event.pointerId);
      this.pause();
      scrub(event);
    });
    line.addEventListener("pointermove", (event) => event.buttons && scrub(event));
  }

  step(by) {
    this.pause();
    return this.to(this.place + by);
  }

  to(place) {
    const wanted = Math.max(0, Math.min(scene.frames.length - 1, place));
    if (wanted === this.place) return Promise.resolve();
    this.place = wanted;
    return this.go(wanted);
  }

  toggle() {
    if (this.playing) return this.pause();
    this.playing = true;
    if (this.place === scene.frames.length - 1) this.to(0);
    this.label();
    this.wait();
  }

  pause() {
    this.playing = false;
    clearTimeout(this.timer);
    this.label();
  }

  label() {
    $("play").textContent = this.playing ? "❚❚" : "▶︎";
  }

  wait() {
    const here = scene.frames[this.place].time, there = (scene.frames[this.place + 1] || {}).time;
    const apart = here != null && there != null ? 1000 * (there - here) : USUAL_MS;
    const pause = Math.max(SHORTEST_MS, Math.min(LONGEST_MS, apart) / Number($("speed").value));
    this.timer = setTimeout(async () => {
      if (this.place === scene.frames.length - 1) return this.pause();
      await this.to(this.place + 1);
      if (this.playing) this.wait();
    }, pause);
  }

  draw(counts) {
    const context = wiped($("line")), { clientWidth: width, clientHeight: height } = $("line");
    const each = width / counts.length, most = Math.max(1, ...counts), gap = each > 4 ? 1 : 0;
    counts.forEach((count, place) => {
      context.fillStyle = place === this.place ? "#ff9d2e" : place < this.place ? "#4468ab" : "#2b3c66";
      const tall = 3 + ((height - 6) * count) / most;
      context.fillRect(place * each, height - tall, Math.max(1, each - gap), tall);
    });
    context.fillStyle = BRIGHT;
    context.fillRect((this.place + 0.5) * each - 0.75, 0, 1.5, height);
    const frame = scene.frames[this.place], of = `${this.place + 1} / ${scene.frames.length}`;
    $("clock").textContent = frame.time == null ? of : `${frame.time.toFixed(2)} s   ${of}`;
  }
}
