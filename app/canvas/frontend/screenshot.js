// Saves the stage as a PNG with captions, legend and status line.

const FOOTER = 46; // pixels for legend and status line

// Composes the picture. `views` has the canvases, just drawn, with their captions; `legend` has
// names with colours.
export function compose(views, legend, status) {
  const ratio = window.devicePixelRatio || 1;
  const width = views.reduce((sum, { canvas }) => sum + canvas.width, 2 * (views.length - 1));
  const height = views[0].canvas.height;
  const picture = document.createElement("canvas");
  Object.assign(picture, { width, height: height + FOOTER * ratio });
  const draw = picture.getContext("2d");
  draw.fillStyle = "#0d1117";
  draw.fillRect(0, 0, picture.width, picture.height);
  draw.font = `600 ${14 * ratio}px sans-serif`;
  draw.textBaseline = "top";
  let left = 0;
  for (const { canvas, caption } of views) {
    draw.drawImage(canvas, left, 0);
    draw.fillStyle = "#e6edf3";
    if (caption) draw.fillText(caption, left + 10 * ratio, 8 * ratio);
    left += canvas.width + 2;
  }
  draw.textBaseline = "middle";
  left = 8 * ratio;
  for (const { name, colour } of legend) {
    draw.fillStyle = colour;
    draw.fillRect(left, height + 8 * ratio, 12 * ratio, 12 * ratio);
    draw.fillStyle = "#e6edf3";
    draw.fillText(name, left + 17 * ratio, height + 15 * ratio);
    left += 17 * ratio + draw.measureText(name).width + 16 * ratio;
  }
  draw.font = `${12 * ratio}px sans-serif`;
  draw.fillStyle = "#9da7b3";
  draw.fillText(status, 8 * ratio, height + 34 * ratio);
  return picture;
}

export function save(picture, name) {
  picture.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}
