// Streamlit's protocol for components in a frame (components.v1).

function send(type, fields) {
  const message = { isStreamlitMessage: true, type: `streamlit:${type}`, ...fields };
  window.parent.postMessage(message, "*");
}

// Calls draw(args) after each run of the script and each change of the frame's width.
export function listen(draw) {
  window.addEventListener("message", (event) => {
    if (event.source === window.parent && event.data?.type === "streamlit:render") {
      draw(event.data.args);
    }
  });
  send("componentReady", { apiVersion: 1 });
}

// Sends a value to Python; the script runs again.
export function report(value) {
  send("setComponentValue", { value, dataType: "json" });
}

// Sets the frame's height to `wanted` pixels, or fills the browser's window.
export function fitHeight(wanted) {
  let height = wanted;
  if (!height) {
    let room = 800;
    try {
      room = window.parent.innerHeight;
    } catch {
      // Pages of another origin do not reveal their size.
    }
    height = Math.max(520, Math.min(1000, room - 150));
  }
  send("setFrameHeight", { height });
}
