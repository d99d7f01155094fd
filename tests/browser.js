// As much of a browser as the report's script uses: a canvas of width WIDTH that remembers its rectangles, events,
// and the page's DATA.
const painted = [], listeners = {}, frames = [];
const context = {
  setTransform() {}, fillText() {}, measureText: text => ({width: 6 * text.length}),
  fillRect(x, y, width, height) { painted.push([this.fillStyle, x, y, width, height]); },
};
const elements = {
  data: {textContent: DATA},
  timeline: {
    style: {}, clientWidth: WIDTH, getContext: () => context, setPointerCapture() {},
    getBoundingClientRect: () => ({left: 0, top: 0}),
    addEventListener(name, heard) { listeners[name] = heard; },
  },
  tip: {style: {}, hidden: true, children: [], replaceChildren(...children) { this.children = children; }},
};
const window = {devicePixelRatio: 1}, innerWidth = 1000, innerHeight = 1000;
const document = {documentElement: {}, getElementById: id => elements[id], createElement: kind => ({kind})};
const getComputedStyle = () => ({getPropertyValue: name => name.slice(2)});
const matchMedia = () => ({addEventListener() {}});
const requestAnimationFrame = drawn => frames.push(drawn);
class ResizeObserver { observe() {} }

// What an event makes the script paint, and whether the page's own action for it was stopped.
function send(name, event) {
  let stopped = false;
  if (name) listeners[name]({preventDefault() { stopped = true; }, buttons: 0, ...event});
  painted.length = 0;
  while (frames.length) frames.shift()();
  return JSON.stringify({painted, stopped, hidden: elements.tip.hidden,
                         tip: elements.tip.children.map(child => child.textContent)});
}
